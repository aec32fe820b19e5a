//! The voice: what this compute tells about its use. The task `compute-monitor` looks at PostgreSQL twice a second.
//!
//! `app` runs it; `http` holds a [`Monitor`], asks it for a fresh look before a conditional termination and puts its last
//! reading into `/status`. It calls lifecycle's status and a read-only session of `postgres`. `sample` is the one query,
//! `judge` says what it means (pure), `downtime` counts, `monitor` is the task; `tell` reports changes of the status. Invariants: nothing here writes to
//! PostgreSQL or to the published status; what the agent itself does there is no activity.

mod downtime;
mod judge;
mod metrics;
mod monitor;
mod sample;
mod tell;

pub use metrics::ReportMetrics;
pub use monitor::{Monitor, MonitorTask, Reading};
pub use tell::tell;
