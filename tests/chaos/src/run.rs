//! One run: a fleet is set up, loaded, struck, healed, ended and judged.
//!
//! Who calls it: the program `chaos`, and the bounded test. A run that breaks off, has no fault or no load after the last
//! fault is a failed run. Of a failed run the directory stays: record, logs, verdict.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use pgfleet_api::ComputeId;
use pgfleet_api::compute::RegisterCompute;
use pgfleet_api::controller::Role;
use pgfleet_clients::controller::{ControllerClient, Options as ClientOptions};
use pgfleet_domain::spec::spec_hash;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::wait_until;
use pgfleet_history::{Event, Options, Report, check};

use crate::cast::{Cast, Life, MEMBERS};
use crate::engine::{Done, Engine};
use crate::load::{Asked, Load};
use crate::recorder::{Recorder, Writing};
use crate::schedule::{Kind, Scenario, Schedule, Step};
use crate::watchers::Watchers;
use crate::{audit, settle};

/// Computes of a run, as many as its schedule says, each with a real agent around a real PostgreSQL.
const COMPUTES: [&str; 2] = ["one", "two"];

/// How long a fleet may take to stand before the load begins.
const TO_STAND: Duration = Duration::from_secs(60);

/// Load before the first fault, and at least after the last.
const BEFORE: Duration = Duration::from_millis(300);

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// What it was about.
    pub scenario: Scenario,
    /// What was done.
    pub done: Done,
    /// What the checker says; none if the run broke off.
    pub report: Option<Report>,
    /// What is wrong, beside what the checker says.
    pub wrong: Vec<String>,
    /// How long it took.
    pub took: Duration,
    /// Where record and logs are; they are kept if the run failed, or on demand.
    pub dir: PathBuf,
}

impl Outcome {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.wrong.is_empty() && self.report.as_ref().is_some_and(Report::passed)
    }

    /// All that is wrong, one line each.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let mut all = self.wrong.clone();
        for finding in self.report.iter().flat_map(|report| &report.invariants) {
            all.extend(finding.violations.iter().map(|violation| format!("{}: {violation}", finding.name)));
            if finding.outcome == pgfleet_history::Outcome::NotDecided {
                all.push(format!("{}: not decided: {}", finding.name, finding.note.as_deref().unwrap_or_default()));
            }
        }
        all
    }
}

/// Runs the schedule of a seed. Record and logs go into a directory of its own under `keep`. None, with a line that says so,
/// where there is no PostgreSQL.
pub async fn run(seed: u64, keep: &Path) -> Option<Outcome> {
    let began = Instant::now();
    let schedule = Schedule::of(seed);
    let dir = keep.join(seed.to_string());
    drop(std::fs::remove_dir_all(&dir));
    std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let fleet = Arc::new(Fleet::with_own_server(&format!("chaos_{seed}")).await?);
    let (recorder, writing) = Recorder::begin(&dir.join("history.ndjson"));
    let mut done = Done::default();
    let played = AssertUnwindSafe(play(&schedule, &fleet, recorder, writing, &mut done)).catch_unwind().await;
    let (report, wrong) = match played {
        Ok((report, wrong)) => (Some(report), wrong),
        Err(said) => (None, vec![format!("the run broke off: {}", reason(&*said))]),
    };
    let outcome = Outcome { seed, scenario: schedule.scenario, done, report, wrong, took: began.elapsed(), dir };
    keep_logs(&fleet, &outcome);
    Some(outcome)
}

fn reason(said: &(dyn std::any::Any + Send)) -> String {
    let text = said.downcast_ref::<String>().map(String::as_str).or_else(|| said.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic").to_owned()
}

async fn play(
    schedule: &Schedule,
    fleet: &Arc<Fleet>,
    recorder: Recorder,
    writing: Writing,
    done: &mut Done,
) -> (Report, Vec<String>) {
    recorder.record(Event::Begun { seed: Some(schedule.seed), cluster_id: None });
    let moves_clocks = |step: &Step| matches!(step.kind, Kind::ClockAhead | Kind::ClockBack);
    let mut cast = Cast::new(fleet, schedule.steps.iter().any(moves_clocks)).await;
    let urls: Vec<String> = cast.members.iter().map(|member| member.url.clone()).collect();
    let mut watchers = Watchers::of_members(&recorder, &urls);
    let at_once = schedule.scenario == Scenario::FirstBoots;
    boot(&mut cast, fleet, &watchers, at_once).await;
    let computes =
        computes(&mut cast, fleet, &mut watchers, &recorder, (&urls[..MEMBERS], &COMPUTES[..schedule.computes])).await;
    let mut engine = Engine::new(cast, fleet.clone(), recorder.clone(), watchers.seen.clone());
    if at_once {
        engine.note(Kind::FirstBootsAtOnce, "a, b, c");
    }
    let asked = Asked { members: urls[..MEMBERS].to_vec(), computes, seed: schedule.seed };
    let load = Load::start(fleet, &recorder, &asked);
    tokio::time::sleep(BEFORE).await;

    engine.play(schedule).await;
    engine.heal_all().await;
    let mut wrong = Vec::new();
    wrong.extend(settle::healed(&mut engine, &load.book).await);
    load.end().await;
    wrong.extend(settle::applied(&mut engine, fleet, &watchers.seen, &recorder).await);
    let (mut cast, counted) = (engine.cast, engine.done);
    if wrong.is_empty() {
        settle::memories(fleet, &mut cast, &watchers.seen).await;
    }
    watchers.end().await;
    recorder.record(Event::Leftovers { found: settle::leftovers(fleet, &mut cast).await });
    *done = counted;
    if let Some(pause) = schedule.pause.filter(|pause| !done.pauses.contains_key(pause.point)) {
        say(&format!("seed {}: {} was not reached", schedule.seed, pause.point));
    }
    let entries = recorder.end(writing).await;
    (check(&entries, &Options::chaos()), wrong)
}

/// A line for whoever reads along.
fn say(text: &str) {
    eprintln!("{text}");
}

/// Starts the members: one after the other, or all at once on an empty database.
async fn boot(cast: &mut Cast, fleet: &Fleet, watchers: &Watchers, at_once: bool) {
    for index in 0..MEMBERS {
        cast.launch(fleet, index, Life::default());
        if !at_once && index == 0 {
            wait_until("the first member leads", TO_STAND, async || watchers.seen.leader().is_some()).await;
        }
    }
    wait_until("one leads and two follow", TO_STAND, async || {
        let shown = (0..MEMBERS).filter_map(|index| watchers.seen.member(index));
        let candidates = shown.filter(|status| status.role == Role::Candidate).count();
        watchers.seen.leader().is_some() && candidates == MEMBERS - 1
    })
    .await;
}

/// Starts the agents, registers the computes with a first spec and waits until it is in effect.
async fn computes(
    cast: &mut Cast,
    fleet: &Arc<Fleet>,
    watchers: &mut Watchers,
    recorder: &Recorder,
    (members, names): (&[String], &[&str]),
) -> Vec<ComputeId> {
    audit::install(&fleet.database().await).await;
    watchers.add_database(recorder, fleet.database_url());
    pgfleet_clients::install_crypto_provider();
    let client = ControllerClient::new(members.to_vec(), fleet.keys().source(), ClientOptions::default());
    let client = client.unwrap_or_else(|error| panic!("no client: {error}"));
    let mut ids = Vec::new();
    for name in names {
        let id: ComputeId = name.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
        cast.add_agent(fleet, &id).await;
        let (Some(Some(agent)), Some(link)) = (cast.agents.last(), cast.agent_links.last()) else { break };
        watchers.add_agent(fleet, recorder, &id, agent.url());
        let agent_url = format!("http://{}", link.addr());
        let spec = marked("first");
        let hash = spec_hash(&spec);
        let body = RegisterCompute { agent_url, labels: BTreeMap::new(), spec: Some(spec) };
        let view = client.register(&id, &body).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        recorder.record(Event::Given { compute_id: id.clone(), generation: view.generation, spec_hash: hash });
        ids.push(id);
    }
    for id in &ids {
        let what = format!("{id} runs its first spec");
        let runs = || watchers.seen.agent(id).is_some_and(|status| status.applied_generation.is_some());
        wait_until(&what, TO_STAND, async || runs()).await;
    }
    ids
}

/// Copies the logs beside the record, with the verdict.
fn keep_logs(fleet: &Fleet, outcome: &Outcome) {
    let copy = |from: &Path, to: &str| drop(std::fs::copy(from, outcome.dir.join(to)));
    for log in std::fs::read_dir(fleet.dir().join("logs")).into_iter().flatten().flatten() {
        copy(&log.path(), &log.file_name().to_string_lossy());
    }
    copy(&fleet.cluster().dir().join("log"), "postgresql.log");
    let mut text = format!("{:#?}\n", Schedule::of(outcome.seed));
    text.extend(outcome.wrong.iter().map(|line| format!("{line}\n")));
    text.extend(outcome.report.iter().map(ToString::to_string));
    drop(std::fs::write(outcome.dir.join("verdict.txt"), text));
}
