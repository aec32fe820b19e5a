//! A row for every code, and what must not be said.

use pgfleet_api::agent::TerminateMode;
use pgfleet_api::policy::PendingAction;
use pgfleet_api::{BootId, SpecHash};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn hash(c: char) -> SpecHash {
    c.to_string().repeat(64).parse().unwrap()
}

fn intent(generation: i64) -> Intent {
    Intent { generation: Generation(generation), spec_hash: (generation > 0).then(|| hash('a')) }
}

fn seen(state: ComputeState, accepted: i64, applied: i64) -> Observed {
    Observed {
        state,
        boot_id: BootId(uuid::Uuid::nil()),
        status_seq: 1,
        term: None,
        generation: (accepted > 0).then_some(Generation(accepted)),
        applied_generation: (applied > 0).then_some(Generation(applied)),
        rejected_generation: None,
        spec_hash: (accepted > 0).then(|| hash('a')),
        pending_restart: vec![],
        ignored_fields: vec![],
        error: None,
        error_detail: None,
        failures: Vec::new(),
        postgres: None,
    }
}

fn facts<'a>(intent: &'a Intent, observed: Option<&'a Observed>) -> Facts<'a> {
    let policy = Policy::default();
    Facts { policy, intent, observed, trouble: None, held: None, doing: None, lease_proved: true }
}

fn trouble(refused: Option<ErrorCode>) -> Trouble<'static> {
    Trouble { why: "the agent said no", refused, lasts: 7 * SECOND }
}

#[test]
fn every_state_of_a_compute_has_its_code() {
    use ComputeState as S;
    use ExplainCode as C;
    let (none, two) = (intent(0), intent(2));
    let mut rejected = seen(S::Running, 2, 1);
    rejected.rejected_generation = Some(Generation(2));
    let rows: Vec<(&Intent, Option<Observed>, Option<Doing>, C)> = vec![
        (&none, None, None, C::NoSpec),
        (&two, None, None, C::NeverReached),
        (&two, Some(seen(S::Running, 2, 2)), None, C::Converged),
        (&two, Some(rejected), None, C::Rejected),
        (&two, Some(seen(S::Failed, 2, 1)), None, C::Failed),
        (&two, Some(seen(S::Running, 3, 3)), None, C::AgentAhead),
        (&two, Some(seen(S::Running, 1, 1)), None, C::WaitingForPlace),
        (&two, Some(seen(S::Running, 1, 1)), Some(Doing::Queued(SECOND)), C::WaitingForPlace),
        (&two, Some(seen(S::Running, 1, 1)), Some(Doing::Working(SECOND)), C::Pushing),
        (
            &two,
            Some(seen(S::Running, 1, 1)),
            Some(Doing::BackingOff { times: 3, lasts: SECOND, left: SECOND }),
            C::BackingOff,
        ),
        (&two, Some(seen(S::Configuration, 2, 1)), None, C::AgentWorks),
        (&two, Some(seen(S::Terminated, 1, 1)), None, C::Ended),
        (&two, Some(seen(S::Terminated, 2, 2)), None, C::Ended),
    ];
    for (intent, observed, doing, code) in rows {
        let explained = explain(&Facts { doing, ..facts(intent, observed.as_ref()) });
        assert_eq!(explained.code, code, "{observed:?}");
        assert_eq!(explained.converged, code == C::Converged);
        assert!(!explained.says.is_empty() && !explained.says.contains('\n'));
        let knows_on = explained.next.is_some() || explained.advice.is_some();
        assert!(knows_on || code == C::Converged, "{code:?} says neither what happens nor what to do");
    }
}

#[test]
fn what_holds_back_comes_first_and_in_order() {
    use ExplainCode as C;
    let (two, running) = (intent(2), seen(ComputeState::Running, 1, 1));
    let mut facts = Facts { trouble: Some(trouble(None)), ..facts(&two, Some(&running)) };
    assert_eq!(explain(&facts).code, C::AgentUnreachable);
    facts.trouble = Some(trouble(Some(ErrorCode::InvalidBody)));
    assert_eq!(explain(&facts).code, C::AgentRefuses);
    assert_eq!(explain(&facts).lasts, Some(7 * SECOND));
    let (action, mode) = (ActionKind::Terminate, TerminateMode::Fast);
    facts.policy.pending = Some(PendingAction { action, mode, generation: Generation(2) });
    assert_eq!(explain(&facts).code, C::Terminating);
    facts.policy.mode = Mode::Pause;
    assert_eq!(explain(&facts).code, C::Paused);
    assert_eq!(explain(&facts).next, None, "nothing happens by itself");
    facts.policy.mode = Mode::Stop;
    assert_eq!(explain(&facts).code, C::Stopping);
    facts.held = Some(Held { why: "it panicked", lasts: SECOND, left: 60 * SECOND });
    let held = explain(&facts);
    assert_eq!((held.code, held.next.unwrap().1), (C::Quarantined, Some(60 * SECOND)));
    facts.lease_proved = false;
    assert_eq!(explain(&facts).code, C::LeaseNotProved);
}

#[test]
fn stop_is_over_when_nothing_runs() {
    let two = intent(2);
    for (state, code) in [
        (ComputeState::Running, ExplainCode::Stopping),
        (ComputeState::Terminated, ExplainCode::Stopped),
        (ComputeState::TerminationPendingFast, ExplainCode::Stopped),
    ] {
        let observed = seen(state, 2, 2);
        let mut facts = facts(&two, Some(&observed));
        facts.policy.mode = Mode::Stop;
        assert_eq!(explain(&facts).code, code, "{state:?}");
    }
}

#[test]
fn a_failure_names_phase_object_and_code() {
    let (two, mut failed) = (intent(2), seen(ComputeState::Failed, 2, 1));
    failed.error_detail = Some(ErrorDetail {
        phase: "roles".into(),
        object: Some("app".into()),
        sqlstate: Some("42710".into()),
        message: "role exists".into(),
    });
    let explained = explain(&facts(&two, Some(&failed)));
    assert_eq!(explained.says, "generation 2 could not be applied: roles app: role exists (42710)");
    assert!(explained.notes.is_empty(), "it is said once");
}

#[test]
fn the_next_try_is_told_with_its_time() {
    let (two, running) = (intent(2), seen(ComputeState::Running, 1, 1));
    let doing = Some(Doing::BackingOff { times: 3, lasts: 9 * SECOND, left: 4 * SECOND });
    let explained = explain(&Facts { doing, trouble: Some(trouble(None)), ..facts(&two, Some(&running)) });
    assert_eq!(explained.next, Some(("it is tried again, after 3 failures in a row".to_owned(), Some(4 * SECOND))));
}

#[test]
fn a_paused_compute_says_what_waits() {
    let (two, mut running) = (intent(2), seen(ComputeState::Running, 1, 1));
    running.pending_restart = vec!["shared_buffers".into()];
    let mut facts = Facts { trouble: Some(trouble(None)), ..facts(&two, Some(&running)) };
    facts.policy.mode = Mode::Pause;
    let notes = explain(&facts).notes;
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes.iter().any(|note| note == "generation 2 waits; its agent has 1"), "{notes:?}");
}
