//! `postmaster.pid`: whose server it is and whether it is ready.

use std::path::{Path, PathBuf};

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PidFile {
    /// Process id of the postmaster.
    pub(super) pid: i32,
    /// Port; absent in the file's first moments.
    pub(super) port: Option<u16>,
    /// Directory of its unix socket; absent likewise.
    pub(super) socket_dir: Option<PathBuf>,
    /// `starting`, `ready`, `stopping`, `standby`.
    pub(super) status: Option<String>,
}

/// Reads the file of a data directory; none where it is absent or half written.
pub(super) fn read(data_dir: &Path) -> Option<PidFile> {
    parse(&std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?)
}

fn parse(text: &str) -> Option<PidFile> {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    Some(PidFile {
        pid: lines.first()?.parse().ok()?,
        port: lines.get(3).and_then(|line| line.parse().ok()),
        socket_dir: lines.get(4).filter(|line| !line.is_empty()).map(PathBuf::from),
        status: lines.get(7).map(|line| (*line).to_owned()).filter(|line| !line.is_empty()),
    })
}

/// Whether the process is a postmaster of this directory: a postmaster works in its data directory, and a stranger that
/// got the same process id does not.
pub(super) fn is_postmaster_of(pid: i32, data_dir: &Path) -> bool {
    let Ok(data_dir) = data_dir.canonicalize() else { return false };
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data_dir)
}

/// Removes the files of a postmaster that is dead while its number is taken, by its own remains that nobody has waited
/// for or by a stranger: PostgreSQL would take their word that it lives. Not while any process works in the directory: it
/// may be a backend of it.
pub(super) fn remove_if_dead(data_dir: &Path, socket_lock: &Path) {
    let Some(file) = read(data_dir) else { return };
    let Ok(data_dir) = data_dir.canonicalize() else { return };
    if is_postmaster_of(file.pid, &data_dir) || somebody_works_in(&data_dir) {
        return;
    }
    let first_line = std::fs::read_to_string(socket_lock).unwrap_or_default();
    if first_line.lines().next() == Some(&file.pid.to_string()) {
        // What is left of it makes the start fail, and that is told.
        let _ = std::fs::remove_file(socket_lock);
    }
    if std::fs::remove_file(data_dir.join("postmaster.pid")).is_ok() {
        tracing::info!(pid = file.pid, "the pid file of a dead postmaster was removed");
    }
}

fn somebody_works_in(data_dir: &Path) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    processes.flatten().any(|process| std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_the_eighth_line() {
        let text = "4711\n/data\n1700000000\n5433\n/tmp/s\n127.0.0.1\n  123456   7\nready   \n";
        let (port, socket_dir) = (Some(5433), Some("/tmp/s".into()));
        let ready = PidFile { pid: 4711, port, socket_dir, status: Some("ready".into()) };
        assert_eq!(parse(text), Some(ready));
        let young = PidFile { pid: 4711, port: None, socket_dir: None, status: None };
        assert_eq!(parse("4711\n/data\n"), Some(young));
        assert_eq!(parse(""), None);
    }
}
