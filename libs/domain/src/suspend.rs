//! Whether a compute that nobody uses is to be ended, from what its agent says of its use. Run by the leader's engine.
//!
//! Invariant: no clock of this machine is compared with one of another; the agent says for how long it has been idle, and
//! that length is compared with the length that the spec allows.

use std::time::Duration;

use pgfleet_api::activity::Activity;
use pgfleet_api::agent::ComputeState;
use pgfleet_api::policy::{Policy, SuspendPolicy};

/// Shortest pause between two looks.
const SHORTEST: Duration = Duration::from_millis(200);
/// Longest one: a timeout of a year is looked after every hour as well.
const LONGEST: Duration = Duration::from_secs(3600);
/// A new leadership has looked at each compute within this time, and within a quarter of its timeout.
const FIRST: Duration = Duration::from_secs(30);

/// What is to be done about a compute that may be suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is not running: nothing before it does.
    Leave,
    /// Look again after this time; it cannot be due before.
    LookIn(Duration),
    /// It has been idle for long enough.
    Suspend {
        /// For how long, as its agent says.
        idle: Duration,
    },
}

/// How long a compute may be idle, from its policy and its spec's `suspend_timeout_seconds`; none if it is never suspended.
#[must_use]
pub fn timeout(policy: Policy, suspend_timeout_s: Option<i64>) -> Option<Duration> {
    match policy.suspend {
        SuspendPolicy::Never => None,
        SuspendPolicy::WhenIdle => {
            u64::try_from(suspend_timeout_s?).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
        }
    }
}

/// Judges one look at a compute that may be idle for `timeout`.
#[must_use]
pub fn decide(timeout: Duration, state: ComputeState, activity: Option<&Activity>) -> Step {
    if state != ComputeState::Running {
        return Step::Leave;
    }
    // An agent that cannot say is asked again; one that is in use cannot be due before a whole timeout is over.
    let idle = Duration::from_millis(activity.and_then(|activity| activity.idle_for_ms).unwrap_or(0));
    match timeout.checked_sub(idle).filter(|left| !left.is_zero()) {
        Some(left) => Step::LookIn(left.clamp(SHORTEST, LONGEST)),
        None => Step::Suspend { idle },
    }
}

/// When a new leadership looks first; `jitter` in `0.0..1.0` spreads the fleet.
#[must_use]
pub fn first_look(timeout: Duration, jitter: f64) -> Duration {
    (timeout / 4).min(FIRST).mul_f64(jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_secs(10);

    fn idle(idle_for_ms: Option<u64>) -> Activity {
        Activity { awake: idle_for_ms == Some(0), reason: None, since: Default::default(), sessions: 0, idle_for_ms }
    }

    #[test]
    fn off_unless_policy_and_spec_say_so() {
        let on = Policy { suspend: SuspendPolicy::WhenIdle, ..Policy::default() };
        let rows = [
            (Policy::default(), Some(10), None),
            (on, Some(10), Some(TEN)),
            (on, Some(0), None),
            (on, Some(-1), None),
            (on, None, None),
        ];
        for (policy, seconds, expected) in rows {
            assert_eq!(timeout(policy, seconds), expected, "{policy:?} {seconds:?}");
        }
    }

    #[test]
    fn steps() {
        use ComputeState as S;
        let decide = |state, activity: Option<Activity>| decide(TEN, state, activity.as_ref());
        assert_eq!(decide(S::Running, Some(idle(Some(0)))), Step::LookIn(TEN), "in use");
        assert_eq!(decide(S::Running, Some(idle(Some(4_000)))), Step::LookIn(Duration::from_secs(6)));
        assert_eq!(decide(S::Running, Some(idle(Some(9_999)))), Step::LookIn(SHORTEST));
        assert_eq!(decide(S::Running, Some(idle(Some(10_000)))), Step::Suspend { idle: TEN });
        assert_eq!(decide(S::Running, Some(idle(Some(99_000)))), Step::Suspend { idle: Duration::from_secs(99) });
        assert_eq!(decide(S::Running, Some(idle(None))), Step::LookIn(TEN), "nobody can say");
        assert_eq!(decide(S::Running, None), Step::LookIn(TEN), "an agent that does not watch");
        for state in S::ALL.into_iter().filter(|state| *state != S::Running) {
            assert_eq!(decide(state, Some(idle(Some(99_000)))), Step::Leave, "{state:?}");
        }
    }

    #[test]
    fn no_pause_is_out_of_bounds() {
        let year = Duration::from_secs(1 << 40);
        assert_eq!(super::decide(year, ComputeState::Running, None), Step::LookIn(LONGEST));
        assert_eq!(first_look(year, 1.0), FIRST);
        assert_eq!(first_look(Duration::from_secs(8), 0.5), Duration::from_secs(1));
    }
}
