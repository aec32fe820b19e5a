//! The leader's task that looks after the journal: partitions made ahead, old ones dropped, old tombstones pruned.
//!
//! Called by `app`, which runs it for as long as this member leads. It calls `persistence`, which does each step under the
//! fence. Invariant: it never makes a hand-over wait: what is cut in the middle is rolled back and done by the next leader.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_persistence::{Database, Keep, LeaderTerm};
use tokio_util::sync::CancellationToken;

/// After the beginning of a leadership: the processors belong to whoever has waited for it.
const SETTLE: Duration = Duration::from_secs(5);
/// Between two turns at most, and after one that was not finished.
const LONGEST: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_secs(2);

/// Looks after the journal until `token` is cancelled.
///
/// # Errors
/// Never; the type is what a task has. What the database refuses is logged and tried again.
pub async fn look_after_journal(
    database: Arc<Database>,
    term: Arc<LeaderTerm>,
    keep: Keep,
    token: CancellationToken,
) -> Result<(), Infallible> {
    let (period, least) = (keep.period / 4, Duration::from_millis(100));
    let (turn_every, mut pause) = (period.min(LONGEST).max(least), SETTLE.min(period).max(least));
    let mut failing = false;
    loop {
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        let turn = tokio::select! {
            () = token.cancelled() => return Ok(()),
            turn = database.look_after_journal(&term, &keep) => turn,
        };
        pause = turn_every;
        match turn {
            Ok(None) => return Ok(()),
            Ok(Some(kept)) => {
                failing = false;
                if !kept.made.is_empty() || !kept.dropped.is_empty() || kept.lines + kept.tombstones > 0 {
                    tracing::info!(
                        made = ?kept.made,
                        dropped = ?kept.dropped,
                        lines = kept.lines,
                        tombstones = kept.tombstones,
                        "the journal was looked after"
                    );
                }
                if kept.unfinished {
                    pause = SOON.min(turn_every);
                }
            }
            Err(error) => {
                // Said once; lines go into the default partition meanwhile, and nothing is lost.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "the journal cannot be looked after; tried again");
                }
            }
        }
    }
}
