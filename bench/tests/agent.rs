//! The tool measures: every scenario once, small, in the debug build. Whether the figures are good is not asked here.

use clap::Parser as _;
use pgfleet_bench::compute::{Plan, markdown, run};

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_is_measured() {
    let small = ["agent", "--runs", "1", "--roles", "20", "--databases", "3", "--idle-seconds", "1"];
    let Some(report) = run(&Plan::parse_from(small).limited()).await else { return };
    assert!(report.broken.is_empty(), "{:?}", report.broken);
    let json = serde_json::to_value(&report).unwrap();
    for path in [
        "/scenario",
        "/commit",
        "/date",
        "/machine",
        "/n",
        "/figures/start_ratio",
        "/figures/apply_1000r_500d_ratio",
        "/figures/noop_ms/p50",
        "/figures/noop_ms/p99",
        "/figures/noop_sql_writes",
        "/figures/settings_change_ms/n",
        "/figures/settings_change_ms/p50",
        "/figures/settings_change_ms/p99",
        "/figures/small_spec_sql_ms",
        "/figures/rss_mb",
        "/figures/idle_cpu_percent",
        "/floors/fdatasync_ms",
        "/floors/initdb_pg_ctl_ms",
        "/floors/psql_script_ms",
        "/floors/small_script_ms",
        "/floors/http_ms",
    ] {
        assert!(json.pointer(path).is_some_and(|value| !value.is_null()), "{path} is not in {json:#}");
    }
    assert_eq!(json["figures"]["noop_sql_writes"], 0, "{json:#}");
    let ratios = [report.figures.start_ratio, report.figures.apply_1000r_500d_ratio];
    assert!(ratios.into_iter().all(|ratio| ratio.is_some_and(|ratio| ratio > 0.0 && ratio < 1000.0)), "{ratios:?}");
    assert!(report.notes.iter().any(|note| note.starts_with("agent and script both left 2")), "{:?}", report.notes);
    assert!(markdown(&report).contains("| start to running / initdb and pg_ctl |"));
}
