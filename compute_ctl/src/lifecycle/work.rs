//! The doing, as one future: data directory, configuration, server, roles and databases.
//!
//! It takes the server from the driver and gives it back with its result, also when it is cancelled in the middle.

use std::sync::Arc;

use pgfleet_api::ComputeId;
use pgfleet_api::agent::{ErrorDetail, PostgresInfo};
use pgfleet_api::spec::ComputeSpec;
use pgfleet_runtime::exit::chain;
use tokio_util::sync::CancellationToken;

use crate::apply::{ApplyMetrics, Moment, Setting, apply_catalog};
use crate::postgres::{Postgres, Server, ServerError, render};
use crate::storage;

/// Syncing file by file makes the start after a crash take seconds.
const DEFAULTS: [(&str, &str); 1] = [("recovery_init_sync_method", "syncfs")];

/// A spec that passed all rules.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) spec: ComputeSpec,
    pub(super) ignored_fields: Vec<String>,
    pub(super) settings: Vec<Setting>,
}

/// What the work needs.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) postgres: Postgres,
    pub(super) compute_id: ComputeId,
    pub(super) metrics: Arc<ApplyMetrics>,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub(super) enum Order {
    /// Have a server and make it follow the spec.
    Apply(Arc<Prepared>),
    /// Have a server, as it was configured last.
    Start,
    /// Have none.
    Stop,
}

/// What came of it, and the server, if there is one.
pub(super) struct Done {
    pub(super) server: Option<Server>,
    pub(super) result: Result<Effect, Failure>,
}

/// The state of a server that does what was asked.
#[derive(Debug, Default)]
pub(super) struct Effect {
    pub(super) pending_restart: Vec<String>,
    pub(super) postgres: Option<PostgresInfo>,
}

/// Why it was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The work was cancelled.
    Cancelled,
    /// The spec is at fault: doing it again would fail again. `rolled_back`: the server runs with the configuration of
    /// the last good one.
    Spec { detail: ErrorDetail, effect: Effect, rolled_back: bool },
    /// The machine or the server is at fault: it may work later.
    Place(ErrorDetail),
}

impl Failure {
    fn place(phase: &str, error: &dyn std::error::Error) -> Self {
        Self::Place(ErrorDetail { phase: phase.to_owned(), object: None, sqlstate: None, message: chain(error) })
    }

    fn connect(error: &crate::postgres::LinkError) -> Self {
        Self::place("connect", error)
    }
}

pub(super) async fn run(tools: Tools, mut server: Option<Server>, order: Order, cancel: CancellationToken) -> Done {
    let result = match order {
        Order::Stop => {
            if server.is_none() {
                // One that an earlier agent left behind ends with the compute as well.
                server = tools.postgres.adopt().await.unwrap_or_default();
            }
            if let Some(server) = server.take() {
                server.stop().await;
            }
            Ok(Effect::default())
        }
        Order::Apply(prepared) => until(&cancel, bring(&tools, &mut server, Some(&prepared))).await,
        Order::Start => until(&cancel, bring(&tools, &mut server, None)).await,
    };
    Done { server, result }
}

async fn until<T>(cancel: &CancellationToken, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Failure::Cancelled),
        result = work => result,
    }
}

async fn bring(tools: &Tools, server: &mut Option<Server>, wanted: Option<&Prepared>) -> Result<Effect, Failure> {
    let postgres = &tools.postgres;
    storage::ensure(postgres, &tools.compute_id).await.map_err(|error| Failure::place("storage", &error))?;
    if let Some(running) = server
        && running.is_gone().await
    {
        *server = None;
    }
    if server.is_none() {
        *server = postgres.adopt().await.map_err(|error| Failure::place("start", &error))?;
    }
    if let Some(prepared) = wanted {
        postgres
            .write_conf(&render(&effective(&prepared.settings)))
            .map_err(|error| Failure::place("settings", &error))?;
    }
    let moment = if server.is_none() { Moment::Start } else { Moment::Live };
    if server.is_none() {
        start(postgres, server).await?;
    } else if wanted.is_some() {
        postgres.reload().await.map_err(|error| Failure::connect(&error))?;
    }
    let mut failures = Vec::new();
    if let Some(prepared) = wanted
        && !prepared.spec.skip_pg_catalog_updates
    {
        let outcome = apply_catalog(postgres, &prepared.spec, moment, &tools.metrics).await;
        failures = outcome.map_err(|error| Failure::connect(&error))?.failures;
    }
    let effect = observe(postgres, server.as_ref()).await?;
    if effect.pending_restart.is_empty() {
        // A value that waits for a restart has not proved yet that PostgreSQL starts with it.
        postgres.keep_conf().map_err(|error| Failure::place("settings", &error))?;
    }
    let more = failures.len().saturating_sub(1);
    match failures.into_iter().next() {
        None => Ok(effect),
        Some(first) => {
            let mut detail = ErrorDetail::from(first);
            if more > 0 {
                detail.message = format!("{} (and {more} more objects failed)", detail.message);
            }
            Err(Failure::Spec { detail, effect, rolled_back: false })
        }
    }
}

/// The agent's own defaults, then the spec: the last of a name wins.
fn effective(settings: &[Setting]) -> Vec<(String, String)> {
    let own = DEFAULTS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    own.into_iter().chain(settings.iter().map(|s| (s.name.clone(), s.value.clone()))).collect()
}

/// Starts the server; where it does not start with a new configuration, with the last one that it ran with.
async fn start(postgres: &Postgres, server: &mut Option<Server>) -> Result<(), Failure> {
    let failed = match try_start(postgres, server).await {
        Ok(()) => return Ok(()),
        Err(failed) => failed,
    };
    let restored = postgres.restore_conf().map_err(|error| Failure::place("settings", &error))?;
    if !restored {
        return Err(Failure::place("start", &failed));
    }
    tracing::warn!("{}: starting PostgreSQL with the last good configuration", chain(&failed));
    try_start(postgres, server).await.map_err(|error| Failure::place("start", &error))?;
    let detail = ErrorDetail { phase: "start".into(), object: None, sqlstate: None, message: chain(&failed) };
    Err(Failure::Spec { detail, effect: observe(postgres, server.as_ref()).await?, rolled_back: true })
}

async fn try_start(postgres: &Postgres, server: &mut Option<Server>) -> Result<(), ServerError> {
    let started = server.insert(postgres.start()?);
    let ready = postgres.wait_ready(started).await;
    if ready.is_err() {
        *server = None;
    }
    ready
}

async fn observe(postgres: &Postgres, server: Option<&Server>) -> Result<Effect, Failure> {
    let pending_restart = postgres.pending_restart().await.map_err(|error| Failure::connect(&error))?;
    let postgres = server.map(|server| PostgresInfo {
        pid: server.pid(),
        version: postgres.options().programs.version.clone(),
        port: postgres.options().port,
    });
    Ok(Effect { pending_restart, postgres })
}
