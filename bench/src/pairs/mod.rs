//! Does `POST /plan` tell the truth? Random pairs of specs: the first is applied, the second is planned and then applied,
//! and what the plan said is compared with what PostgreSQL has before and after.
//!
//! Who calls it: `make plan-vs-configure`, and one bounded run in the tests. Of the agent's own words only
//! its refusals, `pending_restart` and the objects in its log are believed; settings, roles and databases are read from
//! PostgreSQL. A plan that is
//! wrong in any setting, object, path or in its verdict is a mismatch.

mod generate;
mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Parser;
use pgfleet_api::plan::{PlanResponse, PlanVerdict, PlannedChange, SettingClass};
use pgfleet_harness::agent::Agent;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use serde::Serialize;
use serde_json::{Value, json};

use self::generate::{Dice, after, spec};
use self::seen::Seen;
use crate::report::{commit, machine};

/// One data directory serves so many pairs.
const PAIRS_PER_AGENT: usize = 50;
/// For one request to the agent.
const LIMIT: Duration = Duration::from_secs(60);

/// Compares what /plan says with what /configure does, over random pairs of specs.
#[derive(Debug, Clone, Parser)]
#[command(name = "plan_vs_configure", version, about)]
pub struct Asked {
    /// How many pairs.
    #[arg(long, default_value_t = 200)]
    pub pairs: usize,
    /// The same seed gives the same pairs.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where the results are written.
    #[arg(long, default_value = "bench/results")]
    pub out: std::path::PathBuf,
}

/// A plan that was wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Mismatch {
    /// Number of the pair, from 1.
    pub pair: usize,
    /// What was said and what was so.
    pub what: Vec<String>,
}

/// What is written to `plan_vs_configure.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    scenario: &'static str,
    commit: String,
    date: String,
    machine: String,
    /// Pairs.
    pub n: usize,
    /// The same.
    pub pairs: usize,
    /// Pairs whose plan was wrong.
    pub mismatches: usize,
    /// The seed.
    pub seed: u64,
    /// The figures.
    pub figures: Figures,
    /// Nothing is timed here.
    pub floors: BTreeMap<String, f64>,
    /// What was wrong, for people.
    #[serde(skip)]
    pub wrong: Vec<Mismatch>,
}

/// How many pairs came to what.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// Pairs.
    pub pairs: usize,
    /// Pairs whose plan was wrong.
    pub mismatches: usize,
    /// By what really happened.
    pub by_verdict: BTreeMap<&'static str, usize>,
    /// Classes of the settings in all plans.
    pub settings_by_class: BTreeMap<&'static str, usize>,
    /// Objects that were changed.
    pub objects: usize,
}

/// Runs the pairs. None, with a line that says so, where there is no PostgreSQL.
pub async fn run(asked: &Asked) -> Option<Results> {
    let mut results = Results {
        scenario: "plan_vs_configure",
        commit: commit(),
        date: chrono::Utc::now().format("%F").to_string(),
        machine: machine(),
        n: asked.pairs,
        pairs: asked.pairs,
        mismatches: 0,
        seed: asked.seed,
        figures: Figures { pairs: asked.pairs, ..Figures::default() },
        floors: BTreeMap::new(),
        wrong: Vec::new(),
    };
    let mut dice = Dice::new(asked.seed);
    let mut pair = 0;
    while pair < asked.pairs {
        let fleet = Fleet::start("plan_vs_configure").await?;
        let mut agent = fleet.agent("pairs").start().await;
        for _ in 0..PAIRS_PER_AGENT.min(asked.pairs - pair) {
            pair += 1;
            let first = spec(&mut dice);
            let second = after(&mut dice, &first);
            let (code, told) = post(&agent, "/configure", &first).await;
            let mut what = Vec::new();
            if code == 200 {
                if dice.once_in(2) {
                    agent = restarted(&fleet, agent).await;
                }
                what = judge(&agent, &second, &mut results.figures).await.unwrap_or_else(|broken| vec![broken]);
            } else {
                what.push(format!("the first spec was answered {code}: {told}"));
            }
            if !what.is_empty() {
                results.wrong.push(Mismatch { pair, what });
            }
        }
        agent.process.terminate();
        agent.process.exit_code(PATIENCE).await;
    }
    results.mismatches = results.wrong.len();
    results.figures.mismatches = results.mismatches;
    Some(results)
}

async fn post(agent: &Agent, path: &str, spec: &Value) -> (u16, Value) {
    let body = json!({"spec": spec}).to_string();
    let answer = agent.call("POST", path).body(body).limit(LIMIT).send().await;
    (answer.status, serde_json::from_str(&answer.body).unwrap_or(Value::String(answer.body)))
}

/// The next life of the agent, and of PostgreSQL: what waited for a restart is in effect.
async fn restarted(fleet: &Fleet, agent: Agent) -> Agent {
    agent.process.terminate();
    agent.process.exit_code(PATIENCE).await;
    let again = fleet.agent("pairs").after(&agent).start().await;
    again.shows("running", PATIENCE, |status| status.status == pgfleet_api::agent::ComputeState::Running).await;
    again
}

/// Plans and applies the second spec; gives all that the plan got wrong.
async fn judge(agent: &Agent, second: &Value, figures: &mut Figures) -> Result<Vec<String>, String> {
    let socket = agent.data_dir().with_file_name("state").join("s").display().to_string().replace('/', "%2F");
    let url = format!("postgres://cloud_admin@{socket}:{}/postgres?sslmode=disable", agent.postgres_port());
    let before = Seen::by(&url).await?;
    let waiting_before = agent.status().await.map(|status| status.pending_restart).unwrap_or_default();
    let (code, told) = post(agent, "/plan", second).await;
    let plan: PlanResponse =
        serde_json::from_value(told.clone()).map_err(|error| format!("/plan answered {code} {told}: {error}"))?;
    let mut wrong = Vec::new();
    if Seen::by(&url).await? != before {
        wrong.push("the plan changed something".to_owned());
    }
    let log = agent.process.log().len();
    let (code, answer) = post(agent, "/configure", second).await;
    let told = agent.process.log().split_off(log);
    let now = Seen::by(&url).await?;
    let waiting = agent.status().await.map(|status| status.pending_restart).unwrap_or_default();
    let done = Done { before, waiting_before, now, waiting };
    let happened = match code {
        200 => done.verdict(),
        400..=499 => PlanVerdict::Refused,
        _ => return Err(format!("/configure answered {code}: {answer}")),
    };
    *figures.by_verdict.entry(happened.as_str()).or_default() += 1;
    if happened != plan.verdict {
        wrong.push(format!("verdict: said {}, happened {}", plan.verdict.as_str(), happened.as_str()));
    }
    if happened == PlanVerdict::Refused {
        let said = plan.refusal.as_ref().and_then(|refusal| refusal.path.clone()).unwrap_or_default();
        let path = answer["path"].as_str().unwrap_or_default();
        if path.strip_prefix("spec.").unwrap_or(path) != said {
            wrong.push(format!("path: said {said}, happened {path}"));
        }
        if done.before != done.now {
            wrong.push("a refused spec changed something".to_owned());
        }
        return Ok(wrong);
    }
    for setting in &plan.settings {
        *figures.settings_by_class.entry(setting.class.as_str()).or_default() += 1;
    }
    wrong.extend(done.settings_against(&plan));
    figures.objects += plan.changes.len();
    wrong.extend(done.objects_against(&plan, &told));
    Ok(wrong)
}

/// Before and after.
struct Done {
    before: Seen,
    waiting_before: Vec<String>,
    now: Seen,
    waiting: Vec<String>,
}

impl Done {
    fn verdict(&self) -> PlanVerdict {
        if !self.waiting.is_empty() {
            PlanVerdict::Restart
        } else if self.before != self.now || self.waiting_before != self.waiting {
            PlanVerdict::Reload
        } else {
            PlanVerdict::NoOp
        }
    }

    /// What happened to a setting.
    fn class(&self, name: &str) -> SettingClass {
        let among = |names: &[String]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
        if among(&self.waiting) {
            SettingClass::Restart
        } else if self.before.settings.get(name) != self.now.settings.get(name) || among(&self.waiting_before) {
            SettingClass::Reload
        } else {
            SettingClass::NoOp
        }
    }

    /// Objects in two ways: by what the agent says that it has done, word for word, and by what PostgreSQL has.
    fn objects_against(&self, plan: &PlanResponse, told: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for PlannedChange { phase, object, words } in &plan.changes {
            if !told.contains(&format!("{phase} {object:?}: {words:?} is done")) {
                wrong.push(format!("{phase} {object:?}: said {words:?}, not done"));
            }
        }
        let count = told.lines().filter(|line| line.contains("\" is done")).count();
        if count != plan.changes.len() {
            wrong.push(format!("objects: said {}, done {count}", plan.changes.len()));
        }
        // A rename stands under the old name; its words tell the new one.
        let said = |name: &str| {
            plan.changes.iter().any(|change| change.object == name || change.words.ends_with(&format!(" to {name}")))
        };
        let changed = self.now.changed_since(&self.before);
        let unsaid = changed.into_iter().filter(|(_, object)| !said(object));
        wrong.extend(unsaid.map(|(kind, object)| format!("{kind} {object:?} was changed, which was not said")));
        wrong
    }

    fn settings_against(&self, plan: &PlanResponse) -> Vec<String> {
        let said: BTreeMap<_, _> = plan.settings.iter().map(|setting| (setting.name.as_str(), setting.class)).collect();
        let names = self.before.settings.keys().chain(self.now.settings.keys()).map(String::as_str);
        let names: BTreeSet<_> = names.chain(said.keys().copied()).collect();
        let differs = |name: &str| {
            let (said, happened) = (said.get(name).copied().unwrap_or(SettingClass::NoOp), self.class(name));
            (said != happened).then(|| format!("{name}: said {}, happened {}", said.as_str(), happened.as_str()))
        };
        names.into_iter().filter_map(differs).collect()
    }
}

/// The results for people.
#[must_use]
pub fn markdown(results: &Results) -> String {
    let mut text = format!(
        "# What /plan says and what /configure does\n\n{} random pairs of specs (seed {}), {} plans were wrong. {}, {}, commit {}.\n\n\
         | what happened | pairs |\n|---|---|\n",
        results.pairs, results.seed, results.mismatches, results.machine, results.date, results.commit
    );
    for (verdict, count) in &results.figures.by_verdict {
        text.push_str(&format!("| {verdict} | {count} |\n"));
    }
    text.push_str("\n| class of a setting in a plan | settings |\n|---|---|\n");
    for (class, count) in &results.figures.settings_by_class {
        text.push_str(&format!("| {class} | {count} |\n"));
    }
    text.push_str(&format!("\n{} roles and databases were created or altered.\n", results.figures.objects));
    for Mismatch { pair, what } in &results.wrong {
        text.push_str(&format!("- pair {pair}: {}\n", what.join("; ")));
    }
    text
}
