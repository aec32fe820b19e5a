//! The lock beside the configuration file: who holds it may replace the file.
//!
//! [`super::store`] takes it around one read, change and write. The lock is a file that is created exclusively, says who
//! made it, and is held by an OS lock (`flock`) as long as its holder lives. Invariants:
//!
//! - Whoever holds the OS lock of the file *that the path names* holds the lock. A file that was removed while somebody
//!   waited for it has another inode than the path, or no path, and counts for nothing.
//! - The holder removes the file before it lets go of the OS lock, so a file that nobody holds was left by a process that
//!   died. It is taken over in place: of two that find it the OS lock chooses one.
//! - A file that is no lock of ours is never taken over and never removed.
//! - Where the OS lock may not reach the other machine (a network file system), a lock that names another host is not
//!   called stale: nobody here can know.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::exit::CliError;

/// What every lock of ours begins with.
const HEAD: &str = "{\"pgfleet_lock\":";
/// A lock that says nothing yet and is younger than this belongs to somebody who is about to write into it.
const NEWBORN: Duration = Duration::from_secs(2);
/// The shortest and the longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// How often a lock that says nothing yet is looked at, for the line that names its holder.
const LOOKS: u32 = 20;

/// Who holds a lock, as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The form of this record.
    pub pgfleet_lock: u32,
    pub pid: u32,
    pub host: String,
    /// The command line.
    pub command: String,
    /// Milliseconds since 1970, by the holder's clock. For people; nothing is decided by it.
    pub since_ms: u64,
}

impl Owner {
    /// This process.
    pub fn this(command: String) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "unknown" } else { host.trim() }.to_owned();
        Self { pgfleet_lock: 1, pid: std::process::id(), host, command, since_ms: now_ms() }
    }

    fn words(&self) -> String {
        let age = Duration::from_millis(now_ms().saturating_sub(self.since_ms));
        let (pid, host, command) = (self.pid, self.host.escape_debug(), self.command.escape_debug());
        format!("process {pid} on {host} ({command}), {:.1} s old", age.as_secs_f64())
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The lock is held. It ends, and its file goes, with this value.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
    /// Whose stale lock this was, in words.
    pub taken_over: Option<String>,
}

impl Lock {
    /// Whether the path still names what is held: nobody removed it.
    pub fn is_in_place(&self) -> bool {
        is_same(&self.file, &self.path).unwrap_or(false)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The OS lock ends when the file is closed, after this. What cannot be removed is stale, and taken over.
        if self.is_in_place() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What one try came to.
enum Try {
    Taken(Lock),
    Held(Option<Owner>),
    /// The file went away meanwhile.
    Again,
}

/// Takes the lock, or says who has it once `wait` is over. Cancel-safe: nothing is held while it waits.
pub async fn acquire(path: &Path, me: &Owner, wait: Duration) -> Result<Lock, CliError> {
    let began = Instant::now();
    let mut pause = PAUSES.0;
    let mut looks = 0;
    loop {
        match attempt(path, me)? {
            Try::Taken(lock) => return Ok(lock),
            Try::Held(owner) if began.elapsed() >= wait => {
                if owner.is_some() || looks >= LOOKS {
                    return Err(held(path, owner.as_ref(), wait));
                }
                looks += 1;
            }
            Try::Held(_) => {
                let left = wait.saturating_sub(began.elapsed());
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5)).min(left)).await;
                pause = (pause * 2).min(PAUSES.1);
                continue;
            }
            Try::Again => {}
        }
        tokio::time::sleep(PAUSES.0).await;
    }
}

fn held(path: &Path, owner: Option<&Owner>, waited: Duration) -> CliError {
    let who = owner.map_or_else(|| "a process that has not said its name".to_owned(), Owner::words);
    let advice = if waited.is_zero() {
        "wait for it with --lock-wait 5s".to_owned()
    } else {
        format!("it was waited for {} s", waited.as_secs_f64())
    };
    CliError::Failed(format!("{} is held by {who}; nothing was changed; {advice}", path.display()))
}

fn attempt(path: &Path, me: &Owner) -> Result<Try, CliError> {
    let created = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    let (file, is_new) = match created {
        Ok(file) => (file, true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match open_existing(path)? {
            Some(file) => (file, false),
            None => return Ok(Try::Again),
        },
        Err(error) => return Err(failed("create", path, &error)),
    };
    claim(file, is_new, path, me)
}

/// Takes the lock through this file, if it is still the one that the path names.
fn claim(mut file: File, is_new: bool, path: &Path, me: &Owner) -> Result<Try, CliError> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Try::Held(read_owner(&mut file))),
        Err(TryLockError::Error(error)) => {
            return Err(CliError::Failed(format!(
                "cannot lock {}: {error}; keep the configuration on a file system that has locks (--config)",
                path.display()
            )));
        }
    }
    // The last holder may have removed the file between the open and the lock.
    if !is_same(&file, path).map_err(|error| failed("look at", path, &error))? {
        return Ok(Try::Again);
    }
    let taken_over = if is_new { None } else { judge(&mut file, path, me)? };
    let mut lock = Lock { path: path.to_owned(), file, taken_over };
    write_owner(&mut lock.file, me).map_err(|error| failed("write", path, &error))?;
    Ok(Try::Taken(lock))
}

/// None: it is gone already.
fn open_existing(path: &Path) -> Result<Option<File>, CliError> {
    let not_ours = |what: &str| Err(CliError::NotOurs(format!("{} {what}; move it away", path.display())));
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => return not_ours("is no plain file, so it is no lock of pgfleet"),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("look at", path, &error)),
    }
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("open", path, &error)),
    }
}

fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    let id = |meta: &Metadata| (meta.dev(), meta.ino());
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok(id(&named) == id(&file.metadata()?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a file that nobody holds may be taken over, and whose it was.
fn judge(file: &mut File, path: &Path, me: &Owner) -> Result<Option<String>, CliError> {
    let text = read_text(file).map_err(|error| failed("read", path, &error))?;
    if text.is_empty() {
        let age = file.metadata().and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
        let is_newborn = age.is_none_or(|age| age < NEWBORN);
        return Ok((!is_newborn).then(|| "a process that had not said its name".to_owned()));
    }
    if !text.starts_with(HEAD) {
        let place = path.display();
        return Err(CliError::NotOurs(format!("{place} is no lock of pgfleet; move it away, or use another --config")));
    }
    let Some(owner) = parse(&text) else { return Ok(Some("a process whose name is unreadable".to_owned())) };
    if owner.host != me.host && is_on_network(file) {
        return Err(CliError::Failed(format!(
            "{} names {}, and whether it still runs cannot be seen from {}; if it does not, remove the file",
            path.display(),
            owner.words(),
            me.host
        )));
    }
    Ok(Some(owner.words()))
}

/// Whether other machines may have this file open, with locks that do not reach here. NFS, SMB, CIFS, AFS, 9p, Ceph, FUSE.
fn is_on_network(file: &File) -> bool {
    const SHARED: [i64; 8] =
        [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x5346_414f, 0x0102_1997, 0x00c3_6400, 0x6573_5546];
    rustix::fs::fstatfs(file).is_ok_and(|found| SHARED.contains(&(found.f_type & 0xffff_ffff)))
}

fn read_text(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(64 * 1024).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn parse(text: &str) -> Option<Owner> {
    serde_json::from_str(text).ok()
}

fn read_owner(file: &mut File) -> Option<Owner> {
    read_text(file).ok().as_deref().and_then(parse)
}

fn write_owner(file: &mut File, me: &Owner) -> io::Result<()> {
    let line = format!("{}\n", serde_json::to_string(me)?);
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(line.as_bytes())
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> CliError {
    CliError::Failed(format!("cannot {verb} the lock {}: {error}; nothing was changed", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_lost_its_place_is_no_lock() {
        let dir = std::env::temp_dir().join(format!("pgfleet-lock-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("config.lock");
        let me = Owner::this("a test".to_owned());
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        // It was opened, and its holder went, before it could be locked.
        let late = open();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(claim(late, false, &path, &me), Ok(Try::Again)));
        // The same, and the next holder is there already.
        let late = open();
        std::fs::remove_file(&path).unwrap();
        let Ok(Try::Taken(holder)) = attempt(&path, &me) else { panic!("nobody holds it") };
        assert!(matches!(claim(late, false, &path, &me), Ok(Try::Again)));
        assert!(holder.is_in_place());
        // Of two that find a stale one, one takes it.
        drop(holder);
        let (first, second) = (open(), open());
        let Ok(Try::Taken(holder)) = claim(first, false, &path, &me) else { panic!("it is stale") };
        assert!(matches!(claim(second.try_clone().unwrap(), false, &path, &me), Ok(Try::Held(Some(_)))));
        drop(holder);
        assert!(matches!(claim(second, false, &path, &me), Ok(Try::Again)));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
