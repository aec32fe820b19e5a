//! The clock of one process, moved by libfaketime: Debian's package `faketime`.
//!
//! Only the wall clock is moved. What a program measures by the monotonic clock, or by the one that counts while the
//! machine is suspended, goes on as it did: the product decides by those.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian has the library, with the machine's triplet in between.
const LIBRARIES: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"];

/// A clock that can be moved while its process runs.
#[derive(Debug, Clone)]
pub struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// A clock that shows the machine's time; `file` is where its offset is kept. `None` where the library is missing.
    pub fn new(file: &Path) -> Option<Self> {
        let library = LIBRARIES.iter().map(PathBuf::from).find(|library| library.exists())?;
        let clock = Self { library, file: file.to_path_buf() };
        clock.jump(0);
        Some(clock)
    }

    /// Has a process be started with this clock.
    pub fn give_to(&self, command: &mut Command) {
        for (name, value) in self.environment() {
            command.env(name, value);
        }
    }

    /// The variables that do it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            // It looks into the file whenever the time is asked for.
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            // Its shared memory is for process trees, and a killed one leaves it behind.
            ("FAKETIME_DISABLE_SHM", "1".to_owned()),
        ]
    }

    /// Moves the clock to so many seconds ahead of the machine's; behind it where negative.
    pub fn jump(&self, seconds: i64) {
        let next = self.file.with_extension("next");
        let text = format!("{seconds:+}\n");
        let written = std::fs::write(&next, text).and_then(|()| std::fs::rename(&next, &self.file));
        written.unwrap_or_else(|error| panic!("the clock {} cannot be moved: {error}", self.file.display()));
    }
}
