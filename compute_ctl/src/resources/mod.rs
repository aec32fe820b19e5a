//! Memory and pressure of the compute: readings with advice, and the socket of an autoscaler.
//!
//! Called by `app`, which lays the readings beside the status and on the metrics page, and serves [`monitor`] where
//! AUTOSCALING is set. Readings are taken when somebody asks, at most once a second. Invariant: nothing is limited and
//! nothing is set here.

mod advice;
mod flags;
mod metrics;
pub mod monitor;
mod reading;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use flags::ResourceArgs;
pub use metrics::ResourceMetrics;

use advice::{Above, Thresholds};
use reading::{Places, Reading};

/// A reading younger than this is shown again.
const FRESH: Duration = Duration::from_secs(1);

/// The reader. Clones share its last reading.
#[derive(Debug, Clone)]
pub struct Readings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: Places,
    thresholds: Thresholds,
    last: Mutex<Option<(Instant, Option<Reading>)>>,
}

impl Readings {
    /// A reader of what the flags name.
    #[must_use]
    pub fn new(args: &ResourceArgs) -> Self {
        let places = Places::find(&args.cgroup_root, args.cgroup.as_deref());
        let first = places.read();
        match &first {
            Some(reading) => tracing::info!(source = ?reading.source, limit_bytes = reading.limit_bytes, "memory"),
            None => tracing::warn!("neither a control group nor /proc tells how much memory is in use"),
        }
        let thresholds = Thresholds {
            memory_high_ratio: args.memory_high_ratio,
            memory_pressure_high: args.memory_pressure_high,
            oom_kills_before: first.as_ref().map_or(0, |reading| reading.oom_kills),
        };
        Self(Arc::new(Inner { places, thresholds, last: Mutex::new(Some((Instant::now(), first))) }))
    }

    fn reading(&self) -> Option<Reading> {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, reading)) = &*last
            && at.elapsed() < FRESH
        {
            return reading.clone();
        }
        let reading = self.0.places.read();
        *last = Some((Instant::now(), reading.clone()));
        reading
    }

    /// For the status; none where the kernel tells nothing.
    #[must_use]
    pub fn with_advice(&self) -> Option<pgfleet_api::resources::Resources> {
        self.reading().map(|reading| advice::advise(&reading, &self.0.thresholds))
    }

    fn above(&self, reading: &Reading) -> Above {
        advice::above(reading, &self.0.thresholds)
    }
}
