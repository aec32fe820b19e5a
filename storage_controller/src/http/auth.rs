//! Who may do what. Runs before everything else on every route but the open ones.

use axum::extract::{RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use pgfleet_api::auth::{Claims, Scope};
use pgfleet_api::{ErrorCode, headers};
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
/// Routes that change who leads.
pub(super) const OPERATORS: Scopes = Scopes { allowed: &[Scope::Admin], named: "scope admin" };
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

/// Lets a request in for a compute's own agent, and for those who may change computes.
pub(super) async fn require_own_compute(
    State(door): State<Door>,
    params: RawPathParams,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Some(verifier) = &door.verifier {
        let named = params.iter().find(|(name, _)| *name == "compute_id").map(|(_, id)| id);
        if !is_own(&verifier.verify(request.headers())?, named) {
            return Err(forbidden("scope compute of this compute, admin or infra"));
        }
    }
    Ok(next.run(request).await)
}

fn is_own(claims: &Claims, named: Option<&str>) -> bool {
    match claims.scope {
        Some(Scope::Admin | Scope::Infra) => true,
        // The reference's tokens of a compute have no scope.
        Some(Scope::Compute) | None => claims.compute_id.as_ref().is_some_and(|own| Some(own.as_str()) == named),
        Some(Scope::ControllerPeer | Scope::Viewer | Scope::AgentAdmin) => false,
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
    let reason = reason(request.headers())?;
    request.extensions_mut().insert(Asker { actor, reason });
    Ok(request)
}

/// Longest reason, in bytes.
const MAX_REASON_BYTES: usize = 500;

/// `X-Reason`: why, in UTF-8 on one line. One that does not fit is refused, not cut: the journal keeps what was said.
fn reason(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(headers::REASON) else { return Ok(None) };
    let refuse = |msg: &str| {
        Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::InvalidReason, msg).at(headers::REASON))
    };
    if value.as_bytes().len() > MAX_REASON_BYTES {
        return refuse("a reason has at most 500 bytes");
    }
    match std::str::from_utf8(value.as_bytes()).map(str::trim) {
        Ok("") => Ok(None),
        Ok(text) if !text.chars().any(char::is_control) => Ok(Some(text.to_owned())),
        Ok(_) | Err(_) => refuse("a reason is UTF-8 without control characters"),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_reason_is_kept_as_said_or_refused() {
        let with = |bytes: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(headers::REASON, HeaderValue::from_bytes(bytes).unwrap());
            reason(&headers)
        };
        assert_eq!(reason(&HeaderMap::new()).unwrap(), None);
        assert_eq!(with(b"see #7").unwrap().as_deref(), Some("see #7"));
        assert_eq!(with("déjà vu".as_bytes()).unwrap().as_deref(), Some("déjà vu"));
        assert_eq!(with(b" ").unwrap(), None);
        assert_eq!(with(&[b'x'; 500]).unwrap().unwrap().len(), 500);
        for bad in [&[b'x'; 501][..], b"\xff\xfe", b"a\tb", "a\u{85}b".as_bytes()] {
            let error = with(bad).unwrap_err();
            assert_eq!((error.status.as_u16(), error.body.code), (422, ErrorCode::InvalidReason), "{bad:?}");
            assert_eq!(error.body.path.as_deref(), Some("x-reason"));
        }
    }

    #[test]
    fn an_agent_pulls_for_its_own_compute_only() {
        let rows = [
            (Some(Scope::Admin), None, true),
            (Some(Scope::Infra), None, true),
            (Some(Scope::Compute), Some("orders"), true),
            (Some(Scope::Compute), Some("other"), false),
            (Some(Scope::Compute), None, false),
            (None, Some("orders"), true),
            (None, None, false),
            (Some(Scope::Viewer), Some("orders"), false),
            (Some(Scope::ControllerPeer), None, false),
            (Some(Scope::AgentAdmin), Some("orders"), false),
        ];
        for (scope, own, allowed) in rows {
            let compute_id = own.map(|id| id.parse().unwrap());
            let claims = Claims { scope, exp: 0, aud: Vec::new(), compute_id, sub: None };
            assert_eq!(is_own(&claims, Some("orders")), allowed, "{claims:?}");
        }
    }
}
