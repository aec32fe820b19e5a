//! Jobs: an accepted spec takes its time and ends. One runs, one waits; a newer one takes the place of the one that waits.

use pgfleet_api::Generation;
use pgfleet_api::agent::{ComputeState, PromoteStatus};
use pgfleet_domain::lifecycle::Event;

use super::{Agent, Failure, Micros, Origin};

/// How long an application may go on when a newer spec waits.
const GRACE: Micros = 1_000_000;

/// How an accepted spec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in effect.
    Applied,
    /// It could not be applied.
    Failed,
    /// A later one took its place.
    Superseded,
    /// The compute is ending.
    Ended,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Look again then.
    Until(Micros),
    /// It has ended.
    Done(Outcome),
}

/// By which edges a job's end moves the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    /// configuration → running or failed.
    Configuration,
    /// init → running or failed.
    Init,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) id: u32,
    /// When it ends; meaningless before it has begun.
    pub(super) done: Micros,
    takes: Micros,
    generation: Option<Generation>,
    ends: Outcome,
    via: Via,
    promotes: bool,
}

impl Agent {
    /// How far a job is that [`Agent::configure`] gave.
    pub fn progress(&mut self, job: u32, now: Micros) -> Progress {
        self.advance(now);
        let is = |known: &Option<Job>| known.is_some_and(|known| known.id == job);
        if is(&self.running) || is(&self.waiting) {
            return Progress::Until(self.running.map_or(now, |running| running.done));
        }
        let ended = self.finished.iter().flatten().find(|(id, _)| *id == job);
        Progress::Done(ended.map_or(Outcome::Superseded, |(_, outcome)| *outcome))
    }

    pub(super) fn job_for(&mut self, generation: Option<Generation>, origin: Origin, apply: (Micros, bool)) -> Job {
        self.jobs += 1;
        let (takes, fails) = apply;
        Job {
            id: self.jobs,
            done: 0,
            takes: takes.max(1),
            generation,
            ends: if fails { Outcome::Failed } else { Outcome::Applied },
            via: Via::Configuration,
            promotes: origin == Origin::Promote,
        }
    }

    /// The job of a generation that is not settled yet.
    pub(super) fn job_of(&self, generation: Generation) -> Option<u32> {
        let jobs = [self.running, self.waiting];
        jobs.into_iter().flatten().find(|job| job.generation == Some(generation)).map(|job| job.id)
    }

    /// Begins a job, or lets it wait in the place of an earlier one.
    pub(super) fn take_up(&mut self, job: Job, now: Micros) {
        let Some(running) = &mut self.running else { return self.begin(job, now) };
        if running.done > now + GRACE {
            running.done = now + GRACE;
            running.ends = Outcome::Superseded;
        }
        self.step(Event::SpecAccepted);
        if let Some(replaced) = self.waiting.replace(job) {
            self.note(replaced.id, Outcome::Superseded);
        }
    }

    fn begin(&mut self, mut job: Job, now: Micros) {
        job.via = match self.state {
            ComputeState::Empty | ComputeState::Running | ComputeState::Failed | ComputeState::ConfigurationPending => {
                self.step(Event::SpecAccepted);
                self.step(Event::ApplyStarted);
                Via::Configuration
            }
            ComputeState::Init => Via::Init,
            // A refresh begins no job here: nobody can ask for one, the internal listener is not simulated.
            ComputeState::Configuration
            | ComputeState::RefreshConfigurationPending
            | ComputeState::RefreshConfiguration => Via::Configuration,
            ComputeState::TerminationPendingFast
            | ComputeState::TerminationPendingImmediate
            | ComputeState::Terminated => return self.note(job.id, Outcome::Ended),
        };
        job.done = now + job.takes;
        self.running = Some(job);
    }

    /// A new life begins with the spec it was given last, or the last good one.
    pub(super) fn begin_with_what_is_known(&mut self, now: Micros, apply: Micros) {
        let Some((_, accepted, _)) = self.accepted else { return };
        self.step(Event::StartRequested);
        let kept = if self.rejected { self.good } else { Some(accepted) };
        match kept {
            Some(generation) => {
                let job = self.job_for(generation, Origin::Push, (apply, false));
                if let (false, Some(accepted)) = (self.rejected, &mut self.accepted) {
                    accepted.2 = job.id;
                }
                self.begin(job, now);
            }
            None => {
                self.failure = Some(Failure::GivenUp);
                self.seq += 1;
                self.step(Event::StartFailed);
            }
        }
    }

    pub(super) fn finish(&mut self, job: Job) {
        match job.ends {
            Outcome::Applied => self.succeeded(&job),
            Outcome::Failed => self.failed(&job),
            Outcome::Superseded | Outcome::Ended => {}
        }
        self.note(job.id, job.ends);
        if let Some(next) = self.waiting.take() {
            self.begin(next, job.done);
        }
    }

    fn succeeded(&mut self, job: &Job) {
        if self.server_since.is_none() || self.applied != job.generation {
            self.seq += 1;
        }
        self.server_since.get_or_insert(job.done);
        self.applied = job.generation;
        self.good = Some(job.generation);
        if job.promotes {
            self.standby = false;
            self.promotion = PromoteStatus::Completed;
        }
        if self.failure.take().is_some() {
            self.seq += 1;
        }
        self.step(match job.via {
            Via::Configuration => Event::ApplySucceeded,
            Via::Init => Event::StartSucceeded,
        });
        self.tally.applied(job.done);
    }

    fn failed(&mut self, job: &Job) {
        self.rejected |= self.accepted.is_some_and(|(.., by)| by == job.id);
        self.rejected_generation = self.rejected_generation.max(job.generation);
        // The server, the rejected generation and the failure are told one after the other.
        self.seq += if self.server_since.is_none() { 3 } else { 2 };
        self.server_since.get_or_insert(job.done);
        if job.promotes {
            self.promotion = PromoteStatus::Failed;
        }
        self.failure = Some(Failure::Scripted);
        self.step(match job.via {
            Via::Configuration => Event::ApplyFailed,
            Via::Init => Event::StartFailed,
        });
        self.tally.failed();
    }

    /// Remembers how the last jobs ended, for those who wait.
    pub(super) fn note(&mut self, job: u32, outcome: Outcome) {
        self.finished = [Some((job, outcome)), self.finished[0]];
    }
}
