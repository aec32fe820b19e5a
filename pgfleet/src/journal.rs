//! `pgfleet compute explain`, `history`, `watch`: why a compute is as it is, and what became of it.

use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use pgfleet_api::ComputeId;
use pgfleet_api::bulk::WatchEvent;
use pgfleet_api::compute::HistoryQuery;
use pgfleet_api::explain::ExplainView;
use pgfleet_clients::controller::ControllerClient;

use crate::cli::{HistoryArgs, Output, WatchArgs};
use crate::exit::CliError;
use crate::output::{listing, or_dash, print, print_json, print_table};

/// Lines of one page.
const PAGE: u32 = 1000;

pub async fn explain(id: &ComputeId, client: &ControllerClient, output: Output) -> Result<(), CliError> {
    let view = client.explain(id).await?;
    if output == Output::Json { print_json(&view) } else { print(&words(&view)) }
}

fn words(view: &ExplainView) -> String {
    let since = view.since.map(|since| format!(" since {}", moment(since))).unwrap_or_default();
    let mut lines = vec![format!("{}: {}{since}: {}", view.compute_id, view.code.as_str(), view.says)];
    lines.push(format!("generation: {}, in effect: {}", view.generation, or_dash(view.applied_generation)));
    if let Some(next) = &view.next {
        let when =
            next.in_ms.map(|in_ms| format!(", in {}.{} s", in_ms / 1000, in_ms % 1000 / 100)).unwrap_or_default();
        lines.push(format!("next: {}{when}", next.says));
    }
    lines.extend(view.advice.iter().map(|advice| format!("to do: {advice}")));
    lines.extend(view.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n")
}

pub async fn history(args: HistoryArgs, client: &ControllerClient, output: Output) -> Result<(), CliError> {
    let now = Utc::now();
    let mut query = HistoryQuery {
        limit: None,
        cursor: args.before,
        since: args.since.map(|since| since.at(now)),
        until: args.until.map(|until| until.at(now)),
        kind: args.kind.map(|kind| kind.as_str().to_owned()),
    };
    let (mut lines, mut left) = (Vec::new(), args.limit);
    while left > 0 {
        query.limit = Some(left.min(PAGE));
        let page = client.history(&args.id, &query).await?;
        left -= u32::try_from(page.lines.len()).unwrap_or(left).min(left);
        lines.extend(page.lines);
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    if output == Output::Json {
        return print_json(&lines);
    }
    let mut table = listing(&["CHANGE", "AT", "TERM", "WHO", "WHY", "WHAT"]);
    for line in &lines {
        table.add_row(vec![
            line.change_seq.to_string(),
            moment(line.at),
            line.term.to_string(),
            line.actor.clone(),
            or_dash(line.reason.as_deref().map(|reason| reason.escape_debug())),
            what(line),
        ]);
    }
    print_table(&table)
}

pub async fn watch(args: WatchArgs, client: &ControllerClient, output: Output) -> Result<(), CliError> {
    let (mut left, mut failed) = (args.count, None);
    client
        .watch(args.from, |event| {
            if args.compute.as_ref().is_some_and(|wanted| event.compute_id.as_ref() != Some(wanted)) {
                return ControlFlow::Continue(());
            }
            if let Err(error) = show(&event, output) {
                failed = Some(error);
                return ControlFlow::Break(());
            }
            left = left.map(|left| left - 1);
            if left == Some(0) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .await?;
    failed.map_or(Ok(()), Err)
}

/// One line per event, also as JSON.
fn show(event: &WatchEvent, output: Output) -> Result<(), CliError> {
    if output == Output::Json {
        let text = serde_json::to_string(event);
        return print(&text.map_err(|error| CliError::Failed(format!("cannot write the answer: {error}")))?);
    }
    let why = event.reason.as_ref().map(|reason| format!(" ({})", reason.escape_debug())).unwrap_or_default();
    let id = or_dash(event.compute_id.as_ref());
    let (seq, at, actor) = (event.change_seq, moment(event.at), &event.actor);
    print(&format!("{seq} {at} {id} {actor}{why}: {}", what(event)))
}

/// The detail, as JSON on one line; for a transition its states.
fn what(line: &WatchEvent) -> String {
    let text = |name: &str| line.detail.get(name).and_then(|value| value.as_str());
    match (line.kind.as_str(), text("to")) {
        ("transition", Some(to)) => {
            let error = text("error").map(|error| format!(": {}", error.escape_debug())).unwrap_or_default();
            let applied = line.detail.get("applied_generation").and_then(serde_json::Value::as_i64);
            let applied = applied.map(|applied| format!(", generation {applied} in effect")).unwrap_or_default();
            format!("{} -> {to}{applied}{error}", text("from").unwrap_or("unknown"))
        }
        _ => line.detail.to_string(),
    }
}

fn moment(at: DateTime<Utc>) -> String {
    at.format("%F %T UTC").to_string()
}

#[cfg(test)]
mod tests {
    use pgfleet_api::Generation;
    use pgfleet_api::explain::{ExplainCode, NextStep};

    use super::*;

    #[test]
    fn an_explanation_in_lines() {
        let view = ExplainView {
            compute_id: "orders".parse().unwrap(),
            converged: false,
            code: ExplainCode::AgentUnreachable,
            says: "it does not answer".to_owned(),
            since: Some(DateTime::UNIX_EPOCH),
            next: Some(NextStep { says: "it is tried again".to_owned(), at: None, in_ms: Some(4_250) }),
            advice: None,
            notes: vec!["a note".to_owned()],
            generation: Generation(3),
            applied_generation: Some(Generation(2)),
        };
        let expected = "orders: agent_unreachable since 1970-01-01 00:00:00 UTC: it does not answer\n\
                        generation: 3, in effect: 2\nnext: it is tried again, in 4.2 s\nnote: a note";
        assert_eq!(words(&view), expected);
    }
}
