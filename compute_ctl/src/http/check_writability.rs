//! `POST /check_writability`: `true` when PostgreSQL takes a write. Whatever stands in the way is a 500, as the
//! reference's clients expect.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use pgfleet_api::ErrorCode;
use pgfleet_runtime::http::ApiError;

use super::Door;
use super::answer::unanswered;
use crate::postgres::AskError;

pub(super) async fn post(State(door): State<Door>) -> Result<Json<bool>, ApiError> {
    door.must_run()?;
    let wrote = door.errands.check_writability().await;
    wrote.map(|()| Json(true)).map_err(|error| {
        let code = match &error {
            AskError::Refused { .. } => ErrorCode::Refused,
            AskError::Unknown { .. } => ErrorCode::UnknownObject,
            AskError::Away(_)
            | AskError::Timeout(_)
            | AskError::Busy(_)
            | AskError::Unfit { .. }
            | AskError::Program { .. } => return unanswered(error),
        };
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, code, format!("PostgreSQL takes no write: {error}"))
    })
}
