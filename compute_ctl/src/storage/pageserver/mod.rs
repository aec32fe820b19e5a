//! Storage at page servers: the data directory is a base backup of a timeline, fetched anew at every start.
//!
//! ```text
//! spec ──► Source ──► build: end of the WAL (safekeepers) ──► base backup ──► unpacked beside ──► renamed into place
//!                     lease (task): keeps the moment that a static compute shows
//! ```
//! Called by `lifecycle` before it starts PostgreSQL, and after it has stopped it; `app` spawns the lease. Nothing of
//! value lies in such a directory, so one that has our marker and says `disposable` is removed; any other is refused.
//! `source`, `settings` and `quorum` are pure.

mod basebackup;
mod finish;
mod lease;
mod metrics;
mod quorum;
mod safekeepers;
mod settings;
mod source;
mod unpack;
mod wire;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgfleet_api::{ComputeId, Lsn};
use pgfleet_runtime::exit::chain;
use tokio::sync::{OwnedMutexGuard, watch};

pub use basebackup::BackupError;
pub use finish::FinishError;
pub use lease::keep as keep_lease;
pub use metrics::{StorageMetrics, Timings};
pub use safekeepers::SyncError;
pub use settings::settings;
pub use source::{Role, Source, SourceError};
pub use unpack::UnpackError;
pub use wire::WireError;

use super::StorageError;
use super::marker::{BuiltFrom, Marker, read_marker};
use super::place::Workplace;
use crate::postgres::Postgres;
use metrics::{Backup, BackupOutcome};

/// Tries to fetch a base backup.
pub const TRIES: u32 = 10;
/// Pause after the first try; each is half as long again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How long a termination waits for the safekeepers.
const FINAL_LIMIT: Duration = Duration::from_secs(30);

/// The data directory could not be built.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The place for it.
    #[error(transparent)]
    Place(#[from] StorageError),
    /// The safekeepers.
    #[error("it is not known where the WAL ends")]
    Sync(#[from] SyncError),
    /// The page server, as often as it was asked.
    #[error("there is no base backup after {tries} tries")]
    Backup {
        /// How often.
        tries: u32,
        /// What was wrong the last time.
        #[source]
        source: BackupError,
    },
    /// What it gave.
    #[error("the base backup does not fit")]
    Finish(#[from] FinishError),
}

/// What the agent knows of its page-server storage. Cheap to clone.
#[derive(Clone)]
pub struct PageStorage {
    /// What the spec that is in effect says.
    current: watch::Sender<Option<Arc<Source>>>,
    timings: Arc<Mutex<Timings>>,
    metrics: Arc<StorageMetrics>,
    /// Held by whoever works in the workplace: a thread may outlive the future that began it.
    turn: Arc<tokio::sync::Mutex<()>>,
    tries: u32,
}

impl PageStorage {
    /// `tries`: how often a base backup is asked for; [`TRIES`] outside of tests.
    #[must_use]
    pub fn new(tries: u32) -> Self {
        Self {
            current: watch::Sender::new(None),
            timings: Arc::default(),
            metrics: Arc::default(),
            turn: Arc::default(),
            tries,
        }
    }

    /// This room's metrics.
    #[must_use]
    pub fn metrics(&self) -> Arc<StorageMetrics> {
        Arc::clone(&self.metrics)
    }

    /// How long the parts of the last start took.
    #[must_use]
    pub fn timings(&self) -> Timings {
        *self.timings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the spec in effect says; none on stock PostgreSQL.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Source>> {
        self.current.borrow().clone()
    }

    /// Follows what a spec says.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Source>>> {
        self.current.subscribe()
    }

    /// Makes `source` what is in effect from the next start on.
    pub fn set(&self, source: Option<Arc<Source>>) {
        self.current.send_if_modified(|current| {
            let changes = *current != source;
            *current = source;
            changes
        });
    }

    /// Builds the data directory anew, with `conf` as the agent's configuration in it. PostgreSQL does not run. May be
    /// dropped at any time: what was there stays until the new one is whole.
    ///
    /// # Errors
    /// The place, the safekeepers or the page server, after all tries.
    pub async fn build(
        &self,
        postgres: &Postgres,
        compute_id: &ComputeId,
        source: &Arc<Source>,
        conf: &str,
    ) -> Result<(), PageError> {
        let begun = Instant::now();
        let turn = Arc::new(Arc::clone(&self.turn).lock_owned().await);
        let workplace = {
            let (postgres, compute_id, turn) = (postgres.clone(), compute_id.clone(), Arc::clone(&turn));
            blocking(turn, move || {
                replaceable(&postgres.options().data_dir, &compute_id)?;
                Workplace::make(&postgres, &compute_id)
            })
            .await?
        };
        let mut timings = Timings::default();
        let at = match source.role {
            Role::Primary => {
                let questions = finish::questions(postgres, &workplace, conf)?;
                Some(safekeepers::end_of_wal(postgres, source, &questions, &self.metrics, &mut timings).await?)
            }
            Role::Replica => None,
            Role::Static(lsn) => Some(lsn),
        };
        self.fetch(postgres, source, at, (&workplace, &turn), &mut timings).await?;
        finish::complete(postgres, &workplace.fresh, source.role, conf)?;
        let marker = Marker { built_from: Some(built_from(source)), disposable: true, ..Marker::of(compute_id) };
        postgres.end_orphans().await;
        postgres.clear_dead();
        let data_dir = postgres.options().data_dir.clone();
        blocking(turn, move || workplace.replace(&data_dir, &marker)).await?;
        *self.timings.lock().unwrap_or_else(PoisonError::into_inner) = timings;
        tracing::info!(
            tenant_id = source.tenant_id,
            timeline_id = source.timeline_id,
            bytes = timings.basebackup_bytes,
            duration_ms = begun.elapsed().as_millis(),
            "the data directory is built from the page server"
        );
        Ok(())
    }

    async fn fetch(
        &self,
        postgres: &Postgres,
        source: &Arc<Source>,
        at: Option<Lsn>,
        (workplace, turn): (&Workplace, &Arc<OwnedMutexGuard<()>>),
        timings: &mut Timings,
    ) -> Result<(), PageError> {
        let owner = postgres.options().run_as;
        let mut pause = FIRST_PAUSE;
        let mut tried = 1;
        loop {
            let begun = Instant::now();
            let place = basebackup::Place { directory: &workplace.fresh, owner, turn };
            let outcome = match basebackup::fetch(source, at, place, timings).await {
                Ok(()) => BackupOutcome::Done,
                Err(source) if tried >= self.tries => {
                    self.metrics.basebackups_total.inc(Backup { outcome: BackupOutcome::Failed });
                    return Err(PageError::Backup { tries: tried, source });
                }
                Err(error) => {
                    let pause_ms = pause.as_millis();
                    tracing::warn!(pause_ms, tried, "{}: trying again", chain(&error));
                    BackupOutcome::Failed
                }
            };
            self.metrics.basebackups_total.inc(Backup { outcome });
            if outcome == BackupOutcome::Done {
                self.metrics.basebackup_bytes_total.inc_by(timings.basebackup_bytes);
                self.metrics.basebackup_duration_seconds.observe(begun.elapsed().as_secs_f64());
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause = pause.mul_f64(1.5);
            tried += 1;
            workplace.empty(postgres)?;
        }
    }

    /// Whether a server that runs on this data directory has to be started anew for `source`: the settings that say why.
    #[must_use]
    pub fn waits_for_restart(&self, data_dir: &Path) -> Vec<String> {
        let Some(source) = self.current() else { return Vec::new() };
        let Some(built) = read_marker(data_dir).ok().and_then(|marker| marker.built_from) else { return Vec::new() };
        let wanted = built_from(&source);
        let mut waiting = Vec::new();
        for (name, differs) in [
            // A promoted replica runs on as the primary.
            ("neon.compute_mode", built.mode != wanted.mode && (built.mode.as_str(), wanted.mode.as_str()) != PROMOTED),
            ("neon.tenant_id", built.tenant_id != wanted.tenant_id),
            ("neon.timeline_id", built.timeline_id != wanted.timeline_id),
            ("recovery_target_lsn", built.lsn != wanted.lsn),
        ] {
            if differs {
                waiting.push(name.to_owned());
            }
        }
        waiting
    }

    /// Where the WAL of a primary ends after its PostgreSQL has stopped; none where the compute is no such primary.
    ///
    /// # Errors
    /// The safekeepers do not say, and neither does PostgreSQL.
    pub async fn final_lsn(&self, postgres: &Postgres) -> Result<Option<Lsn>, SyncError> {
        let Some(source) = self.current().filter(|source| source.role == Role::Primary) else { return Ok(None) };
        let data_dir = &postgres.options().data_dir;
        let mut timings = Timings::default();
        let asked = safekeepers::end_of_wal(postgres, &source, data_dir, &self.metrics, &mut timings);
        match tokio::time::timeout(FINAL_LIMIT, asked).await {
            Ok(found) => found.map(Some),
            Err(_) => Err(SyncError::Slow(FINAL_LIMIT)),
        }
    }
}

const PROMOTED: (&str, &str) = ("replica", "primary");

fn built_from(source: &Source) -> BuiltFrom {
    let lsn = match source.role {
        Role::Primary | Role::Replica => None,
        Role::Static(lsn) => Some(lsn.to_string()),
    };
    BuiltFrom {
        tenant_id: source.tenant_id.clone(),
        timeline_id: source.timeline_id.clone(),
        mode: source.role.as_str().to_owned(),
        lsn,
    }
}

/// Only what was built from storage may be built anew.
///
/// # Errors
/// It is not this compute's, or holds data of its own.
pub fn replaceable(data_dir: &Path, compute_id: &ComputeId) -> Result<(), StorageError> {
    match super::check(data_dir, compute_id, false)? {
        super::Found::Nothing => Ok(()),
        super::Found::Ours if read_marker(data_dir)?.disposable => Ok(()),
        super::Found::Ours => Err(StorageError::Local { path: data_dir.to_owned() }),
    }
}

async fn blocking<T: Send + 'static>(
    turn: Arc<OwnedMutexGuard<()>>,
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, PageError> {
    let done = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(turn);
        done
    });
    let done = done.await.map_err(|error| StorageError::Thread { source: error })?;
    Ok(done?)
}
