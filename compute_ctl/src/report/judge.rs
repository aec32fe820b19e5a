//! What the samples mean: since when the compute is awake or idle, and why. Pure.

use std::time::Duration;

use chrono::{DateTime, Utc};
use pgfleet_api::activity::ActivityReason;
use tokio::time::Instant;

use super::sample::{Sample, Work};

/// What was made of all samples so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Why it is awake; none while idle.
    pub(super) reason: Option<ActivityReason>,
    /// Since when it is so.
    pub(super) since: DateTime<Utc>,
    /// From when idleness counts, by the agent's own clock; none while that is not known.
    pub(super) idle_from: Option<Instant>,
    /// Never goes back.
    pub(super) last_active: Option<DateTime<Utc>>,
}

/// Remembers what a verdict needs of the samples before.
#[derive(Debug)]
pub(super) struct Judge {
    looked: Option<Instant>,
    /// When the compute came to run.
    running: Option<Instant>,
    /// Last activity, by the agent's own clock: a wall clock that is set back must not make a compute older than it is.
    active: Option<Instant>,
    last_active: Option<DateTime<Utc>>,
    work: Option<Work>,
    reason: Option<ActivityReason>,
    since: DateTime<Utc>,
}

impl Judge {
    pub(super) fn new(now: DateTime<Utc>) -> Self {
        Self {
            looked: None,
            running: None,
            active: None,
            last_active: None,
            work: None,
            reason: Some(ActivityReason::Starting),
            since: now,
        }
    }

    /// PostgreSQL answered. `is_running`: the compute, not only its PostgreSQL.
    pub(super) fn sampled(&mut self, sample: &Sample, is_running: bool, now: Instant) {
        self.running = if is_running { self.running.or(Some(now)) } else { None };
        let moved = self.work.zip(sample.work).is_some_and(|(before, after)| before != after);
        self.work = sample.work;
        let rested = sample.rested_at.map(|at| ago(sample.at, at));
        let looked = self.looked.replace(now);
        let recently = rested.is_some_and(|age| looked.is_none_or(|looked| age <= now - looked));
        let present = present(sample, moved);
        if present.is_some() {
            self.active_at(now, sample.at);
        } else if let (Some(age), Some(at)) = (rested, sample.rested_at) {
            self.active_at(now.checked_sub(age).unwrap_or(now), at);
        }
        // What is seen now tells more than what has just ended.
        let reason = present.or(recently.then_some(ActivityReason::ClientIdleRecently));
        let since = if reason.is_none() { self.last_active.unwrap_or(sample.at) } else { sample.at };
        let reason = if is_running { reason } else { reason.or(Some(ActivityReason::Starting)) };
        self.turned(reason, since);
    }

    /// PostgreSQL did not answer: nobody can say that it is idle.
    pub(super) fn unseen(&mut self, is_running: bool, now: DateTime<Utc>) {
        if !is_running {
            self.running = None;
        }
        self.work = None;
        self.turned(Some(if is_running { ActivityReason::NoAnswer } else { ActivityReason::Starting }), now);
    }

    pub(super) fn verdict(&self) -> Verdict {
        let idle_from = self.running.map(|running| self.active.map_or(running, |active| active.max(running)));
        let Self { reason, since, last_active, .. } = *self;
        Verdict { reason, since, idle_from, last_active }
    }

    fn active_at(&mut self, at: Instant, wall: DateTime<Utc>) {
        self.active = Some(self.active.map_or(at, |known| known.max(at)));
        self.last_active = Some(self.last_active.map_or(wall, |known| known.max(wall)));
    }

    /// A stretch of being awake or idle keeps its beginning while its reason changes.
    fn turned(&mut self, reason: Option<ActivityReason>, at: DateTime<Utc>) {
        if reason.is_some() != self.reason.is_some() {
            self.since = at;
        }
        self.reason = reason;
    }
}

/// What is going on at this moment, the first that holds.
fn present(sample: &Sample, moved: bool) -> Option<ActivityReason> {
    let rows = [
        (moved, ActivityReason::DatabaseStatistics),
        (sample.active, ActivityReason::ClientActive),
        (sample.in_transaction, ActivityReason::IdleInTransaction),
        (sample.base_backup, ActivityReason::BaseBackup),
        (sample.logical_replication, ActivityReason::LogicalReplication),
        (sample.subscription, ActivityReason::Subscription),
        (sample.autovacuum, ActivityReason::Autovacuum),
    ];
    rows.into_iter().find_map(|(holds, reason)| holds.then_some(reason))
}

fn ago(now: DateTime<Utc>, then: DateTime<Utc>) -> Duration {
    (now - then).to_std().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(500);

    fn wall(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn quiet(at: DateTime<Utc>) -> Sample {
        Sample {
            at,
            sessions: 0,
            active: false,
            in_transaction: false,
            rested_at: None,
            autovacuum: false,
            base_backup: false,
            logical_replication: false,
            subscription: false,
            work: None,
        }
    }

    #[test]
    fn what_counts_and_as_what() {
        use ActivityReason as R;
        let base = || quiet(wall(10));
        let rows = [
            (base(), None),
            (Sample { active: true, in_transaction: true, ..base() }, Some(R::ClientActive)),
            (Sample { in_transaction: true, subscription: true, ..base() }, Some(R::IdleInTransaction)),
            (Sample { rested_at: Some(wall(10)), ..base() }, Some(R::ClientIdleRecently)),
            (Sample { rested_at: Some(wall(3)), ..base() }, None),
            (Sample { rested_at: Some(wall(10)), logical_replication: true, ..base() }, Some(R::LogicalReplication)),
            (Sample { base_backup: true, ..base() }, Some(R::BaseBackup)),
            (Sample { subscription: true, ..base() }, Some(R::Subscription)),
            (Sample { autovacuum: true, ..base() }, Some(R::Autovacuum)),
        ];
        for (sample, reason) in rows {
            let (mut judge, now) = (Judge::new(wall(0)), Instant::now());
            judge.sampled(&quiet(wall(9)), true, now);
            judge.sampled(&sample, true, now + STEP);
            assert_eq!(judge.verdict().reason, reason, "{sample:?}");
        }
    }

    #[test]
    fn last_active_is_null_before_the_first_and_only_moves_forward() {
        let (mut judge, now) = (Judge::new(wall(0)), Instant::now());
        judge.sampled(&quiet(wall(1)), true, now);
        assert_eq!(judge.verdict().last_active, None);
        judge.sampled(&Sample { active: true, ..quiet(wall(2)) }, true, now + STEP);
        assert_eq!(judge.verdict().last_active, Some(wall(2)));
        // Another session that has rested for longer, and then a clock that was set back.
        judge.sampled(&Sample { rested_at: Some(wall(1)), ..quiet(wall(3)) }, true, now + STEP * 2);
        assert_eq!(judge.verdict().last_active, Some(wall(2)));
        judge.sampled(&Sample { active: true, ..quiet(wall(-50)) }, true, now + STEP * 3);
        let verdict = judge.verdict();
        assert_eq!((verdict.last_active, verdict.idle_from), (Some(wall(2)), Some(now + STEP * 3)));
    }

    #[test]
    fn idleness_counts_from_the_last_activity_or_from_the_start() {
        let (mut judge, now) = (Judge::new(wall(0)), Instant::now() + Duration::from_secs(60));
        judge.sampled(&Sample { rested_at: Some(wall(0)), ..quiet(wall(5)) }, true, now);
        let first = judge.verdict();
        assert_eq!(first.idle_from, Some(now), "a session of before does not make the compute idle at once");
        judge.sampled(&Sample { rested_at: Some(wall(7)), ..quiet(wall(10)) }, true, now + Duration::from_secs(5));
        let verdict = judge.verdict();
        assert_eq!(verdict.idle_from, Some(now + Duration::from_secs(2)));
        // A look that finds no answer, and one while the compute is not running: nobody knows.
        judge.unseen(true, wall(11));
        assert_eq!(judge.verdict().reason, Some(ActivityReason::NoAnswer));
        judge.sampled(&quiet(wall(12)), false, now + Duration::from_secs(7));
        let verdict = judge.verdict();
        assert_eq!((verdict.reason, verdict.idle_from), (Some(ActivityReason::Starting), None));
        judge.sampled(&quiet(wall(13)), true, now + Duration::from_secs(8));
        assert_eq!(judge.verdict().idle_from, Some(now + Duration::from_secs(8)), "it came to run only now");
    }

    #[test]
    fn a_stretch_keeps_its_beginning() {
        let (mut judge, now) = (Judge::new(wall(0)), Instant::now());
        judge.sampled(&Sample { active: true, ..quiet(wall(1)) }, true, now);
        judge.sampled(&Sample { in_transaction: true, ..quiet(wall(2)) }, true, now + STEP);
        assert_eq!(judge.verdict().since, wall(0), "awake since the agent began");
        judge.sampled(&quiet(wall(3)), true, now + STEP * 2);
        assert_eq!(judge.verdict().since, wall(2), "idle since the last activity");
        judge.sampled(&Sample { active: true, ..quiet(wall(9)) }, true, now + STEP * 3);
        assert_eq!(judge.verdict().since, wall(9));
    }

    #[test]
    fn counters_count_when_they_move() {
        let (mut judge, now) = (Judge::new(wall(0)), Instant::now());
        let with = |sessions, at| {
            let work = Some(Work { active_time_ms: 1.5, sessions });
            Sample { work, ..quiet(wall(at)) }
        };
        judge.sampled(&with(7, 1), true, now);
        assert_eq!(judge.verdict().reason, None, "the first is the base");
        judge.sampled(&with(8, 2), true, now + STEP);
        assert_eq!(judge.verdict().reason, Some(ActivityReason::DatabaseStatistics));
        judge.sampled(&with(8, 3), true, now + STEP * 2);
        assert_eq!(judge.verdict().reason, None);
    }
}
