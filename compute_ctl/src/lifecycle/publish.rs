//! What the driver tells the world: one document, whose `status_seq` grows by one at every change.

use std::sync::Arc;

use chrono::Utc;
use pgfleet_api::agent::AgentStatus;
use pgfleet_api::{BootId, ComputeId};
use tokio::sync::watch;

use super::metrics::LifecycleMetrics;
use crate::ledger::Entry;

pub(super) struct Publisher {
    status: watch::Sender<AgentStatus>,
    metrics: Arc<LifecycleMetrics>,
    #[cfg(test)]
    record: Arc<std::sync::Mutex<Vec<AgentStatus>>>,
}

impl Publisher {
    pub(super) fn new(compute_id: ComputeId, boot_id: BootId, metrics: Arc<LifecycleMetrics>) -> Self {
        let status = AgentStatus::new(compute_id, boot_id, Utc::now());
        Self {
            #[cfg(test)]
            record: Arc::new(std::sync::Mutex::new(vec![status.clone()])),
            status: watch::Sender::new(status),
            metrics,
        }
    }

    /// Every document that is published, from the first on.
    #[cfg(test)]
    pub(super) fn record(&self) -> Arc<std::sync::Mutex<Vec<AgentStatus>>> {
        Arc::clone(&self.record)
    }

    pub(super) fn watch(&self) -> watch::Receiver<AgentStatus> {
        self.status.subscribe()
    }

    /// Changes the document. Nothing is published where nothing changed.
    pub(super) fn update(&self, change: impl FnOnce(&mut AgentStatus)) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            if *status == before {
                return false;
            }
            status.status_seq = before.status_seq + 1;
            self.metrics.show(status);
            #[cfg(test)]
            self.record.lock().unwrap().push(status.clone());
            true
        });
    }

    /// Shows what the ledger holds.
    pub(super) fn show_ledger(&self, entry: &Entry) {
        self.update(|status| {
            status.term = entry.record.as_ref().map(|record| record.term);
            status.generation = entry.record.as_ref().map(|record| record.generation);
            status.spec_hash = entry
                .record
                .as_ref()
                .map(|record| record.spec_hash.clone())
                .or_else(|| entry.accepted.as_ref().map(|kept| kept.spec_hash.clone()));
            status.rejected_generation = entry.rejected_generation;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_grows_at_every_change_and_only_then() {
        let publisher = Publisher::new("a".parse().unwrap(), BootId::generate(), Arc::default());
        let watch = publisher.watch();
        assert_eq!(watch.borrow().status_seq, 1);
        publisher.update(|status| status.error = Some("x".into()));
        publisher.update(|status| status.error = Some("x".into()));
        publisher.update(|status| status.error = None);
        assert_eq!(watch.borrow().status_seq, 3);
    }
}
