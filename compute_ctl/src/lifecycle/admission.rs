//! Which spec is taken: the fence first, then the content, then the disk; only then the machine moves.

use std::sync::Arc;

use pgfleet_api::{ComputeId, Fence, Generation, SpecHash};
use pgfleet_domain::fence::{self, Admission, LedgerRecord, Verdict};
use pgfleet_domain::spec;
use serde_json::Value;

use super::body::{Body, Tools};
use super::handle::{Configure, Origin, Refusal};
use super::promote::is_another_try;
use super::work::{Prepared, conf_text};
use crate::apply::{Setting, SettingError, classify_all, collect};
use crate::ledger::{Entry, Kept, Ledger, LedgerError};
use crate::postgres::CheckError;
use crate::storage::Source;

/// What the door says to a spec.
pub(super) enum Decision {
    /// It is in the ledger and to be applied.
    Take(Arc<Prepared>),
    /// The ledger had it already.
    Repeated,
}

impl From<LedgerError> for Refusal {
    fn from(error: LedgerError) -> Self {
        Self::Unable(pgfleet_runtime::exit::chain(&error))
    }
}

/// Judges a spec and makes the judgement durable.
pub(super) async fn admit<B: Body>(
    body: &B,
    compute_id: &ComputeId,
    ledger: &mut Ledger,
    configure: &Configure,
    server_runs: bool,
) -> Result<Decision, Refusal> {
    let known = ledger.entry().record.clone();
    let highest = known.as_ref().map(LedgerRecord::mark);
    let Some(fence) = &configure.fence else {
        if known.is_some() {
            if configure.origin != Origin::Push {
                tracing::warn!("a spec without a fence is ignored: the ledger holds one");
            }
            return Err(Refusal::FenceRequired { highest });
        }
        let prepared = body.prepare_for(configure, server_runs).await?;
        let entry = accepted(ledger.entry(), None, None, &configure.spec, spec::spec_hash(&configure.spec));
        ledger.keep(entry).await?;
        return Ok(Decision::Take(prepared));
    };
    let Admission { verdict, record } = fence::admit(compute_id, known.as_ref(), fence);
    if let Some(raised) = raised(known.as_ref(), record.as_ref()) {
        // A higher term is kept whatever follows: also when the spec turns out to be refused, or cannot be judged at all.
        ledger.keep(Entry { record: Some(raised), ..ledger.entry().clone() }).await?;
    }
    match verdict {
        Verdict::AlreadyAccepted if is_another_try(body, ledger.entry(), configure) => {
            // The same fence again brings no new record: the promise of before stands.
            take(body, ledger, configure, fence, ledger.entry().record.clone(), server_runs).await
        }
        Verdict::AlreadyAccepted => Ok(Decision::Repeated),
        Verdict::Refuse(refusal) => {
            Err(Refusal::Fence { refusal, highest: ledger.entry().record.as_ref().map(LedgerRecord::mark) })
        }
        Verdict::Accept => take(body, ledger, configure, fence, record, server_runs).await,
    }
}

/// Judges the fence of an action that is no spec: it must know what the ledger holds, from a leadership that has not ended.
pub(super) async fn prove(own: &ComputeId, ledger: &mut Ledger, fence: &Fence) -> Result<(), Refusal> {
    let known = ledger.entry().record.clone();
    let Admission { verdict, record } = fence::admit(own, known.as_ref(), fence);
    if let Some(raised) = raised(known.as_ref(), record.as_ref()) {
        ledger.keep(Entry { record: Some(raised), ..ledger.entry().clone() }).await?;
    }
    let refusal = match verdict {
        Verdict::AlreadyAccepted => return Ok(()),
        Verdict::Refuse(refusal) => refusal,
        Verdict::Accept => fence::Refusal::Conflict,
    };
    Err(Refusal::Fence { refusal, highest: ledger.entry().record.as_ref().map(LedgerRecord::mark) })
}

/// What the ledger holds already, under the higher term that a request has brought.
fn raised(known: Option<&LedgerRecord>, wanted: Option<&LedgerRecord>) -> Option<LedgerRecord> {
    let (known, wanted) = (known?, wanted?);
    (wanted.term > known.term).then(|| LedgerRecord { term: wanted.term, ..known.clone() })
}

/// A fenced spec whose turn it is. One that a rule refuses is kept as rejected, so that nobody sends it again.
async fn take<B: Body>(
    body: &B,
    ledger: &mut Ledger,
    configure: &Configure,
    fence: &Fence,
    record: Option<LedgerRecord>,
    server_runs: bool,
) -> Result<Decision, Refusal> {
    match body.prepare_for(configure, server_runs).await {
        Ok(prepared) => {
            let generation = Some(fence.generation);
            let entry = accepted(ledger.entry(), record, generation, &configure.spec, fence.spec_hash.clone());
            ledger.keep(entry).await?;
            Ok(Decision::Take(prepared))
        }
        Err(refusal @ Refusal::Content { .. }) => {
            let rejected_generation = Some(fence.generation);
            ledger.keep(Entry { record, rejected_generation, ..ledger.entry().clone() }).await?;
            Err(refusal)
        }
        Err(refusal) => Err(refusal),
    }
}

fn accepted(
    known: &Entry,
    record: Option<LedgerRecord>,
    generation: Option<Generation>,
    spec: &Value,
    spec_hash: SpecHash,
) -> Entry {
    Entry {
        record,
        accepted: Some(Kept { generation, spec_hash, spec: spec.clone() }),
        good: known.good.clone(),
        rejected: false,
        rejected_generation: known.rejected_generation,
    }
}

/// Applies every rule that can refuse a spec before anything is written.
pub(super) async fn prepare(tools: &Tools, document: &Value, server_runs: bool) -> Result<Arc<Prepared>, Refusal> {
    let parsed = spec::parse(document).map_err(|error| Refusal::Content { path: error.path, msg: error.msg })?;
    let storage = Source::of(&parsed.spec).map_err(|error| Refusal::Content { path: error.path, msg: error.msg })?;
    let storage = storage.map(Arc::new);
    let settings = collect(&parsed.spec, tools.postgres.options().port).map_err(content)?;
    let text = conf_text(&settings, storage.as_deref());
    if !tools.postgres.is_checked(&text) {
        judge_settings(tools, &settings, text, server_runs).await?;
    }
    let (spec, ignored_fields) = (parsed.spec, parsed.ignored_fields);
    Ok(Arc::new(Prepared { spec, ignored_fields, settings, promote: None, storage }))
}

/// What only PostgreSQL knows of settings: the running server by their classes, the server program by their values. `text`
/// is remembered when both had nothing against them.
async fn judge_settings(tools: &Tools, settings: &[Setting], text: String, server_runs: bool) -> Result<(), Refusal> {
    let mut classified = false;
    if server_runs {
        match tools.postgres.setting_contexts().await {
            Ok(contexts) => {
                classify_all(settings, &contexts).map_err(content)?;
                classified = true;
            }
            // The server program itself judges below; a server in trouble is the work's business.
            Err(error) => tracing::warn!("settings could not be classified: {}", pgfleet_runtime::exit::chain(&error)),
        }
    }
    let pairs: Vec<_> = settings.iter().map(|s| (s.name.clone(), s.value.clone())).collect();
    tools.postgres.check_settings(&pairs).await.map_err(|error| match error {
        CheckError::Refused { name, message } => {
            let at = settings.iter().find(|s| name.as_ref().is_some_and(|name| s.name.eq_ignore_ascii_case(name)));
            let path = at.map_or_else(|| "cluster.settings".to_owned(), |setting| setting.path.clone());
            Refusal::Content { path, msg: message }
        }
        CheckError::Run(_) => Refusal::Unable(pgfleet_runtime::exit::chain(&error)),
    })?;
    if classified {
        tools.postgres.note_checked(text);
    }
    Ok(())
}

fn content(error: SettingError) -> Refusal {
    Refusal::Content { path: error.path, msg: error.msg }
}
