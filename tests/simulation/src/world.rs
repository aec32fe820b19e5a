//! The world: its queue of events in virtual time, how they are handed out, and when a schedule has ended well.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use pgfleet_api::{InstanceId, Term};
use pgfleet_domain::leadership::{Config, Phase, State};
use pgfleet_domain::reconcile::{Intent, settled};
use uuid::Uuid;

use crate::agent::{Agent, hash_of};
use crate::database::{Data, Database, Put, Session, Statement};
use crate::dice::Dice;
use crate::fault::{self, Fault};
use crate::member::{LeaseTask, Member};
use crate::net::{Back, Reply, Request};
use crate::oracle::Oracle;
use crate::{Mutation, Options, Report, Us};

/// The machine looks at its clock this often, by its own clock.
const TICK: Us = 50_000;
/// Steps that a trace keeps.
const KEPT: usize = 120;
/// Beyond this a schedule is broken, not long.
const MOST_STEPS: u64 = 3_000_000;

/// What happens at a moment.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Tick { member: usize, life: u64 },
    Arrive { node: usize, request: Request, back: Option<Back> },
    Reply { back: Back, reply: Reply },
    RenewDue { member: usize, life: u64 },
    Notice { member: usize, life: u64, term: Option<Term> },
    Look { member: usize, life: u64, term: Term, compute: usize, look: u64 },
    MigrationEnds { member: usize, life: u64, term: Term, tx: u64 },
    GraceEnds { member: usize, life: u64, term: Term },
    Again { member: usize, life: u64, put: Put },
    AskAgain { member: usize, life: u64, ask: crate::member::Ask },
    Idle(u64),
    LockTimeout(u64),
    SessionsEnd(InstanceId),
    SessionEnds(u64),
    AgentWrote { agent: usize, boot: u64, back: Option<Back> },
    AgentApplied { agent: usize, boot: u64 },
    ClientNext { client: usize, last: u64 },
    Fault(usize),
    Start { member: usize },
    StartAgent(usize),
    DatabaseUp,
    Snapshot,
    Heal,
}

struct Queued {
    at: Us,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// One schedule under way.
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) dice: Dice,
    pub(crate) now: Us,
    queue: BinaryHeap<Reverse<Queued>>,
    numbers: u64,
    pub(crate) lease: Us,
    pub(crate) renew: Us,
    pub(crate) loss: u64,
    pub(crate) late: u64,
    pub(crate) twice: u64,
    pub(crate) cuts: Vec<(usize, usize, Us)>,
    pub(crate) db: Database,
    pub(crate) snapshot: Data,
    pub(crate) waits: Vec<(u64, Session, Statement, Option<Back>)>,
    pub(crate) down_until: Us,
    pub(crate) loses: bool,
    pub(crate) lost: bool,
    pub(crate) members: Vec<Member>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) inboxes: Vec<VecDeque<(pgfleet_api::Fence, Option<Back>)>>,
    pub(crate) clients: Vec<u64>,
    pub(crate) oracle: Oracle,
    pub(crate) faults: Vec<Fault>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) healed: bool,
    pub(crate) terms: u64,
    end: Us,
    converged: Option<Us>,
    hash: u64,
    last: VecDeque<String>,
}

/// Where member `index` listens; the same in all its lives.
pub(crate) fn address(index: usize) -> String {
    format!("m{index}")
}

/// Whose listener it is.
pub(crate) fn member_at(address: &str) -> Option<usize> {
    address.strip_prefix('m')?.parse().ok()
}

impl World {
    /// The world of a seed, before anything happens.
    pub(crate) fn new(seed: u64, options: Options) -> Self {
        let mut dice = Dice::new(seed);
        let lease = [1_000_000, 1_000_000, 1_000_000, 2_000_000, 5_000_000][dice.index(5)];
        let (members, agents) = (3 + dice.index(3), 1 + dice.index(3));
        let end = lease * dice.within(2, 6);
        let faults = fault::draw(&mut dice, members, agents, lease, end);
        let mut world = Self {
            now: 0,
            queue: BinaryHeap::new(),
            numbers: 0,
            lease,
            renew: lease / 10,
            loss: [0, 5, 30, 100][dice.index(4)],
            late: [0, 2, 20][dice.index(3)],
            twice: [0, 20, 200][dice.index(3)],
            cuts: Vec::new(),
            db: Database::new(agents, options.mutation),
            snapshot: Data { specs: vec![(0, 0); agents], ..Data::default() },
            waits: Vec::new(),
            down_until: 0,
            loses: false,
            lost: false,
            members: Vec::new(),
            agents: (0..agents).map(|n| Agent::new(compute_id(n), options.mutation)).collect(),
            inboxes: vec![VecDeque::new(); agents],
            clients: vec![0; 1 + dice.index(3)],
            oracle: Oracle::new(agents),
            faults,
            counts: BTreeMap::new(),
            healed: false,
            terms: 0,
            end,
            converged: None,
            hash: 0xcbf2_9ce4_8422_2325,
            last: VecDeque::new(),
            options,
            dice,
        };
        world.people(members);
        world
    }

    fn people(&mut self, members: usize) {
        let survivor = self.dice.index(members);
        let lonely = self.dice.chance(150);
        for index in 0..members {
            let (offset, rate) = (self.dice.within(0, 9_000_000_000), self.dice.within(500, 2000));
            let newer = index != survivor && self.dice.chance(200);
            let fails = newer && self.dice.chance(500);
            let stays_down = index != survivor && (lonely || self.dice.chance(50));
            let state = State::new(self.config(index, false));
            self.members.push(Member {
                life: 0,
                alive: false,
                silent: false,
                paused_until: 0,
                offset,
                rate,
                state,
                target: if newer { 2 } else { 1 },
                fails,
                stays_down,
                lease: LeaseTask::default(),
                work: None,
                work_session: 0,
                calls: BTreeMap::new(),
                waiting: Vec::new(),
                answered: false,
                ended_term: None,
                migration_failed: false,
                exiting: false,
                asks: self.dice.chance(200),
            });
            let at = self.dice.within(0, self.lease / 5);
            self.at(at, Event::Start { member: index });
        }
        for client in 0..self.clients.len() {
            self.at(self.lease / 10, Event::ClientNext { client, last: 0 });
        }
        for place in 0..self.faults.len() {
            if !self.options.skip.contains(&place) {
                self.at(self.faults[place].at, Event::Fault(place));
            }
        }
        let age = self.dice.within(self.lease / 10, self.lease);
        self.at(age, Event::Snapshot);
        self.at(self.end, Event::Heal);
    }

    pub(crate) fn config(&mut self, member: usize, asks: bool) -> Config {
        let lease = Duration::from_micros(self.lease);
        let off = self.options.mutation == Some(Mutation::RevertOff);
        Config {
            me: InstanceId(Uuid::from_u64_pair(self.dice.bits(), self.dice.bits())),
            address: address(member),
            start_as_candidate: asks,
            renew: lease / 10,
            lease,
            margin: lease / 5,
            hold: lease * 2 / 5,
            revert: if off { Duration::from_secs(1_000_000) } else { lease / 5 },
            migration_retry: lease * 120,
        }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn at(&mut self, at: Us, event: Event) {
        let number = self.number();
        self.queue.push(Reverse(Queued { at: at.max(self.now), number, event }));
    }

    pub(crate) fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3);
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.options.trace {
            if self.last.len() >= KEPT {
                self.last.pop_front();
            }
            self.last.push_back(format!("{:>10.3} ms  {}", self.now as f64 / 1000.0, what()));
        }
    }

    /// Runs to the end, good or bad.
    pub(crate) fn run(mut self) -> Report {
        let mut steps = 0;
        while let Some(Reverse(queued)) = self.queue.pop() {
            steps += 1;
            self.now = queued.at;
            self.mix(queued.at.wrapping_mul(31) ^ queued.number);
            let dull = matches!(queued.event, Event::Tick { .. } | Event::Reply { reply: Reply::Timeout, .. });
            if self.options.trace && !dull {
                self.note(|| format!("{:?}", queued.event));
            }
            self.happen(queued.event);
            if self.oracle.violation.is_some() || self.ended_well() {
                break;
            }
            if steps > MOST_STEPS {
                self.oracle.refuse("the schedule does not end".to_owned());
                break;
            }
        }
        let schedule = self.faults.iter().map(ToString::to_string).collect();
        let converged_ms = self.converged.map_or(0, |at| at.saturating_sub(self.end) / 1000);
        Report {
            violation: self.oracle.violation,
            steps,
            hash: self.hash,
            faults: self.counts,
            schedule,
            last_steps: self.last.into(),
            converged_ms,
            writes: self.oracle.writes,
            terms: self.terms,
        }
    }

    /// The member that an event is for, with the life it is meant for.
    fn whose(&self, event: &Event) -> Option<(usize, Option<u64>)> {
        match event {
            Event::Tick { member, life }
            | Event::RenewDue { member, life }
            | Event::Notice { member, life, .. }
            | Event::Look { member, life, .. }
            | Event::MigrationEnds { member, life, .. }
            | Event::GraceEnds { member, life, .. }
            | Event::Again { member, life, .. }
            | Event::AskAgain { member, life, .. } => Some((*member, Some(*life))),
            Event::Reply { back, .. } => Some((back.member, Some(back.life))),
            Event::Arrive { node, .. } if *node < self.members.len() => Some((*node, None)),
            _ => None,
        }
    }

    /// A process that is gone gets nothing, one that is stopped gets it when it goes on.
    fn happen(&mut self, event: Event) {
        if let Some((member, life)) = self.whose(&event) {
            let m = &self.members[member];
            if life.is_some_and(|life| life != m.life || !m.alive) {
                return;
            }
            if m.alive && m.paused_until > self.now {
                let at = m.paused_until;
                return self.at(at, event);
            }
        }
        match event {
            Event::Tick { member, life } => {
                let at = self.members[member].after(self.now, TICK);
                self.at(at, Event::Tick { member, life });
                self.step(member, pgfleet_domain::leadership::Event::Tick);
            }
            Event::Arrive { node, request, back } => self.arrive(node, request, back),
            Event::Reply { back, reply } => self.answered(back.member, back.call, reply),
            Event::RenewDue { member, .. } => self.pump_lease(member),
            Event::Notice { member, term, .. } => self.noticed(member, term),
            Event::Look { member, term, compute, look, .. } => self.look(member, term, compute, look),
            Event::MigrationEnds { member, term, tx, .. } => self.migration_ends(member, term, tx),
            Event::GraceEnds { member, term, .. } => self.grace_ends(member, term),
            Event::Again { member, put, .. } => self.put(member, put, None),
            Event::AskAgain { member, ask, .. } => self.ask(member, ask),
            Event::Idle(tx) => {
                self.db.abort(tx);
                self.try_waiting();
            }
            Event::LockTimeout(wait) => self.lock_timeout(wait),
            Event::SessionsEnd(instance) => {
                self.db.end_sessions(instance);
                self.try_waiting();
            }
            Event::SessionEnds(session) => {
                self.db.end_session(session);
                self.try_waiting();
            }
            Event::AgentWrote { agent, boot, back } => self.agent_wrote(agent, boot, back),
            Event::AgentApplied { agent, boot } => self.agent_applied(agent, boot),
            Event::ClientNext { client, last } => self.client_next(client, last),
            Event::Fault(place) => self.inject(self.faults[place].kind),
            Event::Start { member } => self.start(member),
            Event::StartAgent(agent) => self.start_agent(agent),
            Event::DatabaseUp => self.database_up(),
            Event::Snapshot => self.take_snapshot(),
            Event::Heal => self.heal(),
        }
    }

    fn arrive(&mut self, node: usize, request: Request, back: Option<Back>) {
        match request {
            Request::Sql(session, statement) => self.database(session, statement, back),
            request if node < self.members.len() => self.served(node, request, back),
            request => {
                let agent = node - self.members.len() - 1;
                self.agent(agent, request, back);
            }
        }
    }

    fn lock_timeout(&mut self, wait: u64) {
        if let Some(place) = self.waits.iter().position(|(id, ..)| *id == wait) {
            let (_, _, _, back) = self.waits.remove(place);
            let node = self.database_node();
            self.reply(node, back, Reply::Sql(crate::database::Answer::LockTimeout));
        }
    }

    /// After the faults: one leader, every spec settled, and that for a lease. Too late is a violation.
    fn ended_well(&mut self) -> bool {
        if !self.healed {
            return false;
        }
        match self.trouble() {
            None => {
                let since = *self.converged.get_or_insert(self.now);
                if self.now < since + self.lease {
                    return false;
                }
                self.oracle.all_there(&self.db.data);
                true
            }
            Some(trouble) => {
                self.converged = None;
                let bound = self.lease * 15 + 15_000_000;
                if self.now > self.end + bound {
                    self.oracle.refuse(format!("{} ms after the faults ended: {trouble}", bound / 1000));
                }
                false
            }
        }
    }

    fn trouble(&self) -> Option<String> {
        let Some(row) = &self.db.data.row else { return Some("nobody ever led".to_owned()) };
        let mut leads = false;
        for (index, m) in self.members.iter().enumerate().filter(|(_, m)| m.alive) {
            match &m.state.phase {
                Phase::Candidate(_) => {}
                Phase::Leader { term, .. } if *term == row.term && m.instance() == row.instance => leads = true,
                phase => return Some(format!("member {index} is {phase:?} while the row has term {}", row.term)),
            }
        }
        if !leads {
            return Some(format!("nobody leads; the row has term {} of member {}", row.term, row.member));
        }
        self.agents.iter().zip(&self.db.data.specs).enumerate().find_map(|(n, (agent, spec))| {
            let seen = agent.observed();
            let generation = seen.generation.map_or(0, pgfleet_api::Generation::get);
            // What a lost commit leaves behind is not mended by these decisions.
            let other = generation == spec.0 && seen.spec_hash != Some(hash_of(spec.1));
            if spec.0 == 0 || self.lost && (generation > spec.0 || agent.promised() > row.term || other) {
                return None;
            }
            let generation = pgfleet_api::Generation(spec.0);
            let intent = Intent { generation, spec_hash: Some(hash_of(spec.1)) };
            let done = !other && settled(&intent, generation, &seen).is_some();
            (!done).then(|| format!("compute {n} is not settled: wanted {spec:?}, seen {seen:?}"))
        })
    }
}

fn compute_id(n: usize) -> pgfleet_api::ComputeId {
    let text = format!("c{n}");
    match text.parse() {
        Ok(id) => id,
        Err(error) => panic!("{text} is an id by its form: {error}"),
    }
}
