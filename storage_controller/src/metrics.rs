//! The page of metrics: the rooms' groups, nested. Imports no room but the window, whose counts it reads at scrape time.
#![expect(missing_docs, reason = "the derive of a metric group writes a constructor without one")]

use std::sync::Arc;

use measured::MetricGroup;
use measured::label::{LabelGroup, LabelGroupVisitor, LabelName};
use measured::metric::MetricEncoding;
use measured::metric::gauge::{GaugeState, write_gauge};
use measured::metric::group::Encoding;
use measured::metric::name::MetricName;
use pgfleet_api::agent::ComputeState;
use pgfleet_runtime::metrics::{HttpMetrics, ProcessMetrics, TaskMetrics};

use crate::agents::AgentMetrics;
use crate::http::RequestMetrics;
use crate::leadership::{LeadershipMetrics, LossMetrics};
use crate::observe::{FollowerMetrics, Tally};
use crate::reconcile::ReconcileMetrics;
use crate::rollout::RolloutMetrics;
use crate::service::DatabaseMetrics;

/// Everything a scrape sees.
#[derive(MetricGroup)]
#[metric(new(rooms: Rooms, process: ProcessMetrics))]
pub struct Metrics {
    #[metric(namespace = "storage_controller", init = rooms)]
    rooms: Rooms,
    #[metric(namespace = "process", init = process)]
    process: ProcessMetrics,
}

/// The rooms' groups.
#[derive(MetricGroup)]
pub struct Rooms {
    /// The chair.
    #[metric(flatten)]
    pub leadership: Arc<LeadershipMetrics>,
    /// What the database has lost.
    #[metric(flatten)]
    pub losses: Arc<LossMetrics>,
    /// The engine.
    #[metric(flatten)]
    pub reconcile: Arc<ReconcileMetrics>,
    /// Changes in waves.
    #[metric(flatten)]
    pub rollouts: Arc<RolloutMetrics>,
    /// The post.
    #[metric(namespace = "agent")]
    pub agents: Arc<AgentMetrics>,
    /// The database.
    #[metric(flatten)]
    pub database: Arc<DatabaseMetrics>,
    /// The memory.
    #[metric(namespace = "follower")]
    pub follower: Arc<FollowerMetrics>,
    /// The window.
    #[metric(flatten)]
    pub fleet: FleetMetrics,
    /// The door.
    #[metric(namespace = "http")]
    pub http: Arc<HttpMetrics>,
    /// The gate.
    #[metric(flatten)]
    pub requests: Arc<RequestMetrics>,
    /// Panics.
    #[metric(flatten)]
    pub tasks: Arc<TaskMetrics>,
}

/// Reads the counts of the current leadership; all zero on a member that does not lead.
#[derive(Clone)]
pub struct FleetMetrics(pub Arc<dyn Fn() -> Tally + Send + Sync>);

struct State(&'static str);

impl LabelGroup for State {
    fn visit_values(&self, v: &mut impl LabelGroupVisitor) {
        const STATE: &LabelName = LabelName::from_str("state");
        v.write_value(STATE, &self.0);
    }
}

impl<Enc: Encoding> MetricGroup<Enc> for FleetMetrics
where
    GaugeState: MetricEncoding<Enc>,
{
    fn collect_group_into(&self, enc: &mut Enc) -> Result<(), Enc::Err> {
        const COMPUTES: &MetricName = MetricName::from_str("computes");
        const LAGGING: &MetricName = MetricName::from_str("computes_lagging");
        const LAG: &MetricName = MetricName::from_str("compute_lag_generations");
        let tally = (self.0)();
        enc.write_help(COMPUTES, "Computes by the state their agents last reported.")?;
        GaugeState::write_type(COMPUTES, enc)?;
        for (state, count) in ComputeState::ALL.iter().zip(tally.by_state) {
            write_gauge(enc, COMPUTES, State(state.as_str()), count)?;
        }
        write_gauge(enc, COMPUTES, State("unknown"), tally.unknown)?;
        enc.write_help(LAGGING, "Computes whose current spec is not in effect.")?;
        GaugeState::write_type(LAGGING, enc)?;
        write_gauge(enc, LAGGING, measured::label::NoLabels, tally.lagging)?;
        enc.write_help(LAG, "Generations that all computes together are behind.")?;
        GaugeState::write_type(LAG, enc)?;
        write_gauge(enc, LAG, measured::label::NoLabels, tally.lag_generations)
    }
}
