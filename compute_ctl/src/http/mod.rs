//! The door: routes, tokens, and the one place where a refusal becomes a status.
//!
//! Two listeners. The external one asks for a token where keys are given (metrics are open); the internal one is bound to
//! the loopback interface and has what programs beside PostgreSQL may see.

mod answer;
mod auth;
mod configure;
mod metrics;
mod promote;
mod refresh;
mod spec;
mod status;
mod terminate;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::{get, post};
use pgfleet_api::ComputeId;
use pgfleet_runtime::auth::Verifier;
use pgfleet_runtime::http::{Layers, finish};

use crate::lifecycle::Handle;

/// Largest spec that is read.
pub const SPEC_LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// Route templates, for the metrics.
pub const ROUTES: [&str; 7] =
    ["/status", "/configure", "/spec", "/terminate", "/promote", "/metrics", "/refresh_configuration"];

/// Makes a page of metrics.
pub type Page = Arc<dyn Fn() -> Response + Send + Sync>;

/// What the routes work with.
#[derive(Clone)]
pub struct Door {
    /// The driver.
    pub handle: Handle,
    /// This compute.
    pub compute_id: ComputeId,
    /// Checks tokens; none where no keys are given and only the loopback interface is listened on.
    pub verifier: Option<Verifier>,
    /// Whether the keys came with a spec, so that a later spec may bring others.
    pub keys_from_config: bool,
    /// The metrics page.
    pub page: Page,
}

/// The routes for controllers and operators.
pub fn external(door: Door, layers: Layers) -> Router {
    let open = Router::new().route("/metrics", get(metrics::get)).with_state(door.clone());
    let guarded = Router::new()
        .route("/status", get(status::get))
        .route("/configure", post(configure::post))
        .route("/spec", post(spec::post))
        .route("/terminate", post(terminate::post))
        .route("/promote", post(promote::post))
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
        .with_state(door);
    finish(router, layers).layer(map_response(answer::in_the_agents_shape))
}
