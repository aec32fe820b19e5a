//! `POST /extension_server/{file}`: what a PostgreSQL with page-server storage asks for files of extensions that lie
//! elsewhere. There is no such place here, and 412 is how the reference says that.

use http::StatusCode;
use pgfleet_api::ErrorCode;
use pgfleet_runtime::http::ApiError;

pub(super) async fn post() -> ApiError {
    let msg = "no gateway for remote extensions is configured: extensions come with the installation";
    ApiError::new(StatusCode::PRECONDITION_FAILED, ErrorCode::InvalidState, msg)
}
