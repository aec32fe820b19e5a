//! The engine's passes over computes, the agents' side of them, and the clients. Mirrors `storage_controller::reconcile`:
//! one pass per compute at a time, the real plan, the real back-off.

use std::time::Duration;

use pgfleet_api::{ClusterId, Fence, Generation, Term};
use pgfleet_domain::fence::{Refusal, Verdict};
use pgfleet_domain::reconcile::{Intent, Plan, backoff, plan};
use uuid::Uuid;

use crate::Us;
use crate::agent::hash_of;
use crate::database::Put;
use crate::member::{Call, Seen, Stage};
use crate::net::{Back, Reply, Request};
use crate::world::{Event, World};

/// Times of the engine, as the product has them.
const BASE: Duration = Duration::from_millis(20);
const WAITING_CAP: Duration = Duration::from_millis(500);
const FAILED_CAP: Duration = Duration::from_secs(10);
/// How long an agent gets to answer.
const AGENT_TIMEOUT: Us = 1_000_000;

impl World {
    fn seen(&mut self, member: usize, term: Term, compute: usize) -> Option<&mut Seen> {
        let work = self.members[member].work.as_mut()?;
        (work.term == term && work.stage == Stage::Running).then_some(())?;
        work.computes.get_mut(compute)
    }

    /// Looks at a compute after `pause`; an earlier plan to look is forgotten.
    pub(crate) fn look_at(&mut self, member: usize, term: Term, compute: usize, pause: Us) {
        let look = self.number();
        let Some(seen) = self.seen(member, term, compute) else { return };
        seen.look = look;
        let m = &self.members[member];
        let (at, life) = (m.after(self.now, pause), m.life);
        self.at(at, Event::Look { member, life, term, compute, look });
    }

    /// One pass.
    pub(crate) fn look(&mut self, member: usize, term: Term, compute: usize, look: u64) {
        self.pump_writer(member);
        let gate = self.gate(member);
        let Some(seen) = self.seen(member, term, compute).filter(|seen| seen.look == look && !seen.busy) else {
            return;
        };
        let (generation, content) = seen.spec;
        let hash = (generation > 0).then(|| hash_of(content));
        let intent = Intent { generation: Generation(generation), spec_hash: hash.clone() };
        let next = plan(&intent, seen.observed.as_ref());
        let step = match (next, hash) {
            (Plan::Rest, _) | (_, None) => return,
            _ if !gate => return self.pass_failed(member, term, compute),
            (Plan::AgentAhead(_), _) => return self.pass_failed(member, term, compute),
            (Plan::Probe, _) => Request::Probe,
            (Plan::Push, Some(spec_hash)) => {
                let compute_id = self.agents[compute].id.clone();
                let generation = Generation(generation);
                Request::Push(Fence { cluster_id: cluster(), compute_id, term, generation, spec_hash })
            }
        };
        if let Some(seen) = self.seen(member, term, compute) {
            seen.busy = true;
        }
        self.executes(member, term);
        let push = matches!(step, Request::Push(_));
        let to = self.agent_node(compute);
        self.call(member, to, Call::Agent { term, compute, push }, step, AGENT_TIMEOUT);
    }

    fn pass_failed(&mut self, member: usize, term: Term, compute: usize) {
        let jitter = self.dice.fraction();
        let Some(seen) = self.seen(member, term, compute) else { return };
        let pause = backoff(seen.failed, BASE * 5, FAILED_CAP, jitter);
        seen.failed += 1;
        self.look_at(member, term, compute, micros(pause));
    }

    /// What an agent said to a probe or a push.
    pub(crate) fn agent_said(&mut self, member: usize, term: Term, compute: usize, push: bool, reply: &Reply) {
        let jitter = self.dice.fraction();
        let Some(seen) = self.seen(member, term, compute) else { return };
        seen.busy = false;
        let Reply::Observed(observed) = reply else {
            if matches!(reply, Reply::Stale) {
                // What is believed of this agent is wrong: it is asked before the next push.
                seen.observed = None;
            }
            return self.pass_failed(member, term, compute);
        };
        let overtaken = seen
            .observed
            .as_ref()
            .is_some_and(|known| known.boot_id == observed.boot_id && known.status_seq > observed.status_seq);
        if !overtaken {
            seen.observed = Some((**observed).clone());
        }
        seen.failed = 0;
        let pause = if push { BASE } else { backoff(seen.waited, BASE, WAITING_CAP, jitter) };
        seen.waited = if push { 0 } else { seen.waited + 1 };
        self.look_at(member, term, compute, micros(pause));
    }

    /// A request reached an agent's host.
    pub(crate) fn agent(&mut self, agent: usize, request: Request, back: Option<Back>) {
        let node = self.agent_node(agent);
        if !self.agents[agent].up {
            return self.reply(node, back, Reply::Refused);
        }
        match request {
            Request::Probe => {
                let observed = Box::new(self.agents[agent].observed());
                self.reply(node, back, Reply::Observed(observed));
            }
            Request::Push(fence) => {
                self.inboxes[agent].push_back((fence, back));
                self.pump_agent(agent);
            }
            Request::Sql(..) | Request::Status | Request::StepDown(_) | Request::Put(_) | Request::Heard(_) => {}
        }
    }

    /// Judges the next push; what it changes is made durable first.
    fn pump_agent(&mut self, agent: usize) {
        while self.agents[agent].writing.is_none() {
            let Some((fence, back)) = self.inboxes[agent].pop_front() else { return };
            let admission = self.agents[agent].judge(&fence);
            self.note(|| format!("    agent {agent}: {:?} for {}/{}", admission.verdict, fence.term, fence.generation));
            if admission.record.is_some() {
                let at = self.now + self.dice.within(500, 15_000);
                let boot = self.agents[agent].boot;
                self.agents[agent].writing = Some(admission);
                self.at(at, Event::AgentWrote { agent, boot, back });
            } else {
                self.agent_answers(agent, admission.verdict, back);
            }
        }
    }

    fn agent_answers(&mut self, agent: usize, verdict: Verdict, back: Option<Back>) {
        let node = self.agent_node(agent);
        let reply = match verdict {
            Verdict::Accept | Verdict::AlreadyAccepted => Reply::Observed(Box::new(self.agents[agent].observed())),
            Verdict::Refuse(refusal) => {
                if matches!(refusal, Refusal::ForeignCluster | Refusal::WrongCompute) {
                    self.oracle.refuse(format!("agent {agent} refuses for {refusal:?}"));
                }
                Reply::Stale
            }
        };
        self.reply(node, back, reply);
    }

    pub(crate) fn agent_wrote(&mut self, agent: usize, boot: u64, back: Option<Back>) {
        if self.agents[agent].boot != boot {
            return;
        }
        let Some(admission) = self.agents[agent].writing.take() else { return };
        if let Some(record) = &admission.record {
            if admission.verdict == Verdict::Accept {
                let fence = Fence {
                    cluster_id: record.cluster_id,
                    compute_id: record.compute_id.clone(),
                    term: record.term,
                    generation: record.generation,
                    spec_hash: record.spec_hash.clone(),
                };
                let content = u64::from_str_radix(&fence.spec_hash.as_str()[48..], 16).unwrap_or(0);
                self.oracle.accepted(agent, &fence, content);
            } else {
                self.oracle.promised(agent, record.term);
            }
        }
        let begins = self.agents[agent].wrote(&admission);
        if begins {
            self.applies(agent);
        }
        self.agent_answers(agent, admission.verdict, back);
        self.pump_agent(agent);
    }

    fn applies(&mut self, agent: usize) {
        let at = self.now + self.dice.within(1000, self.lease / 3);
        let boot = self.agents[agent].boot;
        self.at(at, Event::AgentApplied { agent, boot });
    }

    pub(crate) fn agent_applied(&mut self, agent: usize, boot: u64) {
        if self.agents[agent].boot != boot {
            return;
        }
        let ok = !self.dice.chance(100);
        if self.agents[agent].applied(ok) {
            self.applies(agent);
        }
    }

    pub(crate) fn start_agent(&mut self, agent: usize) {
        if !self.agents[agent].up && self.agents[agent].start() {
            self.applies(agent);
        }
    }

    /// A client sends its next write, once the one before has ended; the end of its patience ends one, too.
    pub(crate) fn client_next(&mut self, client: usize, last: u64) {
        if self.clients[client] != last || self.healed {
            return;
        }
        let id = self.number();
        self.clients[client] = id;
        let (member, compute) = (self.dice.index(self.members.len()), self.dice.index(self.agents.len()));
        let put = Put { id, compute, content: id, deadline: self.now + self.lease * 2 / 5, client };
        let at = self.now + self.dice.within(100, 2000);
        self.at(at, Event::Arrive { node: member, request: Request::Put(put), back: None });
        let patience = self.now + self.lease * 3 / 2;
        self.at(patience, Event::ClientNext { client, last: id });
    }
}

fn micros(pause: Duration) -> Us {
    u64::try_from(pause.as_micros()).unwrap_or(u64::MAX)
}

/// The one fleet there is.
fn cluster() -> ClusterId {
    ClusterId(Uuid::from_u128(1))
}
