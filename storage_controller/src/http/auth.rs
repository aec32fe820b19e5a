//! Who may do what. Runs before everything else on every route but the open ones.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pgfleet_api::auth::Scope;
use pgfleet_api::headers;
use pgfleet_runtime::auth::forbidden;
use pgfleet_runtime::http::ApiError;

use super::Door;
use crate::service::Asker;

/// A set of scopes and how a refusal names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scopes {
    allowed: &'static [Scope],
    named: &'static str,
}

/// Routes that change what is asked for.
pub(super) const WRITERS: Scopes = Scopes { allowed: &[Scope::Admin, Scope::Infra], named: "scope admin or infra" };
/// Routes that only read.
pub(super) const READERS: Scopes = Scopes {
    allowed: &[Scope::Admin, Scope::Infra, Scope::Viewer, Scope::ControllerPeer],
    named: "scope admin, infra, viewer or controller_peer",
};
/// Routes for the other members, and for an operator in their place.
pub(super) const PEERS: Scopes =
    Scopes { allowed: &[Scope::ControllerPeer, Scope::Admin], named: "scope controller_peer or admin" };

/// Lets a request in if its token allows one of the scopes; leaves a [`Asker`] for the handler.
pub(super) async fn require(State((door, scopes)): State<(Door, Scopes)>, request: Request, next: Next) -> Response {
    match admit(&door, scopes, request) {
        Ok(request) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn admit(door: &Door, scopes: Scopes, mut request: Request) -> Result<Request, ApiError> {
    let actor = match &door.verifier {
        None => "dev".to_owned(),
        Some(verifier) => {
            let claims = verifier.verify(request.headers())?;
            let scope = claims.scope.filter(|scope| scopes.allowed.contains(scope));
            let scope = scope.ok_or_else(|| forbidden(scopes.named))?;
            claims.sub.unwrap_or_else(|| format!("{scope:?}").to_lowercase())
        }
    };
    let reason = request.headers().get(headers::REASON).and_then(|text| text.to_str().ok()).map(str::to_owned);
    request.extensions_mut().insert(Asker { actor, reason });
    Ok(request)
}
