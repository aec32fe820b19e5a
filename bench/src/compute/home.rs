//! A directory with an agent and its PostgreSQL in it, or with a bare server like the one that an agent makes.

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hyper::Method;
use pgfleet_api::agent::{AgentStatus, ComputeState, ConfigureRequest};
use pgfleet_api::{ClusterId, ComputeId, Fence, Generation, Term};
use pgfleet_domain::spec::spec_hash;
use pgfleet_harness::fleet::{Fleet, free_port};
use pgfleet_harness::postgres::{TestClient, connect};
use pgfleet_harness::process::Process;
use pgfleet_harness::programs::program;
use serde_json::{Value, json};

use crate::stats::ms;
use crate::wire::{Ask, Wire};

/// How long a large spec, or anything else here, may take.
pub const PATIENCE: Duration = Duration::from_secs(900);
/// How long a process may take to end.
const END: Duration = Duration::from_secs(60);
/// Linux shows processor times in hundredths of a second, whatever its own clock is.
const TICKS_PER_SECOND: f64 = 100.0;
/// The superuser of both kinds of servers.
const SUPERUSER: &str = "cloud_admin";

/// A directory that PostgreSQL's user owns, removed at the end.
pub struct Home {
    dir: PathBuf,
    bin: PathBuf,
    port: u16,
}

impl Home {
    /// A new one of this name.
    #[must_use]
    pub fn make(fleet: &Fleet, name: &str) -> Self {
        Self { dir: fleet.make_dir(name), bin: fleet.cluster().bin_dir().to_owned(), port: free_port() }
    }

    /// A program of PostgreSQL, as the user who owns the directory.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").current_dir("/").stdin(Stdio::null());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        let owner = fs::metadata(&self.dir).unwrap_or_else(|error| stop("a directory", error));
        let own = fs::metadata("/proc/self").unwrap_or_else(|error| stop("/proc/self", error));
        if owner.uid() != own.uid() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.dir.join("pgdata")
    }

    /// A session of the superuser over the unix socket in this directory.
    async fn session(&self, socket: &Path, database: &str) -> TestClient {
        let url = format!("postgres:///{database}?host={}&port={}&user={SUPERUSER}", socket.display(), self.port);
        connect(&url).await.unwrap_or_else(|error| stop("no session", error))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What cannot be removed goes with the fleet's directory.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A server without an agent: made and started by PostgreSQL's own programs, with the flags that an agent gives.
pub struct Bare {
    home: Home,
}

impl Bare {
    /// Makes and starts one, and says how long that took.
    #[must_use]
    pub fn start(home: Home) -> (Self, f64) {
        let data = home.data();
        let begun = Instant::now();
        let mut initdb = home.command("initdb");
        initdb.arg("-D").arg(&data).args(["-U", SUPERUSER, "--encoding=UTF8", "--data-checksums", "--no-instructions"]);
        initdb.args(["--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256", "--locale=C.UTF-8"]);
        succeed(initdb);
        let directory = fs::File::open(&data).unwrap_or_else(|error| stop("the data directory", error));
        rustix::fs::syncfs(directory).unwrap_or_else(|error| stop("syncfs", error));
        let mut pg_ctl = home.command("pg_ctl");
        let options = format!(
            "-p {} -c unix_socket_directories={} -c logging_collector=off -c recovery_init_sync_method=syncfs",
            home.port,
            home.dir.display()
        );
        pg_ctl.arg("-D").arg(&data).arg("-l").arg(home.dir.join("log")).args(["-w", "-o", &options, "start"]);
        succeed(pg_ctl);
        let took = ms(begun.elapsed());
        (Self { home }, took)
    }

    /// Runs a psql script, and says how long that took.
    #[must_use]
    pub fn psql(&self, script: &str) -> f64 {
        let file = self.home.dir.join("script.sql");
        fs::write(&file, script).unwrap_or_else(|error| stop("the script", error));
        let mut psql = self.home.command("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", SUPERUSER, "-d", "postgres"]);
        psql.arg("-h").arg(&self.home.dir).args(["-p", &self.home.port.to_string()]).arg("-f").arg(&file);
        let begun = Instant::now();
        succeed(psql);
        ms(begun.elapsed())
    }

    /// A session of the superuser.
    pub async fn session(&self, database: &str) -> TestClient {
        self.home.session(&self.home.dir, database).await
    }

    /// Ends it; its data go.
    pub fn stop(self) {
        let mut pg_ctl = self.home.command("pg_ctl");
        pg_ctl.arg("-D").arg(self.home.data()).args(["-m", "immediate", "-w", "stop"]);
        succeed(pg_ctl);
    }
}

/// An agent without a controller, which takes its specs from here.
pub struct Agent {
    process: Process,
    wire: Wire,
    home: Home,
    id: ComputeId,
    cluster_id: ClusterId,
    generation: i64,
}

impl Agent {
    /// Starts one on an empty directory, perhaps with a spec, and says how long it took until it was running with it, or
    /// until it listened where there is none.
    pub async fn start(fleet: &Fleet, name: &str, spec: Option<&Value>) -> (Self, f64) {
        let home = Home::make(fleet, name);
        let (external, internal) = (free_port(), free_port());
        let mut command = Command::new(program("compute_ctl"));
        command.env_clear().env("RUST_LOG", "info").env("LC_ALL", "C").current_dir(&home.dir);
        command.arg("-b").arg(home.bin.join("postgres")).arg("-D").arg(home.data()).args(["-i", name, "-C"]);
        command.arg(format!("postgresql://{SUPERUSER}@127.0.0.1:{}/postgres", home.port));
        command.args(["--external-http-port", &external.to_string(), "--internal-http-port", &internal.to_string()]);
        command.arg("--state-dir").arg(home.dir.join("state"));
        if let Some(spec) = spec {
            let file = home.dir.join("spec.json");
            fs::write(&file, spec.to_string()).unwrap_or_else(|error| stop("the spec", error));
            command.arg("-S").arg(file);
        }
        let begun = Instant::now();
        let process = Process::start(name, command, &fleet.dir().join("logs").join(format!("{name}.log")));
        let id = name.parse().unwrap_or_else(|error| stop("a name", error));
        let wire = Wire::new(&format!("http://127.0.0.1:{external}"));
        let mut agent = Self { process, wire, home, id, cluster_id: ClusterId::generate(), generation: 0 };
        let wanted = if spec.is_some() { ComputeState::Running } else { ComputeState::Empty };
        agent.until(Duration::from_millis(1), |status| status.status == wanted).await;
        (agent, ms(begun.elapsed()))
    }

    /// Its status, once it is as wanted.
    pub async fn until(&mut self, pause: Duration, wanted: impl Fn(&AgentStatus) -> bool) -> AgentStatus {
        let begun = Instant::now();
        loop {
            if let Ok(status) = self.try_status().await {
                assert!(status.status != ComputeState::Failed, "the agent failed: {:?}", status.error);
                if wanted(&status) {
                    return status;
                }
            }
            self.process.still_runs();
            assert!(begun.elapsed() < PATIENCE, "{} is not as wanted in time", self.process.name());
            tokio::time::sleep(pause).await;
        }
    }

    async fn try_status(&mut self) -> Result<AgentStatus, String> {
        let body = self.get("/status").await?;
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    }

    async fn get(&mut self, path: &str) -> Result<Vec<u8>, String> {
        let ask = Ask { method: Method::GET, path: path.to_owned(), token: None, body: Vec::new() };
        self.wire.send(&ask).await.map_err(|failure| failure.to_string())
    }

    /// How long one exchange takes.
    pub async fn exchange(&mut self) -> f64 {
        let begun = Instant::now();
        let answer = self.get("/status").await;
        let took = ms(begun.elapsed());
        answer.unwrap_or_else(|error| stop("GET /status", error));
        took
    }

    /// Its metrics page.
    pub async fn metrics(&mut self) -> String {
        let page = self.get("/metrics").await.unwrap_or_else(|error| stop("GET /metrics", error));
        String::from_utf8_lossy(&page).into_owned()
    }

    fn configure(&mut self, spec: &Value, timeout_s: u32) -> Ask {
        self.generation += 1;
        let fence = Fence {
            cluster_id: self.cluster_id,
            compute_id: self.id.clone(),
            term: Term(1),
            generation: Generation(self.generation),
            spec_hash: spec_hash(spec),
        };
        let request = ConfigureRequest { spec: spec.clone(), fence: Some(fence), compute_ctl_config: None };
        let body = serde_json::to_vec(&request).unwrap_or_else(|error| stop("a request", error));
        Ask { method: Method::POST, path: format!("/configure?timeout_s={timeout_s}"), token: None, body }
    }

    /// Gives it a new generation and waits in the call; how long the call took.
    pub async fn apply(&mut self, spec: &Value) -> f64 {
        let ask = self.configure(spec, 60);
        let begun = Instant::now();
        let answer = self.wire.send(&ask).await;
        let took = ms(begun.elapsed());
        answer.unwrap_or_else(|failure| stop("POST /configure", failure));
        took
    }

    /// The same for a spec that takes longer than a call: the status is asked every 5 ms.
    pub async fn apply_large(&mut self, spec: &Value) -> f64 {
        let ask = self.configure(spec, 0);
        let generation = Some(Generation(self.generation));
        let begun = Instant::now();
        self.wire.send(&ask).await.unwrap_or_else(|failure| stop("POST /configure", failure));
        let done =
            |status: &AgentStatus| status.status == ComputeState::Running && status.applied_generation == generation;
        self.until(Duration::from_millis(5), done).await;
        ms(begun.elapsed())
    }

    /// A session of the superuser in its PostgreSQL.
    pub async fn session(&self, database: &str) -> TestClient {
        self.home.session(&self.home.dir.join("state/s"), database).await
    }

    /// Resident memory of the agent alone, in MiB.
    #[must_use]
    pub fn rss_mb(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib / 1024.0)
    }

    /// Processor time it has used, in seconds.
    #[must_use]
    pub fn cpu_seconds(&self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.pid())).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<f64>().ok();
        Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
    }

    /// Ends it and its PostgreSQL; their data go.
    pub async fn stop(self) {
        self.process.terminate();
        assert_eq!(self.process.exit_code(END).await, 0, "the agent did not end well");
    }
}

fn succeed(mut command: Command) {
    // pg_ctl's server keeps what it is given, so nothing here may wait for an end of file.
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let status = status.unwrap_or_else(|error| stop("a program of PostgreSQL", error));
    assert!(status.success(), "{command:?} failed: {status}");
}

/// A spec with these roles and databases, each database owned by a role.
#[must_use]
pub fn spec(roles: usize, databases: usize) -> Value {
    const VERIFIER: &str = "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$pzBAVl7hCY10alzuuUQO8AQlQkbwXBn+U7FBUKkx/80=:9JPns5hb7cAFjvET+ITWgjXUJ/1UOOghMYzE1uVl20A=";
    let role = |n: usize| format!("r{n:04}");
    let of_role = |n| json!({"name": role(n), "encrypted_password": VERIFIER});
    let of_database = |n: usize| json!({"name": format!("d{n:04}"), "owner": role(n % roles.max(1))});
    json!({
        "format_version": 1.0,
        "suspend_timeout_seconds": 0,
        "cluster": {
            "roles": (0..roles).map(of_role).collect::<Vec<_>>(),
            "databases": (0..databases).map(of_database).collect::<Vec<_>>(),
            // Its own transactions would be counted as the agent's.
            "settings": [
                {"name": "autovacuum", "value": "off", "vartype": "bool"},
                {"name": "work_mem", "value": "4MB", "vartype": "string"},
            ],
        },
    })
}

pub fn stop(what: &str, error: impl Display) -> ! {
    panic!("{what}: {error}");
}
