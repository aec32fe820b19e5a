//! The processes of a run: members that keep their names and ports over many lives, and agents.
//!
//! Who calls it: [`crate::engine`], which strikes them, and [`crate::run`]. It stands for the init system: what ended is
//! started again. Invariant: a port belongs to one name for the whole run, so that clients and watchers know it.

use std::process::ExitStatus;
use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_harness::agent::Agent;
use pgfleet_harness::fleet::{Fleet, free_port};
use pgfleet_harness::process::Process;
use rustix::process::Signal;

use crate::faults::clock::Clock;
use crate::faults::proxy::{Mode, Proxy};
use crate::links::{MemberLinks, to_agent};

/// Names of the members; the last one is started by one scenario only.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Members that every run has.
pub const MEMBERS: usize = 3;

/// The lease of a run's members, and the distance of two renewals: short, so that a run is. Much shorter, and on a busy
/// machine no write is done within the times that follow from it.
const LEASE: (&str, &str) = ("2s", "200ms");

/// How long the end of a member may take: the last one of a run has no successor to wait for.
const DRAIN: &str = "2s";

/// How a life of a member begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Life {
    /// It asks the leader to step down.
    pub as_candidate: bool,
    /// It stands still at this point, `point@nth`.
    pub pause_at: Option<String>,
    /// It carries these migrations.
    pub migrations: Option<String>,
}

/// One member.
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// Base URL of its own listener.
    pub url: String,
    /// Its current life.
    pub process: Option<Process>,
    /// How this life began.
    pub life: Life,
    /// What stands between it and the others.
    pub links: MemberLinks,
    port: u16,
}

/// All processes of a run but PostgreSQL's.
pub struct Cast {
    /// The members.
    pub members: Vec<Member>,
    /// The agents.
    pub agents: Vec<Option<Agent>>,
    /// What comes to each agent.
    pub agent_links: Vec<Proxy>,
}

impl Cast {
    /// Members that do not run yet, and no agents.
    pub async fn new(fleet: &Fleet, with_clocks: bool) -> Self {
        let mut members = Vec::new();
        for name in NAMES {
            let port = free_port();
            let (url, links) =
                (format!("http://127.0.0.1:{port}"), MemberLinks::new(fleet, name, port, with_clocks).await);
            members.push(Member { name, url, process: None, life: Life::default(), links, port });
        }
        Self { members, agents: Vec::new(), agent_links: Vec::new() }
    }

    /// Begins a new life of a member; an earlier one is killed.
    pub fn launch(&mut self, fleet: &Fleet, index: usize, life: Life) {
        let member = &mut self.members[index];
        drop(member.process.take());
        let mut options = fleet.controller(member.name).port(member.port).lease(LEASE.0, LEASE.1);
        options = options
            .args(&["--drain", DRAIN])
            .probe_interval("400ms")
            .args(&["--advertise", &member.links.advertised()]);
        options = options.env("PGFLEET_DATABASE_URL", &member.links.database_url(fleet));
        for (name, value) in member.links.clock.iter().flat_map(Clock::environment) {
            options = options.env(name, &value);
        }
        member.links.incoming.target_starts();
        if life.as_candidate {
            options = options.as_candidate();
        }
        if let Some(dir) = &life.migrations {
            options = options.args(&["--migrations-dir", dir]);
        }
        options = match &life.pause_at {
            Some(point) => options.pause_at(point),
            None => options.memory_door(),
        };
        member.process = Some(options.launch());
        member.life = life;
    }

    /// Starts the first life of an agent.
    pub async fn add_agent(&mut self, fleet: &Fleet, id: &ComputeId) {
        let agent = fleet.agent(id.as_str()).start().await;
        self.agent_links.push(to_agent(agent.url()).await);
        self.agents.push(Some(agent));
    }

    /// Begins a new life of an agent; the earlier one is killed, its PostgreSQL is not.
    pub async fn restart_agent(&mut self, fleet: &Fleet, index: usize, pause_at: Option<&str>) {
        let Some(earlier) = self.agents[index].take() else { return };
        earlier.process.kill().await;
        let mut options = fleet.agent(earlier.id.as_str()).after(&earlier);
        if let Some(point) = pause_at {
            options = options.pause_at(point);
        }
        self.agent_links[index].target_starts();
        self.agents[index] = Some(options.start().await);
    }

    /// Members whose process has ended by itself, and how.
    pub fn fallen(&self) -> Vec<(usize, ExitStatus)> {
        let ended = |(index, member): (usize, &Member)| Some((index, member.process.as_ref()?.ended()?));
        self.members.iter().enumerate().filter_map(ended).collect()
    }

    /// Every link passes again, every clock shows the time.
    pub fn heal_links(&self) {
        for member in &self.members {
            member.links.heal();
        }
        for link in &self.agent_links {
            link.set(Mode::Pass);
        }
    }

    /// Lets everything that stands still go on.
    pub fn thaw_all(&self) {
        for process in self.processes() {
            process.thaw();
        }
    }

    /// SIGTERM to all; what does not end in time or not with 0 is said.
    pub async fn end(&mut self, limit: Duration) -> Vec<String> {
        for process in self.processes() {
            process.signal(Signal::TERM);
        }
        let mut bad = Vec::new();
        let deadline = tokio::time::Instant::now() + limit;
        for process in self.processes() {
            while process.ended().is_none() && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            match process.ended() {
                Some(status) if status.success() => {}
                Some(status) => bad.push(format!("{} ended with {status} on SIGTERM", process.name())),
                None => bad.push(format!("{} did not end within {limit:?} of SIGTERM", process.name())),
            }
        }
        bad
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        let members = self.members.iter().filter_map(|member| member.process.as_ref());
        members.chain(self.agents.iter().flatten().map(|agent| &agent.process))
    }
}
