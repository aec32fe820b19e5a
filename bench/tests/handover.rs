//! The tool measures: a small plan in the debug build. Whether the figures are good is not asked here.

use clap::Parser as _;
use pgfleet_bench::{Plan, Spread, markdown, run};

/// Small and slow: a debug build beside other tests has to carry it without coming near the limits of holding.
fn plan(args: &[&str]) -> Plan {
    let small = ["handover", "--sizes", "100", "--computes", "100", "--writes-per-s", "50", "--reads-per-s", "100"];
    Plan::parse_from([&small, args].concat()).limited()
}

/// Whether percentiles are in order and none of them is what no clock would give.
fn sane(spread: Option<Spread>) -> bool {
    spread.is_some_and(|Spread { p50, p99, max }| 0.0 <= p50 && p50 <= p99 && p99 <= max && max < 60_000.0)
}

/// One killed leader: its successor's first write is found, and the time until then is one.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_is_measured() {
    let Some(report) = run(&plan(&["--scenarios", "sigkill", "--runs", "1"])).await else { return };
    assert!(report.broken.is_empty(), "{:?}", report.broken);
    let sigkill = report.figures.sigkill.clone().unwrap();
    assert_eq!(sigkill.n, 1);
    assert!(sane(sigkill.ms), "{sigkill:?}");
    let lost = "SIGKILL: 0 acknowledged writes are not in the journal";
    assert!(report.notes.iter().any(|note| note.starts_with(lost)), "{:?}", report.notes);
    assert!(markdown(&report).contains("| SIGKILL, p50 |"));
}

/// Planned hand-overs, a load across them, and rolling restarts; the keys of the results are a contract.
#[tokio::test(flavor = "multi_thread")]
async fn hand_overs_are_measured() {
    let Some(report) = run(&plan(&["--scenarios", "planned,load,restarts", "--runs", "2"])).await else { return };
    assert!(report.broken.is_empty(), "{:?}", report.broken);
    let planned = report.figures.planned.first().unwrap();
    assert_eq!((planned.computes, planned.n), (100, 2));
    assert!(sane(planned.gap_ms) && sane(planned.read_gap_ms), "{planned:?}");
    assert!(sane(planned.phases_ms.get("claim").copied().flatten()), "{planned:?}");
    let load = report.figures.load.clone().unwrap();
    assert!(load.handovers == 2 && load.requests > 0 && sane(load.latency_ms), "{load:?}");
    assert_eq!(load.failed, 0, "{:?}", report.notes);
    let restarts = report.figures.restarts.clone().unwrap();
    assert!(restarts.restarts == 2 && restarts.requests > 0, "{restarts:?}");
    assert_eq!(restarts.failed, 0, "{:?}", report.notes);
    let json = serde_json::to_value(&report).unwrap();
    for path in [
        "/scenario",
        "/commit",
        "/date",
        "/machine",
        "/n",
        "/figures/planned/0/gap_ms/p50",
        "/figures/planned/0/read_gap_ms/max",
        "/figures/planned/0/phases_ms/claim/p99",
        "/figures/load/latency_ms/p99",
        "/figures/restarts/failed",
        "/floors/fdatasync_ms",
        "/floors/cas_ms",
        "/floors/http_ms",
    ] {
        assert!(json.pointer(path).is_some_and(|value| !value.is_null()), "{path} is not in {json:#}");
    }
}

/// The floors alone: the private database, a member, and the results' head.
#[tokio::test(flavor = "multi_thread")]
async fn floors_are_measured() {
    let plan = Plan { scenarios: Vec::new(), ..plan(&[]) };
    let Some(report) = run(&plan).await else { return };
    let floors = report.floors;
    for floor in [floors.fdatasync_ms, floors.cas_ms, floors.http_ms] {
        assert!(floor.is_some_and(|floor| floor > 0.0), "{floors:?}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((json["scenario"].as_str(), json["n"].as_u64()), (Some("handover"), Some(30)));
    assert!(json["machine"].as_str().unwrap().contains(" cores, "), "{json:#}");
}
