//! The task `compute-monitor`, and what others hold of it.
//!
//! It looks every [`PERIOD`], also while nothing happens: a session that comes and goes between two looks is not seen, so
//! a slower look at an idle compute would miss exactly the use that should keep it awake. One look costs well below a
//! millisecond of PostgreSQL and less of the agent.
//!
//! Invariants: at most one session, kept between looks and let go when PostgreSQL does not answer; a look has a deadline;
//! the task ends with the compute.

use std::convert::Infallible;
use std::time::Duration;

use chrono::Utc;
use pgfleet_api::activity::{Activity, ActivityReason, Downtime};
use pgfleet_api::agent::{AgentStatus, ComputeState};
use pgfleet_runtime::queue::refuse_rest;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::downtime::Counter;
use super::judge::{Judge, Verdict};
use super::sample::{Eye, Sample};
use crate::lifecycle::Handle;
use crate::postgres::{LinkError, Postgres};

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(500);
/// A look that takes longer counts as no answer.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// Questions that may wait for the next look.
const QUEUE: usize = 16;
/// Turns the counters of the databases into activity.
const FEATURE: &str = "activity_monitor_experimental";

/// What the last look gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    verdict: Verdict,
    sessions: u32,
    downtime: Downtime,
    /// Whether there is a PostgreSQL to be looked at.
    watching: bool,
}

impl Reading {
    /// Whether PostgreSQL is in use, as of this moment; none while there is nothing to look at.
    #[must_use]
    pub fn activity(&self) -> Option<Activity> {
        let Verdict { reason, since, .. } = self.verdict;
        let (awake, sessions) = (reason.is_some(), self.sessions);
        self.watching.then(|| Activity { awake, reason, since, sessions, idle_for_ms: self.idle_for_ms() })
    }

    /// Last activity; none before the first.
    #[must_use]
    pub fn last_active(&self) -> Option<chrono::DateTime<Utc>> {
        self.verdict.last_active
    }

    /// How long PostgreSQL did not answer.
    #[must_use]
    pub fn downtime(&self) -> Downtime {
        self.downtime
    }

    /// Time without activity; 0 while awake, none while nobody can say.
    #[must_use]
    pub fn idle_for_ms(&self) -> Option<u64> {
        if !self.watching {
            return None;
        }
        match self.verdict.reason {
            Some(ActivityReason::Starting | ActivityReason::NoAnswer) => None,
            Some(_) => Some(0),
            None => {
                let idle = self.verdict.idle_from?.elapsed();
                Some(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }
}

/// The monitor's door. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Monitor {
    reading: watch::Receiver<Reading>,
    questions: mpsc::Sender<oneshot::Sender<Reading>>,
}

impl Monitor {
    /// What the last look gave.
    #[must_use]
    pub fn reading(&self) -> Reading {
        *self.reading.borrow()
    }

    /// Looks now; none once the compute has ended.
    pub async fn look(&self) -> Option<Reading> {
        let (reply, answer) = oneshot::channel();
        self.questions.send(reply).await.ok()?;
        answer.await.ok()
    }

    /// Puts the readings into a status that is about to be answered.
    pub fn show(&self, status: &mut AgentStatus) {
        let reading = self.reading();
        status.last_active = reading.last_active();
        status.activity = reading.activity();
        status.downtime = reading.activity().is_some().then_some(reading.downtime);
    }
}

/// The task; run it once.
pub struct MonitorTask {
    postgres: Postgres,
    handle: Handle,
    questions: mpsc::Receiver<oneshot::Sender<Reading>>,
    published: watch::Sender<Reading>,
    eye: Option<Eye>,
    judge: Judge,
    downtime: Counter,
    sessions: u32,
}

impl MonitorTask {
    /// A task that does nothing before it is run, and its door.
    #[must_use]
    pub fn new(postgres: Postgres, handle: Handle) -> (Self, Monitor) {
        let (ask, questions) = mpsc::channel(QUEUE);
        let judge = Judge::new(Utc::now());
        let reading = Reading { verdict: judge.verdict(), sessions: 0, downtime: Downtime::default(), watching: false };
        let (published, reading) = watch::channel(reading);
        let downtime = Counter::default();
        let task = Self { postgres, handle, questions, published, eye: None, judge, downtime, sessions: 0 };
        (task, Monitor { reading, questions: ask })
    }

    /// Looks until the compute has ended or `token` is cancelled.
    ///
    /// # Errors
    /// None; the type is the task's.
    pub async fn run(mut self, token: CancellationToken) -> Result<(), Infallible> {
        self.look_on(&token).await;
        refuse_rest(self.questions).await;
        Ok(())
    }

    async fn look_on(&mut self, token: &CancellationToken) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let question = tokio::select! {
                biased;
                () = token.cancelled() => return,
                Some(question) = self.questions.recv() => Some(question),
                _ = ticks.tick() => None,
            };
            tokio::select! {
                () = token.cancelled() => return,
                () = self.turn() => {}
            }
            if let Some(question) = question {
                // Whoever asked and went away needs no answer.
                let _ = question.send(*self.published.borrow());
            }
            if self.handle.status().status == ComputeState::Terminated {
                return;
            }
        }
    }

    async fn turn(&mut self) {
        let status = self.handle.status();
        let watching = self.is_to_be_watched(&status);
        let is_running = status.status == ComputeState::Running;
        if watching {
            let looked = self.look().await;
            let now = Instant::now();
            match looked {
                Some(sample) => {
                    self.sessions = sample.sessions;
                    self.downtime.answered(now);
                    self.judge.sampled(&sample, is_running, now);
                }
                None => {
                    self.downtime.failed(now);
                    self.judge.unseen(is_running, Utc::now());
                }
            }
        } else {
            self.eye = None;
        }
        let (verdict, downtime) = (self.judge.verdict(), self.downtime.reading());
        self.published.send_replace(Reading { verdict, sessions: self.sessions, downtime, watching });
    }

    /// Once PostgreSQL has answered it is to answer always, until its end was asked for.
    fn is_to_be_watched(&self, status: &AgentStatus) -> bool {
        match status.status {
            ComputeState::Empty
            | ComputeState::TerminationPendingFast
            | ComputeState::TerminationPendingImmediate
            | ComputeState::Terminated => false,
            ComputeState::ConfigurationPending
            | ComputeState::Configuration
            | ComputeState::Init
            | ComputeState::Running
            | ComputeState::RefreshConfigurationPending
            | ComputeState::RefreshConfiguration
            | ComputeState::Failed => status.postgres.is_some() || self.downtime.has_begun(),
        }
    }

    /// One look; none if PostgreSQL does not answer, with the session let go.
    async fn look(&mut self) -> Option<Sample> {
        let with_work = self.handle.has_feature(FEATURE);
        let (postgres, kept) = (&self.postgres, self.eye.take());
        let looked = timeout(LOOK_LIMIT, async {
            let mut eye = match kept {
                Some(eye) => eye,
                None => Eye::open(postgres.connect_monitor().await?).await?,
            };
            let sample = eye.look(with_work).await?;
            Ok::<_, LinkError>((eye, sample))
        });
        match looked.await {
            Ok(Ok((eye, sample))) => {
                self.eye = Some(eye);
                Some(sample)
            }
            Ok(Err(error)) => {
                tracing::debug!("the monitor has no answer: {}", pgfleet_runtime::exit::chain(&error));
                None
            }
            Err(_) => {
                tracing::debug!("the monitor has no answer within {} s", LOOK_LIMIT.as_secs());
                None
            }
        }
    }
}
