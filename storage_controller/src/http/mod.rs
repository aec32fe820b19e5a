//! Room 1, the door: routes, tokens, roles, statuses.
//!
//! It calls the desk and nothing below it. Invariants: a request is authenticated before anything else looks at it; the
//! status of an error is decided in `error` only; what this member may not execute in its role is answered before its body
//! is read. Forwarding to the leader will stand where `gate` answers 503 today.

mod auth;
mod compute;
mod controller;
mod error;
mod extract;
mod gate;
mod health;
mod openapi;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use pgfleet_runtime::auth::Verifier;
use pgfleet_runtime::http::{Layers, finish};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::service::Desk;

/// Makes the page of metrics.
pub type Scrape = Arc<dyn Fn() -> axum::response::Response + Send + Sync>;

/// What every handler may use.
#[derive(Clone)]
pub struct Door {
    /// The desk.
    pub desk: Desk,
    /// Checks tokens; `None` with `--dev` and no keys: everybody may do everything.
    pub verifier: Option<Verifier>,
    /// The page of metrics.
    pub scrape: Scrape,
}

/// Route templates, for the metrics' label; a test compares them with the router's.
pub const ROUTES: [&str; 13] = [
    "/live",
    "/ready",
    "/leader",
    "/status",
    "/metrics",
    "/openapi.json",
    "/control/v1/step_down",
    "/control/v1/leader",
    "/control/v1/controllers",
    "/control/v1/compute",
    "/control/v1/compute/{compute_id}",
    "/control/v1/compute/{compute_id}/spec",
    "/control/v1/compute/{compute_id}/wait",
];

/// The whole router with its layers.
pub fn router(door: Door, layers: Layers) -> Router {
    let (router, document) = routes(&door).split_for_parts();
    let document = Arc::new(openapi::finish(document));
    let router = router.route("/openapi.json", axum::routing::get(move || openapi::serve(document.clone())));
    finish(router.with_state(door), layers)
}

fn routes(door: &Door) -> OpenApiRouter<Door> {
    let gate = || from_fn_with_state(door.clone(), gate::leader_only);
    let needs = |scopes: auth::Scopes| from_fn_with_state((door.clone(), scopes), auth::require);
    let open = OpenApiRouter::new()
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::leader))
        .routes(routes!(health::status))
        .routes(routes!(health::metrics));
    let peers = OpenApiRouter::new().routes(routes!(controller::step_down)).layer(needs(auth::PEERS));
    let any_role = OpenApiRouter::new().routes(routes!(controller::leader_row)).layer(needs(auth::READERS));
    let reads = OpenApiRouter::new()
        .routes(routes!(controller::controllers))
        .routes(routes!(compute::list))
        .routes(routes!(compute::get))
        .routes(routes!(compute::get_spec))
        .routes(routes!(compute::wait))
        .layer(gate())
        .layer(needs(auth::READERS));
    let writes = OpenApiRouter::new()
        .routes(routes!(compute::register))
        .routes(routes!(compute::put_spec))
        .routes(routes!(compute::delete))
        .layer(gate())
        .layer(needs(auth::WRITERS));
    OpenApiRouter::with_openapi(openapi::base()).merge(open).merge(peers).merge(any_role).merge(reads).merge(writes)
}
