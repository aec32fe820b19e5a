//! How long the steps of the start took, for `GET /metrics.json`.
//!
//! The work writes, the door reads. The first value of a step stays: later specs and restarts are no start.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pgfleet_api::errands::StartTimings;

use crate::storage;

/// The steps of one life of the agent. Clones share them.
#[derive(Debug, Clone)]
pub struct Timings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    begun: Instant,
    steps: Mutex<Steps>,
}

#[derive(Debug, Default)]
struct Steps {
    spec_at: Option<Instant>,
    shown: StartTimings,
}

impl Default for Timings {
    fn default() -> Self {
        Self(Arc::new(Inner { begun: Instant::now(), steps: Mutex::default() }))
    }
}

impl Timings {
    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.0.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known so far.
    #[must_use]
    pub fn shown(&self) -> StartTimings {
        self.steps().shown
    }

    /// A spec begins to be applied.
    pub fn spec_taken(&self) {
        let mut steps = self.steps();
        if steps.spec_at.is_none() {
            steps.spec_at = Some(Instant::now());
            once(&mut steps.shown.wait_for_spec_ms, self.0.begun.elapsed());
        }
    }

    /// The data directory was built from page servers.
    pub fn built(&self, parts: storage::Timings) {
        let mut steps = self.steps();
        let shown = &mut steps.shown;
        if shown.basebackup_bytes == 0 {
            shown.pageserver_connect_micros = parts.pageserver_connect_micros;
            shown.basebackup_ms = parts.basebackup_ms;
            shown.basebackup_bytes = parts.basebackup_bytes;
            shown.sync_sk_check_ms = parts.sync_sk_check_ms;
            shown.sync_safekeepers_ms = parts.sync_safekeepers_ms;
        }
    }

    /// PostgreSQL takes connections.
    pub fn postgres_started(&self, took: Duration) {
        once(&mut self.steps().shown.start_postgres_ms, took);
    }

    /// The catalog is as the spec wants it.
    pub fn configured(&self, took: Duration) {
        once(&mut self.steps().shown.config_ms, took);
    }

    /// The compute runs.
    pub fn running(&self) {
        let mut steps = self.steps();
        let begun = steps.spec_at.unwrap_or(self.0.begun);
        once(&mut steps.shown.total_startup_ms, begun.elapsed());
    }
}

/// Sets what was not done before; what was done is never 0.
fn once(field: &mut u64, took: Duration) {
    if *field == 0 {
        *field = u64::try_from(took.as_micros().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_stays() {
        let timings = Timings::default();
        assert_eq!(timings.shown(), StartTimings::default());
        timings.spec_taken();
        timings.postgres_started(Duration::from_micros(10));
        timings.postgres_started(Duration::from_secs(9));
        timings.built(storage::Timings { basebackup_ms: 5, basebackup_bytes: 77, ..storage::Timings::default() });
        timings.running();
        let shown = timings.shown();
        assert_eq!((shown.start_postgres_ms, shown.basebackup_ms, shown.basebackup_bytes), (1, 5, 77));
        assert!(shown.wait_for_spec_ms > 0 && shown.total_startup_ms > 0);
        assert_eq!(shown.config_ms, 0);
    }
}
