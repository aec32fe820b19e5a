//! Reads and replaces the configuration file.
//!
//! A reader takes no lock: the file is only ever replaced whole, by rename. A writer holds [`super::lock`] around its read,
//! change and write, and nothing else. Invariants: what was read is what is replaced (also when an editor that knows no
//! lock wrote meanwhile: then nothing is changed); what is written can be read back; a signal ends the wait for the lock,
//! and waits itself for the write.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::door::{Door, Point};
use super::edit::Edit;
use super::lock::{Lock, Owner, acquire};
use super::place::{Place, lock_of, new_of};
use super::settings::Settings;
use crate::exit::{CliError, note};
use crate::local::interrupted;

/// A configuration of this size has been mistaken for something else.
const LIMIT: u64 = 1024 * 1024;

/// The text of the file; empty where the default one does not exist.
pub fn read_text(place: &Place) -> Result<String, CliError> {
    match read_file(&place.path)? {
        Some(text) => Ok(text),
        None if place.is_explicit => {
            Err(CliError::Usage(format!("there is no configuration {}", place.path.display())))
        }
        None => Ok(String::new()),
    }
}

/// What the file says.
pub fn read(place: &Place) -> Result<Settings, CliError> {
    // Relative paths in it are from the file itself, not from a link to it.
    Settings::parse(&read_text(place)?, &place.target()?)
}

fn read_file(path: &Path) -> Result<Option<String>, CliError> {
    let usage = |why: &str| CliError::Usage(format!("cannot read the configuration {}: {why}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(usage(&error.to_string())),
    };
    let meta = file.metadata().map_err(|error| usage(&error.to_string()))?;
    if meta.is_dir() {
        return Err(usage("it is a directory"));
    }
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|error| usage(&error.to_string()))?;
    if bytes.len() as u64 > LIMIT {
        return Err(usage("it is larger than 1 MiB"));
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|error| usage(&format!("it is not UTF-8 at byte {}", error.utf8_error().valid_up_to() + 1)))
}

/// How a writer behaves.
#[derive(Debug)]
pub struct Writing {
    /// How long it waits for the lock.
    pub wait: Duration,
    /// Where it stands still, in tests.
    pub door: Door,
}

/// Changes the file under its lock. An error of `change` leaves it as it was.
pub async fn update<T>(
    place: &Place,
    writing: &Writing,
    change: impl FnOnce(&mut Edit<'_>, &Settings) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let target = place.target()?;
    let dir = target.parent().map(Path::to_owned).unwrap_or_else(|| PathBuf::from("/"));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(|error| CliError::Failed(format!("cannot make {}: {error}", dir.display())))?;
    let mut stop = std::pin::pin!(interrupted());
    let me = Owner::this(command_line());
    let path = lock_of(&target);
    // Biased: from its first look on, `stop` keeps signals from ending the process with the lock in place.
    let lock = tokio::select! {
        biased;
        why = &mut stop => return Err(why),
        lock = acquire(&path, &me, writing.wait) => lock?,
    };
    if let Some(whose) = &lock.taken_over {
        note(&format!("took over the lock of {whose}: it is not running any more"));
    }
    tokio::select! {
        biased;
        why = &mut stop => return Err(why),
        () = writing.door.stop_at(Point::Locked) => {}
    }
    let before = read_file(&target)?;
    let text = before.clone().unwrap_or_default();
    let settings = Settings::parse(&text, &target)?;
    let mut edit = Edit::new(text, &target);
    let result = change(&mut edit, &settings)?;
    let after = edit.text;
    if before.as_deref() != Some(after.as_str()) {
        Settings::parse(&after, &target)
            .map_err(|error| CliError::Failed(format!("the change does not fit into the file: {error}")))?;
        let new = Replacement::write(&target, &after)?;
        tokio::select! {
            biased;
            why = &mut stop => return Err(why),
            () = writing.door.stop_at(Point::Written) => {}
        }
        new.put(&lock, before.as_deref())?;
    }
    drop(lock);
    Ok(result)
}

/// The command, as `ps` shows it, within reason. It holds no secret: tokens are in files.
fn command_line() -> String {
    let words: Vec<_> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut text = words.join(" ");
    if text.len() > 200 {
        text = text.chars().take(200).chain("…".chars()).collect();
    }
    text
}

/// The new content, written and durable, beside the file. It is removed if it does not get into place.
struct Replacement {
    target: PathBuf,
    path: PathBuf,
    is_in_place: bool,
}

impl Replacement {
    fn write(target: &Path, text: &str) -> Result<Self, CliError> {
        let path = new_of(target);
        let new = Self { target: target.to_owned(), path, is_in_place: false };
        new.fill(text).map_err(|error| new.failed(&error))?;
        Ok(new)
    }

    fn failed(&self, error: &io::Error) -> CliError {
        CliError::Failed(format!("cannot write {}: {error}; nothing was changed", self.target.display()))
    }

    fn fill(&self, text: &str) -> io::Result<()> {
        // One that a killed writer left: under the lock it is nobody's.
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        // Under sudo the file stays its owner's.
        if let Ok(old) = std::fs::metadata(&self.target)
            && old.uid() != rustix::process::geteuid().as_raw()
        {
            std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    /// Takes the place of the file, if that is as it was read and the lock as it was taken.
    fn put(mut self, lock: &Lock, before: Option<&str>) -> Result<(), CliError> {
        let place = self.target.display();
        if read_file(&self.target)?.as_deref() != before {
            return Err(CliError::Failed(format!(
                "{place} was changed by a program that knows no lock; nothing was changed; try again"
            )));
        }
        if !lock.is_in_place() {
            return Err(CliError::Failed(format!(
                "the lock of {place} was removed by somebody else; nothing was changed; try again"
            )));
        }
        std::fs::rename(&self.path, &self.target).map_err(|error| self.failed(&error))?;
        self.is_in_place = true;
        let dir = self.target.parent().unwrap_or(Path::new("/"));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| {
            CliError::Failed(format!("{} is written, and may be lost in a power cut: {error}", self.target.display()))
        })
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.is_in_place {
            // The next writer removes what stays.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
