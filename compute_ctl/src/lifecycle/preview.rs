//! What a spec would do, judged by the same rules as a real one and with nothing done: no ledger, no file, no statement
//! that writes.
//!
//! Called by the door, beside the driver and not in its queue: a long plan delays no spec. What the driver
//! holds is seen through watches, so the answer is as of a moment ago.

use std::collections::BTreeMap;
use std::fmt;

use pgfleet_api::Fence;
use pgfleet_api::agent::AgentStatus;
use pgfleet_api::plan::{PlanResponse, PlanVerdict, PlannedSetting, SettingClass};
use pgfleet_api::spec::{ComputeMode, RestartPolicy};
use pgfleet_domain::fence::{self, LedgerRecord, Verdict};
use pgfleet_domain::lifecycle::{Event, transition};
use pgfleet_domain::spec;
use pgfleet_runtime::exit::chain;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};

use super::body::Tools;
use super::handle::{Configure, Origin, Refusal};
use super::promote::prepare_for;
use super::work::{Prepared, in_file};
use crate::apply::{collect, compare, first, preview, read_conf, refuse_all, shown};
use crate::postgres::{CheckError, Line, LinkError};

/// Plans under way at once: each may run the server program many times.
const AT_ONCE: usize = 2;
/// Invalid settings that are named.
const INVALID_SHOWN: usize = 16;

/// What was found out.
#[derive(Debug)]
pub struct Planned {
    /// The answer, without the refusal.
    pub response: PlanResponse,
    /// Why the spec would be refused.
    pub refusal: Option<Refusal>,
}

/// Plans. One per agent.
pub struct Preview {
    tools: Tools,
    status: watch::Receiver<AgentStatus>,
    record: watch::Receiver<Option<LedgerRecord>>,
    places: Semaphore,
}

impl fmt::Debug for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preview").finish_non_exhaustive()
    }
}

impl Preview {
    pub(super) fn new(
        tools: Tools,
        status: watch::Receiver<AgentStatus>,
        record: watch::Receiver<Option<LedgerRecord>>,
    ) -> Self {
        Self { tools, status, record, places: Semaphore::new(AT_ONCE) }
    }

    /// Says what a spec would do. Nothing is done, and the driver is not waited for.
    ///
    /// # Errors
    /// It cannot be judged: PostgreSQL or its program cannot be asked.
    pub async fn plan(&self, document: &Value, fence: Option<&Fence>) -> Result<Planned, Refusal> {
        let _place = self.places.acquire().await;
        let (state, server_runs) = {
            let status = self.status.borrow();
            (status.status, status.postgres.is_some())
        };
        let mut response = blank();
        if let Ok(parsed) = spec::parse(document) {
            response.restart_policy = parsed.spec.restart_policy;
            response.ignored_fields = parsed.ignored_fields;
        }
        if transition(state, Event::SpecAccepted).is_err() {
            return Ok(refused(response, Refusal::Ending(state)));
        }
        match self.judge_fence(fence) {
            Ok(None) => {}
            Ok(Some((settled, note))) => {
                response.notes.push(note.to_owned());
                if settled {
                    return Ok(Planned { response, refusal: None });
                }
            }
            Err(refusal) => return Ok(refused(response, refusal)),
        }
        let configure = Configure { spec: document.clone(), fence: None, origin: Origin::Push };
        match prepare_for(&self.tools, &configure, server_runs).await {
            Ok(prepared) => self.compare(response, &prepared).await,
            Err(refusal @ Refusal::Content { .. }) => {
                response.settings = self.invalid(document, server_runs).await;
                Ok(refused(response, refusal))
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Whether the request is settled by its fence alone, and what there is to say of it.
    fn judge_fence(&self, fence: Option<&Fence>) -> Result<Option<(bool, &'static str)>, Refusal> {
        let record = self.record.borrow().clone();
        let Some(fence) = fence else {
            let owned = "this compute is owned by a cluster: /configure takes a spec with a fence only";
            return Ok(record.is_some().then_some((false, owned)));
        };
        match fence::admit(&self.tools.compute_id, record.as_ref(), fence).verdict {
            Verdict::Accept => Ok(None),
            Verdict::AlreadyAccepted => {
                Ok(Some((true, "this generation was accepted before: nothing would be done again")))
            }
            Verdict::Refuse(refusal) => {
                Err(Refusal::Fence { refusal, highest: record.as_ref().map(LedgerRecord::mark) })
            }
        }
    }

    async fn compare(&self, mut response: PlanResponse, prepared: &Prepared) -> Result<Planned, Refusal> {
        let postgres = &self.tools.postgres;
        let wanted = in_file(&self.tools, prepared);
        match postgres.view().await {
            Ok(view) => {
                response.running = true;
                response.connections = view.connections;
                response.settings = compare(postgres, &view, &wanted).await.map_err(|error| unable(&error))?;
                if prepared.spec.mode == ComputeMode::Primary {
                    response.changes = preview(postgres, &prepared.spec).await.map_err(|error| unable(&error))?;
                }
            }
            Err(LinkError::Connect { .. }) => self.without_a_server(&mut response, prepared, &wanted)?,
            Err(error @ (LinkError::Query(_) | LinkError::Reload(_) | LinkError::Silent(_))) => {
                return Err(unable(&error));
            }
        }
        response.verdict = verdict(&response);
        Ok(Planned { response, refusal: None })
    }

    /// PostgreSQL does not run: the spec is applied with its start, and what is in the catalog cannot be known.
    fn without_a_server(
        &self,
        response: &mut PlanResponse,
        prepared: &Prepared,
        wanted: &[(String, String)],
    ) -> Result<(), Refusal> {
        let postgres = &self.tools.postgres;
        let conf = postgres.read_conf().map_err(|error| unable(&error))?;
        let lines = read_conf(&conf).unwrap_or_default().into_iter();
        let own: Vec<_> = lines.map(|setting| Line { name: setting.name, text: setting.value }).collect();
        response.settings = texts_that_differ(&own, wanted);
        if postgres.options().data_dir.join("PG_VERSION").exists() {
            response.notes.push("PostgreSQL does not run: its roles and databases are not known".to_owned());
        } else {
            response.notes.push("PostgreSQL was never started: it starts with this spec".to_owned());
            response.changes = first(postgres, &prepared.spec);
        }
        Ok(())
    }

    /// All settings of a refused spec that PostgreSQL refuses, as far as they can be told apart.
    async fn invalid(&self, document: &Value, server_runs: bool) -> Vec<PlannedSetting> {
        let postgres = &self.tools.postgres;
        let Ok(parsed) = spec::parse(document) else { return Vec::new() };
        let Ok(settings) = collect(&parsed.spec, postgres.options().port) else { return Vec::new() };
        let contexts = if server_runs { postgres.setting_contexts().await.ok() } else { None };
        let mut found = BTreeMap::new();
        for (setting, error) in contexts.iter().flat_map(|contexts| refuse_all(&settings, contexts)) {
            found.insert(setting.name.clone(), (setting.value.clone(), error.msg));
        }
        let mut rest: Vec<_> = settings.iter().map(|s| (s.name.clone(), s.value.clone())).collect();
        rest.retain(|(name, _)| !found.contains_key(name));
        while found.len() < INVALID_SHOWN {
            // The program names the first that it refuses, so it is asked again without that one.
            let Err(CheckError::Refused { name: Some(name), message }) = postgres.check_settings(&rest).await else {
                break;
            };
            let Some(at) = rest.iter().position(|(known, _)| known.eq_ignore_ascii_case(&name)) else { break };
            let (name, value) = rest.remove(at);
            found.insert(name, (value, message));
        }
        let invalid = |(name, (value, msg))| {
            shown(PlannedSetting { name, class: SettingClass::Invalid, from: None, to: Some(value), msg: Some(msg) })
        };
        found.into_iter().map(invalid).collect()
    }
}

fn blank() -> PlanResponse {
    PlanResponse {
        verdict: PlanVerdict::NoOp,
        restart_policy: RestartPolicy::default(),
        running: false,
        connections: 0,
        changes: Vec::new(),
        settings: Vec::new(),
        refusal: None,
        ignored_fields: Vec::new(),
        notes: Vec::new(),
    }
}

fn refused(mut response: PlanResponse, refusal: Refusal) -> Planned {
    response.verdict = PlanVerdict::Refused;
    Planned { response, refusal: Some(refusal) }
}

fn unable(error: &dyn std::error::Error) -> Refusal {
    Refusal::Unable(chain(error))
}

fn verdict(response: &PlanResponse) -> PlanVerdict {
    let strongest = response.settings.iter().map(|setting| setting.class).max();
    match strongest {
        _ if !response.running => PlanVerdict::Restart,
        Some(SettingClass::Invalid | SettingClass::Restart) => PlanVerdict::Restart,
        Some(SettingClass::Reload) => PlanVerdict::Reload,
        Some(SettingClass::NoOp) | None if response.changes.is_empty() => PlanVerdict::NoOp,
        Some(SettingClass::NoOp) | None => PlanVerdict::Reload,
    }
}

/// Without a server there is nobody to say which texts mean the same.
fn texts_that_differ(own: &[Line], wanted: &[(String, String)]) -> Vec<PlannedSetting> {
    let before: BTreeMap<_, _> = own.iter().map(|line| (line.name.to_ascii_lowercase(), line.text.clone())).collect();
    let after: BTreeMap<_, _> = wanted.iter().map(|(name, text)| (name.to_ascii_lowercase(), text.clone())).collect();
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let planned = |name: &String| {
        let (from, to) = (before.get(name).cloned(), after.get(name).cloned());
        let class = if from == to { SettingClass::NoOp } else { SettingClass::Restart };
        shown(PlannedSetting { name: name.clone(), class, from, to, msg: None })
    };
    names.into_iter().map(planned).collect()
}
