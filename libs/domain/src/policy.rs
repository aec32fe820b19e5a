//! The next step for a compute under its policy: the plan of `reconcile`, unless the policy holds it back, wants an end, or
//! an action is pending. Run by the leader's engine at every pass, and by its first look at the fleet.
//!
//! Invariants: under `pause` there is no step at all; whatever ends a compute is fenced, so a compute whose agent holds no
//! fence yet is given its spec first; a compute that is stopped or ended asks for nothing.

use pgfleet_api::agent::{ComputeState, TerminateMode};
use pgfleet_api::compute::Observed;
use pgfleet_api::policy::{Mode, PendingAction, Policy};
use pgfleet_api::{Generation, SpecHash};

use crate::reconcile::{Intent, Plan, is_ending, plan};

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// What `reconcile` plans.
    Plan(Plan),
    /// Nothing, whatever is planned.
    HandsOff,
    /// End it, under this fence: what the agent itself holds.
    End {
        /// How.
        mode: TerminateMode,
        /// The agent's generation.
        generation: Generation,
        /// The agent's content.
        spec_hash: SpecHash,
    },
    /// The pending action is done and has to be written down as such.
    Done(PendingAction),
}

impl Step {
    /// Whether nothing has to be done until something changes.
    #[must_use]
    pub fn rests(&self) -> bool {
        matches!(self, Self::Plan(Plan::Rest) | Self::HandsOff)
    }
}

/// What a compute needs next.
#[must_use]
pub fn step(policy: Policy, intent: &Intent, observed: Option<&Observed>) -> Step {
    match policy.mode {
        Mode::Pause => return Step::HandsOff,
        Mode::Stop => return stop(intent, observed),
        Mode::Active => {}
    }
    match policy.wanted(intent.generation) {
        Some(action) => act(action, intent, observed),
        None => Step::Plan(plan(intent, observed)),
    }
}

fn stop(intent: &Intent, observed: Option<&Observed>) -> Step {
    let Some(observed) = observed else {
        // Without a spec nothing was ever asked for, and the agent is not ours to end.
        return Step::Plan(if intent.spec_hash.is_some() { Plan::Probe } else { Plan::Rest });
    };
    if is_stopped(observed) {
        return Step::Plan(Plan::Rest);
    }
    end(TerminateMode::Fast, observed).unwrap_or_else(|| Step::Plan(plan(intent, Some(observed))))
}

fn act(action: PendingAction, intent: &Intent, observed: Option<&Observed>) -> Step {
    let Some(observed) = observed else { return Step::Plan(Plan::Probe) };
    if is_stopped(observed) {
        return Step::Done(action);
    }
    // The agent hears of the action's generation first; then that very generation is the fence of the end.
    match plan(intent, Some(observed)) {
        step @ (Plan::Push | Plan::AgentAhead(_)) => Step::Plan(step),
        Plan::Rest | Plan::Probe => end(action.mode, observed).unwrap_or(Step::Plan(Plan::Rest)),
    }
}

fn end(mode: TerminateMode, observed: &Observed) -> Option<Step> {
    let (generation, spec_hash) = (observed.generation?, observed.spec_hash.clone()?);
    Some(Step::End { mode, generation, spec_hash })
}

/// Whether nothing is left to be stopped: it ends or has ended, or it waits for its first spec.
#[must_use]
pub fn is_stopped(observed: &Observed) -> bool {
    is_ending(observed.state) || (observed.state == ComputeState::Empty && observed.generation.is_none())
}

#[cfg(test)]
mod tests {
    use pgfleet_api::BootId;
    use pgfleet_api::policy::ActionKind;

    use super::*;

    fn hash(c: char) -> SpecHash {
        c.to_string().repeat(64).parse().unwrap()
    }

    fn intent(generation: i64) -> Intent {
        Intent { generation: Generation(generation), spec_hash: (generation > 0).then(|| hash('a')) }
    }

    fn seen(state: ComputeState, accepted: i64) -> Observed {
        let generation = (accepted > 0).then_some(Generation(accepted));
        Observed {
            state,
            boot_id: BootId(uuid::Uuid::nil()),
            status_seq: 1,
            term: None,
            generation,
            applied_generation: generation,
            rejected_generation: None,
            spec_hash: generation.map(|_| hash('a')),
            pending_restart: vec![],
            ignored_fields: vec![],
            error: None,
            error_detail: None,
            failures: Vec::new(),
            postgres: None,
        }
    }

    fn under(mode: Mode) -> Policy {
        Policy { mode, ..Policy::default() }
    }

    fn to_end(action: ActionKind, generation: i64) -> Policy {
        let (mode, generation) = (TerminateMode::Fast, Generation(generation));
        Policy { pending: Some(PendingAction { action, mode, generation }), ..Policy::default() }
    }

    fn ends(generation: i64) -> Step {
        Step::End { mode: TerminateMode::Fast, generation: Generation(generation), spec_hash: hash('a') }
    }

    const PUSH: Step = Step::Plan(Plan::Push);
    const REST: Step = Step::Plan(Plan::Rest);
    const PROBE: Step = Step::Plan(Plan::Probe);

    #[test]
    fn active_is_the_plan_and_pause_is_nothing() {
        use ComputeState as S;
        for state in S::ALL {
            for (asked, accepted) in [(0, 0), (2, 0), (2, 1), (2, 2), (2, 3)] {
                let observed = seen(state, accepted);
                let planned = plan(&intent(asked), Some(&observed));
                assert_eq!(step(under(Mode::Active), &intent(asked), Some(&observed)), Step::Plan(planned));
                assert_eq!(step(under(Mode::Pause), &intent(asked), Some(&observed)), Step::HandsOff);
            }
        }
        assert_eq!(step(under(Mode::Pause), &intent(2), None), Step::HandsOff);
    }

    #[test]
    fn stop_ends_what_runs_and_then_rests() {
        use ComputeState as S;
        let step = |asked, observed: Option<Observed>| step(under(Mode::Stop), &intent(asked), observed.as_ref());
        assert_eq!(step(2, None), PROBE);
        assert_eq!(step(0, None), REST);
        assert_eq!(step(2, Some(seen(S::Running, 2))), ends(2));
        assert_eq!(step(2, Some(seen(S::Running, 1))), ends(1), "it is not brought up to date first");
        assert_eq!(step(2, Some(seen(S::Running, 3))), ends(3), "nor is what the database lost");
        assert_eq!(step(2, Some(seen(S::Failed, 2))), ends(2));
        assert_eq!(step(2, Some(seen(S::Configuration, 2))), ends(2));
        assert_eq!(step(2, Some(seen(S::Running, 0))), PUSH, "nothing is ended without a fence");
        assert_eq!(step(0, Some(seen(S::Running, 0))), REST, "and nothing that was never asked for");
        assert_eq!(step(2, Some(seen(S::Empty, 0))), REST, "a new agent stays empty");
        for state in [S::TerminationPendingFast, S::TerminationPendingImmediate, S::Terminated] {
            assert_eq!(step(2, Some(seen(state, 1))), REST, "{state:?}");
        }
    }

    #[test]
    fn an_action_is_told_then_done_then_written_down() {
        use ComputeState as S;
        for kind in [ActionKind::Terminate, ActionKind::Delete] {
            let policy = to_end(kind, 2);
            let step = |observed: Option<Observed>| step(policy, &intent(2), observed.as_ref());
            assert_eq!(step(None), PROBE);
            assert_eq!(step(Some(seen(S::Running, 1))), PUSH);
            assert_eq!(step(Some(seen(S::Running, 0))), PUSH, "nothing is ended without a fence");
            assert_eq!(step(Some(seen(S::Empty, 0))), Step::Done(policy.pending.unwrap()), "there is nothing to end");
            assert_eq!(step(Some(seen(S::Configuration, 2))), ends(2), "it need not be applied first");
            assert_eq!(step(Some(seen(S::Running, 2))), ends(2));
            assert!(matches!(step(Some(seen(S::Running, 3))), Step::Plan(Plan::AgentAhead(_))));
            for state in [S::TerminationPendingFast, S::Terminated] {
                assert_eq!(step(Some(seen(state, 1))), Step::Done(policy.pending.unwrap()), "{state:?}");
            }
        }
        let passed_over = step(to_end(ActionKind::Terminate, 1), &intent(2), Some(&seen(S::Running, 2)));
        assert_eq!(passed_over, REST, "a later spec has taken its place");
    }
}
