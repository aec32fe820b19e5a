//! The results for machines.

use serde::Serialize;

use super::apply::Applied;
use super::change::Changed;
use super::start::Started;
use crate::report::{commit, machine};
use crate::stats::Spread;

/// What is written to `agent.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Always `agent`.
    pub scenario: &'static str,
    /// The commit that was measured; `-dirty` if the checkout differs from it.
    pub commit: String,
    /// The day, in UTC.
    pub date: String,
    /// Cores, memory, kernel.
    pub machine: String,
    /// Changed settings.
    pub n: usize,
    /// The figures.
    pub figures: Figures,
    /// What nothing here can be faster than.
    pub floors: Floors,
    /// What people should know of the figures.
    #[serde(skip)]
    pub notes: Vec<String>,
    /// Scenarios that broke off, and why. Such a report is not written as results.
    #[serde(skip)]
    pub broken: Vec<String>,
}

/// The figures of the scenarios that were run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// Agent / initdb and pg_ctl.
    pub start_ratio: Option<f64>,
    /// Large spec / psql script.
    pub apply_1000r_500d_ratio: Option<f64>,
    /// One `POST /configure` of a new generation with the spec that is in effect.
    pub noop_ms: Option<Spread>,
    /// Transactions that wrote, over all of these.
    pub noop_sql_writes: Option<u64>,
    /// From the PUT at the controller to the generation applied at the agent.
    pub settings_change_ms: Option<Changed>,
    /// Statements of a spec of six roles and three databases.
    pub small_spec_sql_ms: Option<f64>,
    /// Resident memory of the agent after the large spec, in MiB.
    pub rss_mb: Option<f64>,
    /// The same after the specs that change nothing, at a small one.
    pub rss_small_mb: Option<f64>,
    /// Processor time of the agent while nobody asks it anything.
    pub idle_cpu_percent: Option<f64>,
    /// The starts themselves.
    pub start: Option<Started>,
    /// The large specs themselves.
    pub apply: Option<Applied>,
}

/// The floors, taken in the same run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Floors {
    /// Overwriting one block of a file and `fdatasync`.
    pub fdatasync_ms: Option<f64>,
    /// `initdb`, one sync of the file system, `pg_ctl -w start`.
    pub initdb_pg_ctl_ms: Option<f64>,
    /// The large spec as a psql script.
    pub psql_script_ms: Option<f64>,
    /// The small spec as a psql script.
    pub small_script_ms: Option<f64>,
    /// One HTTP exchange with the agent on a connection that is kept: `GET /status`.
    pub http_ms: Option<f64>,
}

impl Report {
    /// An empty one of this commit, this day, this machine.
    #[must_use]
    pub fn here(n: usize) -> Self {
        Self {
            scenario: "agent",
            commit: commit(),
            date: chrono::Utc::now().format("%F").to_string(),
            machine: machine(),
            n,
            figures: Figures::default(),
            floors: Floors::default(),
            notes: Vec::new(),
            broken: Vec::new(),
        }
    }
}
