//! The data directory for the work: whether it is one that the spec may have, and, where it is built from page servers, the
//! building before each start.
//!
//! Called by `work` and `body`. The spec in effect is the one that `storage` was told last; a start without a spec of its
//! own (after a crash, for a setting) builds from that one.

use std::sync::Arc;

use pgfleet_api::Lsn;
use pgfleet_api::agent::ErrorDetail;
use pgfleet_runtime::exit::chain;

use super::body::Tools;
use super::work::{Effect, Failure, Prepared, Stop};
use crate::postgres::LinkError;
use crate::storage::{self, PageError, StorageError};

impl Tools {
    /// Has a data directory of the kind that the spec in effect (`wanted`, or else the one before) asks for, as far as it
    /// is not built at each start.
    pub(super) async fn have_directory(&self, wanted: Option<&Prepared>) -> Result<(), StorageError> {
        let source = match wanted {
            Some(prepared) => prepared.storage.clone(),
            None => self.pages.current(),
        };
        match &source {
            Some(_) => storage::replaceable(&self.postgres.options().data_dir, &self.compute_id)?,
            None => storage::ensure(&self.postgres, &self.compute_id, wanted.map(|prepared| &prepared.spec)).await?,
        }
        if wanted.is_some() {
            self.follow(source);
        }
        Ok(())
    }

    /// Whether a start begins with a directory built from page servers.
    pub(super) fn starts_afresh(&self) -> bool {
        self.pages.current().is_some()
    }

    /// Before a start: builds the directory with `conf` in it, where storage is at page servers. Nothing else is at stake
    /// then, so a newer spec cuts it short at once.
    pub(super) async fn build_directory(&self, conf: &str, stop: &Stop) -> Result<(), Failure> {
        let Some(source) = self.pages.current() else { return Ok(()) };
        let built = tokio::select! {
            built = self.pages.build(&self.postgres, &self.compute_id, &source, conf) => built,
            () = stop.newer.cancelled() => return Err(Failure::Superseded),
        };
        built.map_err(|error| {
            let detail = ErrorDetail { phase: "storage".into(), object: None, sqlstate: None, message: chain(&error) };
            match error {
                PageError::Place(_) => Failure::Place(detail),
                PageError::Sync(_) | PageError::Backup { .. } | PageError::Finish(_) => Failure::Exhausted(detail),
            }
        })
    }

    /// Goes back to the storage of the last good spec.
    pub(super) fn follow(&self, source: Option<Arc<storage::Source>>) {
        self.postgres.set_storage_token(source.as_ref().and_then(|source| source.token.clone()));
        self.pages.set(source);
    }

    /// Where the WAL ends after a stop: at the safekeepers where there are some and the server `ran`, else in the data
    /// directory.
    pub(super) async fn end_of_wal(&self, ran: bool) -> Option<Lsn> {
        if !self.starts_afresh() {
            return self.postgres.stopped_at().await;
        }
        if !ran {
            return None;
        }
        match self.pages.final_lsn(&self.postgres).await {
            Ok(lsn) => lsn,
            Err(error) => {
                tracing::error!("{}: the termination tells no LSN", chain(&error));
                None
            }
        }
    }

    /// Settings that wait for a restart: those that PostgreSQL names, and what the directory was built for.
    pub(super) async fn waits_for_restart(&self) -> Result<Vec<String>, LinkError> {
        let mut waiting = self.postgres.waits_for_restart().await?;
        waiting.extend(self.pages.waits_for_restart(&self.postgres.options().data_dir));
        waiting.sort();
        waiting.dedup();
        Ok(waiting)
    }
}

/// A directory that the spec must not have: the spec is at fault, and what runs goes on.
pub(super) fn refused(error: &StorageError, effect: Effect) -> Failure {
    let detail = ErrorDetail { phase: "storage".into(), object: None, sqlstate: None, message: chain(error) };
    match error {
        StorageError::Local { .. } | StorageError::Disposable { .. } => {
            Failure::Spec { failures: vec![detail], effect, rolled_back: false }
        }
        StorageError::NotOurs { .. }
        | StorageError::Other { .. }
        | StorageError::Marker { .. }
        | StorageError::Io { .. }
        | StorageError::Initdb { .. }
        | StorageError::Primary(_)
        | StorageError::Password(_)
        | StorageError::Backup { .. }
        | StorageError::Thread { .. } => Failure::Place(detail),
    }
}
