//! The operator's verbs, as a script meets them: what they print, and how they end.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use pgfleet_api::Generation;
use pgfleet_api::auth::Scope;
use pgfleet_api::bulk::{ApplyOutcome, ApplyResult, WatchEvent};
use pgfleet_api::explain::{ExplainCode, ExplainView};
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::programs::program;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::wait_for;
use serde_json::{Value, json};

use super::fake::Fake;

struct Cli {
    endpoint: String,
    token: PathBuf,
    dir: PathBuf,
}

impl Cli {
    fn new(fleet: &Fleet, controller: &Controller, scope: Scope) -> Self {
        let token = fleet.dir().join(format!("keys/{scope:?}.token"));
        std::fs::write(&token, fleet.keys().scope(scope)).unwrap();
        Self { endpoint: controller.url().to_owned(), token, dir: fleet.dir().to_owned() }
    }

    /// Runs a verb of `compute`; gives what it printed, and checks how it ended.
    fn ends(&self, code: i32, args: &[&str]) -> Output {
        let mut command = Command::new(program("pgfleet"));
        command.arg("compute").args(args).args(["--endpoint", &self.endpoint]).arg("--token-file").arg(&self.token);
        command.env("PGFLEET_LOCAL_DIR", &self.dir).env("HOME", &self.dir).stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
        output
    }

    fn says(&self, args: &[&str]) -> String {
        String::from_utf8(self.ends(0, args).stdout).unwrap()
    }

    fn json<T: serde::de::DeserializeOwned>(&self, args: &[&str]) -> T {
        let text = self.says(&[args, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

fn lines_of<T: serde::de::DeserializeOwned>(output: &Output) -> Vec<T> {
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A file with bad lines: each line is answered, the good ones are applied, and the program ends with 1 and a count.
#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_file_with_bad_lines() {
    let Some(fleet) = Fleet::start("a_bulk_file_with_bad_lines").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let (fake, cli) = (Fake::start().await, Cli::new(&fleet, &a, Scope::Infra));
    let line = |id: &str| json!({"compute_id": id, "agent_url": fake.url(&id.parse().unwrap()), "spec": marked(id)});
    let mut lines: Vec<String> = (0..2500).map(|n| line(&format!("c{n:04}")).to_string()).collect();
    lines[7] = "{ no json".to_owned();
    lines[1500] = json!({"compute_id": "unknown", "spec": marked("x")}).to_string();
    lines[2400] = String::new();
    let file = fleet.dir().join("bulk.ndjson");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let path = file.to_str().unwrap();

    let output = cli.ends(1, &["apply", path, "--reason", "a test of bulk", "-o", "json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("2 of 2499 lines were not applied: 2497 applied, 0 unchanged, 2 refused"), "{said}");
    let results: Vec<ApplyResult> = lines_of(&output);
    let bad: Vec<u64> =
        results.iter().filter(|result| result.outcome == ApplyOutcome::Refused).map(|result| result.line).collect();
    assert_eq!((results.len(), bad), (2499, vec![8, 1501]));

    let people = cli.ends(1, &["apply", path]);
    let text = String::from_utf8_lossy(&people.stdout);
    assert!(text.contains("line 8: refused") && text.contains("line 1501 (unknown): refused"), "{text}");
    assert!(text.contains("0 applied, 2497 unchanged, 2 refused"), "{text}");
    let history: Vec<WatchEvent> = cli.json(&["history", "c0001", "--kind", "action"]);
    assert_eq!(history.len(), 1);
    assert_eq!(history[0].reason.as_deref(), Some("a test of bulk"));
    std::fs::write(&file, line("c0001").to_string()).unwrap();
    assert_eq!(cli.says(&["apply", path]).trim(), "0 applied, 1 unchanged");
    cli.ends(64, &["apply", "/nowhere.ndjson"]);
}

/// Policy, actions, explanation, history and watch; and the ways to fail.
#[tokio::test(flavor = "multi_thread")]
async fn verbs_and_exit_codes() {
    let Some(fleet) = Fleet::start("verbs_and_exit_codes").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let (fake, cli) = (Fake::start().await, Cli::new(&fleet, &a, Scope::Infra));
    let url = fake.url(&"c1".parse().unwrap());
    let spec = fleet.dir().join("spec.json");
    std::fs::write(&spec, marked("first").to_string()).unwrap();
    let spec = spec.to_str().unwrap();
    cli.ends(0, &["put", "c1", "--agent-url", &url, "--spec", spec, "--wait", "--reason", "début"]);
    let view: ExplainView = cli.json(&["explain", "c1"]);
    assert_eq!((view.code, view.generation), (ExplainCode::Converged, Generation(1)));
    assert!(cli.says(&["explain", "c1"]).starts_with("c1: converged: generation 1 is in effect"));

    let paused: Value = cli.json(&["policy", "c1", "pause", "--reason", "inventory"]);
    assert_eq!(paused["policy"]["mode"], "pause");
    let held = cli.ends(1, &["refresh", "c1"]);
    assert!(String::from_utf8_lossy(&held.stderr).contains("set it to active first"));
    cli.ends(0, &["policy", "c1", "active"]);
    assert_eq!(cli.says(&["refresh", "c1", "--reason", "again"]).trim(), "c1: will be applied again as generation 2");
    cli.ends(0, &["wait", "c1"]);

    let history: Vec<WatchEvent> = cli.json(&["history", "c1", "--kind", "action"]);
    let told: Vec<_> =
        history.iter().map(|line| (line.detail["op"].as_str().unwrap(), line.reason.as_deref())).collect();
    let expected = [
        ("refresh", Some("again")),
        ("put_policy", None),
        ("put_policy", Some("inventory")),
        ("put_spec", Some("début")),
        ("register", Some("début")),
    ];
    assert_eq!(told, expected);
    // What the leader has seen of the agent is written a moment after it has told those who waited for it.
    let all = wait_for("the last transition is in the journal", PATIENCE, async || {
        let all: Vec<WatchEvent> = cli.json(&["history", "c1"]);
        let newest = all.first().filter(|line| line.kind == "transition")?;
        (newest.detail["applied_generation"] == 2).then_some(all)
    })
    .await;
    assert!(all.len() > told.len(), "transitions as well");
    let newest: Vec<WatchEvent> = cli.json(&["history", "c1", "-n", "2"]);
    assert_eq!(newest, all[..2]);
    let before = all[1].change_seq.to_string();
    let rest: Vec<WatchEvent> = cli.json(&["history", "c1", "--before", &before]);
    assert_eq!(rest, all[2..]);
    let none: Vec<WatchEvent> = cli.json(&["history", "c1", "--until", "2020-01-01T00:00:00Z"]);
    assert!(none.is_empty());
    let recent: Vec<WatchEvent> = cli.json(&["history", "c1", "--since", "1h"]);
    assert_eq!(recent, all);
    assert!(cli.says(&["history", "c1"]).contains("inventory"));

    let watched: Vec<WatchEvent> = lines_of(&cli.ends(0, &["watch", "--from", "0", "-n", "3", "-o", "json"]));
    let oldest: Vec<_> = all.iter().rev().take(3).cloned().collect();
    assert_eq!(watched, oldest);

    cli.ends(1, &["explain", "nobody"]);
    cli.ends(64, &["policy", "c1"]);
    cli.ends(64, &["history", "c1", "--since", "yesterday"]);
    let viewer = Cli::new(&fleet, &a, Scope::Viewer);
    viewer.ends(77, &["policy", "c1", "pause"]);
    viewer.ends(0, &["explain", "c1"]);
    cli.ends(2, &["refresh", "c1", "nobody"]);
    let away = Cli { endpoint: "http://127.0.0.1:1".to_owned(), ..cli };
    away.ends(69, &["explain", "c1"]);
}
