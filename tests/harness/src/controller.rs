//! A `storage_controller` process under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgfleet_api::controller::{ControllerStatus, Role};
use pgfleet_api::{InstanceId, Term};

use crate::fleet::{Fleet, clean_command, wait_port_file};
use crate::http::Call;
use crate::process::{PATIENCE, Process};
use crate::programs::program;
use crate::wait::wait_for;

/// The lease of a test's controllers: short, so that a test that waits for its end is.
pub const LEASE: Duration = Duration::from_secs(2);

/// How a controller is to be started.
#[must_use]
pub struct ControllerOptions<'f> {
    fleet: &'f Fleet,
    name: String,
    command: Command,
    private_key: PathBuf,
    /// Times that are not the product's defaults.
    times: Option<Times>,
    listen: String,
}

struct Times {
    lease: String,
    renew: String,
    probe_interval: String,
}

impl<'f> ControllerOptions<'f> {
    pub(crate) fn new(fleet: &'f Fleet, release: &str, name: &str) -> Self {
        let mut command = clean_command(&program(release), fleet.dir());
        command.env("PGFLEET_DATABASE_URL", fleet.database_url());
        command.arg("--jwks-file").arg(&fleet.keys().jwks);
        command.arg("--port-file").arg(fleet.dir().join("run").join(format!("{name}.json")));
        let (lease, renew) = (format!("{}ms", LEASE.as_millis()), "200ms".to_owned());
        let private_key = fleet.keys().controller_key.clone();
        let times = Some(Times { lease, renew, probe_interval: "500ms".to_owned() });
        let listen = "127.0.0.1:0".to_owned();
        Self { fleet, name: name.to_owned(), command, private_key, times, listen }
    }

    /// With further arguments.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// With a variable in its environment; `PGFLEET_DATABASE_URL` for another way to the database.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// With another lease than the short one.
    pub fn lease(mut self, lease: &str, renew: &str) -> Self {
        if let Some(times) = &mut self.times {
            (times.lease, times.renew) = (lease.to_owned(), renew.to_owned());
        }
        self
    }

    /// With the lease and the pace of probes that the product is shipped with: for measuring.
    pub fn as_shipped(mut self) -> Self {
        self.times = None;
        self
    }

    /// Signs with another key than the other controllers.
    pub fn private_key(mut self, path: &Path) -> Self {
        self.private_key = path.to_path_buf();
        self
    }

    /// Listens on this port instead of a free one.
    pub fn port(mut self, port: u16) -> Self {
        self.listen = format!("127.0.0.1:{port}");
        self
    }

    /// Asks every agent for its status this often.
    pub fn probe_interval(mut self, interval: &str) -> Self {
        if let Some(times) = &mut self.times {
            times.probe_interval = interval.to_owned();
        }
        self
    }

    /// Refuses what only the leader executes, at once, instead of holding it and handing it on.
    pub fn rejecting(self) -> Self {
        self.args(&["--handover-hold", "0s", "--no-forward"])
    }

    /// Asks the leader to step down.
    pub fn as_candidate(self) -> Self {
        self.args(&["--start-as-candidate"])
    }

    /// Pauses at these points; keys stay on.
    pub fn pause_at(mut self, points: &str) -> Self {
        self.command.env("PGFLEET_PAUSE_AT", points);
        self.args(&["--dev"])
    }

    /// Panics in the work on these computes, `point:compute_id[:times]`; keys stay on.
    pub fn panic_at(mut self, points: &str) -> Self {
        self.command.env("PGFLEET_PANIC_AT", points);
        self.args(&["--dev"])
    }

    /// Shows its memory to [`Fleet::memories_agree`]; keys stay on.
    pub fn memory_door(self) -> Self {
        self.args(&["--dev"])
    }

    /// Starts it and waits for nothing: for one that is expected to end.
    pub fn launch(mut self) -> Process {
        self.command.arg("--jwt-private-key").arg(&self.private_key);
        self.command.args(["--listen", &self.listen]);
        if let Some(times) = &self.times {
            self.command.args(["--lease", &times.lease, "--lease-renew", &times.renew]);
            self.command.args(["--probe-interval", &times.probe_interval]);
        }
        let log = self.fleet.dir().join("logs").join(format!("{}.log", self.name));
        Process::start(&self.name, self.command, &log)
    }

    /// Starts it and waits until its port is known.
    pub async fn start(self) -> Controller {
        let port_file = self.fleet.dir().join("run").join(format!("{}.json", self.name));
        let process = self.launch();
        let ports = wait_port_file(&process, &port_file, PATIENCE).await;
        let port = ports.ports.get("http").copied().unwrap_or_else(|| panic!("no port `http` in {ports:?}"));
        Controller { process, url: format!("http://127.0.0.1:{port}"), instance_id: InstanceId(ports.instance_id) }
    }

    /// Starts it and waits until it leads and serves.
    pub async fn start_leader(self) -> Controller {
        let controller = self.start().await;
        controller.leads(PATIENCE).await;
        controller
    }
}

/// A running controller.
pub struct Controller {
    /// Its process.
    pub process: Process,
    url: String,
    instance_id: InstanceId,
}

impl Controller {
    /// Over a process that was started by [`ControllerOptions::launch`] on a port that the test knows.
    pub fn over(process: Process, url: String, instance_id: InstanceId) -> Self {
        Self { process, url, instance_id }
    }

    /// Base URL of its API.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// This life of it.
    pub fn instance_id(&self) -> InstanceId {
        self.instance_id
    }

    /// Its metrics, as Prometheus sees them.
    pub async fn metrics(&self) -> String {
        self.call("GET", "/metrics").send().await.body
    }

    /// A request to it.
    pub fn call(&self, method: &str, path: &str) -> Call {
        Call::new(method, format!("{}{path}", self.url))
    }

    /// What it is; nothing when it does not answer within a second.
    pub async fn status(&self) -> Option<ControllerStatus> {
        let answer = self.call("GET", "/status").limit(Duration::from_secs(1)).try_send().await.ok()?;
        Some(answer.json())
    }

    /// Waits until it plays a role.
    pub async fn is(&self, role: Role, limit: Duration) -> ControllerStatus {
        let what = format!("{} is {}", self.process.name(), role.as_str());
        wait_for(&what, limit, async || {
            self.process.still_runs();
            self.status().await.filter(|status| status.role == role)
        })
        .await
    }

    /// Waits until it is a candidate that knows this leader.
    pub async fn follows(&self, leader: &Controller, limit: Duration) -> ControllerStatus {
        let what = format!("{} follows {}", self.process.name(), leader.process.name());
        wait_for(&what, limit, async || {
            self.process.still_runs();
            let status = self.status().await?;
            let known = status.leader.as_ref().map(|known| known.instance_id);
            (status.role == Role::Candidate && known == Some(leader.instance_id)).then_some(status)
        })
        .await
    }

    /// Waits until it leads and serves; gives its term.
    pub async fn leads(&self, limit: Duration) -> Term {
        let status = self.is(Role::Leader, limit).await;
        status.term.unwrap_or_else(|| panic!("a leader without a term: {status:?}"))
    }
}
