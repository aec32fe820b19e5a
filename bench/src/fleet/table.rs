//! The results for people, as Markdown. Pure.

use std::fmt::Write as _;

use serde_json::Value;

use super::report::Report;
use crate::stats::rounded;

/// A report as Markdown. Without targets where the run was a small one.
#[must_use]
pub fn markdown(report: &Report, targets: bool) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "# {} at {}, {}\n\n{}. Medians of {} runs.\n",
        report.scenario, report.commit, report.date, report.machine, report.n
    );
    if targets {
        text.push_str("| | figure | target | |\n|---|---|---|---|\n");
        for line in report.targets() {
            let figure =
                line.figure.map_or_else(|| "-".to_owned(), |figure| format!("{}{}", rounded(figure), line.unit));
            let sign = if line.at_least { "≥" } else { "≤" };
            let _ = writeln!(
                text,
                "| {} | {figure} | {sign} {}{} | {} |",
                line.what,
                line.target,
                line.unit,
                line.verdict()
            );
        }
        text.push('\n');
    }
    text.push_str("| figure | |\n|---|---|\n");
    rows(&mut text, "", &report.figures);
    rows(&mut text, "floor: ", &report.floors);
    if !report.notes.is_empty() {
        text.push_str("\n## Beside the figures\n\n");
        for note in &report.notes {
            let _ = writeln!(text, "- {note}");
        }
    }
    text
}

/// A row for each number, named by its path.
fn rows(text: &mut String, path: &str, value: &Value) {
    match value {
        Value::Object(members) => {
            let joint = if path.is_empty() || path.ends_with(' ') { "" } else { "." };
            members.iter().for_each(|(key, value)| rows(text, &format!("{path}{joint}{key}"), value));
        }
        Value::Array(items) if items.iter().all(Value::is_number) => {
            let items: Vec<_> = items.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "| {path} | {} |", items.join(", "));
        }
        Value::Array(items) => items.iter().for_each(|item| rows(text, path, item)),
        Value::Null => {
            let _ = writeln!(text, "| {path} | - |");
        }
        other => {
            let _ = writeln!(text, "| {path} | {other} |");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fleet::report::Measured;

    #[test]
    fn every_figure_has_its_row_and_targets_their_verdict() {
        let figures = json!({"pushes_per_s": 40.0, "points": [[1000, 2.5]]});
        let run = Measured { figures, floors: json!({"bare_loop_per_s": 100.0}), notes: vec!["a note".to_owned()] };
        let report = Report::of("push", vec![run]);
        let text = markdown(&report, true);
        for line in [
            "| push / bare loop | 0.4 x | ≥ 0.5 x | missed by 0.1 x |",
            "| pushes_per_s | 40.0 |",
            "| points | 1000, 2.5 |",
            "| floor: bare_loop_per_s | 100.0 |",
            "- a note",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        assert!(!markdown(&report, false).contains("missed"));
    }
}
