//! What the driver asks of the world, as one seam: the real one is [`Tools`], the tests of the driver have a made-up one.
//!
//! Called by the driver only. Nothing here moves the state machine.

use std::path::PathBuf;
use std::sync::Arc;

use pgfleet_api::ComputeId;
use pgfleet_api::agent::{Attachment, ConfigureRequest, PromoteState};
use pgfleet_clients::controller::ControllerClient;
use pgfleet_runtime::exit::chain;
use pgfleet_runtime::pause::Pauses;
use serde_json::Value;
use tokio::sync::watch;

use super::admission::prepare;
use super::handle::{Configure, Origin, Refusal};
use super::metrics::LifecycleMetrics;
use super::promote;
use super::work::{self, Done, Prepared, Stop, Task};
use crate::apply::ApplyMetrics;
use crate::postgres::{Postgres, Server};
use crate::storage::is_standby;

/// PostgreSQL, its files, and where specs come from.
pub trait Body: Clone + Send + Sync + 'static {
    /// A running server.
    type Server: Send + 'static;

    /// Applies every rule that can refuse a spec before anything is written.
    fn prepare(&self, spec: &Value, server_runs: bool) -> impl Future<Output = Result<Arc<Prepared>, Refusal>> + Send;

    /// The same for a spec that somebody hands in: also whether the data directory can be what it says.
    fn prepare_for(
        &self,
        configure: &Configure,
        server_runs: bool,
    ) -> impl Future<Output = Result<Arc<Prepared>, Refusal>> + Send {
        self.prepare(&configure.spec, server_runs)
    }

    /// Whether the data directory follows a primary.
    fn is_standby(&self) -> bool {
        false
    }

    /// How far the last promotion is.
    fn promotion(&self) -> watch::Receiver<PromoteState> {
        watch::channel(PromoteState::default()).1
    }

    /// Does one thing from its begin to its end. It owns the server meanwhile and gives it back, also when it is stopped.
    fn work(
        &self,
        server: Option<Self::Server>,
        task: Task,
        stop: Stop,
    ) -> impl Future<Output = Done<Self::Server>> + Send + 'static;

    /// Waits until the server has ended by itself and says how. May be dropped and called again.
    fn ended(server: &mut Self::Server) -> impl Future<Output = String> + Send;

    /// Stops a server in order.
    fn stop(server: Self::Server) -> impl Future<Output = ()> + Send;

    /// Looks what waits for a restart, and who would notice one; none where PostgreSQL cannot be asked.
    fn look(&self) -> impl Future<Output = Option<Look>> + Send + 'static;

    /// Whether there is somebody to ask for a spec.
    fn has_source(&self) -> bool;

    /// Asks once for the spec that this compute should have.
    fn fetch(&self) -> impl Future<Output = Fetched> + Send + 'static;

    /// A server has ended by itself.
    fn crashed(&self);
}

/// What a running server says about a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Settings that wait for it.
    pub pending: Vec<String>,
    /// Sessions of others than the agent.
    pub clients: i64,
}

/// Answer of the source.
#[derive(Clone)]
pub enum Fetched {
    /// A spec.
    Spec(Box<Configure>),
    /// The control plane has none for this compute: it was detached.
    Detached,
    /// None could be had, and why.
    Nothing(String),
}

/// Who is asked for a spec at a refresh.
#[derive(Debug, Clone)]
pub enum SpecSource {
    /// Nobody.
    None,
    /// The file of `-c`.
    File(PathBuf),
    /// The control plane of `-p`.
    ControlPlane(ControllerClient),
}

/// What the work needs.
#[derive(Clone)]
pub struct Tools {
    /// The server.
    pub postgres: Postgres,
    /// This compute.
    pub compute_id: ComputeId,
    /// The hands' numbers.
    pub metrics: Arc<ApplyMetrics>,
    /// The mind's numbers.
    pub numbers: Arc<LifecycleMetrics>,
    /// Where it stands still for tests.
    pub pauses: Pauses,
    /// Where specs come from.
    pub source: SpecSource,
    /// Tells how far a promotion is.
    pub promotion: watch::Sender<PromoteState>,
}

impl Body for Tools {
    type Server = Server;

    async fn prepare(&self, spec: &Value, server_runs: bool) -> Result<Arc<Prepared>, Refusal> {
        prepare(self, spec, server_runs).await
    }

    async fn prepare_for(&self, configure: &Configure, server_runs: bool) -> Result<Arc<Prepared>, Refusal> {
        promote::prepare_for(self, configure, server_runs).await
    }

    fn is_standby(&self) -> bool {
        is_standby(&self.postgres.options().data_dir)
    }

    fn promotion(&self) -> watch::Receiver<PromoteState> {
        self.promotion.subscribe()
    }

    fn work(
        &self,
        server: Option<Server>,
        task: Task,
        stop: Stop,
    ) -> impl Future<Output = Done<Server>> + Send + 'static {
        work::run(self.clone(), server, task, stop)
    }

    async fn ended(server: &mut Server) -> String {
        server.ended().await
    }

    async fn stop(server: Server) {
        server.stop().await;
    }

    fn look(&self) -> impl Future<Output = Option<Look>> + Send + 'static {
        let postgres = self.postgres.clone();
        async move {
            let seen = async {
                let pending = postgres.waits_for_restart().await?;
                Ok::<_, crate::postgres::LinkError>(Look { pending, clients: postgres.other_clients().await? })
            };
            let look = seen.await.inspect_err(|error| tracing::debug!("{}", chain(error))).ok()?;
            if look.pending.is_empty()
                && let Err(error) = postgres.keep_conf()
            {
                tracing::error!("{}", chain(&error));
            }
            Some(look)
        }
    }

    fn has_source(&self) -> bool {
        !matches!(self.source, SpecSource::None)
    }

    fn fetch(&self) -> impl Future<Output = Fetched> + Send + 'static {
        let tools = self.clone();
        async move {
            match &tools.source {
                SpecSource::None => Fetched::Nothing("there is nobody to ask".to_owned()),
                SpecSource::File(path) => from_file(path),
                SpecSource::ControlPlane(client) => ask(client, &tools.compute_id, &tools.numbers).await,
            }
        }
    }

    fn crashed(&self) {
        self.postgres.metrics().crashed();
    }
}

fn from_file(path: &std::path::Path) -> Fetched {
    let document = std::fs::read(path).map_err(|error| error.to_string());
    let read = document
        .and_then(|bytes| serde_json::from_slice::<ConfigureRequest>(&bytes).map_err(|error| error.to_string()));
    match read {
        Ok(found) if found.spec.is_null() => Fetched::Nothing(format!("{} has no spec", path.display())),
        Ok(found) => Fetched::Spec(Box::new(Configure { spec: found.spec, fence: found.fence, origin: Origin::File })),
        Err(why) => Fetched::Nothing(format!("{}: {why}", path.display())),
    }
}

/// Asks the control plane once. Its members are tried one after the other by the client.
pub(super) async fn ask(client: &ControllerClient, compute_id: &ComputeId, numbers: &LifecycleMetrics) -> Fetched {
    let answer = client.pull(compute_id).await;
    numbers.pulled(&answer);
    match answer {
        Ok(found) => match (found.status, found.spec) {
            (Attachment::Attached, Some(spec)) => {
                Fetched::Spec(Box::new(Configure { spec, fence: found.fence, origin: Origin::Pull }))
            }
            (Attachment::Attached, None) => Fetched::Nothing("the control plane's answer lacks the spec".to_owned()),
            (Attachment::Empty, _) => Fetched::Detached,
        },
        Err(error) => Fetched::Nothing(chain(&error)),
    }
}
