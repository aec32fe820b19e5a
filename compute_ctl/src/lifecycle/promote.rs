//! A replica becomes a primary: `POST /promote`.
//!
//! A promotion is a spec with a condition. It passes the same rule of the ledger, is durable before anything is done, and
//! is carried out by the same work. Two things differ. It is never tried again by itself, by a later life of the agent
//! neither: in the meantime somebody may have promoted another replica. And one that failed may be asked for again with the
//! same fence: that is an operator's order, no repetition of a push.

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::Lsn;
use pgfleet_api::agent::{ErrorDetail, PromoteState, PromoteStatus};
use pgfleet_api::spec::{ComputeMode, ComputeSpec};
use pgfleet_runtime::exit::chain;
use serde::Deserialize;

use super::admission::prepare;
use super::body::{Body, Tools};
use super::driver::Driver;
use super::handle::{Configure, Origin, Refusal};
use super::work::{Effect, Failure, Order, Prepared, observe, try_start};
use crate::ledger::Entry;
use crate::postgres::{PromoteError, Server};
use crate::storage::{self, is_standby};

/// Prepares a spec that somebody hands in, and judges whether the data directory can be what it says.
pub(super) async fn prepare_for(
    tools: &Tools,
    configure: &Configure,
    server_runs: bool,
) -> Result<Arc<Prepared>, Refusal> {
    let data_dir = &tools.postgres.options().data_dir;
    let promote = match configure.origin {
        Origin::Promote(_) if !is_standby(data_dir) => return Err(Refusal::NotReplica),
        Origin::Promote(lsn) => Some(lsn),
        Origin::Push | Origin::Pull | Origin::File => None,
    };
    let prepared = prepare(tools, &configure.spec, server_runs).await?;
    storage::fits(data_dir, &prepared.spec, promote.is_some())
        .map_err(|unfit| Refusal::Content { path: unfit.path.to_owned(), msg: unfit.msg })?;
    Ok(match promote {
        None => prepared,
        Some(_) => Arc::new(Prepared { promote, ..Arc::unwrap_or_clone(prepared) }),
    })
}

/// Whether the request is a promotion that was accepted before and failed.
pub(super) fn is_another_try<B: Body>(body: &B, entry: &Entry, configure: &Configure) -> bool {
    let promotes = matches!(configure.origin, Origin::Promote(_));
    promotes && entry.rejected && body.is_standby()
}

/// Has a standby that runs, waits for its replay and promotes it. Nothing is done to one that is a primary already.
pub(super) async fn carry_out(tools: &Tools, server: &mut Option<Server>, lsn: Lsn) -> Result<(), Failure> {
    let postgres = &tools.postgres;
    tools.promotion.send_replace(PromoteState::default());
    if !is_standby(&postgres.options().data_dir) {
        return Ok(());
    }
    let said = if server.is_none() { try_start(postgres, server).await.err().map(|error| chain(&error)) } else { None };
    let said = match said {
        Some(said) => Some(said),
        None => promote(tools, lsn).await.err().map(|error| chain(&error)),
    };
    let Some(message) = said else { return Ok(()) };
    let detail = ErrorDetail { phase: "promote".into(), object: None, sqlstate: None, message };
    let effect = observe(postgres, server.as_ref()).await.unwrap_or_default();
    Err(Failure::Spec { failures: vec![detail], effect, rolled_back: false })
}

async fn promote(tools: &Tools, lsn: Lsn) -> Result<(), PromoteError> {
    let waited = tools.postgres.wait_replayed(lsn).await?;
    tools.promotion.send_modify(|state| state.lsn_wait_time_ms = Some(ms(waited)));
    let took = tools.postgres.promote().await?;
    tools.promotion.send_modify(|state| state.pg_promote_time_ms = Some(ms(took)));
    tracing::info!(%lsn, wait_ms = ms(waited), promote_ms = ms(took), "the replica is a primary now");
    Ok(())
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Tells how the whole of it ended.
pub(super) fn tell_end(tools: &Tools, order: &Order, took: Duration, result: &Result<Effect, Failure>) {
    let promotes = matches!(order, Order::Apply(prepared) if prepared.promote.is_some());
    if !promotes {
        return;
    }
    tools.promotion.send_modify(|state| match result {
        Ok(_) => {
            let before = state.lsn_wait_time_ms.unwrap_or_default() + state.pg_promote_time_ms.unwrap_or_default();
            state.status = PromoteStatus::Completed;
            state.reconfigure_time_ms = Some(ms(took).saturating_sub(before));
        }
        Err(failure) => {
            let line = |detail: &ErrorDetail| format!("{}: {}", detail.phase, detail.message);
            let why = match failure {
                Failure::Cancelled => "the compute is ending".to_owned(),
                Failure::Superseded => "a later spec took its place".to_owned(),
                Failure::Spec { failures, .. } => failures.first().map(line).unwrap_or_default(),
                Failure::Place(detail) => line(detail),
            };
            state.status = PromoteStatus::Failed;
            state.error = Some(why);
        }
    });
}

impl<B: Body> Driver<B> {
    /// A promotion that an earlier life of the agent accepted and did not carry out counts as rejected: the replica goes
    /// on as one.
    pub(super) async fn give_up_unfinished_promotion(&mut self) {
        let entry = self.ledger.entry().clone();
        let Some(accepted) = entry.accepted.as_ref().filter(|_| !entry.rejected) else { return };
        let wants_primary =
            ComputeSpec::deserialize(&accepted.spec).is_ok_and(|spec| spec.mode == ComputeMode::Primary);
        if !wants_primary || !self.body.is_standby() {
            return;
        }
        tracing::warn!("an unfinished promotion is given up: ask for it again");
        let rejected_generation = accepted.generation.or(entry.rejected_generation);
        self.write_down(Entry { rejected: true, rejected_generation, ..entry }).await;
    }
}
