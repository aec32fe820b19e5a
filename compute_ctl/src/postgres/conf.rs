//! Configuration files. What the agent wants lies in a file of its own, included by one line at the end of
//! `postgresql.conf`; a user's lines are never edited.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Postgres;

/// Name of the agent's file inside the data directory.
pub const CONF_FILE: &str = "pgfleet.conf";
/// The line that includes it.
const INCLUDE: &str = "include_if_exists = 'pgfleet.conf'";

/// A configuration file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the configuration file {path}")]
pub struct ConfError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// The text of a configuration file: every value quoted, quotes and backslashes doubled.
#[must_use]
pub fn render(settings: &[(String, String)]) -> String {
    let mut text = String::from("# Written by compute_ctl at every change of the spec; edits are lost.\n");
    for (name, value) in settings {
        text.push_str(name);
        text.push_str(" = '");
        for c in value.chars() {
            if matches!(c, '\'' | '\\') {
                text.push(c);
            }
            text.push(c);
        }
        text.push_str("'\n");
    }
    text
}

impl Postgres {
    fn conf_path(&self) -> PathBuf {
        self.options.data_dir.join(CONF_FILE)
    }

    fn good_conf_path(&self) -> PathBuf {
        self.options.state_dir.join("pgfleet.conf.good")
    }

    /// Makes `text` the agent's configuration. PostgreSQL does not look at it before a reload or start.
    ///
    /// # Errors
    /// The file and what the system said.
    pub fn write_conf(&self, text: &str) -> Result<(), ConfError> {
        self.include_conf()?;
        self.replace(&self.conf_path(), text)
    }

    /// Remembers the configuration as one that PostgreSQL runs with.
    ///
    /// # Errors
    /// The file and what the system said.
    pub fn keep_conf(&self) -> Result<(), ConfError> {
        let text = self.read(&self.conf_path())?;
        self.replace(&self.good_conf_path(), &text)
    }

    /// The agent's configuration as it is.
    ///
    /// # Errors
    /// The file and what the system said.
    pub fn conf_in_place(&self) -> Result<String, ConfError> {
        self.read(&self.conf_path())
    }

    /// Whether `text` is the remembered configuration, or the empty one where none was ever good.
    ///
    /// # Errors
    /// The file and what the system said.
    pub fn is_good_conf(&self, text: &str) -> Result<bool, ConfError> {
        Ok(self.good_conf()? == text)
    }

    fn good_conf(&self) -> Result<String, ConfError> {
        let kept = self.good_conf_path();
        if kept.exists() { self.read(&kept) } else { Ok(render(&[])) }
    }

    /// Goes back to the remembered configuration, or to an empty one where none was ever good. False where that is the
    /// one in place.
    ///
    /// # Errors
    /// The file and what the system said.
    pub fn restore_conf(&self) -> Result<bool, ConfError> {
        let good = self.good_conf()?;
        if good == self.read(&self.conf_path())? {
            return Ok(false);
        }
        self.replace(&self.conf_path(), &good)?;
        Ok(true)
    }

    /// Appends the include line to `postgresql.conf` unless it is there.
    fn include_conf(&self) -> Result<(), ConfError> {
        let path = self.options.data_dir.join("postgresql.conf");
        let text = self.read(&path)?;
        if text.lines().any(|line| line.trim() == INCLUDE) {
            return Ok(());
        }
        let line = format!("{}{INCLUDE}\n", if text.is_empty() || text.ends_with('\n') { "" } else { "\n" });
        let append = || {
            let mut file = OpenOptions::new().append(true).open(&path)?;
            file.write_all(line.as_bytes())?;
            file.sync_all()
        };
        append().map_err(|source| ConfError { path: path.clone(), source })
    }

    fn read(&self, path: &Path) -> Result<String, ConfError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(source) => Err(ConfError { path: path.to_owned(), source }),
        }
    }

    /// Replaces a file of PostgreSQL's user that nobody else may read.
    ///
    /// # Errors
    /// The file and what the system said.
    pub(crate) fn replace(&self, path: &Path, text: &str) -> Result<(), ConfError> {
        let attempt = || -> std::io::Result<()> {
            let beside = path.with_extension("tmp");
            let mut file = File::create(&beside)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            if let Some(user) = self.options.run_as {
                user.own(&beside)?;
            }
            std::fs::rename(&beside, path)
        };
        attempt().map_err(|source| ConfError { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted() {
        let text = render(&[("a".into(), "1".into()), ("b.c".into(), "it's a \\ path".into())]);
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(lines, ["a = '1'", r"b.c = 'it''s a \\ path'"]);
    }
}
