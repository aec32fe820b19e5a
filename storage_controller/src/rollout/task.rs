//! The task that owns every roll-out under way: takes wishes, and makes a pass over each a few times a second.
//!
//! Spawned by `app` with each leadership. It rests while nothing is under way. Its clock stands still while this member may
//! not act, so that a database that was away, or a process that was frozen, lets no compute run out of time.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use pgfleet_api::rollout::StartRollout;
use pgfleet_api::{ComputeId, RolloutId};
use pgfleet_domain::rollout::{Action, Command, Event};
use pgfleet_persistence::{Asker, Change, NewRollout, RolloutChange, WriteError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::course::Course;
use super::pass::{Broken, carry_out, pass};
use super::select::Selection;
use super::{Ask, RolloutError, Tools};

/// Between two passes.
const TICK: Duration = Duration::from_millis(200);
/// The most that the clock moves between two passes: a longer pause is one in which nobody looked.
const MOST_AT_ONCE: Duration = Duration::from_secs(2);
/// Before what failed is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// The loop behind a [`super::Rollouts`].
pub struct Task {
    tools: Tools,
    asks: mpsc::Receiver<Ask>,
    under_way: BTreeMap<RolloutId, Course>,
    /// What has to be read again before anything else is done with it.
    doubtful: BTreeSet<RolloutId>,
    now: Duration,
    last: Instant,
}

/// The leadership is over.
struct Over;

impl Task {
    pub(super) fn new(tools: Tools, asks: mpsc::Receiver<Ask>) -> Self {
        let (under_way, doubtful) = (BTreeMap::new(), BTreeSet::new());
        Self { tools, asks, under_way, doubtful, now: Duration::ZERO, last: Instant::now() }
    }

    /// Works until the token is cancelled or the leadership is found to be over. Cancelling leaves every write that was
    /// handed in to the writer, and the rest to the next leader.
    ///
    /// # Errors
    /// None: whoever asks hears of every error.
    pub async fn run(mut self, token: CancellationToken) -> Result<(), Infallible> {
        token.run_until_cancelled(self.work()).await;
        self.tools.metrics.under_way(std::iter::empty());
        Ok(())
    }

    async fn work(&mut self) {
        self.take_up().await;
        while self.turn().await.is_ok() {}
    }

    /// Reads what is under way.
    async fn take_up(&mut self) {
        loop {
            match self.tools.database.rollouts_under_way().await {
                Ok(records) => {
                    self.doubtful.extend(records.into_iter().map(|record| record.rollout_id));
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the roll-outs under way cannot be read yet");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn turn(&mut self) -> Result<(), Over> {
        self.passes().await?;
        let idle = self.under_way.is_empty() && self.doubtful.is_empty();
        tokio::select! {
            ask = self.asks.recv() => match ask {
                Some(ask) => self.answer(ask).await,
                None => Err(Over),
            },
            () = tokio::time::sleep(TICK), if !idle => Ok(()),
        }
    }

    async fn passes(&mut self) -> Result<(), Over> {
        let passed = std::mem::replace(&mut self.last, Instant::now()).elapsed();
        if !(self.tools.may_act)() {
            return Ok(());
        }
        self.now += passed.min(MOST_AT_ONCE);
        for rollout_id in self.doubtful.clone() {
            self.read_again(&rollout_id).await?;
        }
        for rollout_id in self.under_way.keys().cloned().collect::<Vec<_>>() {
            if let Some(course) = self.under_way.get_mut(&rollout_id) {
                let outcome = pass(&self.tools, course, self.now).await;
                self.settle(&rollout_id, outcome)?;
            }
        }
        self.tools.metrics.under_way(self.under_way.values().map(|course| course.state.stored().phase));
        Ok(())
    }

    /// Drops what is over, and marks what is in doubt.
    fn settle(&mut self, rollout_id: &RolloutId, outcome: Result<(), Broken>) -> Result<(), Over> {
        match outcome {
            Ok(()) => {
                if self.under_way.get(rollout_id).is_some_and(|course| course.state.stored().phase.is_over()) {
                    self.under_way.remove(rollout_id);
                }
                Ok(())
            }
            Err(Broken::NotLeading) => Err(Over),
            Err(Broken::ReadAgain(error)) => {
                tracing::warn!(%rollout_id, %error, "a roll-out is read again");
                self.under_way.remove(rollout_id);
                self.doubtful.insert(rollout_id.clone());
                Ok(())
            }
        }
    }

    /// Reads a roll-out from the database, behind the writer's barrier: what was in doubt is decided by then.
    async fn read_again(&mut self, rollout_id: &RolloutId) -> Result<(), Over> {
        match self.tools.writer.submit(Change::Rollout(RolloutChange::Barrier)).await {
            Ok(_) => {}
            Err(WriteError::NotLeader) => return Err(Over),
            Err(_) => return Ok(()),
        }
        match Course::read(&self.tools.database, rollout_id, self.now).await {
            Ok(Some(course)) => {
                self.doubtful.remove(rollout_id);
                if !course.state.stored().phase.is_over() {
                    self.under_way.insert(rollout_id.clone(), course);
                }
            }
            Ok(None) => drop(self.doubtful.remove(rollout_id)),
            Err(RolloutError::Unreadable(_)) => {
                tracing::warn!(%rollout_id, "a roll-out of a later release is left to a controller of that release");
                self.doubtful.remove(rollout_id);
            }
            Err(error) => tracing::warn!(%rollout_id, %error, "a roll-out cannot be read yet"),
        }
        Ok(())
    }

    async fn answer(&mut self, ask: Ask) -> Result<(), Over> {
        if !self.doubtful.is_empty() {
            // Whether it may be done depends on what is being read again.
            let (Ask::Start { answer, .. } | Ask::Command { answer, .. }) = ask;
            let msg = "the roll-outs under way are being read".to_owned();
            drop(answer.send(Err(RolloutError::Write(WriteError::Unavailable { msg }))));
            return Ok(());
        }
        let (answer, outcome) = match ask {
            Ask::Start { asker, request, rollout_id, selection, answer } => {
                (answer, self.start(asker, *request, rollout_id, selection).await)
            }
            Ask::Command { asker, rollout_id, command, answer } => {
                (answer, self.command(&asker, &rollout_id, command).await)
            }
        };
        let over = matches!(&outcome, Err(RolloutError::NotLeading | RolloutError::Write(WriteError::NotLeader)));
        // Whoever went away wants no answer.
        drop(answer.send(outcome));
        if over { Err(Over) } else { Ok(()) }
    }

    async fn start(
        &mut self,
        asker: Asker,
        request: StartRollout,
        rollout_id: RolloutId,
        selection: Selection,
    ) -> Result<(), RolloutError> {
        if let Some(known) = self.tools.database.rollout(&rollout_id).await? {
            let same = serde_json::from_value::<StartRollout>(known.request).is_ok_and(|known| known == request);
            return if same { Ok(()) } else { Err(RolloutError::Exists(rollout_id)) };
        }
        let ours: BTreeSet<&ComputeId> =
            selection.targets.iter().take(selection.plan.computes as usize).map(|target| &target.compute_id).collect();
        self.no_conflict(&rollout_id, &ours)?;
        let content = |error: serde_json::Error| {
            RolloutError::Write(WriteError::Refused { sqlstate: "22000".to_owned(), msg: error.to_string() })
        };
        let new = NewRollout {
            rollout_id: rollout_id.clone(),
            plan: serde_json::to_value(selection.plan.view()).map_err(content)?,
            request: serde_json::to_value(&request).map_err(content)?,
            wave: selection.plan.first_wave(),
            started_by: asker.actor.clone(),
            reason: asker.reason.clone(),
            targets: selection.targets,
        };
        let change = Change::Rollout(RolloutChange::Start(Box::new(new)));
        let written = self.tools.writer.submit_for(asker, change).await;
        // Read at the next pass, whatever the answer: then it is known.
        self.doubtful.insert(rollout_id);
        written.map(drop).map_err(RolloutError::Write)
    }

    /// No two roll-outs under way change the same compute.
    fn no_conflict(&self, rollout_id: &RolloutId, ours: &BTreeSet<&ComputeId>) -> Result<(), RolloutError> {
        for (with, other) in self.under_way.iter().filter(|(with, _)| *with != rollout_id) {
            if let Some(compute) = other.shares(ours) {
                return Err(RolloutError::Conflict { with: with.clone(), compute: compute.to_string() });
            }
        }
        Ok(())
    }

    async fn command(&mut self, asker: &Asker, rollout_id: &RolloutId, command: Command) -> Result<(), RolloutError> {
        let now = self.now;
        let mut course = match self.under_way.remove(rollout_id) {
            Some(course) => course,
            None => {
                let read = Course::read(&self.tools.database, rollout_id, now).await?;
                read.ok_or_else(|| RolloutError::Unknown(rollout_id.clone()))?
            }
        };
        let was_over = course.state.stored().phase.is_over();
        let actions = course.take(Event::Asked(command), now);
        if actions.contains(&Action::Refuse) {
            let phase = course.state.stored().phase;
            self.keep(course);
            return Err(RolloutError::Phase { rollout_id: rollout_id.clone(), phase, command });
        }
        if was_over && !course.state.stored().phase.is_over() {
            let ours: BTreeSet<&ComputeId> = course.changes().collect();
            self.no_conflict(rollout_id, &ours)?;
        }
        match carry_out(&self.tools, &mut course, actions, asker, now).await {
            Ok(()) => {
                self.keep(course);
                Ok(())
            }
            Err(Broken::NotLeading) => Err(RolloutError::NotLeading),
            Err(Broken::ReadAgain(error)) => {
                self.doubtful.insert(rollout_id.clone());
                Err(RolloutError::Write(error))
            }
        }
    }

    fn keep(&mut self, course: Course) {
        if !course.state.stored().phase.is_over() {
            self.under_way.insert(course.rollout_id.clone(), course);
        }
    }
}
