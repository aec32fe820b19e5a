//! The doing, as one future: data directory, configuration, server, roles and databases.
//!
//! It takes the server from the driver and gives it back with its result, also when it is cancelled in the middle. A
//! spec with which PostgreSQL does not start is undone here: configuration, roles and databases of the last good one.

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::Lsn;
use pgfleet_api::agent::{AgentStatus, ErrorDetail, PostgresInfo};
use pgfleet_api::spec::{ComputeMode, ComputeSpec, OnFailure, RestartPolicy};
use pgfleet_runtime::exit::chain;
use pgfleet_runtime::pause::PausePoint;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::body::Tools;
use super::{disk, promote};
use crate::apply::{Moment, Outcome, Setting, apply_catalog};
use crate::postgres::{ConfError, Postgres, Server, ServerError, render};
use crate::storage::{self, Source};

/// Syncing file by file makes the start after a crash take seconds.
const DEFAULTS: [(&str, &str); 1] = [("recovery_init_sync_method", "syncfs")];
/// What the sessions that change roles and databases are called, so that they can be ended.
const HANDS: &str = "compute_ctl:apply";

/// A spec that passed all rules.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The spec.
    pub spec: ComputeSpec,
    /// What of it is not acted on.
    pub ignored_fields: Vec<String>,
    /// Its settings.
    pub settings: Vec<Setting>,
    /// Make the replica a primary first, once it has replayed this much.
    pub promote: Option<Lsn>,
    /// Its storage at page servers; none on stock PostgreSQL.
    pub storage: Option<Arc<Source>>,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Order {
    /// Have a server and make it follow the spec.
    Apply(Arc<Prepared>),
    /// Have a server, as it was configured last.
    Start,
    /// Have another server than now, as it was configured last.
    Restart,
    /// Have none.
    Stop,
}

/// An order, and what becomes of it if PostgreSQL does not start.
#[derive(Debug, Clone)]
pub struct Task {
    /// What is to be done.
    pub order: Order,
    /// Whether to go back.
    pub on_failure: OnFailure,
    /// The spec to go back to, where that is another one.
    pub good: Option<Arc<Prepared>>,
}

/// How a work is told to end early.
#[derive(Debug, Clone)]
pub struct Stop {
    /// At once, wherever it is.
    pub end: CancellationToken,
    /// A newer spec waits: roles and databases may take no longer than `grace` from now.
    pub newer: CancellationToken,
    /// See `newer`.
    pub grace: Duration,
}

impl Stop {
    /// Nobody wants it to end.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self { end: CancellationToken::new(), newer: CancellationToken::new(), grace }
    }

    /// Returns when a newer spec has waited long enough.
    pub async fn overdue(&self) {
        self.newer.cancelled().await;
        tokio::time::sleep(self.grace).await;
    }
}

/// What came of it, and the server, if there is one.
pub struct Done<S> {
    /// The server.
    pub server: Option<S>,
    /// What came of it.
    pub result: Result<Effect, Failure>,
}

/// The state of a server that does what was asked.
#[derive(Debug, Default, Clone)]
pub struct Effect {
    /// Settings that wait for a restart.
    pub pending_restart: Vec<String>,
    /// The server.
    pub postgres: Option<PostgresInfo>,
    /// Where the log of a stopped server ends.
    pub lsn: Option<Lsn>,
}

/// Why it was not done.
#[derive(Debug)]
pub enum Failure {
    /// The work was cancelled.
    Cancelled,
    /// A newer spec had waited long enough.
    Superseded,
    /// The spec is at fault: doing it again would fail again. `rolled_back`: the server runs with what the last good one
    /// says. The first failure is the reason; there is always one.
    Spec {
        /// What failed, in order.
        failures: Vec<ErrorDetail>,
        /// How the server is now.
        effect: Effect,
        /// Whether the last good spec is in effect.
        rolled_back: bool,
    },
    /// The machine or the server is at fault: it may work later.
    Place(ErrorDetail),
    /// Storage is at fault, and was tried often enough for now.
    Exhausted(ErrorDetail),
}

impl Failure {
    pub(super) fn place(phase: &str, error: &dyn std::error::Error) -> Self {
        Self::Place(ErrorDetail { phase: phase.to_owned(), object: None, sqlstate: None, message: chain(error) })
    }

    pub(super) fn connect(error: &crate::postgres::LinkError) -> Self {
        Self::place("connect", error)
    }
}

pub(super) async fn run(tools: Tools, mut server: Option<Server>, task: Task, stop: Stop) -> Done<Server> {
    let result = match task.order {
        Order::Stop => {
            if server.is_none() {
                // One that an earlier agent left behind ends with the compute as well.
                server = tools.postgres.adopt().await.unwrap_or_default();
            }
            let ran = server.is_some();
            if let Some(server) = server.take() {
                server.stop().await;
            }
            tools.postgres.end_orphans().await;
            Ok(Effect { lsn: tools.end_of_wal(ran).await, ..Effect::default() })
        }
        Order::Apply(_) | Order::Start | Order::Restart => {
            let begun = Instant::now();
            let bringing = bring(&tools, &mut server, &task, &stop);
            let result = tokio::select! {
                biased;
                () = stop.end.cancelled() => Err(Failure::Cancelled),
                result = bringing => result,
            };
            if matches!(&task.order, Order::Apply(prepared) if prepared.promote.is_some()) {
                promote::tell_end(&tools, begun.elapsed(), &result);
            }
            result
        }
    };
    Done { server, result }
}

async fn bring(tools: &Tools, server: &mut Option<Server>, task: &Task, stop: &Stop) -> Result<Effect, Failure> {
    let postgres = &tools.postgres;
    let wanted = match &task.order {
        Order::Apply(prepared) => Some(prepared.as_ref()),
        Order::Start | Order::Restart | Order::Stop => None,
    };
    if let Some(prepared) = wanted.filter(|prepared| prepared.storage.is_none()) {
        storage::fits(&postgres.options().data_dir, &prepared.spec, prepared.promote.is_some()).map_err(unfit)?;
    }
    if let Some(running) = server
        && running.is_gone().await
    {
        *server = None;
    }
    if server.is_none() {
        *server = postgres.adopt().await.map_err(|error| Failure::place("start", &error))?;
    }
    if let Err(error) = tools.have_directory(wanted).await {
        let effect = if server.is_some() { observe(tools, server.as_ref()).await? } else { Effect::default() };
        return Err(disk::refused(&error, effect));
    }
    if let Some(lsn) = wanted.and_then(|prepared| prepared.promote) {
        promote::carry_out(tools, server, (task, stop), lsn).await?;
    }
    if wanted.is_some() {
        tools.pauses.at(PausePoint::AgentBeforeApply).await;
    }
    let conf = have_conf(tools, server.is_some(), wanted).map_err(|error| Failure::place("settings", &error))?;
    let moment = if server.is_none() { Moment::Start } else { Moment::Live };
    have_server(tools, server, (task, stop), wanted, &conf).await?;
    let mut failures = Vec::new();
    if let Some(prepared) = wanted {
        tools.pauses.at(PausePoint::AgentMidApply).await;
        let begun = Instant::now();
        failures = roles_and_databases(tools, &prepared.spec, moment, stop).await?;
        tools.timings.configured(begun.elapsed());
    }
    let effect = observe(tools, server.as_ref()).await?;
    if effect.pending_restart.is_empty() {
        // A value that waits for a restart has not proved yet that PostgreSQL starts with it.
        postgres.keep_conf().map_err(|error| Failure::place("settings", &error))?;
    }
    if wanted.is_some() {
        tools.pauses.at(PausePoint::AgentBeforeGood).await;
    }
    if failures.is_empty() { Ok(effect) } else { Err(Failure::Spec { failures, effect, rolled_back: false }) }
}

/// The configuration, and whether a running server has to read it.
struct Conf {
    text: String,
    to_be_read: bool,
}

/// The state of the place is at fault, and it may be changed without a word to the agent.
fn unfit(unfit: storage::Unfit) -> Failure {
    let (phase, object) = ("mode".to_owned(), Some(unfit.path.to_owned()));
    Failure::Place(ErrorDetail { phase, object, sqlstate: None, message: unfit.msg })
}

/// The configuration, in its place unless the directory for it is built only before the start. A replica on stock
/// PostgreSQL has in it what it needs to follow its primary.
fn have_conf(tools: &Tools, runs: bool, wanted: Option<&Prepared>) -> Result<Conf, ConfError> {
    let postgres = &tools.postgres;
    let Some(prepared) = wanted else {
        return Ok(Conf { text: postgres.conf_in_place()?, to_be_read: false });
    };
    match followed(prepared) {
        Some(primary) => storage::keep_password(postgres, &primary)?,
        None => storage::forget(postgres),
    }
    let text = render(&in_file(tools, prepared));
    let to_be_read = if runs || !tools.starts_afresh() { postgres.write_conf(&text)? } else { false };
    Ok(Conf { text, to_be_read })
}

/// The primary that a replica on stock PostgreSQL follows.
fn followed(prepared: &Prepared) -> Option<storage::Primary> {
    let follows = prepared.storage.is_none() && prepared.spec.mode == ComputeMode::Replica;
    follows.then(|| storage::Primary::of(&prepared.spec).ok()).flatten()
}

/// All settings of the agent's file, with what a replica needs to follow its primary.
pub(super) fn in_file(tools: &Tools, prepared: &Prepared) -> Vec<(String, String)> {
    let mut settings = effective(&prepared.settings, prepared.storage.as_deref());
    if let Some(primary) = followed(prepared) {
        settings.extend(storage::follow(&tools.postgres, &primary, &tools.compute_id));
    }
    settings
}

/// The agent's configuration file for these settings.
pub(super) fn conf_text(settings: &[Setting], storage: Option<&Source>) -> String {
    render(&effective(settings, storage))
}

/// The agent's own defaults, the lines of the spec, what storage asks for, the settings of the spec: the last of a name
/// wins.
fn effective(settings: &[Setting], storage: Option<&Source>) -> Vec<(String, String)> {
    let own = DEFAULTS.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter();
    let (settings, lines): (Vec<_>, Vec<_>) =
        settings.iter().partition(|setting| setting.path.starts_with("cluster.settings"));
    let pair = |setting: &&Setting| (setting.name.clone(), setting.value.clone());
    let storage = storage.map(storage::settings).unwrap_or_default();
    // A line that stands twice counts at its later place, and storage needs its order.
    let settings: Vec<_> = settings.iter().map(pair).filter(|setting| !storage.contains(setting)).collect();
    own.chain(lines.iter().map(pair)).chain(storage).chain(settings).collect()
}

/// Has the server run with the configuration in place: started, reloaded, or restarted where the spec allows it and a
/// setting needs it. Before roles and databases, which may need the settings.
async fn have_server(
    tools: &Tools,
    server: &mut Option<Server>,
    (task, stop): (&Task, &Stop),
    wanted: Option<&Prepared>,
    conf: &Conf,
) -> Result<(), Failure> {
    let postgres = &tools.postgres;
    if server.is_none() {
        let begun = Instant::now();
        start(tools, server, (task, stop), &conf.text).await?;
        tools.timings.postgres_started(begun.elapsed());
        if tools.starts_afresh() {
            tools.timings.built(tools.pages.timings());
        }
        return Ok(());
    }
    let mut restart = matches!(task.order, Order::Restart);
    if let Some(prepared) = wanted {
        if conf.to_be_read {
            postgres.reload().await.map_err(|error| Failure::connect(&error))?;
            postgres.note_loaded().map_err(|error| Failure::place("settings", &error))?;
        }
        if prepared.spec.restart_policy == RestartPolicy::Now {
            let waiting = tools.waits_for_restart().await.map_err(|error| Failure::connect(&error))?;
            restart = !waiting.is_empty();
            if restart {
                tracing::warn!("PostgreSQL is restarted for {} (restart_policy is now)", waiting.join(", "));
            }
        }
    }
    if restart && let Some(running) = server.take() {
        running.stop().await;
        return start(tools, server, (task, stop), &conf.text).await;
    }
    Ok(())
}

/// Changes roles and databases, unless a newer spec has waited too long: then the statement under way is cut at the
/// server too, so that nothing of the old spec goes on beside the new one.
async fn roles_and_databases(
    tools: &Tools,
    spec: &ComputeSpec,
    moment: Moment,
    stop: &Stop,
) -> Result<Vec<ErrorDetail>, Failure> {
    if spec.skip_pg_catalog_updates || spec.mode != ComputeMode::Primary {
        return Ok(Vec::new());
    }
    let hands = tools.postgres.named(HANDS);
    let outcome: Outcome = tokio::select! {
        outcome = apply_catalog(&hands, spec, moment, &tools.metrics) => {
            outcome.map_err(|error| Failure::connect(&error))?
        }
        () = stop.overdue() => {
            tools.postgres.end_sessions(HANDS).await.map_err(|error| Failure::connect(&error))?;
            tracing::info!("the spec that was being applied is left for a newer one");
            return Err(Failure::Superseded);
        }
    };
    let mut failures: Vec<_> = outcome.failures.into_iter().map(ErrorDetail::from).collect();
    let more = failures.len().saturating_sub(AgentStatus::FAILURES_SHOWN);
    failures.truncate(AgentStatus::FAILURES_SHOWN);
    if more > 0
        && let Some(last) = failures.last_mut()
    {
        last.message.push_str(&format!(" (and {more} more objects failed)"));
    }
    Ok(failures)
}

/// Starts the server; where it does not start with a new configuration, goes back to what the last good spec says.
pub(super) async fn start(
    tools: &Tools,
    server: &mut Option<Server>,
    (task, stop): (&Task, &Stop),
    conf: &str,
) -> Result<(), Failure> {
    let postgres = &tools.postgres;
    tools.build_directory(conf, stop).await?;
    let failed = match try_start(postgres, server).await {
        Ok(()) => return Ok(()),
        Err(failed) => failed,
    };
    let said =
        |phase: &str, message: String| ErrorDetail { phase: phase.into(), object: None, sqlstate: None, message };
    let refused = postgres.conf_in_place().map_err(|error| Failure::place("settings", &error))?;
    if task.on_failure == OnFailure::Keep {
        let is_new = !postgres.is_good_conf(&refused).map_err(|error| Failure::place("settings", &error))?;
        let failures = vec![said("start", chain(&failed))];
        let kept = Failure::Spec { failures, effect: Effect::default(), rolled_back: false };
        return Err(if is_new { kept } else { Failure::place("start", &failed) });
    }
    let restored = postgres.restore_conf().map_err(|error| Failure::place("settings", &error))?;
    if !restored {
        return Err(Failure::place("start", &failed));
    }
    if tools.starts_afresh() {
        // What it was built for goes with the refused spec.
        let Some(good) = &task.good else {
            let failures = vec![said("start", chain(&failed))];
            return Err(Failure::Spec { failures, effect: Effect::default(), rolled_back: false });
        };
        tools.follow(good.storage.clone());
        let conf = postgres.conf_in_place().map_err(|error| Failure::place("settings", &error))?;
        tools.build_directory(&conf, stop).await?;
    }
    tracing::warn!("{}: starting PostgreSQL with the last good configuration", chain(&failed));
    if let Err(again) = try_start(postgres, server).await {
        // It does not start with either, so the new one is not to blame: it stays in place.
        postgres.write_conf(&refused).map_err(|error| Failure::place("settings", &error))?;
        return Err(Failure::place("start", &again));
    }
    let mut failures = vec![said("start", chain(&failed))];
    if let Some(good) = &task.good {
        // The refused spec may have changed roles and databases before the restart that showed what it is.
        let quiet = Stop::new(Duration::ZERO);
        failures.extend(roles_and_databases(tools, &good.spec, Moment::Start, &quiet).await?);
    }
    Err(Failure::Spec { failures, effect: observe(tools, server.as_ref()).await?, rolled_back: true })
}

async fn try_start(postgres: &Postgres, server: &mut Option<Server>) -> Result<(), ServerError> {
    let started = server.insert(postgres.start().await?);
    let ready = postgres.wait_ready(started).await;
    match &ready {
        // Where it cannot be read, the next spec is followed by a reload.
        Ok(()) => drop(postgres.note_loaded()),
        Err(_) => *server = None,
    }
    ready
}

pub(super) async fn observe(tools: &Tools, server: Option<&Server>) -> Result<Effect, Failure> {
    let postgres = &tools.postgres;
    let pending_restart = tools.waits_for_restart().await.map_err(|error| Failure::connect(&error))?;
    let postgres = server.map(|server| PostgresInfo {
        pid: server.pid(),
        version: postgres.options().programs.version.clone(),
        port: postgres.options().port,
    });
    Ok(Effect { pending_restart, postgres, lsn: None })
}
