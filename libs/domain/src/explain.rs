//! Why a compute is as it is, and what happens next, in words: from the same facts that the engine's passes work with.
//!
//! Called by the controller's desk. It calls `policy` and `reconcile`, so that what is explained is what is done. Times
//! come in and go out as distances from now.

use std::time::Duration;

use pgfleet_api::agent::{ComputeState, ErrorDetail};
use pgfleet_api::compute::{Observed, WaitOutcome};
use pgfleet_api::explain::ExplainCode;
use pgfleet_api::policy::{ActionKind, Mode, Policy, SuspendPolicy};
use pgfleet_api::{ErrorCode, Generation};

use crate::policy::is_stopped;
use crate::reconcile::{Ahead, Intent, ahead, is_ending, settled};

/// A call to the agent that failed, and none of its kind has succeeded since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble<'a> {
    /// Why, in one line.
    pub why: &'a str,
    /// The agent's code, if it answered with one.
    pub refused: Option<ErrorCode>,
    /// For how long this has gone on.
    pub lasts: Duration,
}

/// What the engine is about to do with a compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It waits for a place since.
    Queued(Duration),
    /// It is worked on since.
    Working(Duration),
    /// It failed so often in a row, the first time so long ago, and is tried again after this time.
    BackingOff {
        /// How often.
        times: u32,
        /// Since when.
        lasts: Duration,
        /// Until when.
        left: Duration,
    },
    /// Its agent is at work since, and is asked again after this time.
    Waiting {
        /// Since when.
        lasts: Duration,
        /// Until when.
        left: Duration,
    },
}

/// Why and until when a compute is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held<'a> {
    /// Why.
    pub why: &'a str,
    /// Since when.
    pub lasts: Duration,
    /// Until the next try.
    pub left: Duration,
}

/// Everything that bears on a compute.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What its operator lets the leader do.
    pub policy: Policy,
    /// What is asked for.
    pub intent: &'a Intent,
    /// What was last seen.
    pub observed: Option<&'a Observed>,
    /// What went wrong last.
    pub trouble: Option<Trouble<'a>>,
    /// Its quarantine.
    pub held: Option<Held<'a>>,
    /// What the engine is about to do; nothing while it rests.
    pub doing: Option<Doing>,
    /// Whether the leader may act at all.
    pub lease_proved: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// Whether the generation asked for is in effect.
    pub converged: bool,
    /// What decides.
    pub code: ExplainCode,
    /// Why, in one line.
    pub says: String,
    /// For how long, if that is known.
    pub lasts: Option<Duration>,
    /// What happens next by itself, and after which time if that is known.
    pub next: Option<(String, Option<Duration>)>,
    /// What a person can do.
    pub advice: Option<String>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

impl Explained {
    fn new(code: ExplainCode, says: impl Into<String>) -> Self {
        let (lasts, next, advice) = (None, None, None);
        Self { converged: false, code, says: says.into(), lasts, next, advice, notes: Vec::new() }
    }

    fn lasting(mut self, lasts: Duration) -> Self {
        self.lasts = Some(lasts);
        self
    }

    fn then(mut self, what: impl Into<String>, left: Option<Duration>) -> Self {
        self.next = Some((what.into(), left));
        self
    }

    fn advise(mut self, what: impl Into<String>) -> Self {
        self.advice = Some(what.into());
        self
    }
}

/// Explains a compute.
#[must_use]
pub fn explain(facts: &Facts<'_>) -> Explained {
    let held_back = lease(facts).or_else(|| quarantine(facts)).or_else(|| policy(facts));
    let mut explained = held_back.unwrap_or_else(|| way(facts));
    explained.converged = outcome(facts) == Some(WaitOutcome::Applied);
    explained.notes = notes(facts, &explained);
    explained
}

fn outcome(facts: &Facts<'_>) -> Option<WaitOutcome> {
    facts.intent.spec_hash.as_ref()?;
    settled(facts.intent, facts.intent.generation, facts.observed?)
}

fn lease(facts: &Facts<'_>) -> Option<Explained> {
    let says = "the leader cannot prove its lease, so it asks and changes nothing";
    let unproved = Explained::new(ExplainCode::LeaseNotProved, says);
    (!facts.lease_proved).then(|| unproved.then("it renews the lease, or another member takes over", None))
}

fn quarantine(facts: &Facts<'_>) -> Option<Explained> {
    let held = facts.held?;
    let says = format!("it is left alone: {}", held.why);
    let explained = Explained::new(ExplainCode::Quarantined, says).lasting(held.lasts);
    Some(
        explained
            .then("one try is made", Some(held.left))
            .advise("look into it, then: pgfleet compute unquarantine, or change the compute"),
    )
}

fn policy(facts: &Facts<'_>) -> Option<Explained> {
    match facts.policy.mode {
        Mode::Active => {}
        Mode::Pause => {
            let says = "its policy is pause: nothing is pushed, repaired or ended";
            return Some(
                Explained::new(ExplainCode::Paused, says).advise("pgfleet compute policy ID active goes on with it"),
            );
        }
        Mode::Stop => return Some(stop(facts)),
    }
    let action = facts.policy.wanted(facts.intent.generation)?;
    let what = match action.action {
        ActionKind::Terminate => "it is to be ended",
        ActionKind::Delete => "it is to be ended and then forgotten",
    };
    Some(under_way(facts, ExplainCode::Terminating, what))
}

fn stop(facts: &Facts<'_>) -> Explained {
    let advice = "pgfleet compute policy ID active lets it run when its agent is started again";
    if facts.observed.is_some_and(is_stopped) {
        let says = "its policy is stop, and it is stopped; it is stopped again if its agent comes back with it";
        return Explained::new(ExplainCode::Stopped, says).advise(advice);
    }
    if facts.intent.spec_hash.is_none() {
        let says = "its policy is stop; it has no spec, so nothing of it is ours to end";
        return Explained::new(ExplainCode::Stopped, says).advise(advice);
    }
    under_way(facts, ExplainCode::Stopping, "its policy is stop, and it is not stopped yet")
}

/// Something is wanted of the agent that is no spec.
fn under_way(facts: &Facts<'_>, code: ExplainCode, what: &str) -> Explained {
    let says = match facts.trouble {
        Some(trouble) => format!("{what}: {}", trouble.why),
        None => what.to_owned(),
    };
    let explained = Explained::new(code, says);
    let explained = match facts.trouble {
        Some(trouble) => explained.lasting(trouble.lasts),
        None => explained,
    };
    next_try(explained, facts.doing)
}

fn next_try(explained: Explained, doing: Option<Doing>) -> Explained {
    match doing {
        Some(Doing::Queued(_)) => explained.then("it is tried when a place is free", None),
        Some(Doing::Working(_)) => explained.then("it is tried right now", Some(Duration::ZERO)),
        Some(Doing::BackingOff { times, left, .. }) => {
            explained.then(format!("it is tried again, after {}", failures(times)), Some(left))
        }
        Some(Doing::Waiting { left, .. }) => explained.then("its agent is asked again", Some(left)),
        None => explained.then("its agent is asked at its next turn", None),
    }
}

fn failures(times: u32) -> String {
    if times == 1 { "1 failure".to_owned() } else { format!("{times} failures in a row") }
}

/// How far it is on its way to what is asked for.
fn way(facts: &Facts<'_>) -> Explained {
    if facts.intent.spec_hash.is_none() {
        let says = "no spec was asked for";
        return Explained::new(ExplainCode::NoSpec, says).advise("pgfleet compute put ID --spec FILE asks for one");
    }
    if let Some(ahead) = facts.observed.and_then(|observed| ahead(facts.intent, observed)) {
        return agent_ahead(facts, ahead);
    }
    if let Some(trouble) = facts.trouble {
        return troubled(facts, trouble);
    }
    let Some(observed) = facts.observed else {
        return next_try(Explained::new(ExplainCode::NeverReached, "its agent was not heard of yet"), facts.doing);
    };
    match outcome(facts) {
        Some(WaitOutcome::Applied) => {
            let says = format!("generation {} is in effect and the compute runs", facts.intent.generation);
            Explained::new(ExplainCode::Converged, says)
        }
        Some(WaitOutcome::Rejected) => gave_up(ExplainCode::Rejected, facts, observed, "was given up by its agent"),
        Some(WaitOutcome::Failed) => gave_up(ExplainCode::Failed, facts, observed, "could not be applied"),
        Some(WaitOutcome::Timeout) | None => open(facts, observed),
    }
}

fn agent_ahead(facts: &Facts<'_>, ahead: Ahead) -> Explained {
    let asked = facts.intent.generation;
    let says = match ahead {
        Ahead::Generation(agents) => {
            format!("its agent has generation {agents} and the database has {asked}: the database has lost commits")
        }
        Ahead::Content(agents) => {
            format!("its agent has another content under generation {agents}: it was minted twice")
        }
    };
    let explained = next_try(Explained::new(ExplainCode::AgentAhead, says), facts.doing);
    explained.advise("the database's spec takes a generation above the agent's and is pushed; put the lost one again")
}

fn troubled(facts: &Facts<'_>, trouble: Trouble<'_>) -> Explained {
    let code = match trouble.refused {
        Some(_) => ExplainCode::AgentRefuses,
        None => ExplainCode::AgentUnreachable,
    };
    next_try(Explained::new(code, trouble.why).lasting(trouble.lasts), facts.doing)
}

fn gave_up(code: ExplainCode, facts: &Facts<'_>, observed: &Observed, what: &str) -> Explained {
    let why = match (&observed.error_detail, &observed.error) {
        (Some(detail), _) => format!(": {}", words(detail)),
        (None, Some(error)) => format!(": {error}"),
        (None, None) => String::new(),
    };
    let says = format!("generation {} {what}{why}", facts.intent.generation);
    Explained::new(code, says)
        .advise("put a spec that can be applied, or: pgfleet compute refresh ID tries the same again")
}

/// Phase, object, code and message of a failure.
fn words(detail: &ErrorDetail) -> String {
    let object = detail.object.as_ref().map(|object| format!(" {object}")).unwrap_or_default();
    let sqlstate = detail.sqlstate.as_ref().map(|state| format!(" ({state})")).unwrap_or_default();
    format!("{}{object}: {}{sqlstate}", detail.phase, detail.message)
}

/// Nothing is settled and nothing is in the way.
fn open(facts: &Facts<'_>, observed: &Observed) -> Explained {
    if is_ending(observed.state) {
        return ended(facts, observed);
    }
    let asked = facts.intent.generation;
    if observed.generation.unwrap_or(Generation(0)) < asked {
        let says = format!("generation {asked} is still to be handed to its agent");
        return match facts.doing {
            Some(Doing::Working(lasts)) => {
                let says = format!("generation {asked} is being handed to its agent");
                next_try(Explained::new(ExplainCode::Pushing, says).lasting(lasts), facts.doing)
            }
            Some(Doing::BackingOff { lasts, .. }) => {
                next_try(Explained::new(ExplainCode::BackingOff, says).lasting(lasts), facts.doing)
            }
            Some(Doing::Queued(lasts)) => {
                next_try(Explained::new(ExplainCode::WaitingForPlace, says).lasting(lasts), facts.doing)
            }
            Some(Doing::Waiting { .. }) | None => {
                next_try(Explained::new(ExplainCode::WaitingForPlace, says), facts.doing)
            }
        };
    }
    let says = format!("its agent has generation {asked} and works on it: it is {}", observed.state.as_str());
    let explained = next_try(Explained::new(ExplainCode::AgentWorks, says), facts.doing);
    match facts.doing {
        Some(Doing::Waiting { lasts, .. }) => explained.lasting(lasts),
        Some(Doing::Queued(_) | Doing::Working(_) | Doing::BackingOff { .. }) | None => explained,
    }
}

fn ended(facts: &Facts<'_>, observed: &Observed) -> Explained {
    let what = if observed.state == ComputeState::Terminated { "it was ended" } else { "it is being ended" };
    let why = match facts.policy.suspend {
        SuspendPolicy::WhenIdle => ", perhaps because nobody used it",
        SuspendPolicy::Never => "",
    };
    let says = format!("{what}{why}; its agent takes no spec until it is started again");
    Explained::new(ExplainCode::Ended, says).advise("start its agent; it then runs by itself")
}

fn notes(facts: &Facts<'_>, explained: &Explained) -> Vec<String> {
    let mut notes = Vec::new();
    let Some(observed) = facts.observed else { return notes };
    if !observed.pending_restart.is_empty() {
        notes.push(format!("settings that wait for a restart of PostgreSQL: {}", observed.pending_restart.join(", ")));
    }
    if !observed.ignored_fields.is_empty() {
        notes
            .push(format!("fields of the spec that its agent does not act on: {}", observed.ignored_fields.join(", ")));
    }
    let shown = matches!(explained.code, ExplainCode::Rejected | ExplainCode::Failed);
    if let Some(detail) = observed.error_detail.as_ref().filter(|_| !shown) {
        notes.push(format!("its agent's last failure: {}", words(detail)));
    }
    let passive = matches!(explained.code, ExplainCode::Paused | ExplainCode::Stopped | ExplainCode::Quarantined);
    let accepted = observed.generation.unwrap_or(Generation(0));
    if passive && facts.intent.spec_hash.is_some() && accepted < facts.intent.generation {
        notes.push(format!("generation {} waits; its agent has {accepted}", facts.intent.generation));
    }
    if let Some(trouble) = facts.trouble.filter(|trouble| passive && !explained.says.contains(trouble.why)) {
        notes.push(trouble.why.to_owned());
    }
    notes
}

#[cfg(test)]
mod tests;
