//! What both runs stand on: a database that fails over, three members over it, a real agent, computes to write to.

use std::collections::BTreeSet;
use std::time::Duration;

use pgfleet_api::compute::RegisterCompute;
use pgfleet_api::controller::Role;
use pgfleet_api::{ComputeId, Term};
use pgfleet_clients::controller::ControllerClient;
use pgfleet_harness::agent::Agent;
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::wait_for;

use crate::patroni::{PATIENCE, Patroni, Replication, found};

/// The product's defaults.
const LEASE: &str = "5s";
const RENEW: &str = "500ms";

/// Members, and computes beside the agent's that are only written to. Nobody listens at their agents' address.
const MEMBERS: usize = 3;
const WRITTEN: usize = 3;
const NOBODY: &str = "http://127.0.0.1:9";

/// The database of the controllers.
const DATABASE: &str = "fleet";

/// A cluster over a database that fails over.
pub struct Bed {
    /// A real agent; its compute is written to as well.
    pub agent: Agent,
    /// The members.
    pub members: Vec<Controller>,
    /// The computes of the load.
    pub computes: Vec<ComputeId>,
    /// The database.
    pub patroni: Patroni,
    /// Keys, directory, and who ends all of it.
    pub fleet: Fleet,
}

impl Bed {
    /// None, with a line that says so, where Patroni, etcd or PostgreSQL is missing.
    pub async fn make(name: &str, nodes: usize, replication: Replication) -> Option<Self> {
        let Some(program) = found() else {
            pgfleet_harness::skip(name, "Patroni or etcd is missing; scripts/ensure-patroni.sh installs them");
            return None;
        };
        let fleet = Fleet::start(name).await?;
        let patroni = Patroni::start(&fleet, program, nodes, replication).await;
        let made = patroni.primary("postgres").await.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await;
        made.unwrap_or_else(|error| panic!("no database: {error:?}"));
        let fleet = fleet.over(patroni.url(DATABASE));
        let mut members = Vec::with_capacity(MEMBERS);
        for n in 1..=MEMBERS {
            members.push(fleet.controller(&format!("m{n}")).lease(LEASE, RENEW).start().await);
        }
        let agent = fleet.agent("c1").start().await;
        let mut bed = Self { agent, members, computes: Vec::new(), patroni, fleet };
        bed.one_leader().await;
        bed.register().await;
        Some(bed)
    }

    /// A client of all members.
    #[must_use]
    pub fn client(&self) -> ControllerClient {
        self.fleet.client(&self.members.iter().collect::<Vec<_>>())
    }

    /// Waits until one member leads and all others follow it; gives its place and its term. Panics if a member has ended.
    pub async fn one_leader(&self) -> (usize, Term) {
        wait_for("one member leads and the others follow it", PATIENCE, async || {
            let mut leader = None;
            let mut known = BTreeSet::new();
            for (index, member) in self.members.iter().enumerate() {
                member.process.still_runs();
                let status = member.status().await?;
                match status.role {
                    Role::Leader if leader.is_none() => leader = Some((index, status.term?)),
                    Role::Candidate => drop(known.insert(status.leader.as_ref()?.instance_id)),
                    Role::Leader | Role::Suspended | Role::TakingOver | Role::SteppingDown | Role::SteppedDown => {
                        return None;
                    }
                }
            }
            leader.filter(|(index, _)| known.into_iter().eq([self.members[*index].instance_id()]))
        })
        .await
    }

    /// The same, once the term is above this one.
    pub async fn above(&self, term: Term) -> (usize, Term) {
        wait_for("a leadership above the lost one", PATIENCE, async || {
            Some(self.one_leader().await).filter(|(_, now)| *now > term)
        })
        .await
    }

    /// The sum of a counter over all members and its labels.
    pub async fn count(&self, metric: &str) -> f64 {
        let mut sum = 0.0;
        for member in &self.members {
            let page = member.metrics().await;
            let series = page.lines().filter(|line| line.starts_with(metric));
            sum += series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>();
        }
        sum
    }

    async fn register(&mut self) {
        let client = self.client();
        let written = (1..=WRITTEN).map(|n| (format!("w{n}"), NOBODY.to_owned()));
        for (id, agent_url) in written.chain([(self.agent.id.to_string(), self.agent.url().to_owned())]) {
            let id: ComputeId = id.parse().unwrap_or_else(|error| panic!("a name: {error}"));
            let body = RegisterCompute { agent_url, labels: Default::default(), spec: Some(marked("first")) };
            client.register(&id, &body).await.unwrap_or_else(|error| panic!("{id}: {error}"));
            self.computes.push(id);
        }
        let has = |status: &pgfleet_api::agent::AgentStatus| status.applied_generation.is_some();
        self.agent.shows("its first spec", Duration::from_secs(60), has).await;
    }
}
