//! Room 2, the desk: one use case per function, in the domain's words. No HTTP, no SQL.
//!
//! Called by the door. It calls the writer (through the leadership's [`Office`]), the window, the engine's waker and the
//! chair. Invariants: nothing is executed unless this member leads; an accepted spec is in the database; nobody waits for
//! convergence here but [`Desk::wait`].

mod act;
mod apply;
mod compute;
mod controller;
mod dry_run;
mod error;
mod explain;
mod history;
mod metrics;
mod pull;
mod report;
mod rollout;
mod rules;
mod watching;

use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use pgfleet_api::Term;
use pgfleet_persistence::{Database, LeaderTerm, Writer};
use tokio::sync::watch;

pub use compute::WAIT_S;
pub use dry_run::Foreseen;
pub use error::{ServiceError, StepDownRefusal, TakeOverRefusal};
pub use metrics::{DatabaseMetrics, Operation};
pub use pgfleet_persistence::Asker;
pub use watching::Watching;

use crate::leadership::Handle;
pub use crate::leadership::{Lines, Peer, Standing, SteppedDown, pieces};
use crate::observe::{Hints, Presence, Snapshot};
use crate::reconcile::{Outlook, Preview, Quarantine, Waker};
use crate::rollout::Rollouts;

/// What a leader works with; exists from the end of the take-over to the beginning of the step-down.
pub struct Leading {
    /// The term it belongs to.
    pub term: Term,
    /// The proof of leadership, for as long as it lasts: the leader value alone keeps it.
    pub proof: Weak<LeaderTerm>,
    /// The one writer.
    pub writer: Writer,
    /// Intent and observation.
    pub snapshot: Snapshot,
    /// The engine's nudge.
    pub waker: Waker,
    /// Asks agents what a spec would do.
    pub preview: Preview,
    /// Number of the last change that is committed.
    pub committed: watch::Receiver<i64>,
    /// Computes that panicked.
    pub quarantine: Quarantine,
    /// What the engine is about to do.
    pub outlook: Outlook,
    /// Who answers.
    pub presence: Presence,
    /// Whom the prober asks sooner: what agents report goes here.
    pub hints: Hints,
    /// Changes in waves.
    pub rollouts: Rollouts,
}

/// Where the current leadership's tools lie. Empty while this member does not lead.
#[derive(Clone, Default)]
pub struct Office(Arc<ArcSwapOption<Leading>>);

impl Office {
    /// Moves in.
    pub fn open(&self, leading: Leading) {
        self.0.store(Some(Arc::new(leading)));
    }

    /// Moves out.
    pub fn close(&self) {
        self.0.store(None);
    }

    /// Who is in.
    #[must_use]
    pub fn leading(&self) -> Option<Arc<Leading>> {
        self.0.load_full()
    }
}

/// The desk. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    leadership: Handle,
    office: Office,
    database: Arc<Database>,
    metrics: Arc<DatabaseMetrics>,
}

impl Desk {
    /// A desk in front of these rooms.
    #[must_use]
    pub fn new(leadership: Handle, office: Office, database: Arc<Database>, metrics: Arc<DatabaseMetrics>) -> Self {
        Self { leadership, office, database, metrics }
    }

    /// The chair.
    #[must_use]
    pub fn leadership(&self) -> &Handle {
        &self.leadership
    }

    /// The leader's tools, if this member leads right now.
    ///
    /// # Errors
    /// [`ServiceError::NotLeading`]: nothing was executed.
    pub fn leading(&self) -> Result<Arc<Leading>, ServiceError> {
        let standing = self.leadership.standing();
        let may_act = self.leadership.may_act();
        self.office
            .leading()
            .filter(|leading| may_act && standing.term == Some(leading.term))
            .ok_or_else(|| not_leading(standing))
    }

    /// Whether what is read here now is as new as every write that was acknowledged before: asks the database once, together
    /// with whoever else reads.
    ///
    /// # Errors
    /// [`ServiceError::NotLeading`]: nothing was read.
    pub async fn confirmed(&self) -> Result<(), ServiceError> {
        let term = self.leading()?.term;
        if self.leadership.confirm(term).await { Ok(()) } else { Err(self.not_leading()) }
    }

    /// What a member says that does not lead: what it is, and who leads.
    fn not_leading(&self) -> ServiceError {
        not_leading(self.leadership.standing())
    }
}

fn not_leading(standing: Standing) -> ServiceError {
    ServiceError::NotLeading { role: standing.role, leader: standing.leader }
}
