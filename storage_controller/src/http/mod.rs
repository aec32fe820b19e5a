//! Room 1, the door: routes, tokens, roles, statuses.
//!
//! It calls the desk and nothing below it. Invariants: a request is authenticated before anything else looks at it; the
//! status of an error is decided in `error` only; what this member may not execute in its role goes through `gate`, which
//! hands it on to the leader or holds it until there is one.

mod act;
mod apply;
mod auth;
mod compute;
mod controller;
mod dev;
mod error;
mod extract;
mod gate;
mod health;
mod hold;
mod metrics;
mod openapi;
mod pieces;
mod pull;
mod rollout;
mod wait;
mod watch;
mod way;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use pgfleet_api::controller::Role;
use pgfleet_runtime::auth::Verifier;
use pgfleet_runtime::http::{Layers, finish};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use dev::MemoryDoor;
pub use hold::{Ends, Gate, HoldSettings};
pub use metrics::RequestMetrics;

use crate::service::Desk;

/// Makes the page of metrics.
pub type Scrape = Arc<dyn Fn() -> axum::response::Response + Send + Sync>;

/// What every handler may use. Cheap to clone: each layer takes one with each request.
#[derive(Clone)]
pub struct Door(Arc<Equipment>);

/// What a door is made of.
pub struct Equipment {
    /// The desk.
    pub desk: Desk,
    /// Checks tokens; `None` with `--dev` and no keys: everybody may do everything.
    pub verifier: Option<Verifier>,
    /// The page of metrics.
    pub scrape: Scrape,
    /// What is held and handed on.
    pub gate: Gate,
    /// Test door, with `--dev` only.
    pub memory: Option<MemoryDoor>,
}

impl From<Equipment> for Door {
    fn from(equipment: Equipment) -> Self {
        Self(Arc::new(equipment))
    }
}

impl std::ops::Deref for Door {
    type Target = Equipment;

    fn deref(&self) -> &Equipment {
        &self.0
    }
}

impl Door {
    /// This member.
    fn me(&self) -> pgfleet_api::InstanceId {
        self.desk.leadership().instance_id()
    }

    /// Whether requests that only the leader executes find their way from here without waiting for a hand-over.
    fn hands_on(&self) -> bool {
        let standing = self.desk.leadership().standing();
        let to = way::target(&standing, self.gate.heard().borrow().as_ref(), self.me());
        standing.role == Role::Candidate && self.gate.settings().forward && to.is_some()
    }
}

/// Route templates, for the metrics' label; a test compares them with the router's.
pub const ROUTES: [&str; 33] = [
    "/live",
    "/ready",
    "/leader",
    "/status",
    "/metrics",
    "/openapi.json",
    "/control/v1/step_down",
    "/control/v1/take_over",
    "/control/v1/follow",
    "/control/v1/leader",
    "/control/v1/leader/history",
    "/control/v1/controllers",
    "/control/v1/compute",
    "/control/v1/compute/{compute_id}",
    "/control/v1/compute/{compute_id}/spec",
    "/control/v1/compute/{compute_id}/policy",
    "/control/v1/compute/{compute_id}/wait",
    "/control/v1/compute/{compute_id}/history",
    "/control/v1/compute/{compute_id}/explain",
    "/control/v1/compute/{compute_id}/terminate",
    "/control/v1/compute/{compute_id}/refresh",
    "/control/v1/compute/{compute_id}/report",
    "/control/v1/compute/apply",
    "/control/v1/watch",
    "/control/v1/compute/{compute_id}/unquarantine",
    "/compute/api/v2/computes/{compute_id}/spec",
    "/control/v1/rollout",
    "/control/v1/rollout/{rollout_id}",
    "/control/v1/rollout/{rollout_id}/compute",
    "/control/v1/rollout/{rollout_id}/pause",
    "/control/v1/rollout/{rollout_id}/resume",
    "/control/v1/rollout/{rollout_id}/abort",
    "/control/v1/rollout/{rollout_id}/rollback",
];

/// The whole router with its layers.
pub fn router(door: Door, layers: Layers) -> Router {
    let (router, document) = routes(&door).split_for_parts();
    let document = Arc::new(openapi::finish(document));
    let router = router.route("/openapi.json", axum::routing::get(move || openapi::serve(document.clone())));
    let router = if door.memory.is_some() { router.merge(dev_doors(&door)) } else { router };
    finish(router.with_state(door), layers)
}

fn routes(door: &Door) -> OpenApiRouter<Door> {
    let gate = || from_fn_with_state(door.clone(), gate::lead_or_hand_on);
    let confirmed = || from_fn_with_state(door.clone(), gate::confirmed);
    let needs = |scopes: auth::Scopes| from_fn_with_state((door.clone(), scopes), auth::require);
    OpenApiRouter::with_openapi(openapi::base())
        .merge(open())
        .merge(peers().layer(needs(auth::PEERS)))
        .merge(operators().layer(needs(auth::OPERATORS)))
        .merge(any_role().layer(needs(auth::READERS)))
        .merge(reads().layer(confirmed()).merge(flows()).layer(gate()).layer(needs(auth::READERS)))
        .merge(writes().layer(gate()).layer(needs(auth::WRITERS)))
        .merge(
            of_agents()
                .layer(confirmed())
                .layer(gate())
                .layer(from_fn_with_state(door.clone(), auth::require_own_compute)),
        )
}

/// Answered in every role, without a token.
fn open() -> OpenApiRouter<Door> {
    OpenApiRouter::new()
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::leader))
        .routes(routes!(health::status))
        .routes(routes!(health::metrics))
}

/// Between members; never forwarded.
fn peers() -> OpenApiRouter<Door> {
    OpenApiRouter::new().routes(routes!(controller::step_down)).routes(routes!(controller::follow))
}

/// Meant for this very member; never forwarded.
fn operators() -> OpenApiRouter<Door> {
    OpenApiRouter::new().routes(routes!(controller::take_over))
}

/// Answered in every role.
fn any_role() -> OpenApiRouter<Door> {
    OpenApiRouter::new().routes(routes!(controller::leader_row)).routes(routes!(controller::leader_history))
}

/// Executed by the leader, after the database has confirmed that it leads; change nothing.
fn reads() -> OpenApiRouter<Door> {
    OpenApiRouter::new()
        .routes(routes!(compute::list))
        .routes(routes!(compute::get))
        .routes(routes!(compute::get_spec))
        .routes(routes!(compute::wait))
        .routes(routes!(compute::history))
        .routes(routes!(act::explain))
        .routes(routes!(rollout::list))
        .routes(routes!(rollout::get))
        .routes(routes!(rollout::computes))
}

/// Executed by the leader; what they say is of its own process, or has a place in the order of changes and may come late.
fn flows() -> OpenApiRouter<Door> {
    OpenApiRouter::new().routes(routes!(controller::controllers)).routes(routes!(watch::watch))
}

/// Executed by the leader; change what is asked for.
fn writes() -> OpenApiRouter<Door> {
    OpenApiRouter::new()
        .routes(routes!(compute::register))
        .routes(routes!(compute::put_spec))
        .routes(routes!(compute::put_policy))
        .routes(routes!(compute::delete))
        .routes(routes!(apply::apply))
        .routes(routes!(compute::unquarantine))
        .routes(routes!(rollout::start))
        .routes(routes!(rollout::pause))
        .routes(routes!(rollout::resume))
        .routes(routes!(rollout::abort))
        .routes(routes!(rollout::rollback))
        .routes(routes!(act::terminate))
        .routes(routes!(act::refresh))
}

/// For the agent of the compute that the path names. Executed by the leader; change nothing.
fn of_agents() -> OpenApiRouter<Door> {
    OpenApiRouter::new().routes(routes!(pull::spec)).routes(routes!(pull::report))
}

/// With `--dev` only.
fn dev_doors(door: &Door) -> Router<Door> {
    let readers = from_fn_with_state((door.clone(), auth::READERS), auth::require);
    Router::new().route(dev::MEMORY, axum::routing::get(dev::memory)).layer(readers)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described_and_counted() {
        let all = open()
            .merge(peers())
            .merge(operators())
            .merge(any_role())
            .merge(reads())
            .merge(flows())
            .merge(writes())
            .merge(of_agents());
        let described: BTreeSet<_> = all.get_openapi().paths.paths.keys().cloned().collect();
        let counted: BTreeSet<_> =
            ROUTES.iter().filter(|route| **route != "/openapi.json").map(|route| (*route).to_owned()).collect();
        assert_eq!(described, counted);
    }

    #[test]
    fn every_described_error_has_our_body() {
        let all = open()
            .merge(peers())
            .merge(operators())
            .merge(any_role())
            .merge(reads())
            .merge(flows())
            .merge(writes())
            .merge(of_agents());
        let document = serde_json::to_value(openapi::finish(all.into_openapi())).unwrap();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let schema = &response["content"]["application/json"]["schema"]["$ref"];
                    let is_error = status.starts_with('4') || status.starts_with('5');
                    assert_eq!(is_error, *schema == "#/components/schemas/ErrorBody", "{method} {path} {status}");
                }
            }
        }
        assert!(document["components"]["schemas"]["ErrorBody"]["properties"]["code"].is_object());
    }
}
