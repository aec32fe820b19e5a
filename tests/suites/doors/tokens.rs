//! Every route of both servers asks for a token that allows it, but for the open ones.

use pgfleet_api::ErrorCode;
use pgfleet_api::auth::Scope;
use pgfleet_clients::token::Grant;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::Call;
use pgfleet_harness::process::PATIENCE;

/// (method, path, scopes that are let in) of the controller. A scope that is not listed gets 403.
const CONTROLLER: [(&str, &str, &[Scope]); 31] = {
    const READERS: &[Scope] = &[Scope::Admin, Scope::Infra, Scope::Viewer, Scope::ControllerPeer];
    const WRITERS: &[Scope] = &[Scope::Admin, Scope::Infra];
    [
        ("GET", "/control/v1/leader", READERS),
        ("GET", "/control/v1/leader/history", READERS),
        ("GET", "/control/v1/controllers", READERS),
        ("GET", "/control/v1/compute", READERS),
        ("GET", "/control/v1/compute/c1", READERS),
        ("GET", "/control/v1/compute/c1/spec", READERS),
        ("GET", "/control/v1/compute/c1/wait?timeout_s=0", READERS),
        ("GET", "/control/v1/compute/c1/history", READERS),
        ("GET", "/control/v1/compute/c1/explain", READERS),
        ("POST", "/control/v1/compute/c1/terminate", WRITERS),
        ("POST", "/control/v1/compute/c1/refresh", WRITERS),
        // A token of scope compute is good for its own compute only, and the one here is bound to none.
        ("POST", "/control/v1/compute/c1/report", WRITERS),
        ("PUT", "/control/v1/compute/c1", WRITERS),
        ("PUT", "/control/v1/compute/c1/spec", WRITERS),
        ("PUT", "/control/v1/compute/c1/policy", WRITERS),
        ("POST", "/control/v1/compute/c1/unquarantine", WRITERS),
        ("DELETE", "/control/v1/compute/c1", WRITERS),
        ("POST", "/control/v1/compute/apply", WRITERS),
        ("GET", "/control/v1/rollout", READERS),
        ("POST", "/control/v1/rollout", WRITERS),
        ("GET", "/control/v1/rollout/r1", READERS),
        ("GET", "/control/v1/rollout/r1/compute", READERS),
        ("POST", "/control/v1/rollout/r1/pause", WRITERS),
        ("POST", "/control/v1/rollout/r1/resume", WRITERS),
        ("POST", "/control/v1/rollout/r1/abort", WRITERS),
        ("POST", "/control/v1/rollout/r1/rollback", WRITERS),
        // Refused, because a watch that is let in does not end.
        ("GET", "/control/v1/watch?from=now", READERS),
        ("GET", "/control/v1/follow", &[Scope::ControllerPeer, Scope::Admin]),
        ("POST", "/control/v1/take_over", &[Scope::Admin]),
        // Last: whoever is let in makes the leader step down.
        ("PUT", "/control/v1/step_down", &[Scope::ControllerPeer, Scope::Admin]),
        ("PUT", "/control/v1/step_down", &[Scope::ControllerPeer, Scope::Admin]),
    ]
};

const SCOPES: [Scope; 6] =
    [Scope::Admin, Scope::Infra, Scope::ControllerPeer, Scope::Compute, Scope::Viewer, Scope::AgentAdmin];

fn grant(scope: Scope) -> Grant {
    match scope {
        Scope::AgentAdmin => Grant::agent_admin(),
        _ => Grant::of(scope),
    }
}

/// With rubbish, with a key that nobody trusts, and after the end of its time: 401. Without a token it is `missing`: the
/// agent answers as its reference does.
async fn refuses_bad_tokens(fleet: &Fleet, what: &str, call: &Call, good: &Grant, missing: u16) {
    let keys = fleet.keys();
    let bad = [
        ("no token", call.clone(), missing),
        ("another scheme", call.clone().header("authorization", "Basic b3A6b3A="), missing),
        ("rubbish", call.clone().token("rubbish"), 401),
        ("foreign key", call.clone().token(&keys.foreign(good)), 401),
        ("expired", call.clone().token(&keys.expired(good)), 401),
        ("signature cut off", call.clone().token(keys.token(good).rsplit_once('.').unwrap().0), 401),
    ];
    for (how, call, status) in bad {
        let answer = call.send().await;
        assert_eq!(answer.refusal(), (status, ErrorCode::Unauthorized), "{what}, {how}: {}", answer.body);
    }
}

async fn controller_asks(fleet: &Fleet) {
    let controller = fleet.controller("a").start_leader().await;
    for (method, path, allowed) in CONTROLLER {
        let what = format!("{method} {path}");
        let call = controller.call(method, path);
        refuses_bad_tokens(fleet, &what, &call, &Grant::of(Scope::Admin), 401).await;
        for scope in SCOPES {
            let call = call.clone().token(&fleet.keys().token(&grant(scope)));
            if allowed.contains(&scope) && path == "/control/v1/follow" {
                assert_eq!(call.status().await, 200, "{what} with {scope:?}: a stream without an end");
                continue;
            }
            let answer = call.send().await;
            if allowed.contains(&scope) {
                assert!(
                    !matches!(answer.status, 401 | 403),
                    "{what} with {scope:?}: {} {}",
                    answer.status,
                    answer.body
                );
            } else {
                assert_eq!(answer.refusal(), (403, ErrorCode::Forbidden), "{what} with {scope:?}");
            }
        }
    }
    for path in ["/live", "/ready", "/leader", "/status", "/metrics"] {
        let answer = controller.call("GET", path).send().await;
        assert!(matches!(answer.status, 200 | 503), "{path}: {} {}", answer.status, answer.body);
    }
    // The list above is the whole API: whatever the document has is in it, or open.
    let document: serde_json::Value = controller.call("GET", "/openapi.json").send().await.json();
    for path in document["paths"].as_object().unwrap().keys() {
        let concrete = path.replace("{compute_id}", "c1").replace("{rollout_id}", "r1");
        let listed = CONTROLLER.iter().any(|(_, known, _)| known.split('?').next() == Some(concrete.as_str()));
        assert!(listed || !concrete.starts_with("/control/"), "{path} is not in this test");
    }
}

async fn agent_asks(fleet: &Fleet) {
    let agent = fleet.agent("c1").start().await;
    let wrong = [Scope::Admin, Scope::Infra, Scope::ControllerPeer, Scope::Viewer];
    for (method, path) in [("GET", "/status"), ("POST", "/configure"), ("POST", "/spec"), ("POST", "/terminate")] {
        let what = format!("agent: {method} {path}");
        let call = Call::new(method, format!("{}{path}", agent.url())).body("{}");
        refuses_bad_tokens(fleet, &what, &call, &Grant::agent_admin(), 400).await;
        let mut tokens: Vec<(String, String)> =
            wrong.iter().map(|scope| (format!("{scope:?}"), fleet.keys().scope(*scope))).collect();
        tokens.push(("another compute".to_owned(), fleet.keys().compute("c2")));
        let no_audience = call.clone().token(&fleet.keys().scope(Scope::AgentAdmin)).send().await;
        assert_eq!(no_audience.refusal(), (401, ErrorCode::Unauthorized), "{what} without its audience");
        for (how, token) in tokens {
            let answer = call.clone().token(&token).send().await;
            assert_eq!(answer.refusal(), (403, ErrorCode::Forbidden), "{what} with {how}");
        }
    }
    let status = Call::new("GET", format!("{}/status", agent.url()));
    for token in [fleet.keys().compute("c1"), fleet.keys().token(&Grant::agent_admin())] {
        assert_eq!(status.clone().token(&token).send().await.status, 200);
    }
    for url in [agent.url(), agent.internal_url()] {
        assert_eq!(Call::new("GET", format!("{url}/metrics")).send().await.status, 200);
    }
    assert_eq!(Call::new("GET", format!("{}/status", agent.internal_url())).send().await.status, 404);
}

/// Every route, every way to be refused; and the ways to be let in.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_required() {
    let Some(fleet) = Fleet::start("tokens_required").await else { return };
    controller_asks(&fleet).await;
    agent_asks(&fleet).await;
}

/// A member with a key that the leader does not trust cannot make it step down, and says so with 64.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_cannot_take_over() {
    let Some(fleet) = Fleet::start("a_stranger_cannot_take_over").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let b = fleet.controller("b").as_candidate().private_key(fleet.keys().foreign_key()).launch();
    assert_eq!(b.exit_code(PATIENCE).await, 64);
    assert!(b.said("storage_controller: error: the leader does not accept this member's token"));
    assert_eq!(a.leads(PATIENCE).await.get(), 1);
}
