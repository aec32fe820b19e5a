//! Who may come in: a token of this compute, or an administrator's.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use pgfleet_api::ComputeId;
use pgfleet_api::auth::{AGENT_AUDIENCE, Claims, Scope};
use pgfleet_runtime::auth::forbidden;
use pgfleet_runtime::http::ApiError;

use super::Door;

pub(super) async fn guard(State(door): State<Door>, request: Request, next: Next) -> Result<Response, ApiError> {
    if let Some(verifier) = &door.verifier {
        let claims = verifier.verify(request.headers())?;
        judge(&claims, &door.compute_id)?;
    }
    Ok(next.run(request).await)
}

fn judge(claims: &Claims, own: &ComputeId) -> Result<(), ApiError> {
    match claims.scope {
        Some(Scope::AgentAdmin) => {
            let meant = claims.aud.iter().any(|aud| aud == AGENT_AUDIENCE);
            let here = claims.compute_id.as_ref().is_none_or(|id| id == own);
            if meant && here { Ok(()) } else { Err(forbidden("the audience \"compute\" and no other compute_id")) }
        }
        None | Some(Scope::Compute) => match &claims.compute_id {
            Some(id) if id == own => Ok(()),
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
            (None, None, vec![], false),
            (None, Some("orders"), vec![], true),
            (None, Some("other"), vec![], false),
            (Some(Scope::Compute), Some("orders"), vec![], true),
            (Some(Scope::Compute), Some("other"), vec![AGENT_AUDIENCE], false),
            (Some(Scope::AgentAdmin), None, vec![AGENT_AUDIENCE], true),
            (Some(Scope::AgentAdmin), None, vec!["controller"], false),
            (Some(Scope::AgentAdmin), Some("other"), vec![AGENT_AUDIENCE], false),
            (Some(Scope::Admin), Some("orders"), vec![AGENT_AUDIENCE], false),
            (Some(Scope::Viewer), Some("orders"), vec![], false),
        ];
        for (scope, compute_id, aud, allowed) in rows {
            let claims = Claims {
                scope,
                exp: 0,
                aud: aud.into_iter().map(ToOwned::to_owned).collect(),
                compute_id: compute_id.map(|id| id.parse().unwrap()),
                sub: None,
            };
            assert_eq!(judge(&claims, &own).is_ok(), allowed, "{claims:?}");
        }
    }
}
