//! What lies in `deploy/`: that Prometheus takes it, and that it speaks of metrics that there are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgfleet_harness::skip;
use serde_json::Value;

/// What Prometheus itself adds.
const ITS_OWN: [&str; 2] = ["up", "scrape_duration_seconds"];
/// What every metric of ours begins with.
const PREFIXES: [&str; 4] = ["storage_controller_", "compute_ctl_", "compute_installed_", "process_"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every name that a query may use, with those that a histogram has.
fn known() -> BTreeSet<String> {
    let mut known: BTreeSet<String> = ITS_OWN.map(ToOwned::to_owned).into();
    for file in ["tests/golden/storage_controller.metrics", "tests/golden/compute_ctl.metrics"] {
        for line in read(file).lines() {
            let (name, kind) = line.split_once(' ').unwrap();
            if kind == "histogram" {
                known.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")));
            } else {
                known.insert(name.to_owned());
            }
        }
    }
    known
}

/// The words of a text that look like names of our metrics.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_')
        .filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)))
        .map(ToOwned::to_owned)
        .collect()
}

fn are_known(what: &str, text: &str, at_least: usize) {
    let used = names(text);
    assert!(used.len() >= at_least, "{what}: only {used:?} were found");
    // A text may name a histogram as a whole.
    let known = known();
    let whole = |name: &String| known.contains(&format!("{name}_bucket"));
    let strange: Vec<_> = used.iter().filter(|name| !known.contains(*name) && !whole(name)).collect();
    assert!(strange.is_empty(), "{what} uses metrics that no program shows: {strange:?}");
}

/// `promtool` has nothing against it.
fn promtool(test: &str, args: &[&str]) {
    let Ok(output) = Command::new("promtool").args(args).current_dir(root().join("deploy/prometheus")).output() else {
        skip(test, "promtool is not installed");
        return;
    };
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said));
}

/// The values of `key:` in a YAML file, one line each.
fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| line.trim_start_matches([' ', '-']).strip_prefix(key)?.strip_prefix(": "))
}

#[test]
fn prometheus_takes_rules_and_configuration() {
    promtool("prometheus_takes_rules_and_configuration", &["check", "rules", "pgfleet.rules.yml"]);
    promtool("prometheus_takes_rules_and_configuration", &["check", "config", "prometheus.example.yml"]);
}

#[test]
fn every_alert_fires_when_it_has_to() {
    promtool("every_alert_fires_when_it_has_to", &["test", "rules", "pgfleet.rules.test.yml"]);
    let (rules, tests) =
        (read("deploy/prometheus/pgfleet.rules.yml"), read("deploy/prometheus/pgfleet.rules.test.yml"));
    let alerts: BTreeSet<&str> = values(&rules, "alert").collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    for alert in &alerts {
        let tried = values(&tests, "alertname").filter(|name| name == alert).count();
        assert!(tried >= 2, "{alert} is not tried at a moment when it must fire and at one when it must not");
    }
}

#[test]
fn rules_and_board_speak_of_metrics_that_there_are() {
    are_known("the rules", &read("deploy/prometheus/pgfleet.rules.yml"), 20);
    are_known("their tests", &read("deploy/prometheus/pgfleet.rules.test.yml"), 20);
    are_known("the board", &read("deploy/grafana/pgfleet.json"), 40);
    for page in std::fs::read_dir(root().join("docs/runbooks")).unwrap() {
        let path = page.unwrap().path();
        are_known(&path.display().to_string(), &std::fs::read_to_string(&path).unwrap(), 0);
    }
}

/// The anchor that a heading has on a page.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|char| char.is_ascii_alphanumeric() || *char == '-').collect()
}

#[test]
fn every_alert_leads_to_a_page_that_says_what_to_do() {
    let rules = read("deploy/prometheus/pgfleet.rules.yml");
    let (alerts, urls) = (values(&rules, "alert").count(), values(&rules, "runbook_url").count());
    assert_eq!(alerts, urls, "one page for each");
    assert_eq!(alerts, rules.matches("severity: ").count() - 1, "one severity for each, and the header's");
    for url in values(&rules, "runbook_url") {
        let (file, wanted) = url.split_once('#').unwrap_or((url, ""));
        let page = read(file);
        let mut headings = page.lines().filter_map(|line| line.strip_prefix("## ").or(line.strip_prefix("# ")));
        assert!(headings.any(|heading| anchor(heading) == wanted), "{url}: there is no such heading");
    }
}

#[test]
fn the_board_is_whole() {
    let board: Value = serde_json::from_str(&read("deploy/grafana/pgfleet.json")).unwrap();
    assert!(board["id"].is_null(), "Grafana gives it");
    let panels = board["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut queries = Vec::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is taken");
        if panel["type"] == "row" {
            continue;
        }
        assert!(!panel["description"].as_str().unwrap_or_default().is_empty(), "{title} says not what it shows");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title} asks nothing");
        for target in targets {
            let query = target["expr"].as_str().unwrap();
            assert!(query.contains("$cluster"), "{title}: {query} mixes clusters");
            assert!(!names(query).is_empty(), "{title}: {query}");
            // The board's own variables are Grafana's; Prometheus would not parse them.
            let query = query.replace("$__rate_interval", "1m").replace("$cluster", "main").replace("$instance", ".*");
            queries.push(query);
        }
    }
    parse(&queries);
}

/// Prometheus can parse the queries: as the rules of a file.
fn parse(queries: &[String]) {
    let dir = std::env::temp_dir().join(format!("pgfleet-board-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("rule.yml");
    let mut rules = "groups:\n  - name: board\n    rules:\n".to_owned();
    for (number, query) in queries.iter().enumerate() {
        let quoted = query.replace('\'', "''");
        rules.push_str(&format!("      - record: board:query_{number}\n        expr: '{quoted}'\n"));
    }
    std::fs::write(&file, rules).unwrap();
    let output = Command::new("promtool").args(["check", "rules"]).arg(&file).output();
    std::fs::remove_dir_all(&dir).unwrap();
    let Ok(output) = output else {
        skip("the_board_is_whole", "promtool is not installed");
        return;
    };
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}
