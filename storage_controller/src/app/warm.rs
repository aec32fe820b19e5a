//! The test door to the memory: what `/dev/memory` shows, as plain values that a test can compare with the tables.

use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _};
use serde_json::{Value, json};

use crate::http::MemoryDoor;
use crate::observe::{Entry, Memory};

/// The door: a line with the last change, then one per compute. Nothing while this member leads or is cold.
pub(super) fn door(memory: Memory) -> MemoryDoor {
    std::sync::Arc::new(move || {
        let memory = memory.clone();
        async move {
            let recall = memory.recall().await?;
            let head = json!({ "change_seq": recall.change_seq });
            let rows = stream::iter(recall.entries).map(|entry| row(&entry));
            Some(stream::iter([head]).chain(rows).map(|line| format!("{line}\n")).boxed())
        }
        .boxed()
    })
}

fn row(entry: &Entry) -> Value {
    let record = &entry.record;
    json!({
        "compute_id": record.compute_id,
        "agent_url": record.agent_url,
        "labels": record.labels.as_ref(),
        "generation": record.generation,
        "spec_hash": record.spec_hash,
        "suspend_timeout_s": record.suspend_timeout_s,
        "policy": record.policy,
        "change_seq": record.change_seq,
        "created_at_us": record.created_at.timestamp_micros(),
        "updated_at_us": record.updated_at.timestamp_micros(),
        "observed": entry.observed.as_deref(),
    })
}
