//! The page of metrics: the rooms' groups, nested. Imports no room but the window, whose counts it reads at scrape time.
#![expect(missing_docs, reason = "the derive of a metric group writes a constructor without one")]

use std::sync::Arc;

use measured::MetricGroup;
use measured::label::{LabelGroup, LabelGroupVisitor, LabelName, NoLabels};
use measured::metric::MetricEncoding;
use measured::metric::gauge::{GaugeState, write_gauge};
use measured::metric::group::Encoding;
use measured::metric::name::MetricName;
use pgfleet_api::agent::ComputeState;
use pgfleet_api::availability::Availability;
use pgfleet_runtime::metrics::{HttpMetrics, ProcessMetrics, TaskMetrics};

use crate::agents::{AgentMetrics, ConnectionMetrics};
use crate::http::RequestMetrics;
use crate::leadership::{LeadershipMetrics, LossMetrics};
use crate::observe::{FollowerMetrics, LagAges, PresenceCounts, PresenceMetrics, Tally};
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
    /// Its connections.
    #[metric(flatten)]
    pub connections: ConnectionMetrics,
    /// The database.
    #[metric(flatten)]
    pub database: Arc<DatabaseMetrics>,
    /// The memory.
    #[metric(namespace = "follower")]
    pub follower: Arc<FollowerMetrics>,
    /// The window.
    #[metric(flatten)]
    pub fleet: FleetMetrics,
    /// The prober.
    #[metric(flatten)]
    pub presence: Arc<PresenceMetrics>,
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

/// Counts of the current leadership.
#[derive(Debug, Clone, Copy, Default)]
pub struct FleetCounts {
    /// By state and lag.
    pub tally: Tally,
    /// By the age of the lag.
    pub lag_ages: LagAges,
    /// By who answers.
    pub presence: PresenceCounts,
}

/// Reads the counts of the current leadership; all zero on a member that does not lead.
#[derive(Clone)]
pub struct FleetMetrics(pub Arc<dyn Fn() -> FleetCounts + Send + Sync>);

/// A label whose name and values are ours.
struct One(&'static str, &'static str);

impl LabelGroup for One {
    fn visit_values(&self, v: &mut impl LabelGroupVisitor) {
        v.write_value(LabelName::from_str(self.0), &self.1);
    }
}

/// Writes a gauge and its values.
fn gauge<Enc: Encoding, L: LabelGroup>(
    enc: &mut Enc,
    name: &'static str,
    help: &str,
    values: impl IntoIterator<Item = (L, i64)>,
) -> Result<(), Enc::Err>
where
    GaugeState: MetricEncoding<Enc>,
{
    let name = MetricName::from_str(name);
    enc.write_help(name, help)?;
    GaugeState::write_type(name, enc)?;
    values.into_iter().try_for_each(|(label, value)| write_gauge(enc, name, label, value))
}

impl<Enc: Encoding> MetricGroup<Enc> for FleetMetrics
where
    GaugeState: MetricEncoding<Enc>,
{
    fn collect_group_into(&self, enc: &mut Enc) -> Result<(), Enc::Err> {
        let FleetCounts { tally, lag_ages, presence } = (self.0)();
        let one = |value| [(NoLabels, value)];
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let states = ComputeState::ALL.iter().map(|state| state.as_str()).chain(["unknown"]);
        let by_state = states.zip(tally.by_state.into_iter().chain([tally.unknown]));
        let by_state = by_state.map(|(state, count)| (One("state", state), count));
        gauge(enc, "computes", "Computes by the state their agents last reported.", by_state)?;
        let availabilities = Availability::ALL.iter().zip(presence.by_availability);
        let available = availabilities.map(|(is, count)| (One("availability", is.as_str()), number(count)));
        gauge(enc, "computes_by_availability", "Computes by whether their agents answer.", available)?;
        let help = "Computes that are not offline and whose agents did not answer last.";
        gauge(enc, "computes_silent", help, one(number(presence.silent)))?;
        let help = "1 while (almost) no agent answers: our own fault rather than the fleet's.";
        gauge(enc, "fleet_silent", help, one(i64::from(presence.fleet_silent)))?;
        gauge(enc, "computes_lagging", "Computes whose current spec is not in effect.", one(tally.lagging))?;
        let ages = LagAges::NAMES.iter().zip(lag_ages.by_age).map(|(age, count)| (One("age", age), count));
        let help = "Computes whose current spec is not in effect, by the age of the oldest generation that is not.";
        gauge(enc, "computes_lagging_by_age", help, ages)?;
        let help = "Generations that all computes together are behind.";
        gauge(enc, "compute_lag_generations", help, one(tally.lag_generations))
    }
}
