//! `pgfleet rollout`: start, status, list, pause, resume, abort, rollback.

mod args;
mod watch;

use std::collections::BTreeMap;
use std::path::Path;

use pgfleet_api::RolloutId;
use pgfleet_api::rollout::{
    RolloutCommand as Command, RolloutCompute, RolloutListQuery, RolloutPhase, RolloutPreview, RolloutStrategy,
    RolloutView, Selector, SpecPatch, StartRollout, TargetPhase,
};
use pgfleet_clients::controller::ControllerClient;
use serde_json::Value;

pub use self::args::RolloutVerb;
use self::args::{CommandArgs, StartArgs};
use crate::cli::Output;
use crate::exit::CliError;
use crate::input::read_text;
use crate::output::{listing, or_dash, print, print_json, print_table};

/// Runs a verb.
pub async fn run(verb: RolloutVerb, client: &ControllerClient, output: Output) -> Result<(), CliError> {
    match verb {
        RolloutVerb::Start(args) => start(*args, client, output).await,
        RolloutVerb::Status { id, watch: false } => show(&client.rollout(&id).await?, output),
        RolloutVerb::Status { id, watch: true } => watch::until_over(&id, Goal::Done, client, output).await,
        RolloutVerb::List { limit } => list(limit, client, output).await,
        RolloutVerb::Pause(args) => command(Command::Pause, &args, client, output).await,
        RolloutVerb::Resume(args) => command(Command::Resume, &args, client, output).await,
        RolloutVerb::Abort(args) => command(Command::Abort, &args, client, output).await,
        RolloutVerb::Rollback(args) => command(Command::Rollback, &args, client, output).await,
    }
}

/// What whoever watches hopes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Done,
    Paused,
    Aborted,
    RolledBack,
}

async fn start(args: StartArgs, client: &ControllerClient, output: Output) -> Result<(), CliError> {
    let (dry_run, watches, reason) = (args.dry_run, args.watch, args.reason.clone());
    let request = request_of(args)?;
    if dry_run {
        return preview(&client.preview_rollout(&request).await?, output);
    }
    let started = client.start_rollout(&request, reason.as_deref()).await?;
    if watches {
        return watch::until_over(&started.rollout_id, Goal::Done, client, output).await;
    }
    show(&started, output)
}

fn request_of(args: StartArgs) -> Result<StartRollout, CliError> {
    let mut patch = match &args.patch {
        Some(path) => read_patch(path)?,
        None => SpecPatch::default(),
    };
    patch.settings.extend(args.set.into_iter().map(|(name, value)| (name, Value::String(value))));
    patch.settings.extend(args.unset.into_iter().map(|name| (name, Value::Null)));
    let defaults = RolloutStrategy::default();
    Ok(StartRollout {
        // Always named here: a request whose answer is lost can be sent again.
        rollout_id: Some(args.id.unwrap_or_else(RolloutId::generate)),
        selector: Selector { labels: args.labels.into_iter().collect(), all: args.all },
        patch,
        strategy: RolloutStrategy {
            canary: args.canary.unwrap_or(defaults.canary),
            wave: args.wave.unwrap_or(defaults.wave),
            max_unavailable: args.max_unavailable.unwrap_or(defaults.max_unavailable),
            soak_s: args.soak.unwrap_or(defaults.soak_s),
            gate_timeout_s: args.gate_timeout.unwrap_or(defaults.gate_timeout_s),
            error_budget: args.error_budget.unwrap_or(defaults.error_budget),
        },
    })
}

fn read_patch(path: &Path) -> Result<SpecPatch, CliError> {
    let place = path.display();
    let text = read_text(path, "patch")?;
    serde_json::from_str(&text).map_err(|error| CliError::Usage(format!("the patch {place} does not fit: {error}")))
}

async fn command(
    command: Command,
    args: &CommandArgs,
    client: &ControllerClient,
    output: Output,
) -> Result<(), CliError> {
    let view = client.command_rollout(&args.id, command, args.reason.as_deref()).await?;
    if args.watch {
        let goal = match command {
            Command::Pause => Goal::Paused,
            Command::Resume => Goal::Done,
            Command::Abort => Goal::Aborted,
            Command::Rollback => Goal::RolledBack,
        };
        return watch::until_over(&args.id, goal, client, output).await;
    }
    show(&view, output)
}

async fn list(limit: u32, client: &ControllerClient, output: Output) -> Result<(), CliError> {
    let query = RolloutListQuery { limit: Some(limit), cursor: None };
    let rollouts = client.rollouts(&query).await?.rollouts;
    if output == Output::Json {
        return print_json(&rollouts);
    }
    let mut table = listing(&["ROLLOUT", "PHASE", "WAVE", "COMPUTES", "HEALTHY", "FAILED", "STARTED", "BY", "REASON"]);
    for view in &rollouts {
        table.add_row(vec![
            view.rollout_id.to_string(),
            phase_of(view),
            wave_of(view),
            view.plan.computes.to_string(),
            count(view, &[TargetPhase::Healthy]).to_string(),
            count(view, &[TargetPhase::Failed, TargetPhase::GivenUp, TargetPhase::Refused]).to_string(),
            view.created_at.format("%F %T UTC").to_string(),
            view.started_by.clone(),
            or_dash(view.reason.as_ref()),
        ]);
    }
    print_table(&table)
}

fn preview(preview: &RolloutPreview, output: Output) -> Result<(), CliError> {
    if output == Output::Json {
        return print_json(preview);
    }
    let mut table = listing(&["WAVE", "COMPUTE", "WOULD", "NOTE"]);
    for compute in &preview.computes {
        let would = match compute.phase {
            TargetPhase::Waiting => "change",
            other => other.as_str(),
        };
        let wave = compute.wave.map(wave_name);
        table.add_row(vec![
            or_dash(wave),
            compute.compute_id.to_string(),
            would.to_owned(),
            or_dash(compute.error.as_ref()),
        ]);
    }
    print_table(&table)?;
    let plan = &preview.plan;
    print(&format!(
        "{} of {} computes would be changed in {} waves, at most {} at a time; nothing was written",
        plan.computes,
        preview.computes.len(),
        plan.waves,
        plan.max_unavailable
    ))
}

fn show(view: &RolloutView, output: Output) -> Result<(), CliError> {
    if output == Output::Json {
        return print_json(view);
    }
    let plan = &view.plan;
    let mut table = listing(&["FIELD", "VALUE"]);
    let labels = view.selector.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
    for (field, value) in [
        ("rollout", view.rollout_id.to_string()),
        ("phase", phase_of(view)),
        ("wave", wave_of(view)),
        ("computes", counts_of(&view.counts)),
        ("selects", if view.selector.all { "all".to_owned() } else { labels }),
        ("changes", changes_of(&view.patch)),
        ("limits", format!("{} at a time, {} may fail", plan.max_unavailable, plan.error_budget)),
        ("times", format!("{} s to become healthy, {} s of soak", plan.gate_timeout_s, plan.soak_s)),
        ("started", format!("{} by {}", view.created_at.format("%F %T UTC"), view.started_by)),
        ("reason", or_dash(view.reason.as_ref())),
        ("halted", or_dash(view.halted.as_ref())),
    ] {
        table.add_row(vec![field.to_owned(), value]);
    }
    print_table(&table)?;
    if view.troubles.is_empty() { Ok(()) } else { print_troubles(&view.troubles) }
}

fn print_troubles(troubles: &[RolloutCompute]) -> Result<(), CliError> {
    print("")?;
    let mut table = listing(&["COMPUTE", "WAVE", "IS", "WHY"]);
    for compute in troubles {
        let wave = compute.wave.map(wave_name);
        let is = compute.phase.as_str().to_owned();
        table.add_row(vec![compute.compute_id.to_string(), or_dash(wave), is, or_dash(compute.error.as_ref())]);
    }
    print_table(&table)
}

fn wave_name(wave: u32) -> String {
    if wave == 0 { "canary".to_owned() } else { wave.to_string() }
}

fn wave_of(view: &RolloutView) -> String {
    let last = view.plan.waves.saturating_sub(u32::from(view.plan.canary > 0));
    format!("{} of {last}", wave_name(view.wave))
}

fn phase_of(view: &RolloutView) -> String {
    match view.resumes {
        Some(resumes) => format!("{} (while {})", view.phase.as_str(), resumes.as_str()),
        None => view.phase.as_str().to_owned(),
    }
}

fn counts_of(counts: &BTreeMap<TargetPhase, u32>) -> String {
    let total: u32 = counts.values().sum();
    let parts: Vec<String> = counts.iter().map(|(phase, count)| format!("{count} {}", phase.as_str())).collect();
    format!("{total}: {}", parts.join(", "))
}

/// Names only: values of roles may be secret.
fn changes_of(patch: &SpecPatch) -> String {
    let settings = patch.settings.iter().map(|(name, value)| {
        if value.is_null() {
            format!("unset {name}")
        } else {
            format!("set {name}={}", value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned))
        }
    });
    let named = |word: &'static str, entries: &[Value]| {
        let name = move |entry: &Value| format!("{word} {}", entry["name"].as_str().unwrap_or("?"));
        entries.iter().map(name).collect::<Vec<_>>()
    };
    let gone = |word: &'static str, names: &[String]| {
        names.iter().map(|name| format!("drop {word} {name} from the spec")).collect::<Vec<_>>()
    };
    let all = settings
        .chain(named("role", &patch.roles))
        .chain(gone("role", &patch.remove_roles))
        .chain(named("database", &patch.databases))
        .chain(gone("database", &patch.remove_databases));
    all.collect::<Vec<_>>().join(", ")
}

fn count(view: &RolloutView, phases: &[TargetPhase]) -> u32 {
    phases.iter().filter_map(|phase| view.counts.get(phase)).sum()
}

/// How a roll-out that nothing more happens to counts for whoever waited for it.
fn verdict(view: &RolloutView, goal: Goal) -> Result<(), CliError> {
    let id = &view.rollout_id;
    let wanted = match goal {
        Goal::Done => RolloutPhase::Done,
        Goal::Paused => RolloutPhase::Paused,
        Goal::Aborted => RolloutPhase::Aborted,
        Goal::RolledBack => RolloutPhase::RolledBack,
    };
    let reached = view.phase == wanted;
    let troubles: Vec<String> = view
        .counts
        .iter()
        .filter(|(phase, _)| match goal {
            // What was never changed is no trouble on the way back.
            Goal::RolledBack => {
                matches!(phase, TargetPhase::Unrestored | TargetPhase::Abandoned | TargetPhase::Overtaken)
            }
            Goal::Done | Goal::Paused | Goal::Aborted => phase.is_trouble(),
        })
        .map(|(phase, count)| format!("{count} {}", phase.as_str()))
        .collect();
    match (reached, troubles.as_slice()) {
        (true, []) => Ok(()),
        (true, _) if matches!(goal, Goal::Paused | Goal::Aborted) => Ok(()),
        (true, some) => Err(CliError::Partly(format!("roll-out {id}: {}: {}", phase_of(view), some.join(", ")))),
        (false, _) => {
            let why = view.halted.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            Err(CliError::Failed(format!("roll-out {id} is {}{why}", phase_of(view))))
        }
    }
}
