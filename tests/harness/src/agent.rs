//! A `compute_ctl` process under test, around a real PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgfleet_api::agent::{AgentStatus, ComputeState};
use pgfleet_api::{ComputeId, Generation};
use pgfleet_clients::token::{Grant, Source};

use crate::fleet::{Fleet, clean_command, free_port, wait_port_file};
use crate::http::Call;
use crate::postgres::{TestClient, connect};
use crate::process::{PATIENCE, Process};
use crate::programs::program;
use crate::wait::wait_for;

/// How an agent is to be started. Starting it again with the same directory is another value of this with the same id.
#[must_use]
pub struct AgentOptions<'f> {
    fleet: &'f Fleet,
    id: ComputeId,
    command: Command,
    postgres_port: u16,
    http_ports: (u16, u16),
}

impl<'f> AgentOptions<'f> {
    pub(crate) fn new(fleet: &'f Fleet, id: &str) -> Self {
        let id: ComputeId = id.parse().unwrap_or_else(|error| panic!("{id}: {error}"));
        let command = clean_command(&program("compute_ctl"), fleet.dir());
        Self { fleet, id, command, postgres_port: free_port(), http_ports: (0, 0) }
    }

    /// With further arguments.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// With a token for the control plane.
    pub fn token(mut self, token: &str) -> Self {
        self.command.env("NEON_CONTROL_PLANE_TOKEN", token);
        self
    }

    /// On the ports of an agent that has ended: its next life.
    pub fn after(mut self, earlier: &Agent) -> Self {
        self.postgres_port = earlier.postgres_port;
        self.http_ports = earlier.http_ports;
        self
    }

    /// Pauses at these points; keys stay on.
    pub fn pause_at(mut self, points: &str) -> Self {
        self.command.env("PGFLEET_PAUSE_AT", points);
        self.args(&["--dev"])
    }

    /// Starts it and waits until its ports are known.
    pub async fn start(mut self) -> Agent {
        let name = format!("compute-{}", self.id);
        let home = self.fleet.dir().join(&name);
        if !home.exists() {
            self.fleet.make_dir(&name);
        }
        let port_file = self.fleet.dir().join("run").join(format!("{name}.json"));
        let data_dir = home.join("pgdata");
        let command = &mut self.command;
        command.arg("-b").arg(self.fleet.cluster().bin_dir().join("postgres")).arg("-D").arg(&data_dir);
        command.arg("-C").arg(format!("postgresql://cloud_admin@127.0.0.1:{}/postgres", self.postgres_port));
        command.args(["-i", self.id.as_str(), "--http-host", "127.0.0.1"]);
        let (external, internal) = self.http_ports;
        command.args(["--external-http-port", &external.to_string(), "--internal-http-port", &internal.to_string()]);
        command.arg("--jwks-file").arg(&self.fleet.keys().jwks).arg("--port-file").arg(&port_file);
        command.arg("--state-dir").arg(home.join("state"));
        let log = self.fleet.dir().join("logs").join(format!("{name}.log"));
        let process = Process::start(&name, self.command, &log);
        let ports = wait_port_file(&process, &port_file, PATIENCE).await;
        let port =
            |name: &str| ports.ports.get(name).copied().unwrap_or_else(|| panic!("no port `{name}` in {ports:?}"));
        Agent {
            http_ports: (port("external_http"), port("internal_http")),
            url: format!("http://127.0.0.1:{}", port("external_http")),
            internal_url: format!("http://127.0.0.1:{}", port("internal_http")),
            id: self.id,
            process,
            data_dir,
            postgres_port: self.postgres_port,
            tokens: self.fleet.keys().source(),
        }
    }
}

/// A running agent.
pub struct Agent {
    /// Its process.
    pub process: Process,
    /// The compute it owns.
    pub id: ComputeId,
    url: String,
    internal_url: String,
    data_dir: PathBuf,
    http_ports: (u16, u16),
    postgres_port: u16,
    tokens: Source,
}

impl Agent {
    /// Base URL of its external listener.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Base URL of its internal listener.
    pub fn internal_url(&self) -> &str {
        &self.internal_url
    }

    /// PostgreSQL's data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Port of its PostgreSQL.
    pub fn postgres_port(&self) -> u16 {
        self.postgres_port
    }

    /// A request to it, with a controller's token.
    pub fn call(&self, method: &str, path: &str) -> Call {
        // A new one each time: a run may last longer than a token.
        let token = self.tokens.token(&Grant::agent_admin()).unwrap_or_else(|error| panic!("no token: {error}"));
        let call = Call::new(method, format!("{}{path}", self.url));
        if let Some(token) = token { call.token(&token) } else { call }
    }

    /// What it says about itself.
    pub async fn status(&self) -> Option<AgentStatus> {
        let answer = self.call("GET", "/status").limit(Duration::from_secs(2)).try_send().await.ok()?;
        assert_eq!(answer.status, 200, "{}", answer.body);
        Some(answer.json())
    }

    /// Waits until its status is as wanted.
    pub async fn shows(&self, what: &str, limit: Duration, want: impl Fn(&AgentStatus) -> bool) -> AgentStatus {
        let what = format!("{} shows {what}", self.process.name());
        wait_for(&what, limit, async || {
            self.process.still_runs();
            self.status().await.filter(&want)
        })
        .await
    }

    /// Waits until this generation is in effect and PostgreSQL runs.
    pub async fn runs(&self, generation: Generation) -> AgentStatus {
        let what = format!("generation {generation} applied and running");
        self.shows(&what, PATIENCE, |status| {
            status.status == ComputeState::Running && status.applied_generation == Some(generation)
        })
        .await
    }

    /// Process id of its postmaster, from PostgreSQL's own file.
    pub fn postmaster_pid(&self) -> Option<i32> {
        std::fs::read_to_string(self.data_dir.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
    }

    /// A session in its PostgreSQL.
    pub async fn connect(&self, user: &str, password: &str, database: &str) -> TestClient {
        let url = format!("postgres://{user}:{password}@127.0.0.1:{}/{database}?sslmode=disable", self.postgres_port);
        connect(&url).await.unwrap_or_else(|error| panic!("no login as {user}: {error}"))
    }
}
