//! `pgfleet compute`: list, get, put, wait, policy, terminate, refresh, delete, unquarantine; the others are in `bulk` and
//! `journal`.

use std::path::Path;
use std::time::Duration;

use pgfleet_api::agent::TerminateMode;
use pgfleet_api::compute::{ComputeView, ListQuery, RegisterCompute, SpecAccepted, WaitOutcome, WaitResult};
use pgfleet_api::policy::{Mode, PutPolicy, SuspendPolicy};
use pgfleet_api::{ComputeId, Generation};
use pgfleet_clients::controller::{ControllerClient, ControllerError};
use serde_json::Value;

use crate::bulk;
use crate::cli::{ComputeVerb, ListArgs, Output, PolicyMode, PutArgs, Suspend};
use crate::exit::CliError;
use crate::input::read_text;
use crate::journal;
use crate::output::{listing, or_dash, print, print_json, print_table};

pub async fn run(verb: ComputeVerb, client: &ControllerClient, output: Output) -> Result<(), CliError> {
    match verb {
        ComputeVerb::List(args) => list(args, client, output).await,
        ComputeVerb::Get { id, spec: false } => show(&client.get(&id).await?, output),
        ComputeVerb::Get { id, spec: true } => print_json(&client.get_spec(&id).await?.spec),
        ComputeVerb::Put(args) => put(args, client, output).await,
        ComputeVerb::Wait { id, generation, timeout } => {
            wait(&id, generation, Duration::from_secs(timeout), client, output).await
        }
        ComputeVerb::Apply(args) => bulk::apply(args, client, output).await,
        ComputeVerb::Policy { id, mode, suspend, why } => {
            let policy = PutPolicy { suspend: suspend.map(Into::into), mode: mode.map(Into::into) };
            show(&client.put_policy(&id, &policy, why.reason.as_deref()).await?, output)
        }
        ComputeVerb::Terminate { ids, immediate, why } => {
            let client = client.because(why.reason.as_deref());
            let mode = if immediate { TerminateMode::Immediate } else { TerminateMode::Fast };
            each(&ids, async |id| {
                let generation = client.terminate(id, mode).await?.generation;
                Ok(format!("{id}: will be ended (generation {generation})"))
            })
            .await
        }
        ComputeVerb::Refresh { ids, why } => {
            let client = client.because(why.reason.as_deref());
            each(&ids, async |id| {
                let generation = client.refresh(id).await?.generation;
                Ok(format!("{id}: will be applied again as generation {generation}"))
            })
            .await
        }
        ComputeVerb::Explain { id } => journal::explain(&id, client, output).await,
        ComputeVerb::History(args) => journal::history(args, client, output).await,
        ComputeVerb::Watch(args) => journal::watch(args, client, output).await,
        ComputeVerb::Delete { ids, terminate, why } => {
            let client = client.because(why.reason.as_deref());
            each(&ids, async |id| {
                if terminate {
                    let generation = client.end_and_delete(id).await?.generation;
                    return Ok(format!("{id}: will be ended and then forgotten (generation {generation})"));
                }
                client.delete(id).await?;
                Ok(format!("{id}: forgotten; it keeps running"))
            })
            .await
        }
        ComputeVerb::Unquarantine { id, why } => unquarantine(&id, why.reason.as_deref(), client, output).await,
    }
}

impl From<Suspend> for SuspendPolicy {
    fn from(suspend: Suspend) -> Self {
        match suspend {
            Suspend::WhenIdle => Self::WhenIdle,
            Suspend::Never => Self::Never,
        }
    }
}

impl From<PolicyMode> for Mode {
    fn from(mode: PolicyMode) -> Self {
        match mode {
            PolicyMode::Active => Self::Active,
            PolicyMode::Pause => Self::Pause,
            PolicyMode::Stop => Self::Stop,
        }
    }
}

async fn list(args: ListArgs, client: &ControllerClient, output: Output) -> Result<(), CliError> {
    let state = args.state.map(|name| {
        let name = name.replace('-', "_");
        serde_json::from_value(Value::String(name.clone()))
            .map_err(|_| CliError::Usage(format!("--state: there is no state {name:?}")))
    });
    let query = ListQuery {
        state: state.transpose()?,
        label: args.label,
        lagging: args.lagging.then_some(true),
        limit: Some(1000),
        cursor: None,
    };
    let computes = client.list_all(&query).await?;
    if output == Output::Json {
        return print_json(&computes);
    }
    let mut table = listing(&["COMPUTE", "STATE", "GENERATION", "APPLIED", "LAG", "POSTGRES", "AGENT", "ERROR"]);
    for compute in &computes {
        table.add_row(row(compute));
    }
    print_table(&table)
}

fn row(compute: &ComputeView) -> Vec<String> {
    let observed = compute.observed.as_ref();
    let postgres = observed.and_then(|observed| observed.postgres.as_ref());
    vec![
        compute.compute_id.to_string(),
        or_dash(observed.map(|observed| observed.state.as_str())),
        compute.generation.to_string(),
        or_dash(compute.applied_generation),
        compute.lag.to_string(),
        or_dash(postgres.map(|postgres| format!("{} port {}", postgres.version, postgres.port))),
        compute.agent_url.clone(),
        or_dash(problem(compute)),
    ]
}

/// What stands in the way, in one line.
fn problem(compute: &ComputeView) -> Option<String> {
    if let Some(held) = &compute.quarantine {
        let next = held.next_try_at.format("%F %T UTC");
        return Some(format!("quarantined, next try {next}: {}", held.reason));
    }
    let observed = compute.observed.as_ref();
    let detail = observed.and_then(|observed| observed.error_detail.as_ref()).map(|detail| {
        let object = detail.object.as_ref().map(|object| format!(" {object}")).unwrap_or_default();
        format!("{}{object}: {}", detail.phase, detail.message)
    });
    detail.or_else(|| observed.and_then(|observed| observed.error.clone())).or_else(|| compute.last_error.clone())
}

fn show(compute: &ComputeView, output: Output) -> Result<(), CliError> {
    if output == Output::Json {
        return print_json(compute);
    }
    let observed = compute.observed.as_ref();
    let labels = compute.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
    let list = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    let mut table = listing(&["FIELD", "VALUE"]);
    let [state, postgres] = [1, 5].map(|column| row(compute)[column].clone());
    for (field, value) in [
        ("compute", compute.compute_id.to_string()),
        ("state", state),
        ("generation", compute.generation.to_string()),
        ("applied", or_dash(compute.applied_generation)),
        ("rejected", or_dash(observed.and_then(|observed| observed.rejected_generation))),
        ("lag", compute.lag.to_string()),
        ("spec hash", or_dash(compute.spec_hash.as_ref().map(|hash| hash.as_str()))),
        ("agent", compute.agent_url.clone()),
        ("labels", if labels.is_empty() { "-".to_owned() } else { labels }),
        ("postgres", postgres),
        ("policy", compute.policy.mode.as_str().to_owned()),
        ("suspend", suspends(compute).to_owned()),
        ("pending", or_dash(compute.policy.pending.map(|pending| pending.action.as_str()))),
        ("term seen", or_dash(observed.and_then(|observed| observed.term))),
        ("pending restart", observed.map_or_else(|| "-".to_owned(), |observed| list(&observed.pending_restart))),
        ("ignored fields", observed.map_or_else(|| "-".to_owned(), |observed| list(&observed.ignored_fields))),
        ("error", or_dash(problem(compute))),
        ("created", compute.created_at.format("%F %T UTC").to_string()),
        ("updated", compute.updated_at.format("%F %T UTC").to_string()),
    ] {
        table.add_row(vec![field.to_owned(), value]);
    }
    print_table(&table)
}

fn suspends(compute: &ComputeView) -> &'static str {
    match compute.policy.suspend {
        SuspendPolicy::WhenIdle => "when-idle",
        SuspendPolicy::Never => "never",
    }
}

async fn put(args: PutArgs, client: &ControllerClient, output: Output) -> Result<(), CliError> {
    // Read first: a bad file must not leave a registration behind.
    let spec = args.spec.as_deref().map(read_spec).transpose()?;
    let client = &client.because(args.why.reason.as_deref());
    if args.agent_url.is_some() || !args.labels.is_empty() {
        let known = match &args.agent_url {
            Some(url) => url.clone(),
            None => client.get(&args.id).await?.agent_url,
        };
        let labels = args.labels.iter().cloned().collect();
        let compute = client.register(&args.id, &RegisterCompute { agent_url: known, labels, spec: None }).await?;
        if spec.is_none() {
            return show(&compute, output);
        }
    }
    let Some(spec) = spec else { return Ok(()) };
    let accepted = client.put_spec(&args.id, &spec, args.if_match).await?;
    if args.wait {
        return wait(&args.id, Some(accepted.generation), args.timeout(), client, output).await;
    }
    if output == Output::Json { print_json(&accepted) } else { print(&accepted_line(&args.id, &accepted)) }
}

fn accepted_line(id: &ComputeId, accepted: &SpecAccepted) -> String {
    let ignored = match accepted.ignored_fields.as_slice() {
        [] => String::new(),
        fields => format!("; not acted on: {}", fields.join(", ")),
    };
    format!("{id}: generation {} accepted{ignored}", accepted.generation)
}

fn read_spec(path: &Path) -> Result<Value, CliError> {
    let place = path.display();
    let text = read_text(path, "spec")?;
    serde_json::from_str(&text).map_err(|error| CliError::Usage(format!("the spec {place} is not JSON: {error}")))
}

async fn wait(
    id: &ComputeId,
    generation: Option<Generation>,
    timeout: Duration,
    client: &ControllerClient,
    output: Output,
) -> Result<(), CliError> {
    let result = client.wait(id, generation, timeout).await?;
    if output == Output::Json {
        print_json(&result)?;
    }
    let WaitResult { outcome, generation, compute } = result;
    let why = problem(&compute).unwrap_or_else(|| "no reason reported".to_owned());
    match outcome {
        WaitOutcome::Applied if output == Output::Json => Ok(()),
        WaitOutcome::Applied => print(&format!("{id}: generation {generation} applied")),
        WaitOutcome::Rejected => Err(CliError::Failed(format!("{id}: generation {generation} was rejected: {why}"))),
        WaitOutcome::Failed => Err(CliError::Failed(format!("{id}: failed on generation {generation}: {why}"))),
        WaitOutcome::Timeout => {
            let seconds = timeout.as_secs();
            Err(CliError::Failed(format!("{id}: generation {generation} not applied within {seconds} s: {why}")))
        }
    }
}

/// The same for each of several computes; one that fails ends nothing.
async fn each(
    ids: &[ComputeId],
    work: impl AsyncFn(&ComputeId) -> Result<String, ControllerError>,
) -> Result<(), CliError> {
    let mut failed = Vec::new();
    for id in ids {
        match work(id).await {
            Ok(done) => print(&done)?,
            Err(error) if ids.len() == 1 => return Err(error.into()),
            Err(error) => failed.push(format!("{id}: {error}")),
        }
    }
    match failed.len() {
        0 => Ok(()),
        count if count == ids.len() => Err(CliError::Failed(failed.join("; "))),
        _ => Err(CliError::Partly(failed.join("; "))),
    }
}

async fn unquarantine(
    id: &ComputeId,
    reason: Option<&str>,
    client: &ControllerClient,
    output: Output,
) -> Result<(), CliError> {
    let compute = client.unquarantine(id, reason).await?;
    if output == Output::Json { print_json(&compute) } else { print(&format!("{id}: not quarantined")) }
}
