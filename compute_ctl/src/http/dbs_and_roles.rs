//! `GET /dbs_and_roles`: what the catalog holds, in the spec's shape. Verifiers are for administrators; where no keys are
//! given nobody is known to be one.

use axum::Json;
use axum::extract::{Extension, State};
use pgfleet_api::errands::CatalogObjects;
use pgfleet_runtime::http::ApiError;

use super::Door;
use super::answer::unanswered;
use super::auth::Caller;

pub(super) async fn get(
    State(door): State<Door>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<CatalogObjects>, ApiError> {
    let with_verifiers = caller == Caller::Administrator;
    door.read_only.roles_and_databases(with_verifiers).await.map(Json).map_err(unanswered)
}
