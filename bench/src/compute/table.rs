//! The results for people: figures beside targets and floors, as Markdown. Pure.

use std::fmt::Write as _;

use super::report::Report;
use crate::stats::rounded;

/// A figure that has a target.
struct Line {
    what: &'static str,
    figure: Option<f64>,
    target: f64,
    unit: &'static str,
}

/// The report as Markdown.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# What an agent costs, at {}, {}\n\n{}.", report.commit, report.date, report.machine);
    let floor = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure} ms"));
    let _ = writeln!(
        text,
        "Floors of the same run: fdatasync {}, initdb with one sync and pg_ctl -w start {}, the large spec as a psql \
         script {}, the small one {}, one HTTP exchange with the agent {}.\n",
        floor(report.floors.fdatasync_ms),
        floor(report.floors.initdb_pg_ctl_ms),
        floor(report.floors.psql_script_ms),
        floor(report.floors.small_script_ms),
        floor(report.floors.http_ms)
    );
    text.push_str("| | figure | target | |\n|---|---|---|---|\n");
    for Line { what, figure, target, unit } in lines(report) {
        let (figure, verdict) = match figure {
            None => ("-".to_owned(), "not measured".to_owned()),
            Some(figure) if figure <= target => (format!("{figure}{unit}"), "met".to_owned()),
            Some(figure) => (format!("{figure}{unit}"), format!("missed by {}{unit}", rounded(figure - target))),
        };
        let _ = writeln!(text, "| {what} | {figure} | {target}{unit} | {verdict} |");
    }
    beside(&mut text, report);
    text
}

fn lines(report: &Report) -> Vec<Line> {
    let figures = &report.figures;
    let changed = figures.settings_change_ms.as_ref();
    let line = |what, figure, target, unit| Line { what, figure, target, unit };
    vec![
        line("start to running / initdb and pg_ctl", figures.start_ratio, 1.15, " x"),
        line("1,000 roles and 500 databases / psql script", figures.apply_1000r_500d_ratio, 1.1, " x"),
        line("spec that changes nothing, p50", figures.noop_ms.map(|ms| ms.p50), 10.0, " ms"),
        line("spec that changes nothing, p99", figures.noop_ms.map(|ms| ms.p99), 10.0, " ms"),
        line("writing transactions of all of them", figures.noop_sql_writes.map(|writes| writes as f64), 0.0, ""),
        line("changed setting, controller to agent, p50", changed.map(|changed| changed.ms.p50), 150.0, " ms"),
        line("changed setting, controller to agent, p99", changed.map(|changed| changed.ms.p99), 150.0, " ms"),
        line("SQL of six roles and three databases", figures.small_spec_sql_ms, 60.0, " ms"),
        line("resident memory after the large spec", figures.rss_mb, 16.0, " MiB"),
        line("resident memory at a small spec", figures.rss_small_mb, 16.0, " MiB"),
        line("idle processor time", figures.idle_cpu_percent, 0.5, " %"),
    ]
}

fn beside(text: &mut String, report: &Report) {
    let show = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure} ms"));
    let mut notes = Vec::new();
    if let Some(start) = &report.figures.start {
        let (agent, bare) = (show(start.agent_ms), show(start.bare_ms));
        notes.push(format!("{} pairs of starts: agent {agent}, initdb and pg_ctl {bare}", start.n));
    }
    if let Some(apply) = &report.figures.apply {
        let (agent, script, again) = (show(apply.agent_ms), show(apply.script_ms), show(apply.again_ms));
        notes.push(format!(
            "{} pairs of {} roles and {} databases: agent {agent}, psql {script}; the same spec again {again}",
            apply.n, apply.roles, apply.databases
        ));
    }
    notes.extend(report.notes.iter().cloned());
    if !notes.is_empty() {
        let _ = writeln!(text, "\n## Beside the figures\n");
        for note in notes {
            let _ = writeln!(text, "- {note}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Spread;

    #[test]
    fn a_missed_target_says_by_how_much() {
        let mut report = Report::here(200);
        report.figures.start_ratio = Some(1.25);
        report.figures.noop_ms = Some(Spread { p50: 8.0, p99: 12.5, max: 20.0 });
        report.figures.noop_sql_writes = Some(0);
        report.notes.push("a note".to_owned());
        let text = markdown(&report);
        for line in [
            "| start to running / initdb and pg_ctl | 1.25 x | 1.15 x | missed by 0.1 x |",
            "| spec that changes nothing, p50 | 8 ms | 10 ms | met |",
            "| spec that changes nothing, p99 | 12.5 ms | 10 ms | missed by 2.5 ms |",
            "| writing transactions of all of them | 0 | 0 | met |",
            "| idle processor time | - | 0.5 % | not measured |",
            "- a note",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }
}
