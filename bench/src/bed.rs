//! What a scenario stands on: a durable database, members that follow each other, computes to write to.
//!
//! Who calls it: the scenarios, each with a bed of its own. Members run with the defaults of the product (lease 5 s), except
//! that they probe nobody. The computes of the load have agents in this process ([`crate::agent`]).

use std::fmt::Display;
use std::time::{Duration, Instant};

use hyper::Method;
use pgfleet_api::auth::Scope;
use pgfleet_api::compute::RegisterCompute;
use pgfleet_api::controller::{Role, TakeOverResponse};
use pgfleet_api::{ComputeId, Term};
use pgfleet_clients::token::{Grant, Source};
use pgfleet_harness::controller::{Controller, ControllerOptions};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::postgres::Options;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::{wait_for, wait_until};

use crate::agent::Agents;
use crate::metrics::{Phases, is_warm};
use crate::seed::seed;
use crate::wire::{Ask, Wire};

/// How long a member may take to load a large fleet, and to do whatever else is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Lease of the members: the product's default.
pub const LEASE: Duration = Duration::from_secs(5);
const LEASE_TEXT: &str = "5s";
const RENEW_TEXT: &str = "500ms";

/// So long that no agent of a large fleet is ever asked.
const NEVER: &str = "1000000h";

/// Computes that the load writes to.
const WRITTEN: usize = 48;

/// A hand-over as the one who asked for it saw it.
#[derive(Debug)]
pub struct HandedOver {
    /// When it was asked for.
    pub asked: Instant,
    /// When the new leader answered that it serves.
    pub done: Instant,
    /// What the new leader's metrics say about its parts.
    pub phases: Phases,
}

/// A cluster to be measured.
pub struct Bed {
    /// Processes, keys and database.
    pub fleet: Fleet,
    /// The members.
    pub members: Vec<Controller>,
    /// The computes of the load.
    pub computes: Vec<ComputeId>,
    /// Their agents.
    pub agents: Agents,
    started: usize,
}

impl Bed {
    /// So many members over a database with so many computes, warm. None, with a line that says so, where there is no
    /// PostgreSQL.
    pub async fn make(name: &str, members: usize, computes: usize) -> Option<Self> {
        let fleet = Fleet::with_server(name, Options::durable()).await?;
        on_a_disk(&fleet);
        let (members_wanted, members) = (members, Vec::new());
        let mut bed = Self { fleet, members, computes: Vec::new(), agents: Agents::start().await, started: 0 };
        bed.add().await;
        if computes > 0 {
            // The schema is there now; nobody must lead while rows come in from the side.
            let first = bed.members.remove(0);
            first.leads(PATIENCE).await;
            first.process.terminate();
            first.process.exit_code(PATIENCE).await;
            seed(&bed.fleet, computes).await;
            bed.add().await;
        }
        bed.leader().await;
        while bed.members.len() < members_wanted {
            bed.add().await;
        }
        bed.register().await;
        bed.warm().await;
        Some(bed)
    }

    /// Options of another member.
    pub fn member(&mut self) -> ControllerOptions<'_> {
        self.started += 1;
        let name = format!("m{:03}", self.started);
        self.fleet.controller(&name).lease(LEASE_TEXT, RENEW_TEXT).probe_interval(NEVER)
    }

    /// Starts another member.
    pub async fn add(&mut self) {
        let member = self.member().start().await;
        self.members.push(member);
    }

    /// Tokens of the load.
    #[must_use]
    pub fn tokens(&self) -> Source {
        self.fleet.keys().source()
    }

    /// Base URLs of the members but for this one.
    #[must_use]
    pub fn others(&self, but: usize) -> Vec<String> {
        let others = self.members.iter().enumerate().filter(|(index, _)| *index != but);
        others.map(|(_, member)| member.url().to_owned()).collect()
    }

    /// Base URLs of all members.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.url().to_owned()).collect()
    }

    /// Which member leads, and its term. Waits for one that does.
    pub async fn leader(&self) -> (usize, Term) {
        wait_for("a member leads", PATIENCE, async || {
            for (index, member) in self.members.iter().enumerate() {
                let standing = member.status().await.filter(|status| status.role == Role::Leader);
                if let Some(term) = standing.and_then(|status| status.term) {
                    return Some((index, term));
                }
            }
            None
        })
        .await
    }

    /// Waits until every member but the leader follows it, says that requests sent to it get served, and could lead at once.
    pub async fn warm(&self) {
        let (leader, _) = self.leader().await;
        for (index, member) in self.members.iter().enumerate().filter(|(index, _)| *index != leader) {
            member.follows(&self.members[leader], PATIENCE).await;
            let what = format!("member {index} is ready");
            wait_until(&what, PATIENCE, async || {
                let ready = member.call("GET", "/ready").try_send().await;
                ready.is_ok_and(|answer| answer.status == 200) && is_warm(member).await
            })
            .await;
        }
    }

    /// Lets this member take over, as an operator does.
    pub async fn hand_over(&self, to: usize) -> HandedOver {
        let member = &self.members[to];
        let token = self.tokens().token(&Grant::of(Scope::Admin)).unwrap_or_else(|error| stop("no token", error));
        let path = "/control/v1/take_over".to_owned();
        let ask = Ask { method: Method::POST, path, token, body: b"{}".to_vec() };
        let mut wire = Wire::new(member.url());
        let asked = Instant::now();
        let answer = wire.send(&ask).await;
        let done = Instant::now();
        let answer = answer.unwrap_or_else(|failure| stop("no hand-over", failure));
        let answer: TakeOverResponse =
            serde_json::from_slice(&answer).unwrap_or_else(|error| stop("an answer to take_over", error));
        assert_eq!(answer.leader.instance_id, member.instance_id(), "another member took over");
        HandedOver { asked, done, phases: Phases::of(member).await }
    }

    async fn register(&mut self) {
        let (leader, _) = self.leader().await;
        let client = self.fleet.client(&[&self.members[leader]]);
        for index in 0..WRITTEN {
            let id: ComputeId = format!("w{index:02}").parse().unwrap_or_else(|error| stop("a name", error));
            let spec = Some(marked(&format!("first of {id}")));
            let body = RegisterCompute { agent_url: self.agents.url(&id), labels: Default::default(), spec };
            client.register(&id, &body).await.unwrap_or_else(|error| stop("a compute of the load", error));
            self.computes.push(id);
        }
    }
}

/// Figures of a file system in memory are not those of a durable database.
pub(crate) fn on_a_disk(fleet: &Fleet) {
    const TMPFS: i128 = 0x0102_1994;
    let dir = fleet.cluster().dir();
    let kind = rustix::fs::statfs(dir).unwrap_or_else(|error| stop("statfs", error)).f_type;
    let dir = dir.display();
    assert!(i128::from(kind) != TMPFS, "{dir} is in memory; name a directory on a disk by TMPDIR");
}

fn stop(what: &str, error: impl Display) -> ! {
    panic!("{what}: {error}");
}
