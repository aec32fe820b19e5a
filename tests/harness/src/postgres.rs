//! A private PostgreSQL server for tests. Over 500 lines: its life, copies of its data, and what watches over it.
//!
//! PostgreSQL refuses to run as root, so root starts it as the user `postgres`, in a short directory of its own that
//! this user owns (a socket path must stay below 108 bytes); anybody else starts it as himself.
//!
//! The server runs under a small shell that watches a pipe held by this process. When the pipe closes, for whatever
//! reason, the shell stops the server and removes the directory: a test that panics, is killed, or keeps its cluster in
//! a `static` leaves nothing behind.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

/// How long a server may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the server (`"$@"`), tells its process id, and stops it and removes `$DIR` when standard input ends.
const WATCHDOG: &str = r#"
exec 3<&0
"$@" 3<&- </dev/null >&2 &
server=$!
echo "$server"
{ read -r _ <&3; : >"$DIR/abandoned"; kill -INT "$server"; } 2>/dev/null &
watcher=$!
wait "$server"
code=$?
kill "$watcher" 2>/dev/null
if [ -e "$DIR/abandoned" ]; then cd / && rm -rf -- "$DIR"; fi
exit "$code"
"#;

/// Where PostgreSQL's programs are: the directory of `postgres` in `PATH`, else the newest of Debian's layout.
#[must_use]
pub fn bin_dir() -> Option<PathBuf> {
    let complete = |dir: &PathBuf| ["postgres", "initdb", "pg_isready"].iter().all(|name| dir.join(name).is_file());
    let in_path = std::env::var_os("PATH").and_then(|path| std::env::split_paths(&path).find(complete));
    in_path.or_else(|| {
        let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
            .ok()?
            .flatten()
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
            .filter(|(_, dir)| complete(dir))
            .collect();
        versions.sort();
        versions.pop().map(|(_, dir)| dir)
    })
}

/// The programs, or a line that says why the test is skipped.
#[must_use]
pub fn bin_dir_or_skip(test: &str) -> Option<PathBuf> {
    let found = bin_dir();
    if found.is_none() {
        crate::skip(test, "PostgreSQL's programs were not found in PATH or /usr/lib/postgresql");
    }
    found
}

/// What went wrong with a test server; the text ends with the tail of its log.
#[derive(Debug)]
pub struct ClusterError(String);

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ClusterError {}

impl From<io::Error> for ClusterError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<tokio_postgres::Error> for ClusterError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(format!("{error:?}"))
    }
}

/// How to set a test server up.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Settings beyond the defaults, as on the command line of `postgres -c`.
    pub settings: Vec<(String, String)>,
}

impl Options {
    /// A server that keeps what it acknowledged, as a production server does: for measuring. Tests run without fsync.
    #[must_use]
    pub fn durable() -> Self {
        let settings =
            [("fsync", "on"), ("synchronous_commit", "on"), ("full_page_writes", "on"), ("shared_buffers", "256MB")];
        Self { settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec() }
    }
}

/// How to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Ends sessions and writes a checkpoint.
    Fast,
    /// Crashes in order: no checkpoint, recovery at the next start.
    Immediate,
}

/// A private server. It and its directory go when this value goes, or this process.
#[derive(Debug)]
pub struct Cluster {
    bin: PathBuf,
    dir: PathBuf,
    owner: Option<(u32, u32)>,
    port: u16,
    settings: Vec<(String, String)>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    watchdog: Child,
    server: Pid,
}

impl Cluster {
    /// Makes a data directory and starts a server on a free port.
    ///
    /// # Errors
    /// [`ClusterError`] if PostgreSQL is missing, refuses or does not answer in time.
    pub async fn start(options: Options) -> Result<Self, ClusterError> {
        let bin = bin_dir().ok_or_else(|| ClusterError("PostgreSQL's programs were not found".to_owned()))?;
        let owner = owner()?;
        let dir = std::env::temp_dir().join(format!("pgf-{}", &uuid::Uuid::new_v4().simple().to_string()[..10]));
        fs::create_dir(&dir)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o711))?;
        if let Some((uid, gid)) = owner {
            chown(&dir, Some(uid), Some(gid))?;
        }
        let mut cluster = Self { bin, dir, owner, port: 0, settings: options.settings, running: Mutex::new(None) };
        cluster.initdb()?;
        for attempt in 0.. {
            // The port is free now; somebody may take it before the server does, and then another is tried.
            cluster.port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            match cluster.start_again().await {
                Ok(()) => break,
                Err(error) if attempt == 4 => return Err(error),
                Err(_) => {}
            }
        }
        Ok(cluster)
    }

    /// URL of a database of this server, for the superuser, without TLS.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// The port it listens on; the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of this cluster: `data/`, `log` and the socket are in it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of PostgreSQL's programs.
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        &self.bin
    }

    /// Process id of the postmaster, while it runs.
    #[must_use]
    pub fn server_pid(&self) -> Option<i32> {
        self.lock().as_ref().map(|running| running.server.as_raw_nonzero().get())
    }

    /// A client of a database of this server, for the superuser.
    ///
    /// # Errors
    /// [`ClusterError`] if it cannot connect.
    pub async fn connect(&self, database: &str) -> Result<TestClient, ClusterError> {
        connect(&self.url(database)).await
    }

    /// Makes an empty database and answers its URL.
    ///
    /// # Errors
    /// [`ClusterError`] with what PostgreSQL says.
    pub async fn create_database(&self, name: &str) -> Result<String, ClusterError> {
        self.create(name, "template0").await
    }

    /// Makes a database of its own for a test as a copy of `template`, and answers its URL.
    ///
    /// # Errors
    /// [`ClusterError`] with what PostgreSQL says, also when sessions of the template do not end in time.
    pub async fn database_from_template(&self, template: &str) -> Result<String, ClusterError> {
        let name = format!("t_{}", uuid::Uuid::new_v4().simple());
        self.create(&name, template).await
    }

    async fn create(&self, name: &str, template: &str) -> Result<String, ClusterError> {
        let admin = self.connect("postgres").await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            // While a session is still leaving the template, or another copy of it is made, PostgreSQL refuses.
            let made = admin.batch_execute(&format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\"")).await;
            match made {
                Ok(()) => return Ok(self.url(name)),
                Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Stops the server and waits until it is gone. Its data stay.
    ///
    /// # Errors
    /// [`ClusterError`] if it does not end in time.
    pub async fn stop(&self, mode: StopMode) -> Result<(), ClusterError> {
        self.end(match mode {
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        })
        .await
    }

    /// Kills the postmaster without warning and waits until it is gone. Its children notice and end.
    ///
    /// # Errors
    /// [`ClusterError`] if it does not end in time.
    pub async fn kill(&self) -> Result<(), ClusterError> {
        self.end(Signal::KILL).await
    }

    /// Stops the server and starts it again on the same port.
    ///
    /// # Errors
    /// [`ClusterError`] if it does not end or start in time.
    pub async fn restart(&self, mode: StopMode) -> Result<(), ClusterError> {
        self.stop(mode).await?;
        self.start_again().await
    }

    /// Starts a server that was stopped or killed.
    ///
    /// # Errors
    /// [`ClusterError`] if it ends at once or does not answer in time.
    pub async fn start_again(&self) -> Result<(), ClusterError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let running = self.spawn()?;
            *self.lock() = Some(running);
            loop {
                if self.answers()? {
                    return Ok(());
                }
                if self.has_ended()? {
                    break;
                }
                if Instant::now() >= deadline {
                    return Err(self.failure("did not answer in time"));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // Children of a killed postmaster hold its memory for a moment, and the next one refuses to start.
            if Instant::now() + PATIENCE / 2 >= deadline || !self.dir.join("killed").exists() {
                return Err(self.failure("ended at once"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops the server, keeps a copy of its data under `name`, and starts it again: what is committed later is lost when
    /// the copy is put back.
    ///
    /// # Errors
    /// [`ClusterError`] if the server does not end or start in time, or the copy cannot be made.
    pub async fn copy_data(&self, name: &str) -> Result<(), ClusterError> {
        self.stop(StopMode::Fast).await?;
        self.replace("data", &format!("copy-{name}"))?;
        self.start_again().await
    }

    /// Kills the server in order if it runs, puts the copy `name` in the place of its data, and starts it: a database that lost its
    /// last commits. The copy stays, so that it can be put back again.
    ///
    /// # Errors
    /// As [`Self::copy_data`]; also if there is no such copy.
    pub async fn put_back(&self, name: &str) -> Result<(), ClusterError> {
        self.stop(StopMode::Immediate).await?;
        self.replace(&format!("copy-{name}"), "data")?;
        self.start_again().await
    }

    /// Makes `to` a copy of `from`, both in this cluster's directory; what was there before goes.
    fn replace(&self, from: &str, to: &str) -> Result<(), ClusterError> {
        let old = self.dir.join(to);
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
        let output = self.command(Path::new("/bin/cp")).args(["-a", from, to]).stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(ClusterError(format!("cannot copy {from} to {to}: {said}")))
    }

    async fn end(&self, signal: Signal) -> Result<(), ClusterError> {
        let Some(server) = self.lock().as_ref().map(|running| running.server) else { return Ok(()) };
        if signal == Signal::KILL {
            fs::write(self.dir.join("killed"), "")?;
        }
        kill_process(server, signal).map_err(io::Error::from)?;
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended()? {
            if Instant::now() >= deadline {
                return Err(self.failure("did not end in time"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Whether the server has ended; then it is forgotten.
    fn has_ended(&self) -> Result<bool, ClusterError> {
        let mut running = self.lock();
        let ended = match running.as_mut() {
            Some(one) => one.watchdog.try_wait()?.is_some(),
            None => true,
        };
        if ended {
            *running = None;
        }
        Ok(ended)
    }

    fn answers(&self) -> Result<bool, ClusterError> {
        let status = Command::new(self.bin.join("pg_isready"))
            .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
            .current_dir("/")
            .status()?;
        // The port may have been somebody else's: then our own server ends, which the caller sees.
        Ok(status.success() && self.dir.join("data/postmaster.pid").exists() && self.is_ready()?)
    }

    /// The server writes into its pid file when it takes connections.
    fn is_ready(&self) -> Result<bool, ClusterError> {
        let text = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        let pid = lines.next().and_then(|line| line.trim().parse::<i32>().ok());
        Ok(pid == self.server_pid() && text.lines().any(|line| line.trim() == "ready"))
    }

    fn initdb(&self) -> Result<(), ClusterError> {
        let output = self
            .command(&self.bin.join("initdb"))
            .args(["-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
            .stdin(Stdio::null())
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(ClusterError(format!("initdb failed: {}", String::from_utf8_lossy(&output.stderr))))
    }

    fn spawn(&self) -> Result<Running, ClusterError> {
        let log = File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut command = self.command(Path::new("/bin/sh"));
        command.args(["-c", WATCHDOG, "watchdog"]).arg(self.bin.join("postgres")).args(["-D", "data"]);
        let dir = self.dir.display().to_string();
        let port = self.port.to_string();
        for (name, value) in [
            ("port", port.as_str()),
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", dir.as_str()),
            ("fsync", "off"),
            ("max_connections", "200"),
            ("shared_buffers", "32MB"),
            ("log_line_prefix", "%m [%p] %a "),
        ] {
            command.args(["-c", &format!("{name}={value}")]);
        }
        for (name, value) in &self.settings {
            command.args(["-c", &format!("{name}={value}")]);
        }
        let mut watchdog = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = watchdog.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        match line.trim().parse().ok().and_then(Pid::from_raw) {
            Some(server) => Ok(Running { watchdog, server }),
            None => Err(self.failure("could not be started")),
        }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.dir).env("DIR", &self.dir).env("LC_ALL", "C");
        for name in ["PGDATA", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGOPTIONS"] {
            command.env_remove(name);
        }
        if let Some((uid, gid)) = self.owner {
            // With a uid given by root, the standard library also clears the supplementary groups.
            command.uid(uid).gid(gid);
        }
        command
    }

    fn failure(&self, what: &str) -> ClusterError {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(8)..].join("\n");
        ClusterError(format!("the test server in {} {what}:\n{tail}", self.dir.display()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut running) = running {
            // It may have ended by itself; then there is nobody to tell.
            let _ = kill_process(running.server, Signal::QUIT);
            // A test that failed while the server was stopped would wait for ever.
            let _ = kill_process(running.server, Signal::CONT);
            drop(running.watchdog.stdin.take());
            drop(running.watchdog.wait());
        }
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Whom to run PostgreSQL as, if not as ourselves.
fn owner() -> Result<Option<(u32, u32)>, ClusterError> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd")?;
    let ids = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_postgres = fields.next() == Some("postgres");
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        is_postgres.then_some((uid, gid))
    });
    ids.map(Some).ok_or_else(|| ClusterError("PostgreSQL refuses root, and there is no user `postgres`".to_owned()))
}

/// A plain client; its connection ends with it.
#[derive(Debug)]
pub struct TestClient {
    client: Client,
    _driver: tokio::task::JoinSet<()>,
}

impl std::ops::Deref for TestClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::ops::DerefMut for TestClient {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// A client of the database at `url`, without TLS.
///
/// # Errors
/// [`ClusterError`] if it cannot connect.
pub async fn connect(url: &str) -> Result<TestClient, ClusterError> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let mut driver = tokio::task::JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    Ok(TestClient { client, _driver: driver })
}
