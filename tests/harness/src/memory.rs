//! Whether a member's memory is what the database has: the memory is shown by a test door of the controller, and the
//! tables are read here, by other SQL than the product's.

use std::collections::BTreeMap;
use std::time::Duration;

use pgfleet_api::auth::Scope;
use pgfleet_api::compute::Observed;
use pgfleet_api::policy::Policy;
use serde_json::{Map, Value, json};
use tokio_postgres::{Client, IsolationLevel};

use crate::controller::Controller;
use crate::fleet::Fleet;
use crate::postgres::TestClient;
use crate::wait::wait_for;

/// How long a member may take to be caught at the change where the database stands.
const LIMIT: Duration = Duration::from_secs(30);

/// Rows of a memory, or of the tables, as of one change.
#[derive(Debug, PartialEq)]
struct Rows {
    change_seq: i64,
    computes: BTreeMap<String, Value>,
}

impl Fleet {
    /// Waits until each of these members is caught at the very change where the database stands, and panics unless its
    /// memory is what the tables hold there. They were started with [`crate::controller::ControllerOptions::memory_door`]
    /// and do not lead; for the leader it waits in vain.
    pub async fn memories_agree(&self, members: &[&Controller]) {
        let mut database = self.database().await;
        for member in members {
            let name = member.process.name();
            let what = format!("the memory of {name} and the database are at the same change");
            let (memory, tables) = wait_for(&what, LIMIT, async || {
                member.process.still_runs();
                let tables = tables(&mut database).await;
                let memory = self.memory(member).await?;
                (memory.change_seq == tables.change_seq).then_some((memory, tables))
            })
            .await;
            for id in memory.computes.keys().chain(tables.computes.keys()) {
                let (held, stored) = (memory.computes.get(id), tables.computes.get(id));
                assert_eq!(held, stored, "{id} in the memory of {name} and in the tables at {}", tables.change_seq);
            }
        }
    }

    /// The last change in a member's memory, and how many computes; nothing while it leads or is cold.
    pub async fn memory_of(&self, member: &Controller) -> Option<(i64, usize)> {
        self.memory(member).await.map(|rows| (rows.change_seq, rows.computes.len()))
    }

    async fn memory(&self, member: &Controller) -> Option<Rows> {
        let call = member.call("GET", "/dev/memory").token(&self.keys().scope(Scope::Viewer));
        let answer = call.try_send().await.ok().filter(|answer| answer.status == 200)?;
        let mut lines = answer.body.lines().map(serde_json::from_str::<Map<String, Value>>);
        let mut next = || lines.next().map(|line| line.unwrap_or_else(|error| panic!("not a line: {error}")));
        let change_seq = next()?.get("change_seq").and_then(Value::as_i64)?;
        let mut computes = BTreeMap::new();
        while let Some(row) = next() {
            let id = row.get("compute_id").and_then(Value::as_str).unwrap_or_default().to_owned();
            computes.insert(id, Value::Object(row));
        }
        Some(Rows { change_seq, computes })
    }
}

async fn tables(database: &mut TestClient) -> Rows {
    read(database).await.unwrap_or_else(|error| panic!("the tables cannot be read: {error:?}"))
}

async fn read(database: &mut Client) -> Result<Rows, tokio_postgres::Error> {
    let begin = database.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let transaction = begin.start().await?;
    let change_seq = transaction.query_one("SELECT last_change FROM change_cursor", &[]).await?.get(0);
    let computes = transaction
        .query(
            "SELECT compute_id, jsonb_build_object('compute_id', compute_id, 'agent_url', agent_url, 'labels', labels,
                        'generation', generation, 'spec_hash', spec_hash, 'suspend_timeout_s',
                        CASE WHEN policy->>'suspend' = 'when_idle' THEN spec->'suspend_timeout_seconds' END, 'change_seq', change_seq, 'policy', policy,
                        'created_at_us', (extract(epoch FROM created_at) * 1000000)::bigint,
                        'updated_at_us', (extract(epoch FROM updated_at) * 1000000)::bigint)
             FROM computes WHERE deleted_at IS NULL",
            &[],
        )
        .await?;
    let mut computes: BTreeMap<String, Value> = computes.iter().map(|row| (row.get(0), row.get(1))).collect();
    let observed = transaction.query("SELECT compute_id, observed FROM observed", &[]).await?;
    for compute in computes.values_mut() {
        compute["observed"] = Value::Null;
        // An absent field has its default.
        let policy: Policy = serde_json::from_value(compute["policy"].take()).unwrap_or_default();
        compute["policy"] = json!(policy);
    }
    for row in &observed {
        let id: String = row.get(0);
        let seen: Observed = serde_json::from_value(row.get(1)).unwrap_or_else(|error| panic!("{id}: {error}"));
        if let Some(compute) = computes.get_mut(&id) {
            compute["observed"] = json!(seen);
        }
    }
    Ok(Rows { change_seq, computes })
}
