//! One simulated agent: what it has promised, what it runs, and what it was asked. Pure; time comes in as microseconds.
//!
//! ```text
//! configure ──► admission (domain::fence, domain::spec) ──► job (one runs, one waits) ──► its time is over ──► state
//! ```
//!
//! Who calls it: the routes. What it calls: the decisions of the domain, the same as a real agent's. Nothing happens by
//! itself: [`Agent::advance`] catches up with the time at every look, so an agent that nobody asks costs nothing. It keeps
//! no spec, only its hash; an agent is some hundred bytes, so that a process can be 100,000.

mod admission;
mod jobs;
mod shown;
mod tally;
#[cfg(test)]
mod tests;

use pgfleet_api::agent::{ComputeState, PromoteStatus, TerminateMode};
use pgfleet_api::{ClusterId, FenceMark, Generation, SpecHash, Term};
use pgfleet_domain::fence;
use pgfleet_domain::lifecycle::{Event, transition};

pub use admission::{Ask, Content, Origin};
pub use jobs::{Outcome, Progress};
pub use shown::Face;
pub use tally::{CODES, Tally};

use jobs::Job;

/// Microseconds since the process started.
pub type Micros = u64;

/// How long a terminated agent shows its status before its process is gone.
const LAST_WORDS: Micros = 30_000_000;

/// Why a request was not taken, as a real agent has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The rule of the ledger.
    Fence {
        /// Which part of it.
        refusal: fence::Refusal,
        /// The highest fence seen.
        highest: Option<FenceMark>,
    },
    /// It has no fence and the ledger holds one.
    FenceRequired {
        /// The highest fence seen.
        highest: Option<FenceMark>,
    },
    /// A rule refuses its content.
    Content {
        /// Path of the field.
        path: String,
        /// Why, in one line.
        msg: String,
    },
    /// Only a replica can be promoted.
    NotReplica,
    /// The compute is ending or has ended.
    Ending(ComputeState),
}

/// A spec hash as bytes: half of its text, and nothing on the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Digest([u8; 32]);

/// The promise, in a compact form of `domain::fence::LedgerRecord`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Promise {
    cluster: ClusterId,
    term: Term,
    generation: Generation,
    hash: Digest,
}

/// One agent.
#[derive(Debug)]
pub struct Agent {
    /// What it was asked, since the last reset.
    pub tally: Tally,
    /// Answers given in all lives, for the draws of the script.
    pub answers: u64,
    /// Number of this life.
    life: u32,
    started: Micros,
    seq: u64,
    state: ComputeState,
    promise: Option<Promise>,
    /// Hash of the accepted spec and the job that was made of it.
    accepted: Option<(Digest, Option<Generation>, u32)>,
    good: Option<Option<Generation>>,
    rejected: bool,
    rejected_generation: Option<Generation>,
    applied: Option<Generation>,
    ignored: Box<[String]>,
    failure: Option<Failure>,
    server_since: Option<Micros>,
    has_data: bool,
    standby: bool,
    promotion: PromoteStatus,
    jobs: u32,
    running: Option<Job>,
    waiting: Option<Job>,
    finished: [Option<(u32, Outcome)>; 2],
    stopped_at: Option<Micros>,
    exit_at: Option<Micros>,
}

/// What the status says of the last failure.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// The script has every application fail.
    Scripted,
    /// A new life that finds nothing it could run.
    GivenUp,
    /// A rule refused a fenced spec, which is given up for good.
    Refused(Box<Rule>),
}

/// A field and why a rule refuses it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    path: String,
    msg: String,
}

/// The compute has ended, or is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// When PostgreSQL is gone.
    pub at: Micros,
    /// Whether it had ended before it was asked to.
    pub before: bool,
}

impl Agent {
    /// An agent that has just started and was never asked anything.
    #[must_use]
    pub fn new(now: Micros) -> Self {
        Self {
            tally: Tally::default(),
            answers: 0,
            life: 0,
            started: now,
            seq: 1,
            state: ComputeState::Empty,
            promise: None,
            accepted: None,
            good: None,
            rejected: false,
            rejected_generation: None,
            applied: None,
            ignored: Box::default(),
            failure: None,
            server_since: None,
            has_data: false,
            standby: false,
            promotion: PromoteStatus::default(),
            jobs: 0,
            running: None,
            waiting: None,
            finished: [None; 2],
            stopped_at: None,
            exit_at: None,
        }
    }

    /// Its next life: the ledger and the data directory are as they were, everything else is new.
    pub fn restart(&mut self, now: Micros, apply: Micros) {
        self.advance(now);
        let old = std::mem::replace(self, Self::new(now));
        let Self { tally, answers, life, promise, accepted, good, rejected, rejected_generation, .. } = old;
        let (has_data, standby) = (old.has_data, old.standby);
        let known = Self { tally, answers, promise, accepted, good, rejected, rejected_generation, ..Self::new(now) };
        *self = Self { life: life + 1, has_data, standby, jobs: old.jobs, ..known };
        if self.promise.is_some() || self.accepted.is_some() {
            self.seq += 1;
        }
        self.begin_with_what_is_known(now, apply);
    }

    /// A new agent in its place, that was never asked anything.
    pub fn forget(&mut self, now: Micros) {
        let life = self.life + 1;
        *self = Self { life, answers: self.answers, ..Self::new(now) };
    }

    /// Which life it is in; changes with every restart.
    #[must_use]
    pub fn life(&self) -> u32 {
        self.life
    }

    /// How many specs were taken up, in all lives.
    #[must_use]
    pub fn jobs(&self) -> u32 {
        self.jobs
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> ComputeState {
        self.state
    }

    /// Highest generation accepted, and the last one fully in effect.
    #[must_use]
    pub fn generations(&self) -> (Option<Generation>, Option<Generation>) {
        (self.promise.map(|promise| promise.generation), self.applied)
    }

    /// Whether its process has ended, after a termination.
    #[must_use]
    pub fn is_gone(&self, now: Micros) -> bool {
        self.exit_at.is_some_and(|at| at <= now)
    }

    /// Since when nobody uses its PostgreSQL; none while it does not run. Nobody ever does.
    #[must_use]
    pub fn idle_us(&self, now: Micros) -> Option<Micros> {
        self.server_since.filter(|_| self.state == ComputeState::Running).map(|since| now.saturating_sub(since))
    }

    /// Ends the compute; PostgreSQL takes `stop` to be gone.
    pub fn terminate(&mut self, mode: TerminateMode, now: Micros, stop: Micros) -> Ending {
        self.advance(now);
        if self.state == ComputeState::Terminated {
            if mode == TerminateMode::Immediate {
                self.exit_at = Some(now);
            }
            return Ending { at: now, before: true };
        }
        self.step(Event::TerminateRequested(mode));
        for job in self.running.take().into_iter().chain(self.waiting.take()) {
            self.note(job.id, Outcome::Ended);
        }
        let at = *self.stopped_at.get_or_insert(now + stop);
        Ending { at, before: false }
    }

    /// Catches up with the time.
    pub fn advance(&mut self, now: Micros) {
        while let Some(job) = self.running.take_if(|job| job.done <= now) {
            self.finish(job);
        }
        if let Some(at) = self.stopped_at.take_if(|at| *at <= now) {
            let last_words = if self.state == ComputeState::TerminationPendingImmediate { 0 } else { LAST_WORDS };
            if self.server_since.take().is_some() {
                self.seq += 1;
            }
            self.step(Event::PostgresStopped);
            self.exit_at = Some(at + last_words);
        }
    }

    /// Moves the machine by the domain's table.
    fn step(&mut self, event: Event) {
        match transition(self.state, event) {
            Ok(next) if next != self.state => {
                self.state = next;
                self.seq += 1;
            }
            Ok(_) => {}
            Err(refused) => {
                debug_assert!(false, "{refused}");
                tracing::error!("{refused}");
            }
        }
    }
}

impl Digest {
    /// The digits of a valid hash; anything else cannot be in a [`SpecHash`].
    fn of(hash: &SpecHash) -> Self {
        let nibble = |digit: u8| if digit <= b'9' { digit - b'0' } else { digit - b'a' + 10 };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hash.as_str().as_bytes().chunks_exact(2)) {
            *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
        }
        Self(bytes)
    }

    fn text(self) -> SpecHash {
        let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
        let text: String = self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
        match text.parse() {
            Ok(hash) => hash,
            Err(_) => unreachable!("64 hex digits are a spec hash"),
        }
    }
}
