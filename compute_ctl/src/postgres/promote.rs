//! A standby becomes a primary: first it has replayed what the old primary wrote, then it takes writes.

use std::time::{Duration, Instant};

use pgfleet_api::Lsn;

use super::{LinkError, Postgres};

/// How long the replay may take to reach the position.
const REPLAY_LIMIT: Duration = Duration::from_secs(20);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long PostgreSQL may take to leave recovery; less than the limit on a statement of the agent.
const PROMOTE_LIMIT_S: i32 = 50;

/// The standby did not become a primary.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// PostgreSQL cannot be asked.
    #[error("PostgreSQL could not be asked during the promotion")]
    Link(#[from] LinkError),
    /// It has not replayed enough.
    #[error("the log is replayed up to {reached} of {wanted} after {} s; is the rest of it still to come?", REPLAY_LIMIT.as_secs())]
    Behind {
        /// The position asked for.
        wanted: Lsn,
        /// The position reached.
        reached: String,
    },
    /// It did not leave recovery.
    #[error("PostgreSQL did not leave recovery within {PROMOTE_LIMIT_S} s")]
    StillInRecovery,
    /// It left recovery and takes no writes.
    #[error("PostgreSQL left recovery and is read-only")]
    ReadOnly,
}

impl Postgres {
    /// Waits until the standby has replayed the log up to a position. Says how long it took.
    ///
    /// # Errors
    /// It cannot be asked, or does not get there in time.
    pub async fn wait_replayed(&self, wanted: Lsn) -> Result<Duration, PromoteError> {
        let begun = Instant::now();
        let client = self.connect().await?;
        loop {
            let row = client
                .query_one(
                    "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false), \
                     coalesce(pg_last_wal_replay_lsn()::text, 'nothing')",
                    &[&wanted.to_string()],
                )
                .await
                .map_err(LinkError::from)?;
            if row.get(0) {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() >= REPLAY_LIMIT {
                return Err(PromoteError::Behind { wanted, reached: row.get(1) });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Makes the standby a primary and looks whether it takes writes. Says how long it took.
    ///
    /// # Errors
    /// It cannot be asked, or does not become one.
    pub async fn promote(&self) -> Result<Duration, PromoteError> {
        let begun = Instant::now();
        let client = self.connect().await?;
        let row = client
            .query_one("SELECT pg_promote(wait => true, wait_seconds => $1)", &[&PROMOTE_LIMIT_S])
            .await
            .map_err(LinkError::from)?;
        if !row.get::<_, bool>(0) {
            return Err(PromoteError::StillInRecovery);
        }
        // The session began in recovery; a new one is what a client gets.
        let row = self
            .connect()
            .await?
            .query_one("SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool", &[])
            .await
            .map_err(LinkError::from)?;
        if row.get(0) { Err(PromoteError::ReadOnly) } else { Ok(begun.elapsed()) }
    }
}
