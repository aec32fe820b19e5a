//! The door: routes, tokens, and the one place where a refusal becomes a status.
//!
//! Two listeners. The external one asks for a token where keys are given (metrics are open); the internal one is bound to
//! the loopback interface and has what programs beside PostgreSQL may see.

mod answer;
mod auth;
mod check_writability;
mod configure;
mod database_schema;
mod dbs_and_roles;
mod extension_server;
mod extensions;
mod grants;
mod insights;
mod metrics;
mod plan;
mod promote;
mod refresh;
mod spec;
mod start_timings;
mod status;
mod terminate;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::{get, post};
use pgfleet_api::ComputeId;
use pgfleet_api::agent::{AgentStatus, ComputeState};
use pgfleet_runtime::auth::Verifier;
use pgfleet_runtime::http::{ApiError, Layers, finish};

use crate::lifecycle::{Handle, Preview};
use crate::postgres::{Errands, ReadOnly};
use crate::report::Monitor;

/// Largest spec that is read.
pub const SPEC_LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// Route templates, for the metrics.
pub const ROUTES: [&str; 17] = [
    "/status",
    "/configure",
    "/plan",
    "/spec",
    "/terminate",
    "/promote",
    "/metrics",
    "/metrics.json",
    "/dbs_and_roles",
    "/database_schema",
    "/check_writability",
    "/insights",
    "/refresh_configuration",
    "/extensions",
    "/grants",
    "/extension_server/{*file}",
    "/monitor",
];

/// Makes a page of metrics.
pub type Page = Arc<dyn Fn() -> Response + Send + Sync>;
/// Adds to a status what moves all the time and is not published.
pub type Reading = Arc<dyn Fn(&mut AgentStatus) + Send + Sync>;

/// What the routes work with.
#[derive(Clone)]
pub struct Door {
    /// The driver.
    pub handle: Handle,
    /// Says what a spec would do.
    pub preview: Arc<Preview>,
    /// What is known of the use of PostgreSQL.
    pub monitor: Monitor,
    /// This compute.
    pub compute_id: ComputeId,
    /// Checks tokens; none where no keys are given and only the loopback interface is listened on.
    pub verifier: Option<Verifier>,
    /// Whether the keys came with a spec, so that a later spec may bring others.
    pub keys_from_config: bool,
    /// The metrics page.
    pub page: Page,
    /// Readings for the status.
    pub readings: Vec<Reading>,
    /// Questions to PostgreSQL.
    pub read_only: ReadOnly,
    /// Small writes to PostgreSQL.
    pub errands: Errands,
}

impl Door {
    /// Some routes work only while the compute runs.
    fn must_run(&self) -> Result<(), ApiError> {
        match self.handle.status().status {
            ComputeState::Running => Ok(()),
            other => Err(answer::wrong_state(other)),
        }
    }
}

/// The routes for controllers and operators.
pub fn external(door: Door, layers: Layers) -> Router {
    let open = Router::new().route("/metrics", get(metrics::get)).with_state(door.clone());
    let guarded = Router::new()
        .route("/status", get(status::get))
        .route("/configure", post(configure::post))
        .route("/plan", post(plan::post))
        .route("/spec", post(spec::post))
        .route("/terminate", post(terminate::post))
        .route("/promote", post(promote::post))
        .route("/metrics.json", get(start_timings::get))
        .route("/dbs_and_roles", get(dbs_and_roles::get))
        .route("/database_schema", get(database_schema::get))
        .route("/check_writability", post(check_writability::post))
        .route("/insights", get(insights::get))
        .route_layer(from_fn_with_state(door.clone(), auth::guard))
        .with_state(door);
    // The agent's shape of an error is written last, so that it also covers what the layers answer themselves.
    finish(open.merge(guarded), layers).layer(map_response(answer::in_the_agents_shape))
}

/// The routes for programs on the same machine.
pub fn internal(door: Door, layers: Layers) -> Router {
    let router = Router::new()
        .route("/metrics", get(metrics::get))
        .route("/refresh_configuration", post(refresh::post))
        .route("/extensions", post(extensions::post))
        .route("/grants", post(grants::post))
        .route("/extension_server/{*file}", post(extension_server::post))
        .with_state(door);
    finish(router, layers).layer(map_response(answer::in_the_agents_shape))
}
