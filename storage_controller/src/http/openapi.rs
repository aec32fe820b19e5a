//! The description of the API: made from the handlers, served at `/openapi.json`.

use std::sync::Arc;

use axum::Json;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, InfoBuilder, OpenApi, OpenApiBuilder};

/// Title, version and the token.
pub(super) fn base() -> OpenApi {
    let info = InfoBuilder::new()
        .title("pgfleet storage_controller")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Control plane of a fleet of PostgreSQL computes."))
        .build();
    OpenApiBuilder::new().info(info).build()
}

/// Adds what the handlers cannot say: every route takes a token; those under `health` need none.
pub(super) fn finish(mut document: OpenApi) -> OpenApi {
    let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT (EdDSA)").build();
    document
        .components
        .get_or_insert_with(Components::new)
        .security_schemes
        .insert("token".into(), SecurityScheme::Http(token).into());
    document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    document
}

/// The document.
pub(super) async fn serve(document: Arc<OpenApi>) -> Json<OpenApi> {
    Json(OpenApi::clone(&document))
}
