//! Parse, build, run: the one place that knows every part.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use pgfleet_api::ComputeId;
use pgfleet_api::agent::PortFile;
use pgfleet_runtime::auth::{JwksError, KeySets, Verifier};
use pgfleet_runtime::exit::{ExitCode, FAILED, USAGE};
use pgfleet_runtime::http::Layers;
use pgfleet_runtime::listener::{self, BindError, Limits};
use pgfleet_runtime::metrics::HttpMetrics;
use pgfleet_runtime::port_file::{self, PortFileError};
use pgfleet_runtime::signals;
use pgfleet_runtime::supervisor::{Kind, TaskGroup};
use uuid::Uuid;

use crate::address::{MOST_AGENTS, address_of};
use crate::fleet::Fleet;
use crate::script::{Script, ScriptError};
use crate::{connections, descriptors, http};

/// As in a real agent.
const SPEC_LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// One process that is any number of agents.
///
/// Agent n listens on 127.1.0.0 + n (agent 0 on 127.1.0.0, agent 256 on 127.1.1.0), all on one port, and owns the compute
/// named by --id-prefix and its number. It keeps the contract of compute_ctl: routes, statuses, error codes, the rule of the
/// ledger, the rules of a spec, the state machine. It has no PostgreSQL: a spec takes the time that the script says and is
/// then in effect, or fails.
///
/// The control address takes: GET and PUT /sim/script; GET /sim/counters?from=&to= (what the agents were asked, connections);
/// GET /sim/agents?from=&to= (state and generations of each); POST /sim/reset (counters; ?forget=true makes all agents new);
/// POST /sim/restart?from=&to= (the next life of each: the ledger stays).
///
/// A script: {"seed": 1, "groups": [{"from": 0, "to": 10000, "answer": {"uniform_ms": [1, 5]}, "apply": {"exponential_ms": 20},
/// "failing": 0.01, "slow": {"share": 0.01, "extra": {"fixed_ms": 3000}}, "flapping": {"share": 0.1, "up_ms": 5000, "down_ms":
/// 500}, "cut": 0.001, "away": "reset"}]}. Of the groups that have an agent the last one counts. Shares are of the agents (cut:
/// of the requests), chosen by the seed. "away" is "reset" (as after the process died) or "silent" (as while it stands still).
#[derive(Debug, Parser)]
#[command(name = "fleet_sim", version)]
pub struct Args {
    /// How many agents.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_AGENTS)))]
    pub agents: u32,
    /// Agent n owns the compute of this name with n behind it.
    #[arg(long, default_value = "sim-")]
    pub id_prefix: String,
    /// Port of the agents; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Port of the control address on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    pub control_port: u16,
    /// Where to write which ports were taken, as JSON: `ports.agents` and `ports.control`.
    #[arg(long)]
    pub port_file: Option<PathBuf>,
    /// The script, as JSON; `-` reads it from standard input.
    #[arg(long)]
    pub script: Option<PathBuf>,
    /// Ask for tokens signed by these keys, as a real agent with this flag; without it no token is looked at.
    #[arg(long)]
    pub jwks_file: Option<PathBuf>,
    /// At most so many connections are open at once, idle ones are closed for new ones; by default as many as the limit on
    /// descriptors allows.
    #[arg(long)]
    pub max_connections: Option<usize>,
}

/// Why the simulator does not run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The prefix makes no compute ids.
    #[error("--id-prefix {0:?} makes no compute id: letters, digits, '-', '_' and '.', the first a letter or digit")]
    Prefix(String),
    /// The script cannot be read.
    #[error("cannot read the script {path}")]
    ReadScript {
        /// Where it lies.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The script is none.
    #[error("the script is not one")]
    ParseScript(#[source] serde_json::Error),
    /// The script makes no sense.
    #[error("the script makes no sense")]
    Script(#[source] ScriptError),
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] JwksError),
    /// The agents cannot listen.
    #[error("cannot listen on port {port} of all loopback addresses")]
    Listen {
        /// What was asked for.
        port: u16,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The control address cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No handlers for signals.
    #[error("cannot watch for signals")]
    Signals(#[source] std::io::Error),
    /// The port file cannot be written.
    #[error(transparent)]
    PortFile(#[from] PortFileError),
    /// A task ended before its time.
    #[error("{0}")]
    Vital(String),
}

impl ExitCode for AppError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Prefix(_) | Self::ReadScript { .. } | Self::ParseScript(_) | Self::Script(_) | Self::Keys(_) => USAGE,
            Self::Bind(error) => error.exit_code(),
            Self::Listen { .. } | Self::Signals(_) | Self::PortFile(_) | Self::Vital(_) => FAILED,
        }
    }
}

/// Runs until a signal.
///
/// # Errors
/// What stands in the way.
pub async fn run(args: Args) -> Result<(), AppError> {
    let fits = format!("{}{MOST_AGENTS}", args.id_prefix).parse::<ComputeId>().is_ok();
    if !fits {
        return Err(AppError::Prefix(args.id_prefix));
    }
    let script = read_script(args.script)?;
    let verifier = match &args.jwks_file {
        Some(path) => Some(Verifier::from_file(path, KeySets::Ed25519OrRs256)?),
        None => None,
    };
    let most = descriptors::raise().min(args.max_connections.unwrap_or(usize::MAX));
    let fleet = Arc::new(Fleet::new(args.agents, &args.id_prefix, script));

    let port = args.port;
    let listener = connections::listen(port).map_err(|source| AppError::Listen { port, source })?;
    let agents = listener.local_addr().map_err(|source| AppError::Listen { port, source })?;
    let control = listener::bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, args.control_port)).to_string()).await?;
    let root = TaskGroup::new("fleet_sim");
    signals::install(&root).map_err(AppError::Signals)?;
    tracing::info!(
        agents = args.agents,
        first = %SocketAddr::from((address_of(0), agents.port())),
        last = %SocketAddr::from((address_of(args.agents - 1), agents.port())),
        control = %control.local_addr(),
        "listening"
    );
    if let Some(path) = &args.port_file {
        let ports = [("agents", agents.port()), ("control", control.local_addr().port())];
        let ports: BTreeMap<_, _> = ports.into_iter().map(|(name, port)| (name.to_owned(), port)).collect();
        port_file::write(path, &PortFile { pid: std::process::id(), instance_id: Uuid::new_v4(), ports })?;
    }
    let layers = Layers {
        metrics: Arc::new(HttpMetrics::with_routes(&[])),
        tasks: root.metrics(),
        body_limit_bytes: SPEC_LIMIT_BYTES,
        request_timeout: None,
    };
    let router = http::agents(&fleet, verifier, layers.clone());
    listener::serve(control, http::control(&fleet, layers), &root.child("control"), Limits::default());
    let group = root.child("agents");
    group.spawn("accept", Kind::Vital, connections::serve(listener, router, fleet, most, group.token()));
    root.token().cancelled().await;
    root.stop().await;
    root.failure().map_or(Ok(()), |reason| Err(AppError::Vital(reason)))
}

fn read_script(path: Option<PathBuf>) -> Result<Script, AppError> {
    let Some(path) = path else { return Ok(Script::default()) };
    let read = || -> std::io::Result<Vec<u8>> {
        if path.as_os_str() != "-" {
            return std::fs::read(&path);
        }
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| AppError::ReadScript { path: path.clone(), source })?;
    let script: Script = serde_json::from_slice(&bytes).map_err(AppError::ParseScript)?;
    script.check().map_err(AppError::Script)?;
    Ok(script)
}
