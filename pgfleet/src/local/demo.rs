//! `pgfleet local demo`: a fleet of three computes is configured, its controllers are restarted one by one and then
//! killed, all under load, and a report says whether anybody noticed.
//!
//! Called by the CLI. Calls: cluster (what runs), load (the client), measure (what the client felt), report.
//! Invariant: whatever happens, Ctrl-C included, nothing is left running; after a failure the logs stay.

mod examples;
mod load;
mod measure;
mod report;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pgfleet_api::compute::WaitOutcome;
use pgfleet_api::controller::Role;
use pgfleet_clients::controller::{CallRecord, ControllerClient, Options};
use pgfleet_clients::token::Source;
use rustix::process::Signal;
use tokio::task::JoinSet;

use self::examples::{Example, SETTING, setting_of};
use self::load::Load;
use self::measure::Change;
use self::report::{ComputeResult, Report, ms};
use super::cluster::{Cluster, Made, Programs};
use super::layout::Layout;
use super::postgres::{Postgres, free_port};
use super::state::State;
use super::{down, interrupted};
use crate::exit::CliError;
use crate::output::{print, to_stderr};

/// For a first start of PostgreSQL with initdb, in a debug build on a busy machine.
const APPLY_LIMIT: Duration = Duration::from_secs(40);
/// How long the load runs before, between and after the changes of leader.
const CALM: Duration = Duration::from_millis(1200);

pub async fn run(pg_bin: Option<PathBuf>) -> Result<(), CliError> {
    let progress = Progress { begun: Instant::now() };
    let postgres = Postgres::find(pg_bin).await?;
    let programs = Programs::find()?;
    let layout = Layout::new(Some(scratch_dir()))?;
    let made = Made { lock: layout.create()?, layout: layout.clone() };
    // In a task of its own, so that even a panic ends here and not past the end of everything.
    let mut story = JoinSet::new();
    story.spawn(tell(progress, made, postgres, programs));
    let told = tokio::select! {
        told = story.join_next() => told.and_then(Result::ok).unwrap_or_else(|| Err(broke())),
        error = interrupted() => Err(error),
    };
    story.shutdown().await;
    progress.say("ending everything and removing it");
    let state = State::read(&layout).ok().flatten().unwrap_or_default();
    let ended = down::stop(&layout, &state).await.and_then(|()| layout.remove_all_but_logs());
    let outcome = told.and_then(|mut report| {
        report.duration_s = progress.begun.elapsed().as_secs_f64();
        report.judge(ended.as_ref().err());
        report.print()?;
        let path = report.write()?;
        print(&format!("report: {}", path.display()))?;
        if report.is_kept() { Ok(()) } else { Err(CliError::Failed("the demo broke a promise".to_owned())) }
    });
    conclude(&layout, outcome, ended)
}

fn broke() -> CliError {
    CliError::Failed("the demo itself broke; its trace is above".to_owned())
}

/// Removes everything after a success; keeps the logs and names them after a failure.
fn conclude(layout: &Layout, outcome: Result<(), CliError>, ended: Result<(), CliError>) -> Result<(), CliError> {
    let Err(error) = outcome.and(ended) else {
        return layout.remove();
    };
    to_stderr(&format!("the logs are kept in {}", layout.root.join("logs").display()));
    Err(error)
}

/// The story, up to the point where all is measured and the cluster still runs.
async fn tell(progress: Progress, made: Made, postgres: Postgres, programs: Programs) -> Result<Report, CliError> {
    let examples = examples::all()?;
    progress.say("starting a private PostgreSQL for the controllers");
    let mut cluster = Cluster::create(made, postgres, programs).await?;
    progress.say("starting two controllers and three computes");
    let first = cluster.start_controller("controller-1").await?;
    cluster.wait_role(&first, Role::Leader).await?;
    let second = cluster.start_controller("controller-2").await?;
    cluster.wait_role(&second, Role::Candidate).await?;
    for example in &examples {
        let agent_url = cluster.start_compute(&example.id).await?;
        cluster.register(&example.id, agent_url).await?;
    }
    let client = cluster.client(Options::default())?;
    let mut terms = vec![client.leader().await?.term.get()];
    progress.say("pushing three specs from examples/");
    for example in &examples {
        client.put_spec(&example.id, &example.spec, None).await?;
    }
    for example in &examples {
        let result = check(&cluster, &client, example).await?;
        if let Some(problem) = &result.problem {
            return Err(CliError::Failed(format!("{}: {problem}", example.id)));
        }
        progress.say(&format!(
            "{}: generation {} applied; psql logged in as {} and read {SETTING} = {}",
            result.compute_id, result.generation, result.role, result.setting
        ));
    }
    let tokens = Source::file(cluster.layout.operator_token())?;
    // The client is told of all three members, as it would be where they have names; the third comes up later.
    let third_port = free_port()?;
    let third = format!("http://127.0.0.1:{third_port}");
    let load = Load::start(&[first.clone(), second.clone()], &third, &tokens, &examples)?;
    let story = change_leaders(progress, &mut cluster, &load, (&first, &second, third_port), &mut terms).await;
    let calls = load.finish().await?;
    let story = story?;
    progress
        .say(&format!("the client stopped after {} requests; waiting until the newest specs are applied", calls.len()));
    let client = cluster.client(Options::default())?;
    let mut computes = Vec::new();
    for example in &examples {
        computes.push(check(&cluster, &client, example).await?);
    }
    summarize(&calls, &story, terms, computes)
}

/// Moments of the two changes of leader.
struct Story {
    handover: (Instant, Instant),
    own_gap_seconds: Option<f64>,
    killed_at: Instant,
    killed: String,
}

async fn change_leaders(
    progress: Progress,
    cluster: &mut Cluster,
    load: &Load,
    (first, second, third_port): (&str, &str, u16),
    terms: &mut Vec<i64>,
) -> Result<Story, CliError> {
    progress.say("a client keeps writing specs and reading states through both controllers");
    tokio::time::sleep(CALM).await;
    progress.say(&format!(
        "{} requests so far; rolling restart: starting a third controller --start-as-candidate",
        load.count()
    ));
    let begun = Instant::now();
    let third = cluster.start_candidate("controller-3", third_port).await?;
    cluster.wait_role(&third, Role::Leader).await?;
    let handover = (begun, Instant::now());
    let client = cluster.client(Options::default())?;
    terms.push(client.leader().await?.term.get());
    let own_gap_seconds = measure::own_gap_seconds(&client.metrics(&third).await?);
    tokio::time::sleep(CALM / 2).await;
    progress.say("controller-3 leads; ending the old leader, as a rolling restart does");
    if let Some(old) = cluster.controller(first) {
        old.process.signal(Signal::TERM);
        if !old.process.ended_within(Duration::from_secs(15)).await {
            return Err(CliError::Failed("the old leader did not end within 15 s of SIGTERM".to_owned()));
        }
    }
    cluster.wait_role(second, Role::Candidate).await?;
    tokio::time::sleep(CALM / 2).await;
    progress.say(&format!("{} requests so far; killing the leader with SIGKILL", load.count()));
    let killed_at = Instant::now();
    if let Some(leader) = cluster.controller(&third) {
        leader.process.signal(Signal::KILL);
    }
    cluster.wait_role(second, Role::Leader).await?;
    progress.say("controller-2 leads");
    terms.push(cluster.client(Options::default())?.leader().await?.term.get());
    tokio::time::sleep(CALM).await;
    Ok(Story { handover, own_gap_seconds, killed_at, killed: third })
}

/// Waits until a compute has applied the newest spec, logs in as a role of it, and reads the setting.
async fn check(cluster: &Cluster, client: &ControllerClient, example: &Example) -> Result<ComputeResult, CliError> {
    let asked = client.get_spec(&example.id).await?;
    let wait = client.wait(&example.id, Some(asked.generation), APPLY_LIMIT).await?;
    let mut result = ComputeResult {
        compute_id: example.id.clone(),
        state: wait.compute.observed.as_ref().map_or("unknown", |observed| observed.state.as_str()).to_owned(),
        generation: asked.generation,
        applied_generation: wait.compute.applied_generation,
        role: example.role.to_owned(),
        setting: "-".to_owned(),
        problem: None,
    };
    if wait.outcome != WaitOutcome::Applied {
        let why = wait.compute.observed.and_then(|observed| observed.error).or(wait.compute.last_error);
        result.problem = Some(format!("not applied: {}", why.unwrap_or_else(|| "no reason reported".to_owned())));
        return Ok(result);
    }
    let compute = cluster.state.computes.iter().find(|compute| compute.id == example.id);
    let url = example.url(compute.map_or(0, |compute| compute.postgres_port));
    let sql = format!("SELECT setting || ' ' || current_setting(name) FROM pg_settings WHERE name = '{SETTING}'");
    match cluster.postgres.psql(&url, &sql).await {
        Err(error) => result.problem = Some(format!("psql as {}: {error}", example.role)),
        Ok(answer) => {
            let (kilobytes, shown) = answer.split_once(' ').unwrap_or((&answer, &answer));
            shown.clone_into(&mut result.setting);
            let wanted = setting_of(&asked.spec);
            if kilobytes.parse::<u64>().ok() != wanted {
                result.problem = Some(format!("{SETTING} is {shown}, the spec says {} kB", wanted.unwrap_or_default()));
            }
        }
    }
    Ok(result)
}

fn summarize(
    calls: &[CallRecord],
    story: &Story,
    terms: Vec<i64>,
    computes: Vec<ComputeResult>,
) -> Result<Report, CliError> {
    let unseen = |what: &str| CliError::Failed(format!("the client saw no acknowledged write around the {what}"));
    let handover: Change =
        measure::hand_over(calls, story.handover.0, story.handover.1).ok_or_else(|| unseen("hand-over"))?;
    let takeover = measure::takeover(calls, story.killed_at, &story.killed).ok_or_else(|| unseen("takeover"))?;
    let (median, maximum) = measure::latencies(calls.iter());
    let (write_median, _) = measure::latencies(calls.iter().filter(|call| call.is_write));
    let failures: Vec<String> = calls.iter().filter_map(|call| call.outcome.clone().err()).collect();
    Ok(Report {
        handover_gap_ms: ms(handover.interruption),
        takeover_ms: ms(takeover.interruption),
        requests_total: calls.len(),
        requests_failed: failures.len(),
        computes_applied: computes.iter().filter(|compute| compute.problem.is_none()).count(),
        terms,
        requests_held: calls.iter().filter(|call| call.pauses > 0).count(),
        requests_redirected: calls.iter().filter(|call| call.attempts > 1).count(),
        requests_around_handover: handover.requests_around,
        requests_around_takeover: takeover.requests_around,
        write_distance_median_ms: ms(handover.usual_distance),
        controllers_handover_gap_ms: story.own_gap_seconds.map(|seconds| seconds * 1000.0),
        latency_median_ms: ms(median),
        write_latency_median_ms: ms(write_median),
        latency_max_ms: ms(maximum),
        latency_max_handover_ms: ms(handover.slowest),
        latency_max_takeover_ms: ms(takeover.slowest),
        duration_s: 0.0,
        computes,
        failures,
        promises: Vec::new(),
    })
}

/// A short directory that the postgres user can reach.
fn scratch_dir() -> PathBuf {
    let base = Path::new("/tmp");
    let base = if base.is_dir() { base.to_owned() } else { std::env::temp_dir() };
    base.join(format!("pgfleet-demo-{:08x}", rand::random::<u32>()))
}

/// Says what happens and when, on standard error.
#[derive(Clone, Copy)]
struct Progress {
    begun: Instant,
}

impl Progress {
    fn say(self, what: &str) {
        to_stderr(&format!("[{:5.1} s] {what}", self.begun.elapsed().as_secs_f64()));
    }
}
