//! What a compute needs next, from what was asked for and what was seen. Run by the leader's engine at every pass.
//!
//! Invariant: the plan of a converged compute is empty, so the loop observe → plan → push rests.

use std::time::Duration;

use pgfleet_api::agent::ComputeState;
use pgfleet_api::compute::{Observed, WaitOutcome};
use pgfleet_api::{Generation, SpecHash};

/// What the owner asked for, as far as a plan needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Counter of the spec; 0 without one.
    pub generation: Generation,
    /// Its content.
    pub spec_hash: Option<SpecHash>,
}

/// The next step for one compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Converged, or nothing was asked for, or the agent gave this generation up: rest until something changes.
    Rest,
    /// The agent works on it, or was never heard of: ask it.
    Probe,
    /// The agent lacks the spec: send it.
    Push,
    /// The agent has a generation, or a content under one, that the database lacks: the database lost commits. Never push
    /// over it silently: its generation is passed over first.
    AgentAhead(Ahead),
}

/// What an agent has that the database lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// A later generation.
    Generation(Generation),
    /// Another content under the same generation: it was minted twice.
    Content(Generation),
}

impl Ahead {
    /// The generation that the agent has.
    #[must_use]
    pub const fn generation(self) -> Generation {
        match self {
            Self::Generation(agents) | Self::Content(agents) => agents,
        }
    }
}

/// A generation further above the database's than this is no lost commit: it is a ledger that is wrong.
pub const MAX_GENERATION_JUMP: i64 = 1_000_000;

/// What the agent has that the database lacks, if there is anything.
#[must_use]
pub fn ahead(intent: &Intent, observed: &Observed) -> Option<Ahead> {
    let (hash, accepted) = (intent.spec_hash.as_ref()?, observed.generation?);
    if accepted > intent.generation {
        return Some(Ahead::Generation(accepted));
    }
    (accepted == intent.generation && observed.spec_hash.as_ref() != Some(hash)).then_some(Ahead::Content(accepted))
}

/// Plans the next step.
#[must_use]
pub fn plan(intent: &Intent, observed: Option<&Observed>) -> Plan {
    let (Some(_), Some(observed)) = (&intent.spec_hash, observed) else {
        return if intent.spec_hash.is_some() { Plan::Probe } else { Plan::Rest };
    };
    let accepted = observed.generation.unwrap_or(Generation(0));
    if let Some(ahead) = ahead(intent, observed) {
        return Plan::AgentAhead(ahead);
    }
    if accepted < intent.generation {
        return if is_ending(observed.state) { Plan::Rest } else { Plan::Push };
    }
    match settled(intent, intent.generation, observed) {
        Some(_) => Plan::Rest,
        None if is_ending(observed.state) => Plan::Rest,
        None => Plan::Probe,
    }
}

/// How `generation` ended at the agent; `None` while it is under way.
///
/// A later generation in effect settles an earlier one as applied: it superseded it. What the database does not have
/// settles nothing: it is about to be passed over.
#[must_use]
pub fn settled(intent: &Intent, generation: Generation, observed: &Observed) -> Option<WaitOutcome> {
    if ahead(intent, observed).is_some() {
        return None;
    }
    let applied = observed.applied_generation.is_some_and(|applied| applied >= generation);
    if applied && observed.state == ComputeState::Running {
        return Some(WaitOutcome::Applied);
    }
    if observed.rejected_generation.is_some_and(|rejected| rejected >= generation) {
        return Some(WaitOutcome::Rejected);
    }
    let reached = observed.generation.is_some_and(|accepted| accepted >= generation);
    (reached && observed.state == ComputeState::Failed).then_some(WaitOutcome::Failed)
}

/// Whether it takes no spec any more until its agent is started again.
#[must_use]
pub fn is_ending(state: ComputeState) -> bool {
    matches!(
        state,
        ComputeState::TerminationPendingFast | ComputeState::TerminationPendingImmediate | ComputeState::Terminated
    )
}

/// Pause before try `attempt` (0 is the first repetition): doubles from `base`, at most `cap`, spread by `jitter`
/// in `0.0..1.0` over the upper half, so that computes that failed together do not come back together.
#[must_use]
pub fn backoff(attempt: u32, base: Duration, cap: Duration, jitter: f64) -> Duration {
    let full = base.saturating_mul(2_u32.saturating_pow(attempt.min(20))).min(cap);
    full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use pgfleet_api::BootId;

    use super::*;

    fn hash(c: char) -> SpecHash {
        c.to_string().repeat(64).parse().unwrap()
    }

    fn intent(generation: i64, content: char) -> Intent {
        Intent { generation: Generation(generation), spec_hash: Some(hash(content)) }
    }

    fn seen(state: ComputeState, accepted: i64, applied: i64, content: char) -> Observed {
        Observed {
            state,
            boot_id: BootId(uuid::Uuid::nil()),
            status_seq: 1,
            term: None,
            generation: (accepted > 0).then_some(Generation(accepted)),
            applied_generation: (applied > 0).then_some(Generation(applied)),
            rejected_generation: None,
            spec_hash: (accepted > 0).then(|| hash(content)),
            pending_restart: vec![],
            ignored_fields: vec![],
            error: None,
            error_detail: None,
            failures: Vec::new(),
            postgres: None,
        }
    }

    #[test]
    fn plans() {
        use ComputeState as S;
        let none = Intent { generation: Generation(0), spec_hash: None };
        assert_eq!(plan(&none, None), Plan::Rest);
        assert_eq!(plan(&none, Some(&seen(S::Empty, 0, 0, 'a'))), Plan::Rest);
        assert_eq!(plan(&intent(1, 'a'), None), Plan::Probe);
        assert_eq!(plan(&intent(1, 'a'), Some(&seen(S::Empty, 0, 0, 'a'))), Plan::Push);
        assert_eq!(plan(&intent(2, 'b'), Some(&seen(S::Running, 1, 1, 'a'))), Plan::Push);
        assert_eq!(plan(&intent(2, 'b'), Some(&seen(S::Failed, 1, 0, 'a'))), Plan::Push);
        assert_eq!(plan(&intent(2, 'b'), Some(&seen(S::Configuration, 2, 1, 'b'))), Plan::Probe);
        assert_eq!(plan(&intent(2, 'b'), Some(&seen(S::Running, 2, 2, 'b'))), Plan::Rest);
        assert_eq!(plan(&intent(2, 'b'), Some(&seen(S::Failed, 2, 1, 'b'))), Plan::Rest);
        let later = Plan::AgentAhead(Ahead::Generation(Generation(3)));
        assert_eq!(plan(&intent(2, 'b'), Some(&seen(S::Running, 3, 3, 'c'))), later);
        assert_eq!(plan(&intent(2, 'b'), Some(&seen(S::Terminated, 3, 3, 'b'))), later);
        let other = Plan::AgentAhead(Ahead::Content(Generation(2)));
        assert_eq!(plan(&intent(2, 'b'), Some(&seen(S::Running, 2, 2, 'c'))), other);
        assert_eq!(plan(&none, Some(&seen(S::Running, 3, 3, 'c'))), Plan::Rest, "nothing is asked for yet");
        assert_eq!(plan(&intent(2, 'b'), Some(&seen(S::Terminated, 1, 1, 'a'))), Plan::Rest);
        let mut rejected = seen(S::Running, 2, 1, 'b');
        rejected.rejected_generation = Some(Generation(2));
        assert_eq!(plan(&intent(2, 'b'), Some(&rejected)), Plan::Rest);
    }

    #[test]
    fn a_later_generation_settles_an_earlier_wait() {
        use ComputeState as S;
        let settled = |generation: i64, seen: &Observed| settled(&intent(6, 'b'), Generation(generation), seen);
        let running = seen(S::Running, 5, 5, 'a');
        assert_eq!(settled(3, &running), Some(WaitOutcome::Applied));
        assert_eq!(settled(6, &running), None);
        assert_eq!(settled(5, &seen(S::Configuration, 5, 4, 'a')), None);
        assert_eq!(settled(5, &seen(S::Init, 5, 5, 'a')), None);
        assert_eq!(settled(5, &seen(S::Failed, 5, 4, 'a')), Some(WaitOutcome::Failed));
        assert_eq!(settled(6, &seen(S::Failed, 5, 4, 'a')), None);
    }

    #[test]
    fn what_the_database_lacks_settles_nothing() {
        use ComputeState as S;
        for lost in [seen(S::Running, 7, 7, 'c'), seen(S::Running, 6, 6, 'c'), seen(S::Failed, 7, 5, 'c')] {
            assert_eq!(settled(&intent(6, 'b'), Generation(6), &lost), None, "{lost:?}");
        }
        let own = seen(S::Running, 6, 6, 'b');
        assert_eq!(settled(&intent(6, 'b'), Generation(6), &own), Some(WaitOutcome::Applied));
    }

    #[test]
    fn backoff_doubles_is_capped_and_spread() {
        let (base, cap) = (Duration::from_millis(100), Duration::from_secs(10));
        assert_eq!(backoff(0, base, cap, 1.0), base);
        assert_eq!(backoff(3, base, cap, 1.0), Duration::from_millis(800));
        assert_eq!(backoff(3, base, cap, 0.0), Duration::from_millis(400));
        assert_eq!(backoff(u32::MAX, base, cap, 1.0), cap);
    }

    /// The controller asks for three things: a spec, a refresh and an end. Whatever it asks for by its plan, an agent in that
    /// state takes, and from there it can run or end.
    #[test]
    fn the_controller_asks_for_nothing_that_the_agent_cannot_do() {
        use crate::lifecycle::{Event, transition};
        use pgfleet_api::agent::TerminateMode;
        for state in ComputeState::ALL {
            let pushes = plan(&intent(2, 'b'), Some(&seen(state, 1, 1, 'a'))) == Plan::Push;
            assert_eq!(pushes, transition(state, Event::SpecAccepted).is_ok(), "{state:?}");
            for mode in [TerminateMode::Fast, TerminateMode::Immediate] {
                let ends = transition(state, Event::TerminateRequested(mode));
                assert_eq!(ends.is_ok(), state != ComputeState::Terminated, "{state:?}");
                let ended = ends.and_then(|ending| transition(ending, Event::PostgresStopped));
                assert!(state == ComputeState::Terminated || ended == Ok(ComputeState::Terminated), "{state:?}");
            }
        }
        for state in [ComputeState::Running, ComputeState::Failed, ComputeState::RefreshConfigurationPending] {
            assert!(transition(state, Event::RefreshRequested).is_ok(), "{state:?}");
        }
        // Where a spec was taken, a way leads on to running, without an end in between.
        for state in ComputeState::ALL {
            let Ok(mut state) = transition(state, Event::SpecAccepted) else { continue };
            for event in [Event::StartSucceeded, Event::RefreshReceived, Event::SpecAccepted, Event::ApplyStarted] {
                state = transition(state, event).unwrap_or(state);
            }
            assert_eq!(transition(state, Event::ApplySucceeded), Ok(ComputeState::Running), "{state:?}");
        }
    }
}
