//! The names of the figures, which are a contract with whoever reads the results. Pure.

use serde_json::Value;

use super::plan::Scenario;
use super::report::Report;

/// What the results of a scenario have; `n*` stands for a size, of which there is one at least.
fn keys(scenario: Scenario) -> &'static [&'static str] {
    match scenario {
        Scenario::Accept => &[
            "/figures/clients_1/accepted_per_s",
            "/figures/clients_16/p99_ms",
            "/figures/clients_256/accepted_per_s",
            "/figures/clients_256/p99_ms",
            "/figures/clients_256/lost",
            "/floors/pgbench_best_per_s",
            "/floors/plain_handler_per_s",
            "/floors/bare_handler_per_s",
        ],
        Scenario::Push => &["/figures/pushes_per_s", "/floors/bare_loop_per_s"],
        Scenario::Converge => &["/figures/n*_s", "/figures/n*_faulty/seconds", "/figures/n*_faulty/unapplied_healthy"],
        Scenario::Steady => &[
            "/figures/cpu_percent_of_core",
            "/figures/rss_mb",
            "/figures/db_statements_per_s",
            "/figures/read_ms/p50",
            "/figures/read_ms/p99",
            "/figures/write_ms/p50",
            "/figures/write_ms/p99",
        ],
        Scenario::Storm => {
            &["/figures/api_p99_ms", "/figures/connects_per_s", "/figures/settle_s", "/floors/quiet_p99_ms"]
        }
        Scenario::Start => &[
            "/figures/n*/ready_s",
            "/figures/n*/first_push_s",
            "/figures/kb_per_compute",
            "/figures/kb_per_compute_handover",
        ],
        Scenario::Scrape => &["/figures/n*/ms", "/figures/n*/bytes"],
        Scenario::Growth => &["/figures/cpu_exponent", "/figures/points/0/1"],
    }
}

/// Keys that a report lacks, or that hold no number. etcd's may be missing where there is no etcd.
#[must_use]
pub fn missing(scenario: Scenario, report: &Report) -> Vec<&'static str> {
    let json = serde_json::to_value(report).unwrap_or_default();
    keys(scenario).iter().filter(|key| !has(&json, key.trim_start_matches('/'))).copied().collect()
}

fn has(value: &Value, path: &str) -> bool {
    if path.is_empty() {
        return value.is_number();
    }
    let (key, rest) = path.split_once('/').unwrap_or((path, ""));
    match (value, key.split_once('*')) {
        (Value::Object(members), Some((before, after))) => {
            members.iter().any(|(name, inner)| is_size(name, before, after) && has(inner, rest))
        }
        (_, _) => value.pointer(&format!("/{key}")).is_some_and(|inner| has(inner, rest)),
    }
}

/// Whether a name is a number between these.
fn is_size(name: &str, before: &str, after: &str) -> bool {
    let number = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fleet::plan::ALL;
    use crate::fleet::report::Measured;

    fn report(figures: Value) -> Report {
        Report::of("x", vec![Measured { figures, floors: json!({}), notes: Vec::new() }])
    }

    #[test]
    fn what_is_missing_is_named() {
        for scenario in ALL {
            assert_eq!(missing(scenario, &report(json!({}))), keys(scenario), "{scenario:?}");
        }
        let whole = report(json!({"n1000": {"ms": 1, "bytes": 2}}));
        assert!(missing(Scenario::Scrape, &whole).is_empty());
        let half = report(json!({"n1000": {"ms": null}, "nx": {"ms": 1, "bytes": 1}}));
        assert_eq!(missing(Scenario::Scrape, &half), ["/figures/n*/ms", "/figures/n*/bytes"]);
        let faulty = json!({"n10000_s": 1.5, "n20000_faulty": {"seconds": 2, "unapplied_healthy": 0}});
        assert!(missing(Scenario::Converge, &report(faulty)).is_empty());
        assert!(missing(Scenario::Growth, &report(json!({"cpu_exponent": 1, "points": [[1, 2]]}))).is_empty());
    }
}
