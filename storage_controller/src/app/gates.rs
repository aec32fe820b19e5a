//! What this build may do with the schema as it is, and what it would have to migrate.
//!
//! Called by: `app`, once before the chair begins and then as a task. What it calls: the database's one row about that,
//! the chair, the metrics. A schema moves on while a process runs, so it is looked at as often as the leader row. The claim
//! itself is gated in the database as well: this here only keeps a member from trying, and says why.

use std::sync::Arc;
use std::time::Duration;

use pgfleet_persistence::{Compat, Database, MigrationError, Rehearsed};
use tokio_util::sync::CancellationToken;

use super::work::Prepared;
use crate::leadership::Handle;
use crate::service::DatabaseMetrics;

/// What the schema lets a build do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fit {
    reads: bool,
    leads: bool,
}

/// Looks at the schema. Owned by the one task that does.
pub(super) struct Gates {
    database: Arc<Database>,
    chair: Handle,
    prepared: Prepared,
    metrics: Arc<DatabaseMetrics>,
    known: Fit,
    pending: Vec<String>,
}

impl Gates {
    pub(super) fn new(
        database: Arc<Database>,
        chair: Handle,
        prepared: Prepared,
        metrics: Arc<DatabaseMetrics>,
    ) -> Self {
        let known = Fit { reads: true, leads: true };
        Self { database, chair, prepared, metrics, known, pending: Vec::new() }
    }

    /// The first look, before this member may want anything. What is pending is rehearsed before anybody is asked to step
    /// down for it; where nobody has ever led there is nobody to spare.
    ///
    /// # Errors
    /// The database fails, or the rehearsal: this build is of no use as a leader.
    pub(super) async fn first(&mut self, budget: Duration) -> Result<(), MigrationError> {
        self.judge(self.database.compat().await?).await;
        self.pending = self.database.pending().await?;
        self.tell_pending().await;
        if self.pending.is_empty() {
            self.prepared.nothing_is_pending();
        } else if self.known.leads && self.database.read_leader().await?.is_some() {
            tracing::info!(pending = ?self.pending, "rehearsing the migrations of this build");
            if self.database.rehearse(budget).await? == Rehearsed::NotAllowed {
                tracing::warn!(
                    "the migrations are not rehearsed: grant CREATE on the database, so that one that cannot run is \
                     found before the leader steps down for it"
                );
            }
        }
        Ok(())
    }

    /// Looks again and again.
    pub(super) async fn run(
        mut self,
        every: Duration,
        token: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        while token.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "cannot look at the schema; tried again");
            }
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<(), MigrationError> {
        self.judge(self.database.compat().await?).await;
        // A schema only moves forward: what is not pending any more will not be again.
        if !self.pending.is_empty() {
            self.pending = self.database.pending().await?;
            if self.pending.is_empty() {
                self.tell_pending().await;
                self.prepared.nothing_is_pending();
            }
        }
        Ok(())
    }

    async fn judge(&mut self, compat: Option<Compat>) {
        let number = self.database.release().number();
        // Without the row there is no schema yet, and whoever leads makes it.
        let compat = compat.unwrap_or(Compat { lowest_reader: number, lowest_writer: number });
        let fit = Fit { reads: compat.lets_read(number), leads: compat.lets_lead(number) };
        self.metrics.schema_lets(fit.reads, fit.leads);
        if self.known == fit {
            return;
        }
        self.known = fit;
        self.chair.set_may_lead(fit.leads).await;
        let Compat { lowest_reader, lowest_writer } = compat;
        match (fit.reads, fit.leads) {
            (true, true) => tracing::info!(number, lowest_writer, "the schema lets this build lead again"),
            (true, false) => tracing::error!(
                number,
                lowest_writer,
                "this build is number {number} and the schema lets builds from {lowest_writer} on lead: it follows, forwards \
                 and never leads; start a newer build"
            ),
            (false, _) => tracing::error!(
                number,
                lowest_reader,
                "this build is number {number} and the schema lets builds from {lowest_reader} on read it: it only forwards \
                 and never leads; start a newer build"
            ),
        }
    }

    async fn tell_pending(&self) {
        self.metrics.migrations_pending(self.pending.len());
    }

    /// Whether this build can read the schema as it is, so that its memory will soon be warm.
    pub(super) fn may_follow(&self) -> bool {
        self.known.reads && self.pending.is_empty()
    }
}
