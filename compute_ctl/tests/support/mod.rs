//! A real agent around a real PostgreSQL, for the tests of this crate.

#![expect(dead_code, reason = "each test file uses a part of it")]
#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Verifier of the password `pw1`.
pub const SCRAM_PW1: &str = "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$pzBAVl7hCY10alzuuUQO8AQlQkbwXBn+U7FBUKkx/80=:9JPns5hb7cAFjvET+ITWgjXUJ/1UOOghMYzE1uVl20A=";

thread_local! {
    /// Carries connections that a test holds.
    static SESSIONS: pgfleet_runtime::TaskGroup = pgfleet_runtime::TaskGroup::new("sessions");
}

/// The server program, or none after a line that says so, which every test answers by returning.
pub fn postgres_program() -> Option<PathBuf> {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    pgfleet_harness::postgres::bin_dir_or_skip(&test).map(|dir| dir.join("postgres"))
}

/// A directory that PostgreSQL's user can reach, removed at the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/tmp/pgfleet-ctl-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o711)).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One compute, whose agent can be started again and again.
pub struct Compute {
    pub dir: Scratch,
    pub pgport: u16,
    program: PathBuf,
    agent: Option<Child>,
    url: String,
    /// The port for programs on the same machine.
    pub internal_url: String,
    /// Variables for the agent.
    pub environment: Vec<(&'static str, &'static str)>,
}

impl Compute {
    pub async fn start(program: PathBuf, more: &[&str]) -> Self {
        let mut compute = Self::prepare(program);
        compute.start_agent(more).await;
        compute
    }

    pub fn prepare(program: PathBuf) -> Self {
        let (dir, pgport) = (Scratch::new(), pgfleet_harness::fleet::free_port());
        Self {
            dir,
            pgport,
            program,
            agent: None,
            url: String::new(),
            internal_url: String::new(),
            environment: Vec::new(),
        }
    }

    pub fn pgdata(&self) -> PathBuf {
        self.dir.0.join("d")
    }

    pub fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_compute_ctl"));
        command
            .current_dir(&self.dir.0)
            .args(["-i", "no-compute", "-D", "d", "--http-port", "0", "--port-file", "ports.json", "-C"])
            .arg(format!("postgresql://cloud_admin@127.0.0.1:{}/postgres", self.pgport))
            .arg("-b")
            .arg(&self.program)
            .args(more)
            .env("RUST_LOG", "debug")
            .envs(self.environment.iter().copied());
        command
    }

    /// Starts the agent and waits until it listens.
    pub async fn start_agent(&mut self, more: &[&str]) {
        let ports = self.dir.0.join("ports.json");
        let _ = std::fs::remove_file(&ports);
        let log = std::fs::File::options().create(true).append(true).open(self.dir.0.join("agent.log")).unwrap();
        self.agent = Some(self.command(more).stdin(Stdio::null()).stderr(log).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(content) =
                std::fs::read(&ports).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            {
                self.url = format!("http://127.0.0.1:{}", content["ports"]["external_http"]);
                self.internal_url = format!("http://127.0.0.1:{}", content["ports"]["internal_http"]);
                return;
            }
            assert!(Instant::now() < deadline, "the agent does not listen:\n{}", self.agent_log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Base URL of the agent, while it runs.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn agent_log(&self) -> String {
        std::fs::read_to_string(self.dir.0.join("agent.log")).unwrap_or_default()
    }

    pub fn postgres_log(&self) -> String {
        std::fs::read_to_string(self.dir.0.join("d.pgfleet/postgres.log")).unwrap_or_default()
    }

    pub fn postmaster(&self) -> Option<u32> {
        let file = std::fs::read_to_string(self.pgdata().join("postmaster.pid")).ok()?;
        file.lines().next()?.trim().parse().ok()
    }

    pub fn signal_agent(&self, name: &str) {
        kill(self.agent.as_ref().unwrap().id(), name);
    }

    /// Waits for the agent's end.
    pub async fn agent_ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.agent.as_mut().unwrap().try_wait().unwrap() {
                self.agent = None;
                return status;
            }
            assert!(Instant::now() < deadline, "the agent does not end:\n{}", self.agent_log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        reqwest::Client::new().request(method, format!("{}{path}", self.url)).timeout(Duration::from_secs(90))
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.request(reqwest::Method::GET, path)).await
    }

    /// As `curl -d` sends it.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let request = self.request(reqwest::Method::POST, path);
        answer(request.header("content-type", "application/x-www-form-urlencoded").body(body)).await
    }

    pub async fn configure(&self, spec: &Value, fence: Option<Value>) -> (u16, Value) {
        self.post("/configure", json!({"spec": spec, "fence": fence}).to_string()).await
    }

    pub async fn status(&self) -> Value {
        self.get("/status").await.1
    }

    /// The value of a series on the metrics page; 0 where it is absent.
    pub async fn metric(&self, series: &str) -> f64 {
        let page = self.request(reqwest::Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
        let line = page.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// Waits until the condition holds.
    pub async fn wait_for(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds().await {
            assert!(Instant::now() < deadline, "never {what}:\n{}", self.agent_log());
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// The status without the readings that are added when it is asked for: what `status_seq` counts.
    pub async fn published(&self) -> Value {
        let mut status = self.status().await;
        if let Some(fields) = status.as_object_mut() {
            fields.retain(|name, _| !["activity", "downtime", "resources"].contains(&name.as_str()));
            fields.insert("last_active".to_owned(), Value::Null);
        }
        status
    }

    /// Waits until the status is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let status = self.status().await;
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "never {what}: {status}\n{}", self.agent_log());
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// A session of the superuser over the agent's own socket. Its connection ends with the runtime of the test.
    pub async fn superuser(&self, database: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.dir.0.join("d.pgfleet/s")).port(self.pgport).user("cloud_admin").dbname(database);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        SESSIONS.with(|sessions| sessions.spawn("session", pgfleet_runtime::Kind::Worker, connection));
        Ok(client)
    }

    /// Asks one question as the superuser; the first column of the answer as text.
    pub async fn admin(&self, sql: &str) -> Result<String, tokio_postgres::Error> {
        let client = self.superuser("postgres").await?;
        for message in client.simple_query(sql).await? {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                return Ok(row.get(0).unwrap_or_default().to_owned());
            }
        }
        Ok(String::new())
    }

    /// Logs in over TCP and asks one question.
    pub async fn ask(
        &self,
        user: &str,
        password: &str,
        database: &str,
        sql: &str,
    ) -> Result<String, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.pgport).user(user).password(password).dbname(database);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        let answer = async {
            let rows = client.query_one(sql, &[]).await?;
            Ok(rows.get::<_, String>(0))
        };
        tokio::select! {
            answer = answer => answer,
            ended = connection => panic!("the connection ended: {ended:?}"),
        }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

impl Drop for Compute {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("agent log:\n{}\nPostgreSQL's log:\n{}", self.agent_log(), self.postgres_log());
        }
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        if let Some(pid) = self.postmaster().filter(|pid| works_in(*pid, &self.pgdata())) {
            kill(pid, "QUIT");
            let deadline = Instant::now() + Duration::from_secs(10);
            while works_in(pid, &self.pgdata()) && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
    }
}

fn works_in(pid: u32, directory: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == directory)
}

/// Whether the process is there and no zombie.
pub fn lives(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok()
}

pub fn kill(pid: u32, signal: &str) {
    assert!(Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status().unwrap().success());
}

pub fn spec(roles: Value, databases: Value, settings: Value) -> Value {
    json!({"format_version": 1.0, "suspend_timeout_seconds": 0,
        "cluster": {"roles": roles, "databases": databases, "settings": settings}})
}

pub fn alice() -> Value {
    json!({"name": "alice", "encrypted_password": SCRAM_PW1})
}

pub fn setting(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value, "vartype": "string"})
}
