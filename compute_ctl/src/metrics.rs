//! The root of all metrics: every room's group under its name. Imports groups only; no room imports this.

use std::sync::Arc;

use measured::MetricGroup;
use measured::label::{LabelGroup, LabelGroupVisitor, LabelName};
use measured::metric::MetricEncoding;
use measured::metric::gauge::{GaugeState, write_gauge};
use measured::metric::group::Encoding;
use measured::metric::name::MetricName;
use pgfleet_runtime::metrics::{HttpMetrics, ProcessMetrics, TaskMetrics};

use crate::apply::ApplyMetrics;
use crate::inventory::Inventory;
use crate::lifecycle::{Handle, LifecycleMetrics};
use crate::postgres::PostgresMetrics;
use crate::report::ReportMetrics;
use crate::resources::ResourceMetrics;
use crate::storage::StorageMetrics;

/// The page.
#[derive(MetricGroup)]
pub struct Metrics {
    /// Ours.
    #[metric(namespace = "compute_ctl")]
    pub agent: AgentMetrics,
    /// Installed extensions, under the reference's name.
    #[metric(namespace = "compute")]
    pub inventory: Inventory,
    /// The process.
    #[metric(namespace = "process")]
    pub process: ProcessMetrics,
}

/// Groups of the rooms.
#[derive(MetricGroup)]
pub struct AgentMetrics {
    /// The state.
    #[metric(flatten)]
    pub up: Up,
    /// The mind.
    #[metric(flatten)]
    pub lifecycle: Arc<LifecycleMetrics>,
    /// The hands.
    #[metric(flatten)]
    pub apply: Arc<ApplyMetrics>,
    /// The body.
    #[metric(namespace = "postgres")]
    pub postgres: Arc<PostgresMetrics>,
    /// Storage at page servers.
    #[metric(namespace = "storage")]
    pub storage: Arc<StorageMetrics>,
    /// The voice.
    #[metric(flatten)]
    pub report: ReportMetrics,
    /// Memory and pressure.
    #[metric(flatten)]
    pub resources: ResourceMetrics,
    /// The door.
    #[metric(namespace = "http")]
    pub http: Arc<HttpMetrics>,
    /// The tasks.
    #[metric(flatten)]
    pub tasks: Arc<TaskMetrics>,
}

/// One series: the state as a label, and 1.
pub struct Up(pub Handle);

struct Status(&'static str);

impl LabelGroup for Status {
    fn visit_values(&self, v: &mut impl LabelGroupVisitor) {
        const STATUS: &LabelName = LabelName::from_str("status");
        v.write_value(STATUS, &self.0);
    }
}

impl<Enc: Encoding> MetricGroup<Enc> for Up
where
    GaugeState: MetricEncoding<Enc>,
{
    fn collect_group_into(&self, enc: &mut Enc) -> Result<(), Enc::Err> {
        const NAME: &MetricName = MetricName::from_str("up");
        enc.write_help(NAME, "State of the compute.")?;
        GaugeState::write_type(NAME, enc)?;
        write_gauge(enc, NAME, Status(self.0.status().status.as_str()), 1)
    }
}
