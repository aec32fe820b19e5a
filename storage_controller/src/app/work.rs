//! What a leader does: migrate, take the memory over, open the office, start writer, engine and prober; and the way back.
//! With a warm memory nothing here costs more for a larger fleet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use pgfleet_api::ComputeId;
use pgfleet_api::compute::Observed;
use pgfleet_domain::loss::What;
use pgfleet_domain::quarantine;
use pgfleet_persistence::{Committed, Database, Hook, Keep, MigrationOptions, Writer, WriterHooks};
use pgfleet_runtime::metrics::TaskMetrics;
use pgfleet_runtime::panic_door::Panics;
use pgfleet_runtime::pause::{PausePoint, Pauses};
use pgfleet_runtime::supervisor::{Kind, TaskGroup};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::agents::Agents;
use crate::leadership::{Handle, Mandate, Observations, Phase, TakeUp, TakeUpError, Work};
use crate::observe::{
    Call, Flusher, Hints, Loan, Memory, Presence, PresenceMetrics, PresenceSettings, Prober, ProberTools, Snapshot,
    look_after_journal,
};
use crate::reconcile::{
    Bench, Engine, Heard, MayAct, Outlook, Preview, Quarantine, ReconcileMetrics, Settings, Tell, Tools, Waker,
};
use crate::rollout::{self, RolloutMetrics, Rollouts};
use crate::service::{DatabaseMetrics, Leading, Office, Operation};

/// What was found at the start of this process: whether a migration of ours was pending. A schema only moves forward, so
/// one that was not is not later either.
#[derive(Clone, Default)]
pub(super) struct Prepared(Arc<AtomicBool>);

impl Prepared {
    /// All of ours have run.
    pub(super) fn nothing_is_pending(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether they had.
    pub(super) fn is_migrated(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What every leadership of this process is made from.
pub(super) struct Ingredients {
    pub(super) database: Arc<Database>,
    pub(super) memory: Memory,
    pub(super) agents: Agents,
    pub(super) office: Office,
    pub(super) migrations: MigrationOptions,
    pub(super) prepared: Prepared,
    pub(super) pauses: Pauses,
    pub(super) engine: Settings,
    pub(super) presence: (PresenceSettings, Arc<PresenceMetrics>),
    pub(super) grace: Duration,
    pub(super) keep: Keep,
    pub(super) reconcile_metrics: Arc<ReconcileMetrics>,
    pub(super) rollout_metrics: Arc<RolloutMetrics>,
    pub(super) database_metrics: Arc<DatabaseMetrics>,
    /// Computes whose work panics.
    pub(super) quarantine: quarantine::Limits,
    pub(super) tasks: Arc<TaskMetrics>,
    pub(super) panics: Panics,
}

/// The closure that the chair calls with each new term.
pub(super) fn take_up(ingredients: Ingredients) -> TakeUp {
    let ingredients = Arc::new(ingredients);
    Arc::new(move |mandate| {
        let ingredients = ingredients.clone();
        async move { begin(&ingredients, mandate).await }.boxed()
    })
}

async fn begin(from: &Ingredients, mut mandate: Mandate) -> Result<Arc<dyn Work>, TakeUpError> {
    let metrics = mandate.metrics.clone();
    let timed = |phase: Phase, begun: Instant| metrics.phase(phase, begun.elapsed());

    let begun = Instant::now();
    let losses = mandate.chair.losses().clone();
    migrate(from, &mandate).await?;
    timed(Phase::Migrate, begun);

    from.pauses.at(PausePoint::BeforeLoad).await;
    let (begun, known) = (Instant::now(), mandate.chair.reached());
    let loan = borrow(from, &mandate, begun).await?;
    timed(Phase::Load, begun);

    let begun = Instant::now();
    let (snapshot, change_seq) = (loan.snapshot.clone(), loan.change_seq);
    tracing::debug!(term = %mandate.term.term(), change_seq, warm = loan.warm, "memory taken over");
    if change_seq < known {
        losses.found(What::Changes, known, change_seq);
    }
    // Nothing after a warm hand-over: it is in the database, and was read.
    mandate.chair.note_reached(change_seq);
    for (id, observed) in std::mem::take(&mut mandate.handed_over) {
        snapshot.observed(&id, Call::Probe, observed);
    }
    let (latest, committed) = watch::channel(change_seq);
    let (presence, hints) = (Presence::new(from.presence.0), Hints::default());
    let watched = Watched { snapshot: snapshot.clone(), presence: presence.clone(), hints: hints.clone() };
    let (writer, writing) = start_writer(from, &mandate, watched, latest);
    let waker = Waker::default();
    let quarantine = quarantine_for(from, &writer, &mandate.chair);
    let (term, proof) = (mandate.term.term(), Arc::downgrade(&mandate.term));
    let may_act: MayAct = Arc::new(move || mandate.chair.may_act());
    let bench = Bench {
        term: mandate.term,
        snapshot: snapshot.clone(),
        agents: from.agents.clone(),
        may_act,
        quarantine: quarantine.clone(),
        presence: presence.clone(),
        hints: hints.clone(),
    };
    let following = mandate.tasks.child("reconcile");
    following.spawn("losses", Kind::Worker, losses.journal(writer.clone(), following.token()));
    let flusher = Flusher::new(snapshot.clone(), writer.clone());
    let rollouts = start_rollouts(from, &bench, &writer, &waker, &following);
    let outlook = start_following(from, &following, bench, &waker, &flusher);
    let (handle, shown) = (writer.clone(), snapshot.clone());
    let preview = Preview::new(from.agents.clone());
    let leading = Leading {
        term,
        proof,
        writer: handle,
        snapshot: shown,
        waker,
        preview,
        committed,
        quarantine,
        outlook,
        presence,
        hints,
        rollouts,
    };
    from.office.open(leading);
    timed(Phase::Start, begun);
    Ok(Arc::new(Leadership {
        office: from.office.clone(),
        following,
        writing,
        flusher,
        writer,
        snapshot,
        loan: Mutex::new(Some(loan)),
        grace: from.grace,
    }))
}

/// Runs what is pending; nothing if nothing can be.
async fn migrate(from: &Ingredients, mandate: &Mandate) -> Result<(), TakeUpError> {
    let doubtful = mandate.chair.losses().take_schema_doubt();
    if !doubtful && (from.prepared.is_migrated() || from.memory.is_migrated()) {
        return Ok(());
    }
    let begun = Instant::now();
    let migrating = from.database.migrate(mandate.term.clone(), from.migrations.clone());
    // Whoever ends this leadership does not wait for a long migration, and nobody else has to.
    let ran = mandate.tasks.token().run_until_cancelled(migrating).await;
    from.database_metrics.took(Operation::Migrate, begun.elapsed());
    ran.ok_or(TakeUpError::CutShort)??;
    Ok(())
}

/// Takes the memory. A cold load may be long, and whoever ends this leadership does not wait for it.
async fn borrow(from: &Ingredients, mandate: &Mandate, begun: Instant) -> Result<Loan, TakeUpError> {
    let loan = mandate.tasks.token().run_until_cancelled(from.memory.take()).await.ok_or(TakeUpError::CutShort)?;
    from.database_metrics.took(Operation::Load, begun.elapsed());
    Ok(loan.inspect_err(|error| from.database_metrics.failed(Operation::Load, error))?)
}

fn quarantine_for(from: &Ingredients, writer: &Writer, chair: &Handle) -> Quarantine {
    Quarantine::new(Tools {
        limits: from.quarantine,
        writer: writer.clone(),
        database: from.database.clone(),
        metrics: from.reconcile_metrics.clone(),
        tasks: from.tasks.clone(),
        panics: from.panics.clone(),
        tell: hears(chair),
    })
}

/// Starts who makes the fleet follow: the prober, the engine, who saves what they see, and who looks after the journal.
fn start_following(from: &Ingredients, tasks: &TaskGroup, bench: Bench, waker: &Waker, flusher: &Flusher) -> Outlook {
    let prober = Prober::new(ProberTools {
        snapshot: bench.snapshot.clone(),
        agents: bench.agents.clone(),
        waker: waker.clone(),
        quarantine: bench.quarantine.clone(),
        may_act: bench.may_act.clone(),
        presence: bench.presence.clone(),
        hints: bench.hints.clone(),
        metrics: from.presence.1.clone(),
    });
    let retention = look_after_journal(from.database.clone(), bench.term.clone(), from.keep, tasks.token());
    tasks.spawn("retention", Kind::Worker, retention);
    let engine = Engine::new(bench, waker.clone(), from.engine);
    let outlook = engine.outlook();
    tasks.spawn("engine", Kind::Vital, engine.run(tasks.token()));
    tasks.spawn("flush", Kind::Vital, flusher.clone().run(tasks.token()));
    tasks.spawn("prober", Kind::Vital, prober.run(tasks.token()));
    outlook
}

/// Starts the room of roll-outs: it goes on where the last leader's stopped.
fn start_rollouts(
    from: &Ingredients,
    bench: &Bench,
    writer: &Writer,
    waker: &Waker,
    following: &TaskGroup,
) -> Rollouts {
    let (rollouts, task) = Rollouts::open(rollout::Tools {
        snapshot: bench.snapshot.clone(),
        writer: writer.clone(),
        database: from.database.clone(),
        waker: waker.clone(),
        may_act: bench.may_act.clone(),
        metrics: from.rollout_metrics.clone(),
    });
    following.spawn("rollouts", Kind::Worker, task.run(following.token()));
    rollouts
}

/// What the engine hears from agents goes to the chair, which holds no task of the leadership.
fn hears(chair: &Handle) -> Tell {
    let chair = chair.clone();
    Arc::new(move |heard| match heard {
        Heard::Outbid { own, seen } => chair.outbid(own, seen),
        Heard::Lifted(what) => chair.losses().lifted(what),
    })
}

/// Starts the one writer of this leadership in a group of its own: it ends last.
fn start_writer(
    from: &Ingredients,
    mandate: &Mandate,
    watched: Watched,
    latest: watch::Sender<i64>,
) -> (Writer, TaskGroup) {
    let change_seq = *latest.borrow();
    let counted = from.database_metrics.clone();
    let hooks = WriterHooks {
        in_write_tx: Some(pause(&from.pauses, PausePoint::InWriteTx)),
        on_commit: Some(remember(watched, latest, mandate.chair.clone())),
        on_batch: Some(Arc::new(move |batch| counted.wrote(batch))),
    };
    let (writer, task) = Writer::channel(from.database.clone(), mandate.term.clone(), hooks, change_seq);
    let writing = mandate.tasks.child("writer");
    let (chair, number, token) = (mandate.chair.clone(), mandate.term.term(), writing.token());
    writing.spawn("writer", Kind::Worker, async move {
        // In a set of its own, so that the chair hears of it even if the writer panics.
        let mut run = JoinSet::new();
        run.spawn(task.run(token.clone()));
        let ended = run.join_next().await;
        if !token.is_cancelled() {
            chair.fenced(number).await;
        }
        match ended {
            Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            Some(Ok(ended)) => ended,
            None => Ok(()),
        }
    });
    (writer, writing)
}

/// The test door in the middle of a migration.
pub(super) fn mid_migration(pauses: &Pauses) -> Hook {
    pause(pauses, PausePoint::MidMigration)
}

fn pause(pauses: &Pauses, point: PausePoint) -> Hook {
    let pauses = pauses.clone();
    Arc::new(move || {
        let pauses = pauses.clone();
        Box::pin(async move { pauses.at(point).await })
    })
}

/// Who follows each commit.
struct Watched {
    snapshot: Snapshot,
    presence: Presence,
    hints: Hints,
}

/// Memory follows the database: this runs in commit order, before the caller hears of the commit.
fn remember(watched: Watched, latest: watch::Sender<i64>, chair: Handle) -> Arc<dyn Fn(&Committed) + Send + Sync> {
    Arc::new(move |committed| {
        chair.note_reached(committed.change_seq);
        if let Some(record) = &committed.record {
            watched.snapshot.committed(record.clone());
            watched.hints.committed(record.compute_id.clone());
        }
        if let (true, Some(id)) = (committed.deleted, &committed.compute_id) {
            watched.snapshot.deleted(id);
            watched.presence.forget(id);
        }
        // Last, so that whoever is woken by it finds the rest.
        latest.send_replace(committed.change_seq);
    })
}

struct Leadership {
    office: Office,
    following: TaskGroup,
    writing: TaskGroup,
    flusher: Flusher,
    writer: Writer,
    snapshot: Snapshot,
    /// Dropped with the leadership if it is not given back.
    loan: Mutex<Option<Loan>>,
    grace: Duration,
}

impl Leadership {
    /// Gives the memory back if it is what the database has: everything was saved, and no commit is in doubt.
    fn give_back(&self, drained: bool) {
        let Some(change_seq) = self.writer.settled_at().filter(|_| drained && !self.snapshot.has_unsaved()) else {
            return;
        };
        if let Some(loan) = self.loan.lock().unwrap_or_else(PoisonError::into_inner).take() {
            loan.give_back(change_seq);
        }
    }
}

impl Work for Leadership {
    fn close(&self, flush: bool) -> BoxFuture<'_, bool> {
        async move {
            self.office.close();
            // First whoever makes new observations and pushes, then what they have left to write, then the writer.
            self.following.stop().await;
            let flushed = !flush || self.flusher.flush().await;
            let drained = self.writer.close(self.grace).await;
            self.writing.stop().await;
            self.give_back(drained);
            flushed && drained
        }
        .boxed()
    }

    fn observed(&self) -> Arc<dyn Observations> {
        Arc::new(Seen(self.snapshot.clone()))
    }
}

/// What the window saw last; it outlives the leadership until the successor has read it.
struct Seen(Snapshot);

impl Observations for Seen {
    fn page(&self, after: Option<&ComputeId>, limit: usize) -> Vec<(ComputeId, Arc<Observed>)> {
        self.0.observed_page(after, limit)
    }
}
