//! The results for people: figures beside targets and floors, as Markdown. Pure.

use crate::report::Report;
use crate::scenarios::steady::Rates;
use crate::stats::{Spread, rounded};

/// Targets of a planned hand-over and of a takeover after SIGKILL, in milliseconds.
const PLANNED: (f64, f64) = (10.0, 30.0);
const SIGKILL: (f64, f64) = (25.0, 100.0);
/// The largest fleet may take so many times as long as the smallest.
const GROWTH: f64 = 1.5;
/// What a frozen leader may cost beyond its lease, in milliseconds.
const BEYOND_LEASE: f64 = 1500.0;

/// A figure that has a target.
struct Line {
    what: String,
    figure: Option<f64>,
    target: f64,
    unit: &'static str,
}

/// The report as Markdown.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut text = format!("# Changes of leader at {}, {}\n\n{}. ", report.commit, report.date, report.machine);
    let floor = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure} ms"));
    let floors = report.floors;
    put(
        &mut text,
        &format!(
            "Floors of the same run: fdatasync {}, a durable compare-and-swap of one row {}, one HTTP exchange {}.\n",
            floor(floors.fdatasync_ms),
            floor(floors.cas_ms),
            floor(floors.http_ms)
        ),
    );
    targets(&mut text, report);
    planned(&mut text, report);
    others(&mut text, report);
    if !report.notes.is_empty() {
        put(&mut text, "\n## Where the time goes\n\n");
        for note in &report.notes {
            put(&mut text, &format!("- {note}\n"));
        }
    }
    text
}

fn targets(text: &mut String, report: &Report) {
    let lines = lines(report);
    if lines.is_empty() {
        return;
    }
    // A planned hand-over is a request to step down, a claim (two durable commits: the last batch, the claim), and the
    // write that ends the gap; all figures are set beside the same floor.
    let floor = report.floors.cas_ms;
    put(text, "\n| figure | measured | target | x compare-and-swap | |\n|---|---|---|---|---|\n");
    for Line { what, figure, target, unit } in lines {
        let measured = figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure}{unit}"));
        let ratio = match (figure, floor) {
            (Some(figure), Some(floor)) if unit == " ms" && floor > 0.0 => format!("{:.1}", figure / floor),
            _ => String::new(),
        };
        let verdict = match figure {
            Some(figure) if figure <= target => "met".to_owned(),
            Some(figure) => format!("missed by {}{unit}", rounded(figure - target)),
            None => "not measured".to_owned(),
        };
        put(text, &format!("| {what} | {measured} | {target}{unit} | {ratio} | {verdict} |\n"));
    }
}

fn lines(report: &Report) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |what: String, figure, target, unit| lines.push(Line { what, figure, target, unit });
    let figures = &report.figures;
    for one in &figures.planned {
        let at = |part: &str| format!("planned, {} computes, {part}", one.computes);
        add(at("p50"), one.gap_ms.map(|gap| gap.p50), PLANNED.0, " ms");
        add(at("p99"), one.gap_ms.map(|gap| gap.p99), PLANNED.1, " ms");
    }
    if let (Some(least), Some(most)) = (figures.planned.first(), figures.planned.last())
        && least.computes < most.computes
    {
        let growth = least.gap_ms.zip(most.gap_ms).filter(|(least, _)| least.p50 > 0.0);
        let growth = growth.map(|(least, most)| rounded(most.p50 / least.p50));
        add(format!("planned p50, {} / {} computes", most.computes, least.computes), growth, GROWTH, " x");
    }
    if let Some(sigkill) = &figures.sigkill {
        add("SIGKILL, p50".to_owned(), sigkill.ms.map(|ms| ms.p50), SIGKILL.0, " ms");
        add("SIGKILL, p99".to_owned(), sigkill.ms.map(|ms| ms.p99), SIGKILL.1, " ms");
    }
    if let Some(sigstop) = &figures.sigstop {
        add("SIGSTOP, max".to_owned(), sigstop.ms.max, sigstop.lease_ms + BEYOND_LEASE, " ms");
    }
    if let Some(load) = &figures.load {
        let what = format!("failed of {} requests in {} hand-overs", load.requests, load.handovers);
        add(what, Some(load.failed as f64), 0.0, "");
    }
    if let Some(restarts) = &figures.restarts {
        let what = format!("failed of {} requests in {} restarts", restarts.requests, restarts.restarts);
        add(what, Some(restarts.failed as f64), 0.0, "");
    }
    lines
}

fn planned(text: &mut String, report: &Report) {
    if report.figures.planned.is_empty() {
        return;
    }
    put(text, "\n## Planned hand-overs\n\n| computes | n | | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|---|\n");
    for one in &report.figures.planned {
        let mut add = |what: &str, spread: Option<Spread>| {
            put(text, &format!("| {} | {} | {what} | {} |\n", one.computes, one.n, cells(spread)));
        };
        add("gap in executed writes", one.gap_ms);
        add("gap in reads", one.read_gap_ms);
        for (name, part) in &one.phases_ms {
            add(&format!("phase `{name}`"), *part);
        }
    }
}

fn others(text: &mut String, report: &Report) {
    let figures = &report.figures;
    let mut rows = String::new();
    let mut add = |what: String, spread: Option<Spread>| put(&mut rows, &format!("| {what} | {} |\n", cells(spread)));
    if let Some(sigkill) = &figures.sigkill {
        add(format!("SIGKILL to the next executed write, {} times", sigkill.n), sigkill.ms);
    }
    if let Some(load) = &figures.load {
        let Rates { writes, reads } = load.achieved_per_s;
        add(format!("latency under load, {writes:.0} writes/s and {reads:.0} reads/s"), load.latency_ms);
    }
    if !rows.is_empty() {
        put(text, &format!("\n## Crashes and load\n\n| | p50 ms | p99 ms | max ms |\n|---|---|---|---|\n{rows}"));
    }
}

fn cells(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "- | - | -".to_owned(), |spread| format!("{} | {} | {}", spread.p50, spread.p99, spread.max))
}

fn put(text: &mut String, more: &str) {
    text.push_str(more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floors::Floors;
    use crate::scenarios::planned::Planned;
    use crate::scenarios::sigkill::Sigkill;

    fn spread(p50: f64, p99: f64) -> Option<Spread> {
        Some(Spread { p50, p99, max: p99 })
    }

    #[test]
    fn a_missed_target_says_by_how_much() {
        let floors = Floors { fdatasync_ms: Some(0.1), cas_ms: Some(2.0), http_ms: Some(0.05) };
        let mut report = Report::here(30, floors);
        let planned = |computes, gap_ms| Planned {
            computes,
            n: 30,
            gap_ms,
            read_gap_ms: None,
            phases_ms: [("claim".to_owned(), spread(1.5, 2.5))].into(),
        };
        report.figures.planned = vec![planned(100, spread(8.0, 31.0)), planned(100_000, spread(13.0, 29.0))];
        report.figures.sigkill = Some(Sigkill { n: 30, ms: None });
        report.notes.push("a note".to_owned());
        let text = markdown(&report);
        for line in [
            "| planned, 100 computes, p50 | 8 ms | 10 ms | 4.0 | met |",
            "| planned, 100 computes, p99 | 31 ms | 30 ms | 15.5 | missed by 1 ms |",
            "| planned p50, 100000 / 100 computes | 1.625 x | 1.5 x |  | missed by 0.125 x |",
            "| SIGKILL, p50 | - | 25 ms |  | not measured |",
            "| 100 | 30 | phase `claim` | 1.5 | 2.5 | 2.5 |",
            "| 100 | 30 | gap in reads | - | - | - |",
            "- a note",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }
}
