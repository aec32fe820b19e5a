//! After the last fault: the fleet comes to rest, says what it has, ends, and leaves nothing.
//!
//! Who calls it: [`crate::run`]. What does not come about is a line in the result, not a panic: the record of such a run is
//! still judged.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pgfleet_api::controller::Role;
use pgfleet_api::{ComputeId, Generation, SpecHash};
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_history::Event;
use tokio::time::Instant;

use crate::cast::Cast;
use crate::database;
use crate::engine::Engine;
use crate::load::Book;
use crate::recorder::Recorder;
use crate::watchers::Seen;

/// How long a healed fleet may take to come to one leader whom all follow.
const TO_SETTLE: Duration = Duration::from_secs(60);

/// Writes that every member has to see through in the healed phase.
const WRITES_AFTER: u64 = 3;

/// How long processes may take to end.
const TO_END: Duration = Duration::from_secs(30);

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until one leads, all follow, and the load gets writes through every member. Gives what did not come about.
pub async fn healed(engine: &mut Engine, book: &Book) -> Option<String> {
    let deadline = Instant::now() + TO_SETTLE;
    let mut before = None;
    loop {
        engine.tend().await;
        let written = book.written();
        if engine.is_settled() {
            let before = before.get_or_insert_with(|| written.clone());
            if written.iter().zip(before).all(|(now, before)| *now >= *before + WRITES_AFTER) {
                return None;
            }
        }
        if Instant::now() >= deadline {
            let requests = book.requests.load(Ordering::Relaxed);
            let settled = engine.is_settled();
            return Some(format!(
                "not healed within {TO_SETTLE:?}: settled {settled}, writes {before:?} -> {written:?}, requests {requests}"
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until what the database asks for is in effect everywhere, and records the end. Gives what did not come about.
pub async fn applied(engine: &mut Engine, fleet: &Fleet, seen: &Seen, recorder: &Recorder) -> Option<String> {
    let deadline = Instant::now() + TO_SETTLE;
    loop {
        engine.tend().await;
        let asked = asked(fleet).await;
        let behind: Vec<String> =
            asked.iter().filter_map(|(id, generation, _)| behind(seen, id, *generation)).collect();
        if behind.is_empty() || Instant::now() >= deadline {
            for (compute_id, generation, spec_hash) in asked {
                let agent = seen.agent(&compute_id);
                let applied_generation = agent.as_ref().and_then(|status| status.applied_generation);
                let rejected = agent.is_some_and(|status| status.rejected_generation == Some(generation));
                recorder.record(Event::Final { compute_id, generation, spec_hash, applied_generation, rejected });
            }
            return (!behind.is_empty()).then(|| format!("not applied within {TO_SETTLE:?}: {}", behind.join("; ")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What the database asks for.
async fn asked(fleet: &Fleet) -> Vec<(ComputeId, Generation, SpecHash)> {
    let sql = "SELECT compute_id, generation, spec_hash FROM computes WHERE deleted_at IS NULL AND spec IS NOT NULL ORDER BY 1";
    let rows = fleet.database().await.query(sql, &[]).await;
    let rows = rows.unwrap_or_else(|error| panic!("the computes cannot be read: {error:?}"));
    let parsed = |row: &tokio_postgres::Row| {
        let id: ComputeId = row.get::<_, String>(0).parse().ok()?;
        Some((id, Generation(row.get(1)), row.get::<_, String>(2).parse().ok()?))
    };
    rows.iter().map(|row| parsed(row).unwrap_or_else(|| panic!("a row of computes is none: {row:?}"))).collect()
}

fn behind(seen: &Seen, id: &ComputeId, generation: Generation) -> Option<String> {
    let Some(agent) = seen.agent(id) else { return Some(format!("{id} says nothing")) };
    let (applied, rejected) = (agent.applied_generation, agent.rejected_generation);
    let done = applied == Some(generation) || rejected == Some(generation);
    (!done).then(|| format!("{id} {:?} has {applied:?} of {generation}", agent.status))
}

/// The memory of each candidate is what the tables hold.
pub async fn memories(fleet: &Fleet, cast: &mut Cast, seen: &Seen) {
    let mut candidates = Vec::new();
    for (index, member) in cast.members.iter_mut().enumerate() {
        let Some(status) = seen.member(index) else { continue };
        // A pause point opens the same door. Whose migrations may not have run follows nothing.
        if status.role == Role::Candidate
            && member.life.migrations.is_none()
            && let Some(process) = member.process.take()
        {
            candidates.push((index, Controller::over(process, member.url.clone(), status.instance_id)));
        }
    }
    fleet.memories_agree(&candidates.iter().map(|(_, one)| one).collect::<Vec<_>>()).await;
    for (index, controller) in candidates {
        cast.members[index].process = Some(controller.process);
    }
}

/// Ends every process and looks for what is left.
pub async fn leftovers(fleet: &Fleet, cast: &mut Cast) -> Vec<String> {
    let mut found = cast.end(TO_END).await;
    let sessions =
        "SELECT application_name || ' ' || coalesce(state, '') || ' ' || left(query, 80) FROM pg_stat_activity
                    WHERE application_name LIKE 'pgfleet%'";
    let locks = "SELECT locktype || ' ' || mode || ' of pid ' || coalesce(pid::text, '?') FROM pg_locks
                 WHERE pid IS DISTINCT FROM pg_backend_pid() AND locktype IN ('relation', 'advisory', 'transactionid', 'tuple')
                 AND (database IS NULL OR database = (SELECT oid FROM pg_database WHERE datname = current_database()))
                 AND pid IN (SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend')";
    let prepared = "SELECT 'prepared ' || gid FROM pg_prepared_xacts";
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let mut rows = Vec::new();
        for sql in [sessions, locks, prepared] {
            rows.extend(texts(fleet, sql).await);
        }
        if rows.is_empty() || Instant::now() >= deadline {
            found.extend(rows);
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    found.extend(said_in_logs(fleet));
    found
}

async fn texts(fleet: &Fleet, sql: &str) -> Vec<String> {
    let Some(client) = database::session(fleet).await else {
        return vec!["the database is away in the end".to_owned()];
    };
    let rows = client.query(sql, &[]).await;
    rows.unwrap_or_else(|error| panic!("{sql}: {error:?}")).iter().map(|row| row.get(0)).collect()
}

/// Lines of any log that no run may have.
fn said_in_logs(fleet: &Fleet) -> Vec<String> {
    let Ok(logs) = std::fs::read_dir(fleet.dir().join("logs")) else { return Vec::new() };
    let mut found = Vec::new();
    for log in logs.flatten() {
        let text = std::fs::read(log.path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let bad = |line: &&str| {
            ["panicked at", "did not end in time", "was not joined"].iter().any(|word| line.contains(word))
        };
        let name = log.file_name().to_string_lossy().into_owned();
        found.extend(text.unwrap_or_default().lines().filter(bad).map(|line| format!("{name}: {line}")));
    }
    found
}
