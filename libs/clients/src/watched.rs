//! A small file that is read again when it changed: keys and tokens are rotated without a restart.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::token::TokenError;

/// The file is looked at no more often than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);

type Parse<T> = fn(&Path, &[u8]) -> Result<T, TokenError>;

/// Content of a file, parsed, with the stamp it had when it was read.
pub(crate) struct Watched<T> {
    path: PathBuf,
    parse: Parse<T>,
    seen: Mutex<Seen<T>>,
}

struct Seen<T> {
    value: Arc<T>,
    stamp: (Option<SystemTime>, u64),
    looked_at: Instant,
}

impl<T> Watched<T> {
    /// Reads the file now; an unreadable or unparsable one is an error of the start-up.
    pub(crate) fn open(path: PathBuf, parse: Parse<T>) -> Result<Self, TokenError> {
        let (value, stamp) = read(&path, parse)?;
        let seen = Mutex::new(Seen { value: Arc::new(value), stamp, looked_at: Instant::now() });
        Ok(Self { path, parse, seen })
    }

    /// The newest content. A file that became unreadable leaves the last good content in use, with a warning.
    pub(crate) fn get(&self) -> Arc<T> {
        self.look(false)
    }

    /// The same, without waiting for the next look: for a caller whose token was just refused.
    pub(crate) fn reread(&self) -> Arc<T> {
        self.look(true)
    }

    fn look(&self, now: bool) -> Arc<T> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !now && seen.looked_at.elapsed() < LOOK_EVERY {
            return Arc::clone(&seen.value);
        }
        seen.looked_at = Instant::now();
        if stamp_of(&self.path).is_ok_and(|stamp| stamp == seen.stamp) {
            return Arc::clone(&seen.value);
        }
        match read(&self.path, self.parse) {
            Ok((value, stamp)) => {
                seen.value = Arc::new(value);
                seen.stamp = stamp;
            }
            Err(error) => tracing::warn!(path = %self.path.display(), %error, "keeping the last good content"),
        }
        Arc::clone(&seen.value)
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("path", &self.path).finish_non_exhaustive()
    }
}

fn stamp_of(path: &Path) -> std::io::Result<(Option<SystemTime>, u64)> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.modified().ok(), metadata.len()))
}

fn read<T>(path: &Path, parse: Parse<T>) -> Result<(T, (Option<SystemTime>, u64)), TokenError> {
    let unreadable = |source| TokenError::Unreadable { path: path.to_owned(), source };
    // The stamp is taken before the content: a change in between is then seen at the next look.
    let stamp = stamp_of(path).map_err(unreadable)?;
    let bytes = std::fs::read(path).map_err(unreadable)?;
    Ok((parse(path, &bytes)?, stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(_: &Path, bytes: &[u8]) -> Result<String, TokenError> {
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    #[test]
    fn a_change_is_read_and_a_missing_file_keeps_the_last_content() {
        let path = std::env::temp_dir().join(format!("pgfleet-watched-{}", std::process::id()));
        std::fs::write(&path, "one").unwrap();
        let watched = Watched::open(path.clone(), text).unwrap();
        std::fs::write(&path, "second").unwrap();
        assert_eq!(*watched.get(), "one", "looked at most once a second");
        assert_eq!(*watched.reread(), "second");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*watched.reread(), "second");
        assert!(matches!(Watched::open(path, text), Err(TokenError::Unreadable { .. })));
    }
}
