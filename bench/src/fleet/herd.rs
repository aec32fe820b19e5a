//! A leader with simulated agents: registered through the API, settled, and changed in bulk.
//!
//! Who calls it: the scenarios that need agents. The simulator is one process; agent `n` owns `sim-<n>`. The leader runs as it is
//! shipped: no option that is not needed to start it here.

use std::time::{Duration, Instant};

use pgfleet_api::auth::Scope;
use pgfleet_api::bulk::{ApplyOutcome, ApplyResult};
use pgfleet_clients::token::Grant;
use pgfleet_fleet_sim::handle::Sim;
use pgfleet_fleet_sim::script::Script;
use pgfleet_harness::http::{Answer, Call};
use pgfleet_harness::postgres::TestClient;
use pgfleet_harness::wait::wait_until;
use serde_json::{Value, json};

use super::ground::{Ground, Probes, marked_orders};
use super::machine::{cpu_s, rss};
use super::plan::Plan;
use crate::metrics::samples;
use crate::stats::rounded;

/// How long a large fleet may take to settle.
const SETTLING: Duration = Duration::from_secs(300);

/// What is counted where the extension is there: every statement.
const STATEMENTS: &str = "SELECT sum(calls)::float8 FROM pg_stat_statements";
/// What is counted else: transactions.
const TRANSACTIONS: &str = "SELECT sum(xact_commit + xact_rollback)::float8 FROM pg_stat_database";

/// A leader with agents.
pub struct Herd {
    /// The agents. Declared first, so that it ends before the directory goes.
    pub sim: Sim,
    /// Leader and database.
    pub ground: Ground,
    /// Computes that are registered.
    pub computes: u32,
    calm: Duration,
}

impl Herd {
    /// So many agents that play a script, and a leader that knows none of them yet.
    pub async fn make(plan: &Plan, name: &str, agents: u32, script: &Script) -> Option<Self> {
        let mut ground = Ground::counting_statements(name).await?;
        let sim = Sim::start(ground.fleet.dir(), agents, script, &[]).await;
        ground.lead(Probes::AsShipped).await;
        Some(Self { sim, ground, computes: 0, calm: plan.window(10.0, 0.5) })
    }

    /// Registers computes up to this number, in one bulk change, and waits until all are settled.
    pub async fn grow(&mut self, to: u32) {
        let line = |n: u32| {
            json!({"compute_id": id(n), "agent_url": self.sim.url(n), "labels": {"tier": "bench"},
                                   "spec": marked_orders(&format!("first of {n}"))})
        };
        let change = Change::from_lines((self.computes..to).map(line));
        self.send(change).await.check();
        self.computes = to;
        self.settled().await;
    }

    /// Tokens of a scope: a load outlives a single one.
    pub fn tokens(&self, scope: Scope) -> impl Fn() -> String + Send + Sync + use<> {
        let (source, grant) = (self.ground.fleet.keys().source(), Grant::of(scope));
        move || match source.token(&grant) {
            Ok(token) => token.unwrap_or_default(),
            Err(error) => panic!("no token: {error}"),
        }
    }

    /// A new spec for each of these computes, in one bulk change; every line of it was applied.
    pub async fn change(&self, computes: std::ops::Range<u32>, mark: &str) {
        self.send(Change::of(computes, mark)).await.check();
    }

    /// Sends a bulk change.
    pub async fn send(&self, change: Change) -> Changed {
        let url = format!("{}/control/v1/compute/apply", self.ground.leader().url());
        let call = Call::new("POST", url).token(&self.ground.token()).header("content-type", "application/x-ndjson");
        let answer = call.body(change.body).limit(SETTLING).send().await;
        Changed { lines: change.lines, answer }
    }

    /// Waits until the leader knows of no compute whose spec is not in effect.
    pub async fn settled(&self) {
        self.until_none(|series| series == "storage_controller_computes_lagging").await;
    }

    /// The same beside a load that writes, whose own computes are always behind for a moment: none may be for longer than a
    /// second.
    pub async fn caught_up(&self) {
        let by_age = "storage_controller_computes_lagging_by_age";
        self.until_none(|series| series.starts_with(by_age) && !series.contains("under_1s")).await;
    }

    /// Waits until these series of the leader's page are 0, all of them on one page.
    async fn until_none(&self, wanted: impl Fn(&str) -> bool) {
        wait_until("the fleet is settled", SETTLING, async || {
            self.ground.leader().process.still_runs();
            let page = self.ground.leader().metrics().await;
            let mut found = samples(&page).filter(|(series, _)| wanted(series)).peekable();
            assert!(found.peek().is_some(), "nothing about computes that lag in {page}");
            found.all(|(_, count)| count <= 0.0)
        })
        .await;
    }

    /// Leaves the fleet alone for a while, so that what follows a change is over.
    pub async fn calm(&self) {
        tokio::time::sleep(self.calm).await;
    }

    /// Waits until the database has every observation of these computes as they are in effect.
    pub async fn recorded(&self, computes: &[String]) {
        let database = self.ground.fleet.database().await;
        wait_until("all is recorded", SETTLING, async || unrecorded(&database, computes).await == 0).await;
    }

    /// What the leader costs over this time, while nobody but the agents is there.
    pub async fn cost(&self, window: Duration) -> Cost {
        let database = self.ground.fleet.database().await;
        let pid = self.ground.leader().process.pid();
        let (begun, cpu, statements) = (Instant::now(), cpu_s(pid), counted(&database).await);
        tokio::time::sleep(window).await;
        let (cpu, seconds) = (cpu_s(pid) - cpu, begun.elapsed().as_secs_f64());
        let statements = counted(&database).await - statements;
        Cost {
            cpu_percent: rounded(cpu / seconds * 100.0),
            rss_mb: rounded(rss(pid) / 1e6),
            statements_per_s: rounded(statements / seconds),
        }
    }
}

/// A bulk change that is ready to be sent: making it takes a processor that a measurement may need.
pub struct Change {
    lines: usize,
    body: Vec<u8>,
}

impl Change {
    /// A new spec for each of these computes.
    pub fn of(computes: std::ops::Range<u32>, mark: &str) -> Self {
        Self::from_lines(
            computes.map(|n| json!({"compute_id": id(n), "spec": marked_orders(&format!("{mark} of {n}"))})),
        )
    }

    fn from_lines(lines: impl Iterator<Item = Value>) -> Self {
        let mut change = Self { lines: 0, body: Vec::new() };
        for line in lines {
            // Writing to memory cannot fail.
            let _ = serde_json::to_writer(&mut change.body, &line);
            change.body.push(b'\n');
            change.lines += 1;
        }
        change
    }
}

/// What was answered to a bulk change.
#[must_use]
pub struct Changed {
    lines: usize,
    answer: Answer,
}

impl Changed {
    /// Every line of it was applied.
    ///
    /// # Panics
    /// If not.
    pub fn check(self) {
        assert_eq!(self.answer.status, 200, "{}", self.answer.body);
        let mut applied = 0;
        for line in self.answer.body.lines().filter(|line| !line.is_empty()) {
            let result: ApplyResult = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(result.outcome, ApplyOutcome::Applied, "{line}");
            applied += 1;
        }
        assert_eq!(applied, self.lines, "lines of the bulk change were not answered");
    }
}

/// What a leader costs.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Of one core.
    pub cpu_percent: f64,
    /// Resident, at the end, in 1,000,000 bytes.
    pub rss_mb: f64,
    /// Of its database.
    pub statements_per_s: f64,
}

/// Name of the compute of agent `n`.
#[must_use]
pub fn id(n: u32) -> String {
    format!("sim-{n}")
}

/// How many of these computes the database does not have as in effect.
pub async fn unrecorded(database: &TestClient, computes: &[String]) -> usize {
    let sql = "SELECT count(*) FROM computes LEFT JOIN observed USING (compute_id)
               WHERE compute_id = ANY($1) AND (observed->>'applied_generation')::bigint IS DISTINCT FROM generation";
    let row = database.query_one(sql, &[&computes]).await.unwrap_or_else(|error| panic!("what is recorded: {error}"));
    usize::try_from(row.get::<_, i64>(0)).unwrap_or_default()
}

async fn counted(database: &TestClient) -> f64 {
    let row = match database.query_one(STATEMENTS, &[]).await {
        Ok(row) => row,
        Err(_) => database.query_one(TRANSACTIONS, &[]).await.unwrap_or_else(|error| panic!("no statistics: {error}")),
    };
    row.get(0)
}
