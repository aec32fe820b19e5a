//! A dry run of the bulk upsert says what would be done, and nothing is: not in the database, not at an agent.

use std::process::Output;

use pgfleet_api::agent::AgentStatus;
use pgfleet_api::auth::Scope;
use pgfleet_api::bulk::{ApplyLine, ApplyOutcome};
use pgfleet_api::plan::{DryVerdict, SettingClass};
use pgfleet_api::{ErrorCode, Generation};
use pgfleet_clients::controller::ControllerClient;
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::programs::program;
use pgfleet_harness::specs::{marked, orders};
use serde_json::{Value, json};

use super::{applied, register};

fn line(value: Value) -> ApplyLine {
    serde_json::from_value(value).unwrap()
}

/// `orders` with one setting changed.
fn with(place: usize, name: &str, value: &str) -> Value {
    let mut spec = orders();
    let settings = spec.pointer_mut("/cluster/settings").and_then(Value::as_array_mut).unwrap();
    let setting = json!({"name": name, "value": value, "vartype": "string"});
    if place < settings.len() {
        settings[place] = setting
    } else {
        settings.push(setting)
    }
    spec
}

async fn changes(fleet: &Fleet) -> i64 {
    let count =
        "SELECT (SELECT count(*) FROM journal WHERE kind = 'action') + (SELECT sum(generation)::bigint FROM computes)";
    fleet.database().await.query_one(count, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_does_nothing_and_says_what_would_be_done() {
    let Some(fleet) = Fleet::start("a_dry_run_does_nothing").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let agent = fleet.agent("orders").start().await;
    let client = fleet.client(&[&a]);
    register(&client, &agent, Some(orders())).await;
    applied(&client, &agent).await;
    let away = fleet.agent("away").start().await;
    register(&client, &away, None).await;
    away.process.kill().await;
    let (before, status) = (changes(&fleet).await, agent.status().await);

    let lines = [
        line(json!({"compute_id": "orders", "spec": orders()})),
        line(json!({"compute_id": "orders", "spec": with(0, "work_mem", "16MB")})),
        line(json!({"compute_id": "orders", "spec": with(9, "max_connections", "77"), "if_match": 1})),
        line(json!({"compute_id": "orders", "spec": with(9, "wrok_mem", "1")})),
        line(json!({"compute_id": "orders", "spec": {"format_version": 1.0}})),
        line(json!({"compute_id": "orders", "spec": marked("x"), "if_match": 9})),
        line(json!({"compute_id": "away", "spec": marked("x")})),
        line(json!({"compute_id": "new", "agent_url": "http://10.0.0.7:3080", "spec": marked("x")})),
        line(json!({"compute_id": "unknown", "spec": marked("x")})),
        line(json!({"compute_id": "new", "agent_url": "nowhere"})),
    ];
    let results = client.dry_run(&lines).await.unwrap();
    let told: Vec<_> = results
        .iter()
        .map(|result| (result.line, result.outcome, result.verdict, result.error.as_ref().map(|error| error.code)))
        .collect();
    let (planned, refused) = (ApplyOutcome::Planned, ApplyOutcome::Refused);
    let want = [
        (planned, DryVerdict::NoOp, None),
        (planned, DryVerdict::Reload, None),
        (planned, DryVerdict::Restart, None),
        (planned, DryVerdict::Refused, None),
        (refused, DryVerdict::Refused, Some(ErrorCode::InvalidBody)),
        (refused, DryVerdict::Refused, Some(ErrorCode::PreconditionFailed)),
        (planned, DryVerdict::Unknown, Some(ErrorCode::AgentAway)),
        (planned, DryVerdict::Create, None),
        (refused, DryVerdict::Refused, Some(ErrorCode::UnknownCompute)),
        (refused, DryVerdict::Refused, Some(ErrorCode::InvalidBody)),
    ];
    let want = (1..).zip(want).map(|(line, (outcome, verdict, code))| (line, outcome, Some(verdict), code));
    assert_eq!(told, want.collect::<Vec<_>>(), "{results:#?}");
    let restart = results[2].plan.as_ref().unwrap();
    let setting = restart.settings.iter().find(|setting| setting.name == "max_connections").unwrap();
    assert_eq!((setting.class, setting.to.as_deref()), (SettingClass::Restart, Some("77")));
    assert_eq!(
        results[3].plan.as_ref().unwrap().refusal.as_ref().unwrap().path.as_deref(),
        Some("cluster.settings[3]")
    );

    assert_eq!(changes(&fleet).await, before, "a dry run wrote something");
    // Readings move by themselves and are no part of what the number counts.
    let seq = |status: Option<AgentStatus>| status.map(|status| (status.status_seq, status.postgres));
    assert_eq!(seq(agent.status().await), seq(status), "a dry run did something at the agent");
    assert_eq!(client.get(&agent.id).await.unwrap().generation, Generation(1));
    the_command_line(&fleet, &a, &client).await;
}

/// `pgfleet plan` shows the same.
async fn the_command_line(fleet: &Fleet, a: &Controller, client: &ControllerClient) {
    let run = |args: &[&str]| -> Output {
        let token = fleet.dir().join("plan.token");
        std::fs::write(&token, fleet.keys().scope(Scope::Admin)).unwrap();
        let mut command = std::process::Command::new(program("pgfleet"));
        command.args(["--endpoint", a.url(), "--token-file"]).arg(token).arg("plan").args(args);
        command.output().unwrap()
    };
    let file = fleet.dir().join("spec.json");
    let path = file.display().to_string();
    std::fs::write(&file, with(9, "max_connections", "77").to_string()).unwrap();
    let output = run(&[&path, "--compute", "orders"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text} {}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("orders: restart (not by itself: restart_policy is never"), "{text}");
    assert!(text.contains("restart: 100 -> 77"), "{text}");
    assert!(!text.contains("no-op"), "{text}");
    let output = run(&["-o", "json", &path, "--compute", "orders"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json[0]["verdict"], &json[0]["compute_id"]), (&json!("restart"), &json!("orders")));

    let bad = json!({"compute_id": "orders", "spec": with(9, "wrok_mem", "1")});
    let good = json!({"compute_id": "orders", "spec": orders()});
    std::fs::write(&file, format!("{good}\n\n{bad}\n")).unwrap();
    let output = run(&[&path]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("orders: no-op") && text.contains("orders: refused: cluster.settings[3]: "), "{text}");
    assert!(client.get(&"orders".parse().unwrap()).await.is_ok());
}
