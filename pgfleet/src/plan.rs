//! `pgfleet plan`: what specs would do.

use pgfleet_api::bulk::{ApplyLine, ApplyOutcome, ApplyResult};
use pgfleet_api::plan::{DryVerdict, PlanResponse, SettingClass};
use pgfleet_api::spec::RestartPolicy;
use pgfleet_clients::controller::ControllerClient;

use crate::cli::{Output, PlanArgs};
use crate::exit::CliError;
use crate::input::read_text;
use crate::output::{listing, print, print_json, print_table};

pub async fn run(args: PlanArgs, client: &ControllerClient, output: Output) -> Result<(), CliError> {
    let lines = read(&args)?;
    let results = client.dry_run(&lines).await?;
    if output == Output::Json {
        print_json(&results)?;
    } else {
        for (i, result) in results.iter().enumerate() {
            if i > 0 {
                print("")?;
            }
            show(result, args.all)?;
        }
    }
    let count = |bad: &dyn Fn(&ApplyResult) -> bool| results.iter().filter(|result| bad(result)).count();
    let refused = count(&|result| verdict(result) == Some(DryVerdict::Refused));
    let unknown = count(&|result| matches!(verdict(result), None | Some(DryVerdict::Unknown)));
    if refused + unknown == 0 && results.len() == lines.len() {
        return Ok(());
    }
    let all = lines.len();
    Err(CliError::Partly(format!("of {all} specs {refused} would be refused, and of {unknown} nothing is known")))
}

fn read(args: &PlanArgs) -> Result<Vec<ApplyLine>, CliError> {
    let place = args.file.display();
    let text = read_text(&args.file, if args.computes.is_empty() { "lines" } else { "spec" })?;
    if args.computes.is_empty() {
        let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
        let parse = |(number, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|error| {
                let what = "is no line of an apply (for one spec give --compute)";
                CliError::Usage(format!("line {number} of {place} {what}: {error}"))
            })
        };
        let lines: Vec<ApplyLine> = lines.map(parse).collect::<Result<_, _>>()?;
        return if lines.is_empty() { Err(CliError::Usage(format!("{place} is empty"))) } else { Ok(lines) };
    }
    let spec: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| CliError::Usage(format!("the spec {place} is not JSON: {error}")))?;
    let line = |id: &pgfleet_api::ComputeId| ApplyLine {
        compute_id: id.clone(),
        agent_url: None,
        labels: None,
        spec: Some(spec.clone()),
        if_match: None,
    };
    Ok(args.computes.iter().map(line).collect())
}

/// A line that could not even be read has no verdict of its own.
fn verdict(result: &ApplyResult) -> Option<DryVerdict> {
    result.verdict.or((result.outcome == ApplyOutcome::Refused).then_some(DryVerdict::Refused))
}

fn show(result: &ApplyResult, all: bool) -> Result<(), CliError> {
    let name = result.compute_id.as_ref().map_or_else(|| format!("line {}", result.line), ToString::to_string);
    print(&format!("{name}: {}", headline(result)))?;
    let Some(plan) = &result.plan else { return Ok(()) };
    let mut table = listing(&["WHAT", "OBJECT", "CHANGE"]);
    for change in &plan.changes {
        table.add_row([change.phase.clone(), change.object.escape_debug().to_string(), change.words.clone()]);
    }
    for setting in plan.settings.iter().filter(|setting| all || setting.class != SettingClass::NoOp) {
        let none = || "(its default)".to_owned();
        let (from, to) = (setting.from.clone().unwrap_or_else(none), setting.to.clone().unwrap_or_else(none));
        let msg = setting.msg.as_ref().map(|msg| format!(": {msg}")).unwrap_or_default();
        let words = if setting.class == SettingClass::Invalid { to } else { format!("{from} -> {to}") };
        table.add_row([
            "setting".to_owned(),
            setting.name.clone(),
            format!("{}: {words}{msg}", setting.class.as_str().replace('_', "-")),
        ]);
    }
    if table.row_count() > 0 {
        print_table(&table)?;
    }
    for note in &plan.notes {
        print(&format!("note: {note}"))?;
    }
    Ok(())
}

/// Verdict and reason, in one line.
fn headline(result: &ApplyResult) -> String {
    let Some(verdict) = verdict(result) else {
        return format!(
            "not planned{}",
            result.error.as_ref().map(|error| format!(": {}", error.msg)).unwrap_or_default()
        );
    };
    let words = verdict.as_str().replace('_', "-");
    let refusal = result.plan.as_ref().and_then(|plan| plan.refusal.as_ref());
    let reason = refusal.map(|refusal| (refusal.path.as_ref(), &refusal.msg));
    let reason = reason.or_else(|| result.error.as_ref().map(|error| (error.path.as_ref(), &error.msg)));
    if let Some((path, msg)) = reason {
        let path = path.map(|path| format!("{path}: ")).unwrap_or_default();
        return format!("{words}: {path}{msg}");
    }
    match &result.plan {
        Some(plan) if verdict == DryVerdict::Restart => format!("{words}{}", restart(plan)),
        Some(_) | None => words,
    }
}

/// Whether the restart would be done, and what it would cut.
fn restart(plan: &PlanResponse) -> String {
    if !plan.running {
        return " (PostgreSQL does not run: it is started)".to_owned();
    }
    let sessions = match plan.connections {
        1 => "1 client session".to_owned(),
        n => format!("{n} client sessions"),
    };
    match plan.restart_policy {
        RestartPolicy::Never => format!(" (not by itself: restart_policy is never; it would cut {sessions})"),
        RestartPolicy::WhenIdle => format!(" (when no client is connected; now there are {sessions})"),
        RestartPolicy::Now => format!(" (at once; it cuts {sessions})"),
    }
}
