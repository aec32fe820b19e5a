//! The programs of one PostgreSQL installation, and what they can tell without a server: their version, and whether a
//! set of settings would be accepted.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Postgres;

/// `postgres` and what lies beside it.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The server.
    pub postgres: PathBuf,
    /// Makes data directories.
    pub initdb: PathBuf,
    /// As the server names it, like `15.18`.
    pub version: String,
}

/// `-b` is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// There is no such program.
    #[error("there is no PostgreSQL server at {path}; name one with -b (…/bin/postgres)")]
    Missing {
        /// What was asked for.
        path: PathBuf,
    },
    /// It cannot be run.
    #[error("cannot run {path}; -b must name a PostgreSQL server (…/bin/postgres)")]
    NotExecutable {
        /// What was asked for.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is another program.
    #[error("{path} is not a PostgreSQL server; -b must name one (…/bin/postgres)")]
    NotPostgres {
        /// What was asked for.
        path: PathBuf,
    },
    /// `initdb` is missing beside it.
    #[error("there is no initdb beside {path}; -b must name the server of a whole installation")]
    NoInitdb {
        /// The server.
        path: PathBuf,
    },
}

/// Settings that PostgreSQL would refuse.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// PostgreSQL could not be asked.
    #[error("cannot ask PostgreSQL to check settings")]
    Run(#[source] std::io::Error),
    /// It refuses one.
    #[error("{message}")]
    Refused {
        /// The setting, where the message names it.
        name: Option<String>,
        /// PostgreSQL's message.
        message: String,
    },
}

impl Programs {
    /// Looks at `pgbin`: a path, or a name to be found on PATH.
    ///
    /// # Errors
    /// It is missing, cannot be run, or is something else.
    pub fn find(pgbin: &Path) -> Result<Self, ProgramsError> {
        let missing = || ProgramsError::Missing { path: pgbin.to_owned() };
        let found =
            if pgbin.components().count() > 1 { pgbin.to_owned() } else { on_path(pgbin).ok_or_else(missing)? };
        let postgres = found.canonicalize().map_err(|_| missing())?;
        let output = Command::new(&postgres)
            .arg("--version")
            .output()
            .map_err(|source| ProgramsError::NotExecutable { path: pgbin.to_owned(), source })?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let version = said
            .strip_prefix("postgres (PostgreSQL) ")
            .and_then(|rest| rest.split_whitespace().next())
            .ok_or_else(|| ProgramsError::NotPostgres { path: pgbin.to_owned() })?
            .to_owned();
        let initdb = postgres.with_file_name("initdb");
        if !initdb.is_file() {
            return Err(ProgramsError::NoInitdb { path: postgres });
        }
        Ok(Self { postgres, initdb, version })
    }

    /// Another program of the same installation.
    #[must_use]
    pub fn beside(&self, name: &str) -> PathBuf {
        self.postgres.with_file_name(name)
    }
}

fn on_path(name: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}

impl Postgres {
    /// A program of PostgreSQL, run as its user in a clean environment.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Some(user) = self.options.run_as {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Lets the server program itself judge settings, without a running server and without writing anything.
    ///
    /// # Errors
    /// The first setting that is unknown, cannot be set, or has a value out of its range.
    pub async fn check_settings(&self, settings: &[(String, String)]) -> Result<(), CheckError> {
        self.ask_program("max_connections", settings).await.map(|_| ())
    }

    /// A setting's value in the server program's own words, as a configuration file with this text would give it; without
    /// a text, its default. Two texts mean the same when this gives the same.
    ///
    /// # Errors
    /// The program refuses the text, or cannot be run.
    pub async fn canonical(&self, name: &str, text: Option<&str>) -> Result<String, CheckError> {
        let settings: Vec<_> = text.map(|text| (name.to_owned(), text.to_owned())).into_iter().collect();
        self.ask_program(name, &settings).await
    }

    /// What `postgres -C name` answers with these settings.
    async fn ask_program(&self, name: &str, settings: &[(String, String)]) -> Result<String, CheckError> {
        let directory = self.check_directory().map_err(CheckError::Run)?;
        let mut command = self.command(&self.options.programs.postgres);
        command.arg("-D").arg(directory);
        for (setting, value) in settings {
            command.arg("-c").arg(format!("{setting}={value}"));
        }
        command.args(["-C", name]);
        let output =
            tokio::process::Command::from(command).kill_on_drop(true).output().await.map_err(CheckError::Run)?;
        if output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout);
            return Ok(said.strip_suffix('\n').unwrap_or(&said).to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().find(|line| line.contains("FATAL:") || line.contains("ERROR:")).unwrap_or(&said);
        let message = line.split_once(":  ").map_or(line, |(_, rest)| rest).trim().to_owned();
        let name = message.split('"').nth(1).map(ToOwned::to_owned);
        Err(CheckError::Refused { name, message })
    }

    /// Whether the server program found nothing against this configuration before.
    #[must_use]
    pub fn is_checked(&self, text: &str) -> bool {
        self.known.is_checked(text)
    }

    /// Remembers that the server program, and a running server, have nothing against this configuration.
    pub fn note_checked(&self, text: String) {
        self.known.checked(text);
    }

    /// A directory with an empty configuration: `-C` wants one, and the user's own may not exist yet.
    fn check_directory(&self) -> std::io::Result<PathBuf> {
        let directory = self.options.state_dir.join("check");
        let file = directory.join("postgresql.conf");
        if !file.exists() {
            std::fs::create_dir_all(&directory)?;
            std::fs::write(&file, "")?;
            if let Some(user) = self.options.run_as {
                user.own(&directory)?;
                user.own(&file)?;
            }
        }
        Ok(directory)
    }
}
