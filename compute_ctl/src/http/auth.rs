//! Who may come in: a token of this compute, or an administrator's.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::StatusCode;
use pgfleet_api::auth::{AGENT_AUDIENCE, Claims, Scope};
use pgfleet_api::{ComputeId, ErrorCode};
use pgfleet_runtime::auth::{AuthError, forbidden};
use pgfleet_runtime::http::ApiError;

use super::Door;

/// Who asks, as far as a token has shown it. In the extensions of every request that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// No keys are given, so nobody has shown anything.
    Anybody,
    /// The holder of a token of this compute.
    Compute,
    /// An administrator.
    Administrator,
}

pub(super) async fn guard(State(door): State<Door>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let caller = match &door.verifier {
        Some(verifier) => judge(&verifier.verify(request.headers()).map_err(unproven)?, &door.compute_id)?,
        None => Caller::Anybody,
    };
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// The reference's codes: no usable header 400, a token that is not to be trusted 401.
fn unproven(error: AuthError) -> ApiError {
    match error {
        AuthError::MissingToken => ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::Unauthorized, error.to_string()),
        AuthError::BadToken(_) => error.into(),
    }
}

fn judge(claims: &Claims, own: &ComputeId) -> Result<Caller, ApiError> {
    match claims.scope {
        Some(Scope::AgentAdmin) => {
            if !claims.aud.iter().any(|aud| aud == AGENT_AUDIENCE) {
                // 401 in the reference as well: the token was made for somebody else.
                let msg = "the token is not accepted: its audience is not \"compute\"";
                return Err(ApiError::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, msg));
            }
            if claims.compute_id.as_ref().is_some_and(|id| id != own) {
                return Err(forbidden("no other compute_id"));
            }
            Ok(Caller::Administrator)
        }
        None | Some(Scope::Compute) => match &claims.compute_id {
            Some(id) if id == own => Ok(Caller::Compute),
            Some(_) | None => Err(forbidden("this agent's compute_id")),
        },
        Some(Scope::Admin | Scope::Infra | Scope::ControllerPeer | Scope::Viewer) => {
            Err(forbidden("scope compute_ctl:admin or this agent's compute_id"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_come_in() {
        let own: ComputeId = "orders".parse().unwrap();
        let rows = [
            (None, None, vec![], Err(403)),
            (None, Some("orders"), vec![], Ok(Caller::Compute)),
            (None, Some("other"), vec![], Err(403)),
            (Some(Scope::Compute), Some("orders"), vec![], Ok(Caller::Compute)),
            (Some(Scope::Compute), Some("other"), vec![AGENT_AUDIENCE], Err(403)),
            (Some(Scope::AgentAdmin), None, vec![AGENT_AUDIENCE], Ok(Caller::Administrator)),
            (Some(Scope::AgentAdmin), None, vec!["controller"], Err(401)),
            (Some(Scope::AgentAdmin), None, vec![], Err(401)),
            (Some(Scope::AgentAdmin), Some("other"), vec![AGENT_AUDIENCE], Err(403)),
            (Some(Scope::Admin), Some("orders"), vec![AGENT_AUDIENCE], Err(403)),
            (Some(Scope::Viewer), Some("orders"), vec![], Err(403)),
        ];
        for (scope, compute_id, aud, wanted) in rows {
            let claims = Claims {
                scope,
                exp: 0,
                aud: aud.into_iter().map(ToOwned::to_owned).collect(),
                compute_id: compute_id.map(|id| id.parse().unwrap()),
                sub: None,
            };
            let judged = judge(&claims, &own).map_err(|error| error.status.as_u16());
            assert_eq!(judged, wanted, "{claims:?}");
        }
    }
}
