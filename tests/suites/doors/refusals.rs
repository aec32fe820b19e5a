//! Bad input gets a status, a stable code and the place where it is bad; conditions and repetitions do what they say.

use pgfleet_api::ErrorCode;
use pgfleet_api::auth::Scope;
use pgfleet_api::compute::{ComputeView, SpecAccepted};
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::{Answer, Call};
use pgfleet_harness::specs::{marked, orders};
use serde_json::{Value, json};

const REGISTRATION: &str = r#"{"agent_url": "http://127.0.0.1:1"}"#;

async fn start(test: &str) -> Option<(Fleet, Controller, String)> {
    let fleet = Fleet::start(test).await?;
    let controller = fleet.controller("a").start_leader().await;
    let token = fleet.keys().scope(Scope::Admin);
    let made = controller.call("PUT", "/control/v1/compute/c1").token(&token).body(REGISTRATION).send().await;
    assert_eq!(made.status, 200, "{}", made.body);
    Some((fleet, controller, token))
}

/// `orders` with one field replaced.
fn with(pointer: &str, value: Value) -> Vec<u8> {
    let mut spec = orders();
    *spec.pointer_mut(pointer).unwrap() = value;
    spec.to_string().into_bytes()
}

/// (method, path, body, status, code, path in the error).
type Row = (&'static str, &'static str, Vec<u8>, u16, ErrorCode, Option<&'static str>);

fn table() -> Vec<Row> {
    let put = |path, body: &[u8], status, code, at| ("PUT", path, body.to_vec(), status, code, at);
    let none = Vec::new;
    let role = "/cluster/roles/1";
    vec![
        ("GET", "/nobody", none(), 404, ErrorCode::UnknownCompute, None),
        ("GET", "/nobody/spec", none(), 404, ErrorCode::UnknownCompute, None),
        ("GET", "/nobody/wait", none(), 404, ErrorCode::UnknownCompute, None),
        ("DELETE", "/nobody", none(), 404, ErrorCode::UnknownCompute, None),
        ("PUT", "/nobody/spec", orders().to_string().into_bytes(), 404, ErrorCode::UnknownCompute, None),
        ("GET", "/c1/spec", none(), 409, ErrorCode::NoSpec, None),
        ("GET", "/c1/nothing", none(), 404, ErrorCode::UnknownRoute, None),
        ("POST", "/c1/spec", none(), 405, ErrorCode::MethodNotAllowed, None),
        ("GET", "/.hidden", none(), 422, ErrorCode::InvalidRequest, Some("compute_id")),
        ("GET", "?limit=0", none(), 422, ErrorCode::InvalidBody, Some("limit")),
        ("GET", "?limit=many", none(), 422, ErrorCode::InvalidRequest, Some("query")),
        ("GET", "?label=novalue", none(), 422, ErrorCode::InvalidBody, Some("label")),
        ("GET", "/c1/wait?timeout_s=601", none(), 422, ErrorCode::InvalidBody, Some("timeout_s")),
        put("/c1", b"{\"agent_url\": ", 400, ErrorCode::NotJson, None),
        put("/c1", b"{\"agent_url\": 7}", 422, ErrorCode::InvalidBody, Some("agent_url")),
        put("/c1", b"{}", 422, ErrorCode::InvalidBody, Some(".")),
        put("/c1", b"{\"agent_url\": \"ftp://x\"}", 422, ErrorCode::InvalidBody, Some("agent_url")),
        put("/c1", b"{\"agent_url\": \"http://x\", \"agentt\": 1}", 422, ErrorCode::InvalidBody, Some("agentt")),
        put("/c1/spec", b"not json", 400, ErrorCode::NotJson, None),
        put("/c1/spec", b"", 400, ErrorCode::NotJson, None),
        put("/c1/spec", b"[]", 422, ErrorCode::InvalidBody, None),
        put(
            "/c1/spec",
            &with("/cluster/roles/1/name", json!(7)),
            422,
            ErrorCode::InvalidBody,
            Some("cluster.roles[1].name"),
        ),
        put(
            "/c1/spec",
            &with("/cluster/roles/1/name", json!("orders_owner")),
            422,
            ErrorCode::InvalidBody,
            Some("cluster.roles[1].name"),
        ),
        put(
            "/c1/spec",
            &with("/cluster/roles/1/name", json!("x".repeat(64))),
            422,
            ErrorCode::InvalidBody,
            Some("cluster.roles[1].name"),
        ),
        put(
            "/c1/spec",
            &with("/cluster/roles/1/encrypted_password", json!("secret")),
            422,
            ErrorCode::InvalidBody,
            Some("cluster.roles[1].encrypted_password"),
        ),
        put("/c1/spec", &with(role, json!({})), 422, ErrorCode::InvalidBody, Some("cluster.roles[1]")),
        put(
            "/c1/spec",
            &with("/cluster/settings/0/name", json!("work mem")),
            422,
            ErrorCode::InvalidBody,
            Some("cluster.settings[0].name"),
        ),
        put(
            "/c1/spec",
            &with("/cluster/databases/0/owner", json!("a\0b")),
            422,
            ErrorCode::InvalidBody,
            Some("cluster.databases[0].owner"),
        ),
        put("/c1/spec", &vec![b' '; (4 << 20) + 1], 413, ErrorCode::PayloadTooLarge, None),
    ]
}

/// The table of bad input.
#[tokio::test(flavor = "multi_thread")]
async fn bad_input() {
    let Some((_fleet, controller, token)) = start("bad_input").await else { return };
    for (method, path, body, status, code, at) in table() {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let what = format!("{method} {path} {shown}");
        let call = controller.call(method, &format!("/control/v1/compute{path}")).token(&token).body(body);
        let answer = call.send().await;
        let error = answer.error();
        assert_eq!((answer.status, error.code), (status, code), "{what}: {}", answer.body);
        if at.is_some() {
            assert_eq!(error.path.as_deref(), at, "{what}: {}", answer.body);
        }
        assert!(!error.msg.is_empty() && !error.msg.contains('\n') && !error.msg.contains("secret"), "{}", error.msg);
        assert!(answer.header("x-request-id").is_some(), "{what}");
    }
    let broken = controller.call("PUT", "/control/v1/compute/c1/spec").token(&token).body("{\n\"a\": }").send().await;
    assert!(broken.error().msg.contains("line 2 column 6"), "{}", broken.body);
    let view: ComputeView = controller.call("GET", "/control/v1/compute/c1").token(&token).send().await.json();
    assert_eq!(view.generation.get(), 0, "nothing of all this was stored");
}

fn put(controller: &Controller, token: &str, mark: &str) -> Call {
    controller.call("PUT", "/control/v1/compute/c1/spec").token(token).body(marked(mark).to_string())
}

fn accepted(answer: &Answer) -> SpecAccepted {
    assert_eq!(answer.status, 202, "{}", answer.body);
    answer.json()
}

/// A generation is minted for new content only, and only if the condition holds.
#[tokio::test(flavor = "multi_thread")]
async fn etag_and_if_match() {
    let Some((_fleet, controller, token)) = start("etag_and_if_match").await else { return };
    let first = put(&controller, &token, "one").header("if-match", "\"0\"").send().await;
    assert_eq!(first.header("etag"), Some("\"1\""));
    let first = accepted(&first);
    assert_eq!(first.generation.get(), 1);
    assert_eq!(accepted(&put(&controller, &token, "one").send().await), first, "same content, same generation");

    let stale = put(&controller, &token, "two").header("if-match", "\"0\"").send().await;
    assert_eq!(stale.refusal(), (412, ErrorCode::PreconditionFailed));
    let error = stale.error();
    assert_eq!((error.generation, error.spec_hash.as_ref()), (Some(first.generation), Some(&first.spec_hash)));
    let second = put(&controller, &token, "two").header("if-match", "\"1\"").send().await;
    assert_eq!(second.header("etag"), Some("\"2\""));
    assert_ne!(accepted(&second).spec_hash, first.spec_hash);
    let unreadable = put(&controller, &token, "three").header("if-match", "*").send().await;
    assert_eq!(unreadable.refusal(), (422, ErrorCode::InvalidRequest));

    let read = controller.call("GET", "/control/v1/compute/c1/spec").token(&token).send().await;
    assert_eq!(read.header("etag"), Some("\"2\""));
    let gone = controller.call("DELETE", "/control/v1/compute/c1").token(&token).send().await;
    assert_eq!(gone.status, 204, "{}", gone.body);
    let again = controller.call("PUT", "/control/v1/compute/c1").token(&token).body(REGISTRATION).send().await;
    assert_eq!(again.status, 200, "{}", again.body);
    let third = accepted(&put(&controller, &token, "one").send().await);
    assert_eq!(third.generation.get(), 3, "a compute made again goes on from its tombstone");
}

/// What the agent says to bad input: the reference's `error` beside our code and path; and it goes on as before.
#[tokio::test(flavor = "multi_thread")]
async fn bad_input_of_the_agent() {
    let Some(fleet) = Fleet::start("bad_input_of_the_agent").await else { return };
    let agent = fleet.agent("c1").start().await;
    let wrapped = |spec: Value| json!({ "spec": spec }).to_string().into_bytes();
    let bare = |pointer: &str, value: Value| with(pointer, value);
    let nested = |pointer: &str, value: Value| wrapped(serde_json::from_slice(&with(pointer, value)).unwrap());
    let name = "/cluster/roles/1/name";
    let no_such = json!([{"name": "no_such_setting", "value": "1", "vartype": "integer"}]);
    let rows: Vec<Row> = vec![
        ("GET", "/nowhere", Vec::new(), 404, ErrorCode::UnknownRoute, None),
        ("GET", "/configure", Vec::new(), 405, ErrorCode::MethodNotAllowed, None),
        ("POST", "/configure", b"{".to_vec(), 400, ErrorCode::NotJson, None),
        ("POST", "/configure", b"{}".to_vec(), 422, ErrorCode::InvalidBody, None),
        ("POST", "/configure", nested(name, json!(7)), 422, ErrorCode::InvalidBody, Some("spec.cluster.roles[1].name")),
        ("POST", "/spec", b"name=value".to_vec(), 400, ErrorCode::NotJson, None),
        ("POST", "/spec", bare(name, json!("")), 422, ErrorCode::InvalidBody, Some("cluster.roles[1].name")),
        ("POST", "/spec", bare("/cluster/settings", no_such), 422, ErrorCode::InvalidBody, Some("cluster.settings[0]")),
        ("POST", "/spec", vec![b' '; (4 << 20) + 1], 413, ErrorCode::PayloadTooLarge, None),
    ];
    for (method, path, body, status, code, at) in rows {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answer = agent.call(method, path).body(body).send().await;
        let what = format!("{method} {path} {shown}: {} {}", answer.status, answer.body);
        assert_eq!(answer.refusal(), (status, code), "{what}");
        let text: Value = answer.json();
        assert_eq!(text["error"], text["msg"], "{what}");
        assert_eq!(answer.error().path.as_deref(), at.or(answer.error().path.as_deref()), "{what}");
    }
    let status = agent.status().await.unwrap();
    assert_eq!((status.status.as_str(), status.generation), ("empty", None), "nothing of all this was taken");
}
