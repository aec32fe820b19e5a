//! A fleet of real processes for one test: a database of its own, keys, a directory, and nothing left behind.
//!
//! Who calls it: the system tests. What it calls: [`crate::postgres`] for the controllers' database, [`crate::programs`]
//! for the binaries. The directory is short, lies in the system's temporary directory and belongs to the user that runs
//! PostgreSQL. A small shell holds a pipe of this process: when the pipe closes, for whatever reason, it ends every process
//! whose command line names the directory, and removes it. So a test that is killed leaves nothing behind either.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use pgfleet_api::Term;
use pgfleet_clients::controller::{ControllerClient, Options as ClientOptions};
use tokio::sync::OnceCell;

use crate::agent::AgentOptions;
use crate::controller::{Controller, ControllerOptions};
use crate::keys::Keys;
use crate::postgres::{Cluster, Options, TestClient, bin_dir_or_skip, connect};

/// Ends what names `$DIR` on its command line when standard input closes, and removes it. Its own command line does not.
/// A postmaster gets SIGQUIT, so that it gives its shared memory back.
const REAPER: &str = r#"
read -r _
ours() {
  set -- /proc/[0-9]*/cmdline
  grep -lsF -e "$DIR/" "$@" | sed 's,/proc/,,; s,/cmdline,,'
}
for pid in $(ours); do
  program=$(tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | head -n 1)
  case "$program" in */postgres) ;; *) kill -9 "$pid" 2>/dev/null ;; esac
done
n=0
while [ -n "$(ours)" ] && [ "$n" -lt 100 ]; do
  kill -QUIT $(ours) 2>/dev/null
  sleep 0.05
  n=$((n + 1))
done
kill -9 $(ours) 2>/dev/null
if [ -z "$KEEP" ]; then rm -rf -- "$DIR"; fi
"#;

/// Lines of each log that a failed test prints.
const TAIL_LINES: usize = 40;

static SHARED: OnceCell<Cluster> = OnceCell::const_new();
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// The controllers' database server.
enum Server {
    /// One for all tests of this program.
    Shared(&'static Cluster),
    /// For a test that stops it.
    Own(Box<Cluster>),
}

/// What a test stands on.
pub struct Fleet {
    test: String,
    dir: PathBuf,
    keys: Keys,
    server: Server,
    database_url: String,
    reaper: Child,
}

impl Fleet {
    /// A fleet whose database is a new, empty one. `None`, with a line that says so, where there is no PostgreSQL.
    pub async fn start(test: &str) -> Option<Self> {
        bin_dir_or_skip(test)?;
        let shared = SHARED.get_or_init(|| async { start_cluster().await }).await;
        Some(Self::on(test, Server::Shared(shared)).await)
    }

    /// A fleet with a database server of its own, which the test may stop.
    pub async fn with_own_server(test: &str) -> Option<Self> {
        Self::with_server(test, Options::default()).await
    }

    /// A fleet with a database server of its own, set up like this.
    pub async fn with_server(test: &str, options: Options) -> Option<Self> {
        bin_dir_or_skip(test)?;
        let cluster = Cluster::start(options).await.unwrap_or_else(|error| panic!("no PostgreSQL: {error}"));
        Some(Self::on(test, Server::Own(Box::new(cluster))).await)
    }

    async fn on(test: &str, server: Server) -> Self {
        let name = format!("f_{}", &uuid::Uuid::new_v4().simple().to_string()[..10]);
        let dir = std::env::temp_dir().join(format!("pg{name}"));
        make_dir(&dir, server.cluster());
        for sub in ["keys", "logs", "run"] {
            make_dir(&dir.join(sub), server.cluster());
        }
        let reaper = Command::new("/bin/sh")
            .args(["-c", REAPER])
            .env("DIR", &dir)
            .env("KEEP", std::env::var("PGFLEET_KEEP_TEST_DIRS").unwrap_or_default())
            .current_dir("/")
            .stdin(Stdio::piped())
            .spawn();
        let reaper = reaper.unwrap_or_else(|error| panic!("/bin/sh cannot be started: {error}"));
        let database_url = server.cluster().create_database(&name).await;
        let database_url = database_url.unwrap_or_else(|error| panic!("no database: {error}"));
        let keys = Keys::make(&dir.join("keys"));
        Self { test: test.to_owned(), dir, keys, server, database_url, reaper }
    }

    /// The same fleet, whose controllers have their database elsewhere: on servers that a test runs itself.
    #[must_use]
    pub fn over(mut self, database_url: String) -> Self {
        self.database_url = database_url;
        self
    }

    /// The directory of this fleet.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a directory in it that the user who runs PostgreSQL owns.
    pub fn make_dir(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        make_dir(&dir, self.cluster());
        dir
    }

    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The server of the controllers' database.
    pub fn cluster(&self) -> &Cluster {
        self.server.cluster()
    }

    /// URL of the controllers' database.
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// A session in the controllers' database.
    pub async fn database(&self) -> TestClient {
        connect(&self.database_url).await.unwrap_or_else(|error| panic!("{}: {error}", self.database_url))
    }

    /// A controller to be started.
    pub fn controller(&self, name: &str) -> ControllerOptions<'_> {
        self.controller_of("storage_controller", name)
    }

    /// A controller of another release, [`crate::programs::NEXT`] for example.
    pub fn controller_of(&self, release: &str, name: &str) -> ControllerOptions<'_> {
        ControllerOptions::new(self, release, name)
    }

    /// An agent to be started.
    pub fn agent(&self, compute_id: &str) -> AgentOptions<'_> {
        AgentOptions::new(self, compute_id)
    }

    /// The operator's client of these members, with the retry rule that clients are told to follow.
    pub fn client(&self, members: &[&Controller]) -> ControllerClient {
        self.client_with(members, ClientOptions::default())
    }

    /// The same with other patience.
    pub fn client_with(&self, members: &[&Controller], options: ClientOptions) -> ControllerClient {
        pgfleet_clients::install_crypto_provider();
        let endpoints = members.iter().map(|member| member.url().to_owned()).collect();
        ControllerClient::new(endpoints, self.keys.source(), options)
            .unwrap_or_else(|error| panic!("no client: {error}"))
    }

    /// (term, how it began, how it ended) of every leadership, in order.
    pub async fn history(&self) -> Vec<(i64, String, Option<String>)> {
        let rows =
            self.database().await.query("SELECT term, began, ended FROM leader_history ORDER BY term", &[]).await;
        let rows = rows.unwrap_or_else(|error| panic!("no history: {error:?}"));
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    }

    /// The term in the leader row, and whether it is released.
    pub async fn leader_row(&self) -> Option<(Term, bool)> {
        let row = self.database().await.query_opt("SELECT term, released_at IS NOT NULL FROM leader", &[]).await;
        row.unwrap_or_else(|error| panic!("no leader row: {error:?}")).map(|row| (Term(row.get(0)), row.get(1)))
    }

    fn print_logs(&self) {
        let Ok(entries) = fs::read_dir(self.dir.join("logs")) else { return };
        let mut logs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        logs.sort();
        for log in logs {
            let text = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
            eprintln!("--- {}: {}\n{tail}", self.test, log.display());
        }
    }
}

impl Server {
    fn cluster(&self) -> &Cluster {
        match self {
            Self::Shared(cluster) => cluster,
            Self::Own(cluster) => cluster,
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        drop(self.reaper.stdin.take());
        drop(self.reaper.wait());
    }
}

async fn start_cluster() -> Cluster {
    Cluster::start(Options::default()).await.unwrap_or_else(|error| panic!("no PostgreSQL: {error}"))
}

/// A directory of the user who runs PostgreSQL, which everybody may pass through.
fn make_dir(dir: &Path, cluster: &Cluster) {
    let made =
        fs::create_dir(dir).and_then(|()| fs::set_permissions(dir, Permissions::from_mode(0o755))).and_then(|()| {
            let like = fs::metadata(cluster.dir())?;
            chown(dir, Some(like.uid()), Some(like.gid()))
        });
    made.unwrap_or_else(|error| panic!("{} cannot be made: {error}", dir.display()));
}

/// A TCP port that is free and that the kernel gives to nobody by itself: below the usual ephemeral range, and another
/// one for each call.
pub fn free_port() -> u16 {
    let first = 12_000 + u16::try_from(std::process::id() % 600).unwrap_or(0) * 30;
    for _ in 0..3000 {
        let port = 12_000 + (first - 12_000 + NEXT_PORT.fetch_add(1, Ordering::Relaxed)) % 18_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// A command with a clean environment: nothing of the caller's PG* variables or tokens leaks into a server.
pub(crate) fn clean_command(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir(dir);
    for name in ["PATH", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("RUST_LOG", std::env::var_os("PGFLEET_TEST_LOG").unwrap_or_else(|| "info".into())).env("LC_ALL", "C");
    command
}

/// Reads a port file once it is there and written by this process.
pub async fn wait_port_file(
    process: &crate::process::Process,
    path: &Path,
    limit: Duration,
) -> pgfleet_api::agent::PortFile {
    let what = format!("{} wrote its port file", process.name());
    crate::wait::wait_for(&what, limit, async || {
        process.still_runs();
        let file: pgfleet_api::agent::PortFile = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (i64::from(file.pid) == i64::from(process.pid())).then_some(file)
    })
    .await
}
