//! Migrations: fenced, once, named when they fail; each up runs twice, each down works, and `schema.rs` is the database.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgfleet_harness::postgres::TestClient;
use pgfleet_persistence::{Began, Hook, Migration, MigrationError, MigrationOptions, Release};

use crate::support::{Fleet, seen, spawn, until_waiting, value, won};

fn embedded() -> Vec<(String, PathBuf)> {
    folders("../../migrations")
}

/// The folders below a directory of migrations, given from this crate.
fn folders(dir: &str) -> Vec<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let mut all: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_migrates_once_and_a_candidate_only_looks() {
    let Some(fleet) = Fleet::empty("a_leader_migrates_once_and_a_candidate_only_looks").await else { return };
    let member = fleet.member().await;
    member.db.bootstrap().await.unwrap();
    let names: Vec<String> = embedded().into_iter().map(|(name, _)| name).collect();
    assert_eq!(member.db.pending().await.unwrap(), names);
    let client = fleet.client().await;
    let made = value(&client, "SELECT to_regclass('__diesel_schema_migrations')::text").await;
    assert!(made.is_null(), "a look made a table: {made}");

    let term = Arc::new(member.lead().await);
    let (one, two) = tokio::join!(
        member.db.migrate(Arc::clone(&term), MigrationOptions::default()),
        member.db.migrate(Arc::clone(&term), MigrationOptions::default())
    );
    let mut ran = one.unwrap();
    ran.extend(two.unwrap());
    ran.sort();
    assert_eq!(ran, names, "two at once run each of them once");
    assert!(member.db.pending().await.unwrap().is_empty());
    let compat = member.db.compat().await.unwrap().unwrap();
    assert!(compat.lowest_reader <= Release::this().number());
    assert!(compat.lowest_writer <= Release::this().number());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_leader_cannot_migrate() {
    let Some(fleet) = Fleet::empty("a_replaced_leader_cannot_migrate").await else { return };
    let (old, new) = (fleet.member().await, fleet.member().await);
    old.db.bootstrap().await.unwrap();
    let stale = Arc::new(old.lead().await);
    let _term = new.lead().await;
    let error = old.db.migrate(stale, MigrationOptions::default()).await.unwrap_err();
    assert!(matches!(error, MigrationError::NotLeader { .. }), "{error:?}");
    let client = fleet.client().await;
    assert!(value(&client, "SELECT to_regclass('computes')::text").await.is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_waits_for_the_migration_that_runs_and_no_other_runs_after_it() {
    let Some(fleet) = Fleet::empty("a_claim_waits_for_the_migration_that_runs_and_no_other_runs_after_it").await else {
        return;
    };
    let (old, new) = (fleet.member().await, fleet.member().await);
    old.db.bootstrap().await.unwrap();
    let term = Arc::new(old.lead().await);
    let (reached, go) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let runs = Arc::new(AtomicUsize::new(0));
    let hook: Hook = {
        let (reached, go, runs) = (Arc::clone(&reached), Arc::clone(&go), Arc::clone(&runs));
        Arc::new(move || {
            let (reached, go, runs) = (Arc::clone(&reached), Arc::clone(&go), Arc::clone(&runs));
            Box::pin(async move {
                if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                    reached.notify_one();
                    go.notified().await;
                }
            })
        })
    };
    let (db, mine) = (Arc::clone(&old.db), Arc::clone(&term));
    let options = MigrationOptions { mid_migration: Some(hook), ..MigrationOptions::default() };
    let migrating = spawn(async move { db.migrate(mine, options).await });
    reached.notified().await;
    assert_eq!(old.session().renew(&term).await.unwrap(), pgfleet_persistence::Renewed::Yes, "it renews beside it");
    let row = new.db.read_leader().await.unwrap().unwrap();
    let client = fleet.client().await;
    let claim = spawn(async move { new.claim(Some(seen(&row)), Began::Crash).await });
    until_waiting(&client, 1).await;
    assert_eq!(value(&client, "SELECT term FROM leader").await, 1);
    go.notify_one();
    won(claim.await.unwrap().unwrap());
    // The claim comes after the first migration, or after the next one if that was quicker to begin; never within one.
    let ran = match migrating.await.unwrap() {
        Ok(ran) => ran.len(),
        Err(MigrationError::NotLeader { name }) if name.ends_with("create_computes") => 1,
        Err(error) => panic!("{error:?}"),
    };
    assert_eq!(value(&client, "SELECT count(*) FROM __diesel_schema_migrations").await, ran);
    let late = Release::later(1, &[Migration::embedded("20990101000000_come_late", "CREATE TABLE late (x int)")]);
    let late = fleet.member_of(late).await.db.migrate(term, MigrationOptions::default()).await;
    assert!(matches!(late, Err(MigrationError::NotLeader { .. })), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_up_runs_twice_and_every_down_takes_it_back() {
    let Some(fleet) = Fleet::empty("every_up_runs_twice_and_every_down_takes_it_back").await else { return };
    let client = fleet.client().await;
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    let mut before = Vec::new();
    // The next build's come after them, as in its program.
    let all = [embedded(), folders("../../tests/next_release/migrations")].concat();
    for (name, path) in all.clone() {
        before.push((value(&client, tables).await, columns(&client).await));
        let up = fs::read_to_string(path.join("up.sql")).unwrap();
        client.batch_execute(&up).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        let once = columns(&client).await;
        client.batch_execute(&up).await.unwrap_or_else(|e| panic!("{name} again: {e}"));
        assert_eq!(columns(&client).await, once, "{name} did something the second time");
    }
    for (name, path) in all.into_iter().rev() {
        let down = fs::read_to_string(path.join("down.sql")).unwrap();
        client.batch_execute(&down).await.unwrap_or_else(|e| panic!("{name} down: {e}"));
        let left = (value(&client, tables).await, columns(&client).await);
        assert_eq!(Some(left), before.pop(), "{name} left something behind");
        let up = fs::read_to_string(path.join("up.sql")).unwrap();
        client.batch_execute(&up).await.unwrap_or_else(|e| panic!("{name} after down: {e}"));
        client.batch_execute(&down).await.unwrap_or_else(|e| panic!("{name} down again: {e}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_rs_is_the_database() {
    let Some(fleet) = Fleet::new("schema_rs_is_the_database").await else { return };
    let client = fleet.client().await;
    let mut in_database = columns(&client).await;
    in_database.retain(|table, _| table != "__diesel_schema_migrations" && table != "journal_default");
    assert_eq!(in_database, tables_of(include_str!("../../src/schema.rs")));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_says_what_it_is_for() {
    let Some(fleet) = Fleet::new("every_table_says_what_it_is_for").await else { return };
    let client = fleet.client().await;
    let sql = "SELECT coalesce(array_agg(relname::text), '{}') FROM pg_class
               WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
                 AND relname <> '__diesel_schema_migrations' AND obj_description(oid, 'pg_class') IS NULL";
    let bare: Vec<String> = client.query_one(sql, &[]).await.unwrap().get(0);
    assert!(bare.is_empty(), "no comment on {bare:?}");
}

type Tables = BTreeMap<String, Vec<(String, String)>>;

async fn columns(client: &TestClient) -> Tables {
    let rows = client
        .query(
            "SELECT c.relname::text, a.attname::text,
                    CASE format_type(a.atttypid, a.atttypmod)
                         WHEN 'boolean' THEN 'Bool' WHEN 'uuid' THEN 'Uuid' WHEN 'bigint' THEN 'BigInt'
                         WHEN 'integer' THEN 'Integer' WHEN 'text' THEN 'Text' WHEN 'jsonb' THEN 'Jsonb'
                         WHEN 'timestamp with time zone' THEN 'Timestamptz' ELSE format_type(a.atttypid, a.atttypmod) END,
                    a.attnotnull
             FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
             WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0
               AND NOT a.attisdropped
             ORDER BY c.relname, a.attnum",
            &[],
        )
        .await
        .unwrap();
    let mut tables = Tables::new();
    for row in rows {
        let (table, column, kind, not_null): (String, String, String, bool) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let kind = if not_null { kind } else { format!("Nullable<{kind}>") };
        tables.entry(table).or_default().push((column, kind));
    }
    tables
}

/// The tables of a diesel schema file, by its lines.
fn tables_of(source: &str) -> Tables {
    let (mut tables, mut table, mut renamed) = (Tables::new(), String::new(), None);
    for line in source.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("#[sql_name = \"").and_then(|rest| rest.strip_suffix("\"]")) {
            renamed = Some(name.to_owned());
        } else if let Some((column, kind)) = line.strip_suffix(',').and_then(|line| line.split_once(" -> ")) {
            let column = renamed.take().unwrap_or_else(|| column.to_owned());
            tables.entry(table.clone()).or_default().push((column, kind.to_owned()));
        } else if let Some((name, _)) = line.split_once(" (").filter(|_| line.ends_with('{')) {
            table = name.to_owned();
        }
    }
    tables
}
