//! Running migrations: what fails is named and leaves nothing, within its budget; the rehearsal; who is shut out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgfleet_persistence::{
    Began, ClaimOutcome, DbError, Migration, MigrationError, MigrationOptions, Rehearsed, Release,
};
use serde_json::json;

use crate::support::{Fleet, SOON, seen, value, won};

const BUDGET: Duration = Duration::from_secs(10);

/// This build with one migration more.
fn with(name: &'static str, up: &'static str) -> Release {
    Release::later(1, &[Migration::embedded(name, up)])
}

fn within(budget: Duration) -> MigrationOptions {
    MigrationOptions { budget, ..MigrationOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_migration_is_named_and_leaves_nothing() {
    let Some(fleet) = Fleet::new("a_failed_migration_is_named_and_leaves_nothing").await else { return };
    let bad = "CREATE TABLE half (x int); SELECT * FROM no_such_table;";
    let member = fleet.member_of(with("20990101000000_break_it", bad)).await;
    let term = Arc::new(member.lead().await);
    assert_eq!(member.db.pending().await.unwrap(), ["20990101000000_break_it"]);
    let error = member.db.migrate(Arc::clone(&term), within(BUDGET)).await.unwrap_err();
    let MigrationError::Failed { name, message } = &error else { panic!("{error:?}") };
    assert_eq!(name, "20990101000000_break_it");
    assert!(message.contains("no_such_table") && message.ends_with("(42P01)"), "{message}");
    let client = fleet.client().await;
    assert!(value(&client, "SELECT to_regclass('half')::text").await.is_null());

    let mended = fleet.member_of(with("20990101000000_mend_it", "CREATE TABLE whole (x int)")).await;
    let ran = mended.db.migrate(term, within(BUDGET)).await.unwrap();
    assert_eq!(ran, ["20990101000000_mend_it"]);
    assert!(mended.db.pending().await.unwrap().is_empty());
}

/// One long statement, and many that are long together.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_over_its_budget_is_rolled_back() {
    let Some(fleet) = Fleet::new("a_migration_over_its_budget_is_rolled_back").await else { return };
    let client = fleet.client().await;
    for up in [
        "CREATE TABLE half (x int); SELECT pg_sleep(60);",
        "CREATE TABLE half (x int); SELECT pg_sleep(0.3); SELECT pg_sleep(0.3); SELECT pg_sleep(0.3); SELECT pg_sleep(60);",
    ] {
        let member = fleet.member_of(with("20990101000000_be_slow", up)).await;
        let term = Arc::new(member.lead().await);
        let begun = Instant::now();
        let error = member.db.migrate(term, within(Duration::from_millis(500))).await.unwrap_err();
        assert!(
            matches!(&error, MigrationError::OverBudget { name, budget_ms: 500 } if name.ends_with("be_slow")),
            "{error:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        // The claim of the next one waits for what is left of it.
        won(fleet
            .member()
            .await
            .claim(Some(seen(&member.db.read_leader().await.unwrap().unwrap())), Began::Crash)
            .await
            .unwrap());
        assert!(value(&client, "SELECT to_regclass('half')::text").await.is_null());
    }
}

/// A reader of the table holds an ALTER up. It is tried a few times and given up long before the budget is spent.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_others_hold_up_is_given_up() {
    let Some(fleet) = Fleet::new("a_migration_that_others_hold_up_is_given_up").await else { return };
    let member = fleet.member_of(with("20990101000000_alter_it", "ALTER TABLE computes ADD COLUMN note text")).await;
    let term = Arc::new(member.lead().await);
    let mut reader = fleet.client().await;
    let reading = reader.transaction().await.unwrap();
    reading.execute("LOCK TABLE computes IN ACCESS SHARE MODE", &[]).await.unwrap();
    let error = member.db.migrate(Arc::clone(&term), within(Duration::from_secs(60))).await.unwrap_err();
    assert!(matches!(error, MigrationError::Locked { tries: 3, .. }), "{error:?}");

    let migrating = member.db.migrate(term, within(Duration::from_secs(60)));
    let end = async {
        crate::support::until_waiting(&fleet.client().await, 1).await;
        reading.rollback().await.unwrap();
    };
    let (ran, ()) = tokio::join!(migrating, end);
    assert_eq!(ran.unwrap(), ["20990101000000_alter_it"], "the reader ended in time");
}

/// The rehearsal runs everything from the first migration, touches no real table, and leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_finds_bad_sql_and_leaves_nothing() {
    let Some(fleet) = Fleet::new("a_rehearsal_finds_bad_sql_and_leaves_nothing").await else { return };
    let mut client = fleet.client().await;
    // Nothing of the real tables may be needed: the rehearsal must not even wait for them.
    let locked = client.transaction().await.unwrap();
    let tables = "LOCK TABLE computes, observed, journal, change_cursor, leader_history IN ACCESS EXCLUSIVE MODE";
    locked.execute(tables, &[]).await.unwrap();
    let good = "ALTER TABLE computes ADD COLUMN note text; UPDATE change_cursor SET last_change = 7;";
    let good = fleet.member_of(with("20990101000000_add_note", good)).await;
    let rehearsed = tokio::time::timeout(SOON, good.db.rehearse(BUDGET)).await.unwrap();
    assert_eq!(rehearsed.unwrap(), Rehearsed::Well);
    locked.rollback().await.unwrap();

    let bad = fleet.member_of(with("20990101000000_break_it", "ALTER TABLE computes DROP COLUMN nothing")).await;
    let error = bad.db.rehearse(BUDGET).await.unwrap_err();
    let MigrationError::Failed { name, message } = &error else { panic!("{error:?}") };
    assert!(name.ends_with("break_it") && message.contains("nothing"), "{error}");
    let slow = fleet.member_of(with("20990101000000_be_slow", "SELECT pg_sleep(60)")).await;
    let error = slow.db.rehearse(Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(&error, MigrationError::OverBudget { name, .. } if name.ends_with("be_slow")), "{error:?}");

    let left = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgfleet%'";
    crate::support::until(&client, "no schema is left", &format!("SELECT ({left}) = 0")).await;
    assert_eq!(value(&client, "SELECT last_change FROM change_cursor").await, 0);
    let versions = value(&client, "SELECT count(*) FROM __diesel_schema_migrations").await;
    assert_eq!(versions, Release::this().migrations().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_make_a_schema_rehearses_nothing() {
    let Some(fleet) = Fleet::new("a_role_that_may_not_make_a_schema_rehearses_nothing").await else { return };
    let client = fleet.client().await;
    let role = format!("plain_{}", uuid::Uuid::new_v4().simple());
    client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
        ))
        .await
        .unwrap();
    let (scheme, rest) = fleet.url.split_once("://").unwrap();
    let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
    let plain = Fleet { url: format!("{scheme}://{role}:x@{rest}") };
    assert_eq!(plain.member().await.db.rehearse(BUDGET).await.unwrap(), Rehearsed::NotAllowed);
    client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

const CONTRACT: Migration =
    Migration::embedded("20990101000000_require_three", "UPDATE schema_compat SET lowest_writer = 3");

const AFTER: Migration = Migration::embedded("20990102000000_add_after", "CREATE TABLE after_it (x int)");

/// A step that shuts out a living member is refused, in the rehearsal and in the real run; when the member is gone it runs.
/// From then on a build that is shut out claims nothing, whatever it believes.
#[tokio::test(flavor = "multi_thread")]
async fn a_contract_step_waits_for_the_old_ones_and_shuts_them_out() {
    let Some(fleet) = Fleet::new("a_contract_step_waits_for_the_old_ones_and_shuts_them_out").await else { return };
    let (old, new) = (fleet.member().await, fleet.member_of(Release::later(3, &[CONTRACT, AFTER])).await);
    let mut watching = old.session();
    watching.read().await.unwrap();
    let me = format!("pgfleet/{} (2)", old.me);
    let term = Arc::new(new.lead().await);
    for refused in
        [new.db.rehearse(BUDGET).await.map(|_| ()), new.db.migrate(Arc::clone(&term), within(BUDGET)).await.map(|_| ())]
    {
        let error = refused.unwrap_err();
        assert!(matches!(error, MigrationError::ShutsOutMembers { lowest: 3, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&me) && text.contains("_require_three"), "{text}");
    }
    let client = fleet.client().await;
    assert_eq!(value(&client, "SELECT lowest_writer FROM schema_compat").await, 1);

    drop(watching);
    let gone = "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND objid = 2)";
    crate::support::until(&client, "the old member is gone", gone).await;
    assert_eq!(new.db.rehearse(BUDGET).await.unwrap(), Rehearsed::Well);
    assert_eq!(
        new.db.migrate(term, within(BUDGET)).await.unwrap(),
        ["20990101000000_require_three", "20990102000000_add_after"]
    );

    let compat = old.db.compat().await.unwrap().unwrap();
    assert!(compat.lets_read(2) && !compat.lets_lead(2) && compat.lets_lead(3), "{compat:?}");
    let row = new.db.read_leader().await.unwrap().unwrap();
    let error = old.claim(Some(seen(&row)), Began::Crash).await.unwrap_err();
    assert!(matches!(error, DbError::SchemaTooNew { number: 2, lowest: 3 }), "{error:?}");
    assert_eq!(value(&client, "SELECT array_agg(term) FROM leader_history").await, json!([1]));
    let next = fleet.member_of(Release::later(3, &[CONTRACT])).await;
    next.db.compat().await.unwrap();
    let stale = pgfleet_persistence::Seen { term: pgfleet_api::Term(9), ..seen(&row) };
    assert!(matches!(next.claim(Some(stale), Began::Crash).await.unwrap(), ClaimOutcome::Lost));
    won(next.claim(Some(seen(&row)), Began::Crash).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_cannot_shut_itself_out() {
    let Some(fleet) = Fleet::new("a_build_cannot_shut_itself_out").await else { return };
    let member = fleet.member_of(Release::later(2, &[CONTRACT])).await;
    let error = member.db.rehearse(BUDGET).await.unwrap_err();
    assert!(matches!(error, MigrationError::ShutsOutItself { lowest: 3, number: 2, .. }), "{error:?}");
    let term = Arc::new(member.lead().await);
    let error = member.db.migrate(term, within(BUDGET)).await.unwrap_err();
    assert!(matches!(error, MigrationError::ShutsOutItself { lowest: 3, number: 2, .. }), "{error:?}");
}
