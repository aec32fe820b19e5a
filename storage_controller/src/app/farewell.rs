//! The end of a process that served: others lead before the port closes, and what was asked here is answered.
//!
//! Called by `App::run`. Steps: `begin` (every answer closes its connection, `/ready` says no) → the chair gives up →
//! somebody else leads → the port closes, what is connected goes on → a second later idle connections close → at the end of
//! the drain what is still under way is told to go elsewhere.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pgfleet_api::controller::{LeaderRef, Role};
use pgfleet_persistence::Database;
use pgfleet_runtime::supervisor::TaskGroup;
use tokio::time::{Instant, timeout_at};

use crate::http::Gate;
use crate::leadership::Handle;

/// What is answered at the very end gets this long to go out.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(400);
/// A connection that nobody asked on for this long after the port was closed is closed.
const LINGER: Duration = Duration::from_secs(1);
/// The chair has ended by now, so nobody else reads the row.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Sees the requests out.
pub(super) struct Farewell {
    database: Arc<Database>,
    gate: Gate,
    chair: Handle,
    listening: TaskGroup,
    /// Whether anybody could lead instead, as it was when the process was asked to end: a successor follows nobody.
    others: OnceLock<bool>,
}

impl Farewell {
    pub(super) fn new(database: &Arc<Database>, chair: &Handle, gate: &Gate, listening: &TaskGroup) -> Self {
        Self {
            database: database.clone(),
            gate: gate.clone(),
            chair: chair.clone(),
            listening: listening.clone(),
            others: OnceLock::new(),
        }
    }

    /// The process was asked to end.
    pub(super) fn begin(&self) {
        let me = self.chair.instance_id();
        self.others.get_or_init(|| {
            let led = self.chair.standing().leader.is_some_and(|leader| leader.instance_id != me);
            led || self.chair.members().len() > 1
        });
        self.gate.ends().ending.cancel();
    }

    /// After the chair has given up.
    pub(super) async fn see_out(&self, drain: Duration) {
        self.begin();
        let deadline = Instant::now() + drain;
        if self.others.get().is_some_and(|others| *others) {
            // At the deadline the port closes all the same.
            let _ = timeout_at(deadline, self.somebody_leads()).await;
        }
        let linger = deadline.min(Instant::now() + LINGER);
        if timeout_at(linger, self.listening.stop()).await.is_ok() {
            return;
        }
        self.gate.ends().idle.cancel();
        if timeout_at(deadline, self.listening.stop()).await.is_err() {
            self.gate.ends().cut.cancel();
            if let Err(names) = self.listening.stop_within(LAST_WORDS * 2).await {
                tracing::warn!(tasks = ?names, "requests were cut at the end of the drain");
            }
        }
    }

    /// Another member has claimed; whatever comes here now is handed on to it.
    async fn somebody_leads(&self) {
        let me = self.chair.instance_id();
        let standing = self.chair.standing();
        if standing.role == Role::SteppedDown && standing.leader.is_some_and(|leader| leader.instance_id != me) {
            return;
        }
        loop {
            match self.database.read_leader().await {
                Ok(Some(row)) if row.instance_id != me && row.released_at.is_none() => {
                    let leader = LeaderRef { instance_id: row.instance_id, term: row.term, address: row.address };
                    self.gate.hear(&leader);
                    return;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "cannot look who leads"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
