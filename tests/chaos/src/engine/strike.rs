//! What a step does to its target. What lasts goes onto the engine's list.

use std::time::Duration;

use pgfleet_api::auth::Scope;
use pgfleet_harness::http::Call;
use pgfleet_harness::postgres::StopMode;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::{Engine, Heal, Lasting, PAUSE_PATIENCE};
use crate::cast::{Life, MEMBERS};
use crate::faults::proxy::Proxy;
use crate::schedule::{Kind, Step, Target};
use crate::{database, links};

/// A link with a proxy.
#[derive(Debug, Clone, Copy)]
pub(super) enum Link {
    Agent(usize),
    Member(usize),
    Database(usize),
}

impl Engine {
    /// The member that is meant; a follower where nobody leads.
    pub(super) fn member(&self, target: Target) -> usize {
        let leader = self.seen.leader();
        match (target, leader) {
            (Target::Leader | Target::Agent(_), Some(leader)) => leader,
            (Target::Leader | Target::Agent(_), None) => 0,
            (Target::Follower(number), leader) => {
                let others: Vec<usize> = (0..MEMBERS).filter(|index| Some(*index) != leader).collect();
                others[usize::try_from(number).unwrap_or(0) % others.len()]
            }
        }
    }

    fn agent(&self, target: Target) -> usize {
        let number = match target {
            Target::Agent(number) | Target::Follower(number) => usize::try_from(number).unwrap_or(0),
            Target::Leader => 0,
        };
        number % self.cast.agents.len().max(1)
    }

    pub(super) async fn strike(&mut self, step: &Step) {
        match step.kind {
            Kind::KillMember | Kind::FreezeMember | Kind::RestartMember | Kind::HandOver | Kind::EndSessions => {
                self.strike_member(step).await;
            }
            Kind::RestartDatabase
            | Kind::CrashDatabase
            | Kind::KillDatabase
            | Kind::FreezeDatabase
            | Kind::LockLeaderRow
            | Kind::LockComputes => self.strike_database(step).await,
            Kind::KillAgent | Kind::FreezeAgent | Kind::FlapAgent | Kind::KillCompute => self.strike_agent(step).await,
            Kind::CandidatesAtOnce => self.candidates_at_once().await,
            Kind::FailingMigration | Kind::SlowMigration => self.migrate(step),
            Kind::DatabaseLinkCut
            | Kind::DatabaseLinkDelay
            | Kind::DatabaseLinkHalfOpen
            | Kind::MemberLinkCut
            | Kind::MemberLinkDelay
            | Kind::MemberLinkHalfOpen
            | Kind::MemberLinkMidBody
            | Kind::MemberReset
            | Kind::AgentLinkCut
            | Kind::AgentLinkDelay
            | Kind::AgentLinkHalfOpen
            | Kind::AgentLinkMidBody => self.strike_link(step),
            Kind::ClockAhead | Kind::ClockBack => self.strike_clock(step),
            // Done before the first step.
            Kind::FirstBootsAtOnce => {}
            Kind::CommitsLost => self.lose_commits(step).await,
        }
    }

    fn strike_link(&mut self, step: &Step) {
        let mode = links::mode(step.kind);
        let (link, name) = match step.kind {
            Kind::AgentLinkCut | Kind::AgentLinkDelay | Kind::AgentLinkHalfOpen | Kind::AgentLinkMidBody => {
                let index = self.agent(step.target);
                (Link::Agent(index), format!("what comes to agent {index}"))
            }
            Kind::DatabaseLinkCut | Kind::DatabaseLinkDelay | Kind::DatabaseLinkHalfOpen => {
                let index = self.member(step.target);
                (Link::Database(index), format!("{} to the database", self.cast.members[index].name))
            }
            _ => {
                let index = self.member(step.target);
                (Link::Member(index), format!("what comes to {} from members", self.cast.members[index].name))
            }
        };
        self.link(link).set(mode);
        self.note(step.kind, &name);
        self.lasts(step, &name, Heal::Pass(link));
    }

    pub(super) fn link(&self, link: Link) -> &Proxy {
        match link {
            Link::Agent(index) => &self.cast.agent_links[index],
            Link::Member(index) => &self.cast.members[index].links.incoming,
            Link::Database(index) => &self.cast.members[index].links.database,
        }
    }

    fn strike_clock(&mut self, step: &Step) {
        let index = self.member(step.target);
        let member = &self.cast.members[index];
        // Where the library is missing there is a line that says so.
        let (name, Some(clock)) = (member.name, &member.links.clock) else { return };
        let seconds = i64::try_from(step.lasts_ms).unwrap_or(0) * 2;
        clock.jump(if step.kind == Kind::ClockAhead { seconds } else { -seconds });
        self.note(step.kind, name);
        self.lasts(step, name, Heal::Clock(index));
    }

    /// The database is copied, goes on for a while, and is put back to the copy.
    async fn lose_commits(&mut self, step: &Step) {
        let since_us = self.recorder.now_us();
        database::copy(&self.fleet).await;
        let until = Instant::now() + Duration::from_millis(step.lasts_ms);
        self.lasting.push(Lasting { until, kind: None, target: String::new(), heal: Heal::PutBack(since_us) });
    }

    async fn strike_member(&mut self, step: &Step) {
        let index = self.member(step.target);
        let name = self.cast.members[index].name;
        let Some(process) = &self.cast.members[index].process else { return };
        match step.kind {
            Kind::KillMember => {
                process.signal(Signal::KILL);
                self.note(step.kind, name);
                self.lasts(step, name, Heal::StartMember(index, Life::default()));
            }
            Kind::FreezeMember => {
                process.signal(Signal::STOP);
                self.note(step.kind, name);
                self.lasts(step, name, Heal::ThawMember(index));
            }
            Kind::RestartMember => {
                process.terminate();
                self.note(step.kind, name);
                let life = Life { as_candidate: true, ..Life::default() };
                self.lasts(step, name, Heal::StartMember(index, life));
            }
            Kind::EndSessions => {
                if let Some(status) = self.seen.member(index) {
                    database::end_sessions(&self.fleet, status.instance_id).await;
                    self.note(step.kind, name);
                }
            }
            _ => {
                self.note(step.kind, name);
                self.take_over((index + 1) % MEMBERS);
            }
        }
    }

    /// An operator's request, whose answer nobody waits for.
    fn take_over(&mut self, index: usize) {
        let url = format!("{}/control/v1/take_over", self.cast.members[index].url);
        let token = self.fleet.keys().scope(Scope::Admin);
        let call = Call::new("POST", url).token(&token).header("content-type", "application/json").body("{}");
        self.asked.spawn(async move { drop(call.limit(Duration::from_secs(5)).try_send().await) });
    }

    async fn strike_database(&mut self, step: &Step) {
        let cluster = self.fleet.cluster();
        // What is down already cannot be struck.
        if cluster.server_pid().is_none() {
            return;
        }
        let target = "the controllers' database";
        let heal = match step.kind {
            Kind::FreezeDatabase => {
                database::signal_all(&self.fleet, Signal::STOP);
                Heal::ThawDatabase
            }
            Kind::LockLeaderRow | Kind::LockComputes => {
                let what = if step.kind == Kind::LockComputes {
                    "LOCK TABLE computes IN SHARE ROW EXCLUSIVE MODE"
                } else {
                    "SELECT term FROM leader FOR UPDATE"
                };
                // Where the database is away there is nothing to hold.
                let Some(held) = database::hold(&self.fleet, what).await else { return };
                Heal::Release(held)
            }
            kind => {
                database::signal_all(&self.fleet, Signal::CONT);
                let ended = match kind {
                    Kind::RestartDatabase => cluster.stop(StopMode::Fast).await,
                    Kind::CrashDatabase => cluster.stop(StopMode::Immediate).await,
                    _ => cluster.kill().await,
                };
                ended.unwrap_or_else(|error| panic!("{error}"));
                Heal::StartDatabase
            }
        };
        self.note(step.kind, target);
        self.lasts(step, target, heal);
    }

    async fn strike_agent(&mut self, step: &Step) {
        let index = self.agent(step.target);
        let Some(agent) = &self.cast.agents[index] else { return };
        let name = agent.process.name().to_owned();
        match step.kind {
            Kind::KillAgent => {
                agent.process.kill().await;
                self.note(step.kind, &name);
                self.lasts(step, &name, Heal::StartAgent(index));
            }
            Kind::FreezeAgent => {
                agent.process.signal(Signal::STOP);
                self.note(step.kind, &name);
                self.lasts(step, &name, Heal::ThawAgent(index));
            }
            Kind::KillCompute => {
                if let Some(pid) = agent.postmaster_pid().and_then(Pid::from_raw) {
                    // It may have ended since it wrote its file.
                    let _ = kill_process(pid, Signal::KILL);
                    self.note(step.kind, &name);
                }
            }
            _ => {
                self.note(step.kind, &name);
                for _ in 0..2 {
                    self.restart_agent(index).await;
                }
            }
        }
    }

    /// The followers end and come back at once as members that ask to lead, and one more with them.
    async fn candidates_at_once(&mut self) {
        let leader = self.member(Target::Leader);
        self.note(Kind::CandidatesAtOnce, "all who do not lead, and one more");
        let others: Vec<usize> = (0..=MEMBERS).filter(|index| *index != leader).collect();
        for index in &others {
            if let Some(process) = &self.cast.members[*index].process {
                process.kill().await;
            }
        }
        for index in others {
            self.cast.launch(&self.fleet, index, Life { as_candidate: true, ..Life::default() });
        }
    }

    /// A follower comes back as a member that asks to lead and has a migration with it. A slow one is frozen in it.
    fn migrate(&mut self, step: &Step) {
        let index = self.member(Target::Follower(step.lasts_ms));
        let name = self.cast.members[index].name;
        // Both go well in the rehearsal, which has no rows.
        let up = if step.kind == Kind::FailingMigration {
            "CREATE TABLE half (x int); SELECT 1 / (length(compute_id) - length(compute_id)) FROM computes;"
        } else {
            "CREATE TABLE IF NOT EXISTS probe (x int); SELECT pg_sleep(2) FROM computes LIMIT 1;"
        };
        let migrations = Some(self.migration(step.kind.as_str(), up));
        self.cast.launch(&self.fleet, index, Life { as_candidate: true, migrations, ..Life::default() });
        if step.kind == Kind::SlowMigration {
            let heal = Heal::FreezeInMigration(index, step.lasts_ms, Instant::now() + PAUSE_PATIENCE);
            self.lasting.push(Lasting { until: Instant::now(), kind: None, target: name.to_owned(), heal });
        } else {
            self.note(step.kind, name);
        }
    }

    /// A directory with one migration.
    pub(super) fn migration(&self, name: &str, up: &str) -> String {
        let root = self.fleet.dir().join(name);
        let dir = root.join(format!("20990101000000_{name}"));
        let written = std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::write(dir.join("up.sql"), up))
            .and_then(|()| std::fs::write(dir.join("down.sql"), "SELECT 1;"));
        written.unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        root.display().to_string()
    }
}
