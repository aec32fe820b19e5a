//! A local cluster while it is built: each process is written down as soon as it runs, so that `down` finds it
//! whatever happens next.
//!
//! Called by `up` and `demo`. Calls: postgres, keys, process.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pgfleet_api::ComputeId;
use pgfleet_api::agent::PortFile;
use pgfleet_api::compute::RegisterCompute;
use pgfleet_api::controller::Role;
use pgfleet_clients::controller::{ControllerClient, Options};
use pgfleet_clients::token::Source;

use super::keys::{self, Keys};
use super::layout::{Layout, Lock};
use super::postgres::{Postgres, free_port};
use super::process::{LOOK_EVERY, Process, command, last_line, start_detached};
use super::state::{ComputeState, ControllerState, State};
use crate::exit::CliError;

/// A debug build on a busy machine takes its time.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A cluster in the making.
#[derive(Debug)]
pub struct Cluster {
    pub layout: Layout,
    pub postgres: Postgres,
    pub state: State,
    keys: Keys,
    programs: Programs,
    database_url: String,
    _lock: Lock,
}

/// A directory that was just made, and the right to use it.
#[derive(Debug)]
pub struct Made {
    pub layout: Layout,
    pub lock: Lock,
}

/// The two servers, by their full paths.
#[derive(Debug, Clone)]
pub struct Programs {
    storage_controller: PathBuf,
    compute_ctl: PathBuf,
}

impl Programs {
    /// Looks beside this program, then on PATH.
    pub fn find() -> Result<Self, CliError> {
        Ok(Self { storage_controller: program("storage_controller")?, compute_ctl: program("compute_ctl")? })
    }
}

impl Cluster {
    /// Makes the keys and the controllers' database in a new directory.
    pub async fn create(made: Made, postgres: Postgres, programs: Programs) -> Result<Self, CliError> {
        let Made { layout, lock } = made;
        let keys = keys::make(&layout)?;
        let (database, database_url) = postgres.start_database(&layout).await?;
        keys::write_private(&layout.keys().join("database-url"), &format!("{database_url}\n"))?;
        let state = State { database: Some(database), ..State::new() };
        state.write(&layout)?;
        Ok(Self { layout, postgres, state, keys, programs, database_url, _lock: lock })
    }

    /// Starts a controller on a port of the kernel's choice and waits until it answers; gives its base URL.
    pub async fn start_controller(&mut self, name: &str) -> Result<String, CliError> {
        self.launch_controller(name, 0, false).await
    }

    /// Starts a controller on this port that asks the leader to step down.
    pub async fn start_candidate(&mut self, name: &str, port: u16) -> Result<String, CliError> {
        self.launch_controller(name, port, true).await
    }

    async fn launch_controller(&mut self, name: &str, port: u16, as_candidate: bool) -> Result<String, CliError> {
        let log = self.layout.log(name);
        let port_file = self.layout.port_file(name);
        let mut server = command(&self.programs.storage_controller, &self.layout.root);
        // The URL holds a password, so it goes by the environment and not by the argument list.
        server.env("PGFLEET_DATABASE_URL", &self.database_url);
        server.arg("--listen").arg(format!("127.0.0.1:{port}"));
        server.args(["--lease", "5s", "--lease-renew", "500ms"]);
        server.arg("--jwks-file").arg(&self.keys.controller_jwks);
        server.arg("--jwt-private-key").arg(&self.keys.controller_key);
        server.arg("--port-file").arg(&port_file);
        if as_candidate {
            server.arg("--start-as-candidate");
        }
        let process = start_detached(server, &log)?;
        let controller = ControllerState { name: name.to_owned(), process, url: String::new(), log };
        self.state.controllers.push(controller.clone());
        self.state.write(&self.layout)?;
        let ports = wait_port_file(name, &controller.process, &port_file, &controller.log).await?;
        let url = url_of(name, &ports, "http")?;
        if let Some(controller) = self.state.controllers.last_mut() {
            controller.url.clone_from(&url);
        }
        self.state.write(&self.layout)?;
        Ok(url)
    }

    /// Starts an agent, which waits for its first spec; gives its base URL.
    pub async fn start_compute(&mut self, id: &ComputeId) -> Result<String, CliError> {
        let name = id.as_str();
        let log = self.layout.log(name);
        let port_file = self.layout.port_file(name);
        let home = self.layout.compute(name);
        self.layout.make_dir(&home, 0o755)?;
        self.postgres.give(&home)?;
        let postgres_port = free_port()?;
        let mut server = command(&self.programs.compute_ctl, &self.layout.root);
        server.arg("-b").arg(self.postgres.program("postgres")).arg("-D").arg(self.layout.compute_data(name));
        server.arg("-C").arg(format!("postgresql://cloud_admin@127.0.0.1:{postgres_port}/postgres"));
        server.args(["-i", name, "--http-host", "127.0.0.1", "--external-http-port", "0", "--internal-http-port", "0"]);
        server.arg("--jwks-file").arg(&self.keys.agent_jwks).arg("--port-file").arg(&port_file);
        server.arg("--state-dir").arg(home.join("state")).args(["--postgres-user", "postgres"]);
        let process = start_detached(server, &log)?;
        let compute = ComputeState { id: id.clone(), process, agent_url: String::new(), postgres_port, log };
        self.state.computes.push(compute.clone());
        self.state.write(&self.layout)?;
        let ports = wait_port_file(name, &compute.process, &port_file, &compute.log).await?;
        let url = url_of(name, &ports, "external_http")?;
        if let Some(compute) = self.state.computes.last_mut() {
            compute.agent_url.clone_from(&url);
        }
        self.state.write(&self.layout)?;
        Ok(url)
    }

    /// Tells the controllers of a compute.
    pub async fn register(&self, id: &ComputeId, agent_url: String) -> Result<(), CliError> {
        let labels = [("made-by".to_owned(), "pgfleet-local".to_owned())].into();
        self.client(Options::default())?.register(id, &RegisterCompute { agent_url, labels, spec: None }).await?;
        Ok(())
    }

    /// A client with the operator's token that knows all living controllers.
    pub fn client(&self, options: Options) -> Result<ControllerClient, CliError> {
        let living = self.state.controllers.iter().filter(|controller| controller.process.is_alive());
        let endpoints = living.map(|controller| controller.url.clone()).collect();
        Ok(ControllerClient::new(endpoints, Source::file(self.layout.operator_token())?, options)?)
    }

    /// Waits until the controller at `url` plays this role.
    pub async fn wait_role(&self, url: &str, role: Role) -> Result<(), CliError> {
        let client = self.client(Options::default())?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let status = client.status(url).await;
            if status.as_ref().is_ok_and(|status| status.role == role) {
                return Ok(());
            }
            let controller = self.state.controllers.iter().find(|controller| controller.url == url);
            let log = controller.map_or_else(|| self.layout.root.clone(), |controller| controller.log.clone());
            let ended = controller.is_some_and(|controller| !controller.process.is_alive());
            if ended || Instant::now() >= deadline {
                let what = match (ended, status) {
                    (true, _) => format!("ended: {}", last_line(&log)),
                    (false, Ok(status)) => format!("is still {}", status.role.as_str()),
                    (false, Err(error)) => error.to_string(),
                };
                let wanted = role.as_str();
                return Err(CliError::Away(format!("{url} did not become {wanted}: {what}; see {}", log.display())));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The process of the controller at `url`.
    pub fn controller(&self, url: &str) -> Option<&ControllerState> {
        self.state.controllers.iter().find(|controller| controller.url == url)
    }
}

async fn wait_port_file(name: &str, process: &Process, path: &Path, log: &Path) -> Result<PortFile, CliError> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let found = std::fs::read(path).ok().and_then(|text| serde_json::from_slice::<PortFile>(&text).ok());
        if let Some(found) = found.filter(|found| found.pid == process.pid) {
            return Ok(found);
        }
        let ended = !process.is_alive();
        if ended || Instant::now() >= deadline {
            let what = if ended { "ended at start" } else { "did not open its ports in time" };
            return Err(CliError::Away(format!("{name} {what}: {}; see {}", last_line(log), log.display())));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn url_of(name: &str, file: &PortFile, listener: &str) -> Result<String, CliError> {
    let port = file.ports.get(listener);
    let port = port.ok_or_else(|| CliError::Failed(format!("{name} did not say the port of {listener}")))?;
    Ok(format!("http://127.0.0.1:{port}"))
}

fn program(name: &str) -> Result<PathBuf, CliError> {
    let beside = std::env::current_exe().ok().and_then(|me| Some(me.parent()?.join(name)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path).map(|dir| dir.join(name)))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            CliError::Usage(format!("cannot find {name} beside this program or on PATH; build it with cargo build"))
        })
}
