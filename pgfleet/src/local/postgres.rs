//! PostgreSQL as a local cluster needs it: found, initialised, started, stopped, asked with psql.
//!
//! PostgreSQL refuses to run as root, so root runs it as the `postgres` user that the distribution's package made.

use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::process::Command;

use super::layout::{Layout, failed};
use super::process::{LOOK_EVERY, Process, command, last_line, start_detached};
use super::state::DatabaseState;
use crate::exit::CliError;

const START_LIMIT: Duration = Duration::from_secs(30);

/// Where PostgreSQL's programs are, and as whom its servers run.
#[derive(Debug, Clone)]
pub struct Postgres {
    bin: PathBuf,
    user: Option<SystemUser>,
}

#[derive(Debug, Clone, Copy)]
struct SystemUser {
    uid: u32,
    gid: u32,
}

impl Postgres {
    /// Looks in `given`, else on PATH, else where Debian puts the newest version.
    pub async fn find(given: Option<PathBuf>) -> Result<Self, CliError> {
        let bin = match given {
            Some(dir) if has_server(&dir) => dir,
            Some(dir) => return Err(CliError::Usage(format!("there is no postgres and initdb in {}", dir.display()))),
            None => on_path().or_else(debian).ok_or_else(|| {
                CliError::Usage(
                    "no PostgreSQL server found on PATH or in /usr/lib/postgresql; install postgresql or give --pg-bin"
                        .to_owned(),
                )
            })?,
        };
        let user = if rustix::process::geteuid().is_root() { Some(SystemUser::postgres().await?) } else { None };
        Ok(Self { bin, user })
    }

    /// A program of this PostgreSQL, by its full path.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Gives a directory to the user that runs PostgreSQL.
    pub fn give(&self, path: &Path) -> Result<(), CliError> {
        match self.user {
            Some(user) => {
                chown(path, Some(user.uid), Some(user.gid)).map_err(|error| failed("give away", path, &error))
            }
            None => Ok(()),
        }
    }

    fn command(&self, name: &str, dir: &Path) -> Command {
        let mut command = command(&self.program(name), dir);
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        // For what runs to an end, like initdb: an interrupted start must not go on writing behind our back. A server
        // is let go of at once by `start_detached`.
        command.kill_on_drop(true);
        command
    }

    /// Makes and starts the controllers' database; gives what to write down and the URL with its password.
    pub async fn start_database(&self, layout: &Layout) -> Result<(DatabaseState, String), CliError> {
        let password = uuid::Uuid::new_v4().simple().to_string();
        self.give(&layout.database())?;
        self.init_database(layout, &password).await?;
        let log = layout.log("database");
        let port = free_port()?;
        let mut server = self.command("postgres", &layout.database());
        server.arg("-D").arg(layout.database_data()).arg("-p").arg(port.to_string());
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "shared_buffers=32MB"] {
            server.args(["-c", setting]);
        }
        let process = start_detached(server, &log)?;
        wait_ready(&process, &layout.database_data(), &log).await?;
        let url = |database: &str| format!("postgresql://pgfleet:{password}@127.0.0.1:{port}/{database}");
        self.psql(&url("postgres"), "CREATE DATABASE pgfleet").await.map_err(CliError::Away)?;
        Ok((DatabaseState { process, port, log }, url("pgfleet")))
    }

    async fn init_database(&self, layout: &Layout, password: &str) -> Result<(), CliError> {
        let password_file = layout.database().join("password");
        super::keys::write_private(&password_file, password)?;
        self.give(&password_file)?;
        let mut initdb = self.command("initdb", &layout.database());
        initdb.arg("-D").arg(layout.database_data()).arg("--pwfile").arg(&password_file);
        initdb.args(["-U", "pgfleet", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]);
        let done = initdb.output().await.map_err(|error| failed("run", &self.program("initdb"), &error))?;
        std::fs::remove_file(&password_file).map_err(|error| failed("remove", &password_file, &error))?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let said = said.lines().rfind(|line| line.contains("error")).unwrap_or("it gave no reason");
        Err(CliError::Away(format!("initdb failed in {}: {said}", layout.database().display())))
    }

    /// Runs one statement as psql does, with the password in the environment; gives the first column of the first row.
    pub async fn psql(&self, url: &str, sql: &str) -> Result<String, String> {
        let mut parsed = url::Url::parse(url).map_err(|error| error.to_string())?;
        let password = parsed.password().unwrap_or_default().to_owned();
        // A URL without a password always takes one away.
        let _ = parsed.set_password(None);
        let mut psql = command(&self.program("psql"), Path::new("/"));
        psql.kill_on_drop(true).env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "10");
        psql.args(["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-c", sql, "-d", parsed.as_str()]);
        let done = psql.output().await.map_err(|error| format!("cannot run psql: {error}"))?;
        if done.status.success() {
            Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&done.stderr).trim().replace('\n', " "))
        }
    }
}

impl SystemUser {
    async fn postgres() -> Result<Self, CliError> {
        let id = |flag: &'static str| async move {
            let done = Command::new("id").args([flag, "postgres"]).output().await.ok()?;
            String::from_utf8_lossy(&done.stdout).trim().parse().ok()
        };
        match (id("-u").await, id("-g").await) {
            (Some(uid), Some(gid)) => Ok(Self { uid, gid }),
            _ => Err(CliError::Usage(
                "PostgreSQL does not run as root, and there is no user named postgres to run it as".to_owned(),
            )),
        }
    }
}

/// The postmaster of a data directory, if one runs: its own file names the process, and the process's working
/// directory proves that the file is not a leftover.
pub fn postmaster(data: &Path) -> Option<Process> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    let process = Process::of(pid)?;
    let home = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let same = std::fs::canonicalize(data).is_ok_and(|data| data == home);
    same.then_some(process).filter(Process::is_alive)
}

/// PostgreSQL's processes, initdb included, that work below a directory.
pub fn at_work_in(dir: &Path) -> Vec<Process> {
    let Ok(dir) = std::fs::canonicalize(dir) else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let at_work = pids.filter(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let home = std::fs::read_link(format!("/proc/{pid}/cwd"));
        matches!(name.trim(), "postgres" | "initdb") && home.is_ok_and(|home| home.starts_with(&dir))
    });
    at_work.filter_map(Process::of).filter(Process::is_alive).collect()
}

/// Ends the PostgreSQL of a data directory: fast, then at once.
pub async fn stop_server(process: &Process) {
    process.stop(Signal::INT, Duration::from_secs(20), Signal::QUIT).await;
}

async fn wait_ready(process: &Process, data: &Path, log: &Path) -> Result<(), CliError> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let status = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        if status.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
            return Ok(());
        }
        let ended = !process.is_alive();
        if ended || Instant::now() >= deadline {
            let what = if ended { "ended at start" } else { "was not ready in time" };
            return Err(CliError::Away(format!("PostgreSQL {what}: {}; see {}", last_line(log), log.display())));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A port that nobody listens on, from the kernel.
pub fn free_port() -> Result<u16, CliError> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| CliError::Failed(format!("the kernel gives no port: {error}")))
}

fn has_server(dir: &Path) -> bool {
    dir.join("postgres").is_file() && dir.join("initdb").is_file()
}

fn on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find_map(|dir| {
        let real = std::fs::canonicalize(dir.join("postgres")).ok()?;
        real.parent().filter(|dir| has_server(dir)).map(Path::to_owned)
    })
}

fn debian() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let number =
        |dir: &PathBuf| dir.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u32>().ok());
    let newest = versions
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|dir| has_server(&dir.join("bin")))
        .max_by_key(number)?;
    Some(newest.join("bin"))
}
