//! Rows made from the route list: each route of the door, as its source has it, with wrong methods, tokens and bodies.
//!
//! The list is read from the source, so that a route that a real agent gets is a row here at once.

use pgfleet_harness::programs::workspace;

use crate::row::{Row, Who};

/// Largest body of a route; those above it are refused.
pub const LIMIT_BYTES: usize = 4 * 1024 * 1024;
/// Routes that do something when asked without a body.
const ACTS_WITHOUT_BODY: [&str; 1] = ["/terminate"];
/// Routes whose body is a page of numbers of the process; only the head is compared.
const PAGES: [&str; 2] = ["/metrics", "/metrics.json"];

/// `(method, path)` of the routes that this function of the door adds.
fn routes(function: &str) -> Vec<(String, String)> {
    let source = std::fs::read_to_string(workspace().join("compute_ctl/src/http/mod.rs")).unwrap();
    let body = source.split(&format!("pub fn {function}(")).nth(1).unwrap().split("\n}").next().unwrap();
    let route = |part: &str| {
        let (path, rest) = part.split_once('"')?;
        let method = rest.trim_start_matches([',', ' ', '\n']).split('(').next()?;
        Some((method.to_ascii_uppercase(), path.to_owned()))
    };
    body.split(".route(\"").skip(1).filter_map(route).collect()
}

pub fn rows() -> Vec<Row> {
    let external = routes("external");
    assert!(external.len() >= 12, "the routes were not read: {external:?}");
    assert!(external.iter().all(|(method, _)| method == "GET" || method == "POST"), "{external:?}");
    let mut rows: Vec<_> = external.iter().flat_map(|(method, path)| of_route(method, path)).collect();
    for (method, path) in routes("internal") {
        let path = path.replace("{*file}", "x.tar.zst");
        if !external.iter().any(|(_, known)| *known == path) {
            rows.push(Row::new(format!("the internal route {path}"), &method, &path));
        }
    }
    for path in ["/", "/nowhere", "/status/", "/Status", "/configure/x"] {
        rows.push(Row::new(format!("no route: {path}"), "GET", path));
        rows.push(Row::new(format!("no route: {path}, nobody asks"), "POST", path).by(Who::Nobody));
    }
    rows
}

fn of_route(method: &str, path: &str) -> Vec<Row> {
    let differs: &[&str] = if PAGES.contains(&path) { &["", "/wait_for_spec_ms"] } else { &[] };
    let row = |name: &str, method: &str| Row::new(format!("{method} {path}: {name}"), method, path).differs(differs);
    let mut rows: Vec<_> = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
        .into_iter()
        .filter(|other| *other != method && !(method == "GET" && *other == "HEAD"))
        .map(|other| row("a method that it has not", other))
        .collect();
    for who in
        [Who::Nobody, Who::Garbage, Who::Foreign, Who::Expired, Who::Viewer, Who::OtherCompute, Who::WrongAudience]
    {
        rows.push(row(&format!("asked by {who:?}"), method).by(who));
    }
    if method == "GET" {
        rows.push(row("as it should be", "GET"));
        rows.push(row("asked by the compute", "GET").by(Who::Compute));
        rows.push(row("the head alone", "HEAD"));
        rows.push(Row::new(format!("GET {path}: a query"), "GET", &format!("{path}?nonsense=1")).differs(differs));
        return rows;
    }
    if !ACTS_WITHOUT_BODY.contains(&path) {
        rows.push(row("no body", "POST"));
        rows.push(row("asked by the compute, no body", "POST").by(Who::Compute));
    }
    for (name, body) in [("no JSON", "{"), ("two documents", "{} {}"), ("a list", "[7]"), ("a number", "7")] {
        rows.push(row(name, "POST").raw(body));
    }
    if path != "/terminate" {
        rows.push(row("an empty object", "POST").raw("{}"));
        rows.push(row("null", "POST").raw("null"));
    }
    rows.push(row("too deep", "POST").raw("[".repeat(1000)));
    rows.push(row("too large", "POST").raw(vec![b' '; LIMIT_BYTES + 1]));
    rows.push(Row::new(format!("{path}: a query"), "POST", &format!("{path}?nonsense=1")).raw("{"));
    rows
}
