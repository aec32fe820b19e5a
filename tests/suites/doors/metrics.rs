//! The metrics of both programs, after traffic: what Prometheus' own checker says, and that no name is lost.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use pgfleet_api::Generation;
use pgfleet_api::auth::Scope;
use pgfleet_api::compute::{RegisterCompute, WaitOutcome};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::Call;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::skip;
use pgfleet_harness::specs::orders;

/// Set it to write the lists anew.
const UPDATE: &str = "PGFLEET_UPDATE_GOLDEN";

/// `name type` of every metric on a page, sorted.
fn names(page: &str) -> BTreeSet<String> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(ToOwned::to_owned).collect()
}

fn compare(page: &str, file: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(file);
    let found = names(page);
    if std::env::var_os(UPDATE).is_some() {
        let text: String = found.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, text).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let known: BTreeSet<String> = text.lines().map(ToOwned::to_owned).collect();
    let gone: Vec<_> = known.difference(&found).collect();
    let new: Vec<_> = found.difference(&known).collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "metrics are a contract. Gone: {gone:?}. New: {new:?}. If that is meant, run this test with {UPDATE}=1"
    );
}

/// The value of one series.
fn value(page: &str, series: &str) -> f64 {
    let found = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("there is no {series}")).parse().unwrap()
}

/// `promtool check metrics` has nothing to say.
fn check(what: &str, page: &str) {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        skip("metrics_are_clean", "promtool is not installed");
        return;
    };
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.trim().is_empty(), "{what}: {said}");
}

async fn scrape(url: &str) -> String {
    let answer = Call::new("GET", format!("{url}/metrics")).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    answer.body
}

/// Both programs with traffic of every kind, a hand-over and refusals.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_clean() {
    let Some(fleet) = Fleet::start("metrics_are_clean").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let agent = fleet.agent("c1").start().await;
    let client = fleet.client(&[&a]);
    let body = RegisterCompute { agent_url: agent.url().to_owned(), labels: Default::default(), spec: Some(orders()) };
    client.register(&agent.id, &body).await.unwrap();
    let settled = client.wait(&agent.id, None, PATIENCE).await.unwrap();
    assert_eq!(settled.outcome, WaitOutcome::Applied, "{settled:?}");
    let lost = RegisterCompute {
        agent_url: "http://127.0.0.1:1".to_owned(),
        labels: Default::default(),
        spec: Some(orders()),
    };
    client.register(&"lost".parse().unwrap(), &lost).await.unwrap();
    for path in ["/control/v1/compute/nobody", "/nowhere"] {
        a.call("GET", path).token(&fleet.keys().scope(Scope::Viewer)).send().await;
    }
    agent.call("POST", "/configure").body("{").send().await;
    agent.runs(Generation(1)).await;

    let leading = scrape(a.url()).await;
    check("the leader", &leading);
    assert!(leading.contains("storage_controller_leadership_status{status=\"leader\"} 1"), "{leading}");
    compare(&leading, "storage_controller.metrics");
    let age = value(&leading, "storage_controller_leadership_lease_age_seconds");
    assert!(age > 0.0 && age < 5.0, "a leader goes by a renewal: {age}");
    assert!(value(&leading, "storage_controller_writer_batch_changes_count") >= 2.0, "two computes were registered");
    assert!(value(&leading, "storage_controller_database_pool_connections{is=\"limit\"}") >= 1.0);
    // A series that began with its first event would have no increase that an alert could see.
    for rare in ["lost_commits_total{what=\"term\"}", "leadership_takeovers_total{how=\"revert\"}"] {
        assert_eq!(value(&leading, &format!("storage_controller_{rare}")), 0.0, "{rare}");
    }
    let page = scrape(agent.url()).await;
    check("the agent", &page);
    compare(&page, "compute_ctl.metrics");
    assert!(page.contains("compute_ctl_up{"), "{page}");

    let b = fleet.controller("b").as_candidate().start_leader().await;
    a.follows(&b, PATIENCE).await;
    for (what, url) in [("the new leader", b.url()), ("the old leader", a.url())] {
        let page = scrape(url).await;
        check(what, &page);
        assert_eq!(names(&page), names(&leading), "{what} shows the same names");
    }
    let candidate = scrape(a.url()).await;
    assert_eq!(value(&candidate, "storage_controller_leadership_lease_age_seconds"), 0.0, "it holds no term");
    assert!(candidate.contains("storage_controller_leadership_status{status=\"candidate\"} 1"), "{candidate}");
}
