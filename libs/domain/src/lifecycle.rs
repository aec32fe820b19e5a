//! The state machine of a compute. The agent's driver is its only owner; the controller asks it what is reachable.
//!
//! ```text
//! empty ─► configuration_pending ─► configuration ─► running | failed
//! empty ─► init ─► running | failed          running ─► init (PostgreSQL died, or is restarted for a setting)
//! running, failed ─► configuration_pending   running, failed ─► refresh_configuration_pending ─► refresh_configuration
//! refresh_configuration ─► running | refresh_configuration_pending
//! every state but terminated ─► termination_pending_{fast,immediate} ─► terminated
//! ```

#![deny(clippy::wildcard_enum_match_arm)]

use std::fmt;

use pgfleet_api::agent::{ComputeState, TerminateMode};

/// What can happen to a compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A spec was accepted. In a busy state it waits in the queue and changes nothing.
    SpecAccepted,
    /// The agent begins to apply the accepted spec.
    ApplyStarted,
    /// The spec is in effect.
    ApplySucceeded,
    /// The spec could not be applied; PostgreSQL serves as before.
    ApplyFailed,
    /// The agent has a spec at its own start and starts PostgreSQL with it.
    StartRequested,
    /// PostgreSQL is ready.
    StartSucceeded,
    /// PostgreSQL could not be started.
    StartFailed,
    /// PostgreSQL ended by itself.
    PostgresDied,
    /// The agent begins to restart a PostgreSQL that serves, because settings wait for it.
    RestartStarted,
    /// A pull of the spec was asked for.
    RefreshRequested,
    /// The pulled spec is here.
    RefreshReceived,
    /// The end was asked for.
    TerminateRequested(TerminateMode),
    /// PostgreSQL is stopped for good.
    PostgresStopped,
}

impl Event {
    /// Every event, for tables and tests.
    pub const ALL: [Self; 14] = [
        Self::SpecAccepted,
        Self::ApplyStarted,
        Self::ApplySucceeded,
        Self::ApplyFailed,
        Self::StartRequested,
        Self::StartSucceeded,
        Self::StartFailed,
        Self::PostgresDied,
        Self::RestartStarted,
        Self::RefreshRequested,
        Self::RefreshReceived,
        Self::TerminateRequested(TerminateMode::Fast),
        Self::TerminateRequested(TerminateMode::Immediate),
        Self::PostgresStopped,
    ];
}

/// The event cannot happen in that state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The state it was in.
    pub state: ComputeState,
    /// What was tried.
    pub event: Event,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not possible while the compute is {}", self.event, self.state.as_str())
    }
}

impl std::error::Error for Refused {}

/// The state after `event` in `state`.
///
/// # Errors
/// [`Refused`] where the table has no edge; the state is then unchanged.
pub fn transition(state: ComputeState, event: Event) -> Result<ComputeState, Refused> {
    use ComputeState as S;
    let next = match event {
        Event::SpecAccepted => spec_accepted(state),
        Event::ApplyStarted => (state == S::ConfigurationPending).then_some(S::Configuration),
        Event::ApplySucceeded => matches!(state, S::Configuration | S::RefreshConfiguration).then_some(S::Running),
        Event::ApplyFailed => match state {
            S::Configuration => Some(S::Failed),
            S::RefreshConfiguration => Some(S::RefreshConfigurationPending),
            S::Empty
            | S::ConfigurationPending
            | S::Init
            | S::Running
            | S::RefreshConfigurationPending
            | S::Failed
            | S::TerminationPendingFast
            | S::TerminationPendingImmediate
            | S::Terminated => None,
        },
        Event::StartRequested => (state == S::Empty).then_some(S::Init),
        Event::StartSucceeded => (state == S::Init).then_some(S::Running),
        Event::StartFailed => (state == S::Init).then_some(S::Failed),
        Event::PostgresDied => postgres_died(state),
        Event::RestartStarted => (state == S::Running).then_some(S::Init),
        Event::RefreshRequested => matches!(state, S::Running | S::Failed | S::RefreshConfigurationPending)
            .then_some(S::RefreshConfigurationPending),
        Event::RefreshReceived => (state == S::RefreshConfigurationPending).then_some(S::RefreshConfiguration),
        Event::TerminateRequested(mode) => terminate(state, mode),
        Event::PostgresStopped => {
            matches!(state, S::TerminationPendingFast | S::TerminationPendingImmediate).then_some(S::Terminated)
        }
    };
    next.ok_or(Refused { state, event })
}

/// A spec is taken in every state that is not on its way out; a busy one lets it wait.
fn spec_accepted(state: ComputeState) -> Option<ComputeState> {
    use ComputeState as S;
    match state {
        S::Empty | S::Running | S::Failed | S::ConfigurationPending => Some(S::ConfigurationPending),
        S::Init | S::Configuration | S::RefreshConfigurationPending | S::RefreshConfiguration => Some(state),
        S::TerminationPendingFast | S::TerminationPendingImmediate | S::Terminated => None,
    }
}

/// Only a running compute is started again under a state of its own; elsewhere the action under way finds out.
fn postgres_died(state: ComputeState) -> Option<ComputeState> {
    use ComputeState as S;
    match state {
        S::Running => Some(S::Init),
        S::ConfigurationPending
        | S::Configuration
        | S::Init
        | S::RefreshConfigurationPending
        | S::RefreshConfiguration
        | S::Failed
        | S::TerminationPendingFast
        | S::TerminationPendingImmediate => Some(state),
        S::Empty | S::Terminated => None,
    }
}

/// `immediate` may overtake `fast`, never the other way round.
fn terminate(state: ComputeState, mode: TerminateMode) -> Option<ComputeState> {
    use ComputeState as S;
    match (state, mode) {
        (S::Terminated, _) => None,
        (S::TerminationPendingImmediate, _) | (_, TerminateMode::Immediate) => Some(S::TerminationPendingImmediate),
        (_, TerminateMode::Fast) => Some(S::TerminationPendingFast),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ComputeState as S;
    use Event as E;

    use super::*;

    /// Every edge there is, written out; what is not here must be refused.
    fn edges(state: S) -> Vec<(E, S)> {
        let end = vec![
            (E::TerminateRequested(TerminateMode::Fast), S::TerminationPendingFast),
            (E::TerminateRequested(TerminateMode::Immediate), S::TerminationPendingImmediate),
        ];
        let mut own = match state {
            S::Empty => vec![(E::SpecAccepted, S::ConfigurationPending), (E::StartRequested, S::Init)],
            S::ConfigurationPending => vec![
                (E::SpecAccepted, S::ConfigurationPending),
                (E::ApplyStarted, S::Configuration),
                (E::PostgresDied, S::ConfigurationPending),
            ],
            S::Configuration => vec![
                (E::SpecAccepted, S::Configuration),
                (E::ApplySucceeded, S::Running),
                (E::ApplyFailed, S::Failed),
                (E::PostgresDied, S::Configuration),
            ],
            S::Init => vec![
                (E::SpecAccepted, S::Init),
                (E::StartSucceeded, S::Running),
                (E::StartFailed, S::Failed),
                (E::PostgresDied, S::Init),
            ],
            S::Running => vec![
                (E::SpecAccepted, S::ConfigurationPending),
                (E::PostgresDied, S::Init),
                (E::RestartStarted, S::Init),
                (E::RefreshRequested, S::RefreshConfigurationPending),
            ],
            S::RefreshConfigurationPending => vec![
                (E::SpecAccepted, S::RefreshConfigurationPending),
                (E::RefreshRequested, S::RefreshConfigurationPending),
                (E::RefreshReceived, S::RefreshConfiguration),
                (E::PostgresDied, S::RefreshConfigurationPending),
            ],
            S::RefreshConfiguration => vec![
                (E::SpecAccepted, S::RefreshConfiguration),
                (E::ApplySucceeded, S::Running),
                (E::ApplyFailed, S::RefreshConfigurationPending),
                (E::PostgresDied, S::RefreshConfiguration),
            ],
            S::Failed => vec![
                (E::SpecAccepted, S::ConfigurationPending),
                (E::RefreshRequested, S::RefreshConfigurationPending),
                (E::PostgresDied, S::Failed),
            ],
            S::TerminationPendingFast => {
                vec![(E::PostgresStopped, S::Terminated), (E::PostgresDied, S::TerminationPendingFast)]
            }
            S::TerminationPendingImmediate => {
                return vec![
                    (E::PostgresStopped, S::Terminated),
                    (E::PostgresDied, S::TerminationPendingImmediate),
                    (E::TerminateRequested(TerminateMode::Fast), S::TerminationPendingImmediate),
                    (E::TerminateRequested(TerminateMode::Immediate), S::TerminationPendingImmediate),
                ];
            }
            S::Terminated => return vec![],
        };
        own.extend(end);
        own
    }

    #[test]
    fn state_times_event() {
        for state in S::ALL {
            for event in E::ALL {
                let want = edges(state).into_iter().find(|(e, _)| *e == event).map(|(_, s)| s);
                assert_eq!(transition(state, event).ok(), want, "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn every_state_is_reachable_and_every_one_can_end() {
        let reach = |from: S| {
            let mut seen = BTreeSet::from([from]);
            let mut todo = vec![from];
            while let Some(state) = todo.pop() {
                for event in E::ALL {
                    if let Ok(next) = transition(state, event)
                        && seen.insert(next)
                    {
                        todo.push(next);
                    }
                }
            }
            seen
        };
        assert_eq!(reach(S::Empty).len(), S::ALL.len());
        for state in S::ALL {
            assert!(reach(state).contains(&S::Terminated), "{state:?} is a dead end");
        }
        assert!(reach(S::Failed).contains(&S::Running));
    }
}
