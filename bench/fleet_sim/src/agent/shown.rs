//! What an agent says about itself.

use chrono::{DateTime, TimeDelta, Utc};
use pgfleet_api::agent::{AgentStatus, ErrorDetail, PostgresInfo, PromoteState, PromoteStatus};
use pgfleet_api::plan::{PlanResponse, PlanVerdict};
use pgfleet_api::spec::RestartPolicy;
use pgfleet_api::{BootId, ComputeId, Fence};
use pgfleet_domain::fence::{self, LedgerRecord, Verdict};
use pgfleet_domain::lifecycle::{Event, transition};

use crate::settings::PORT;

use super::{Agent, Ask, Content, Failure, Micros, Refusal};

/// What a status needs that the agent does not keep: who it is, and when the process started.
#[derive(Debug, Clone)]
pub struct Face {
    /// The compute it owns.
    pub own: ComputeId,
    /// This life of it.
    pub boot_id: BootId,
    /// When the process started.
    pub epoch: DateTime<Utc>,
    /// What stands for the port and the process id of its PostgreSQL.
    pub number: u32,
}

/// The version that simulated servers claim.
const VERSION: &str = "15.0 (simulated)";

impl Agent {
    /// `GET /status`.
    #[must_use]
    pub fn status(&self, face: Face) -> AgentStatus {
        let since = TimeDelta::microseconds(i64::try_from(self.started).unwrap_or(i64::MAX));
        let failure = self.failure.as_ref().map(Failure::detail);
        let hash = self.promise.map(|promise| promise.hash).or(self.accepted.map(|(hash, ..)| hash));
        AgentStatus {
            status: self.state,
            status_seq: self.seq,
            term: self.promise.map(|promise| promise.term),
            generation: self.promise.map(|promise| promise.generation),
            applied_generation: self.applied,
            rejected_generation: self.rejected_generation,
            spec_hash: hash.map(super::Digest::text),
            ignored_fields: self.ignored.to_vec(),
            postgres: self.server_since.map(|_| PostgresInfo {
                pid: face.number,
                version: VERSION.to_owned(),
                port: PORT,
            }),
            error: failure.as_ref().map(line),
            failures: failure.clone().into_iter().collect(),
            error_detail: failure,
            ..AgentStatus::new(face.own, face.boot_id, face.epoch + since)
        }
    }

    /// How far a promotion is that has ended.
    #[must_use]
    pub fn promotion(&self) -> PromoteState {
        let error = (self.promotion == PromoteStatus::Failed).then(|| line(&Failure::Scripted.detail()));
        PromoteState { status: self.promotion, error, ..PromoteState::default() }
    }

    /// How far one is that was asked for before, perhaps of an earlier life.
    #[must_use]
    pub fn settled_promotion(&self) -> PromoteState {
        if self.applied == self.promise.map(|promise| promise.generation) {
            return PromoteState { status: PromoteStatus::Completed, error: None, ..self.promotion() };
        }
        let given_up = || "the spec was given up; send another".to_owned();
        let error = Some(self.failure.as_ref().map_or_else(given_up, |failure| line(&failure.detail())));
        PromoteState { status: PromoteStatus::Failed, error, ..PromoteState::default() }
    }

    /// What a spec would do, as far as an agent can say that keeps no spec: what refuses it, and whether it is the
    /// accepted one.
    #[must_use]
    pub fn plan(&mut self, own: &ComputeId, ask: &Ask<'_>, now: Micros) -> (PlanResponse, Option<Refusal>) {
        self.advance(now);
        let mut response = blank(self.server_since.is_some());
        let refused = |response: PlanResponse, refusal| {
            (PlanResponse { verdict: PlanVerdict::Refused, running: false, ..response }, Some(refusal))
        };
        let content = (ask.judge)();
        if let Ok(content) = &content {
            response.restart_policy = content.restart_policy;
            response.ignored_fields.clone_from(&content.ignored);
        }
        if transition(self.state, Event::SpecAccepted).is_err() {
            return refused(response, Refusal::Ending(self.state));
        }
        let record = self.record(own);
        match self.judge(own, record.as_ref(), ask.fence) {
            Ok(Some((settled, note))) => {
                response.notes.push(note.to_owned());
                if settled {
                    return (PlanResponse { running: false, ..response }, None);
                }
            }
            Ok(None) => {}
            Err(refusal) => return refused(response, refusal),
        }
        let fits = |content: Content| if content.disposable { Ok(()) } else { self.fits(&content.mode, false) };
        if let Err(refusal) = content.and_then(fits) {
            return refused(response, refusal);
        }
        let same = self.accepted.is_some_and(|(hash, ..)| hash == super::Digest::of(&(ask.hash)()));
        response.verdict = match (response.running, same) {
            (false, _) => PlanVerdict::Restart,
            (true, true) => PlanVerdict::NoOp,
            (true, false) => PlanVerdict::Reload,
        };
        response.notes.push("a simulated agent keeps no spec: it cannot say what would change".to_owned());
        (response, None)
    }

    fn judge(
        &self,
        own: &ComputeId,
        record: Option<&LedgerRecord>,
        fence: Option<&Fence>,
    ) -> Result<Option<(bool, &'static str)>, Refusal> {
        let Some(fence) = fence else {
            let owned = "this compute is owned by a cluster: /configure takes a spec with a fence only";
            return Ok(record.is_some().then_some((false, owned)));
        };
        match fence::admit(own, record, fence).verdict {
            Verdict::Accept => Ok(None),
            Verdict::AlreadyAccepted => {
                Ok(Some((true, "this generation was accepted before: nothing would be done again")))
            }
            Verdict::Refuse(refusal) => Err(Refusal::Fence { refusal, highest: record.map(LedgerRecord::mark) }),
        }
    }
}

impl Failure {
    fn detail(&self) -> ErrorDetail {
        let (phase, object, message) = match self {
            Self::Scripted => ("roles", None, "the script has every application fail here"),
            Self::GivenUp => ("spec", None, "the accepted spec was given up before; a new one leads on"),
            Self::Refused(rule) => ("spec", Some(rule.path.clone()), rule.msg.as_str()),
        };
        ErrorDetail { phase: phase.to_owned(), object, sqlstate: None, message: message.to_owned() }
    }
}

fn line(detail: &ErrorDetail) -> String {
    let object = detail.object.as_ref().map(|object| format!(" {object:?}")).unwrap_or_default();
    format!("{}{object}: {}", detail.phase, detail.message)
}

fn blank(running: bool) -> PlanResponse {
    PlanResponse {
        verdict: PlanVerdict::NoOp,
        restart_policy: RestartPolicy::default(),
        running,
        connections: 0,
        changes: Vec::new(),
        settings: Vec::new(),
        refusal: None,
        ignored_fields: Vec::new(),
        notes: Vec::new(),
    }
}
