//! Writes observations behind: on change only, gathered for a moment, through the one writer.

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_api::compute::Observed;
use pgfleet_persistence::{Change, WriteError, Writer};
use tokio_util::sync::CancellationToken;

use super::Snapshot;

/// Observations made within this time go out together.
const GATHER: Duration = Duration::from_millis(50);

/// Saves what the snapshot holds unsaved.
#[derive(Debug, Clone)]
pub struct Flusher {
    snapshot: Snapshot,
    writer: Writer,
}

impl Flusher {
    /// Saves `snapshot` through `writer`.
    #[must_use]
    pub fn new(snapshot: Snapshot, writer: Writer) -> Self {
        Self { snapshot, writer }
    }

    /// Saves on change until `token` is cancelled; the last batch is the step-down's own, see [`Self::flush`].
    ///
    /// # Errors
    /// None today; the leadership learns of a lost term from the writer itself.
    pub async fn run(self, token: CancellationToken) -> Result<(), WriteError> {
        loop {
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                () = self.snapshot.unsaved() => {}
            }
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                () = tokio::time::sleep(GATHER) => {}
            }
            if !self.flush().await {
                // The database is away or the term is over; what is unsaved stays marked and is tried with the next change.
                tokio::select! {
                    () = token.cancelled() => return Ok(()),
                    () = tokio::time::sleep(GATHER * 10) => self.snapshot.nudge(),
                }
            }
        }
    }

    /// Saves everything unsaved now, together as far as a batch has room. Returns whether all of it is in the database.
    pub async fn flush(&self) -> bool {
        let batch = self.snapshot.take_unsaved();
        let mut saved = true;
        let change = |(compute_id, observed): &(ComputeId, Arc<Observed>)| Change::Observed {
            compute_id: compute_id.clone(),
            observed: Box::new(Observed::clone(observed)),
        };
        let outcomes = self.writer.submit_all(batch.iter().map(change).collect()).await;
        for ((compute_id, _), outcome) in batch.into_iter().zip(outcomes) {
            match outcome {
                Ok(_) | Err(WriteError::UnknownCompute) => {}
                Err(error) => {
                    saved = false;
                    tracing::debug!(%compute_id, %error, "an observation is not saved yet");
                    self.snapshot.keep_unsaved(compute_id);
                }
            }
        }
        saved
    }
}
