//! Following: what a catch-up brings, and when everything has to be loaded again.

use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::agent::ComputeState;
use pgfleet_api::{BootId, Generation};
use pgfleet_persistence::{Afresh, Caught, Change, Item, News, Tail, WriterHooks};

use crate::support::{Fleet, Leader, Member, id, observed, put, register, report, spec};

fn news(caught: Caught) -> News {
    match caught {
        Caught::News(news) => news,
        Caught::Afresh(why) => panic!("load again: {why:?}"),
    }
}

/// `name`, or `-name` for a deleted one, or `name?` for an observation alone.
fn told(news: &News) -> Vec<String> {
    let one = |item: &Item| match item {
        Item::Compute { record, observed } => {
            format!("{}{}", record.compute_id, if observed.is_some() { "+" } else { "" })
        }
        Item::Deleted { compute_id, .. } => format!("-{compute_id}"),
        Item::Observed { compute_id, .. } => format!("{compute_id}?"),
    };
    news.items.iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catch_up_brings_what_came_after_and_nothing_twice() {
    let Some(fleet) = Fleet::new("a_catch_up_brings_what_came_after_and_nothing_twice").await else { return };
    let leader = Leader::new(fleet.member().await, WriterHooks::default()).await;
    let mut tail = Tail::new(Arc::clone(&fleet.member().await.db));
    assert_eq!(tail.catch_up(0).await.unwrap(), Caught::Afresh(Afresh::NeverLoaded));
    leader.register("a").await;
    leader.register("b").await;
    assert_eq!(tail.load().await.unwrap().change_seq, 2);
    assert_eq!(news(tail.catch_up(2).await.unwrap()), News { change_seq: 2, items: vec![] });

    let (boot, writer) = (BootId::generate(), &leader.writer);
    writer.submit(report("a", &observed(boot, 1, ComputeState::Running))).await.unwrap();
    writer.submit(report("b", &observed(boot, 1, ComputeState::Running))).await.unwrap();
    let seen = news(tail.catch_up(2).await.unwrap());
    assert_eq!((seen.change_seq, told(&seen)), (4, vec!["a?".to_owned(), "b?".to_owned()]));

    // Deleted and made again between two catch-ups: only the new row shows, and nothing was seen of it.
    writer.submit(Change::Delete { compute_id: id("a") }).await.unwrap();
    leader.register("a").await;
    writer.submit(put("b", '1')).await.unwrap();
    writer.submit(Change::Delete { compute_id: id("b") }).await.unwrap();
    let seen = news(tail.catch_up(4).await.unwrap());
    assert_eq!((seen.change_seq, told(&seen)), (8, vec!["a".to_owned(), "-b".to_owned()]));
    // A new row of a compute that was seen before brings what was seen.
    writer.submit(report("a", &observed(boot, 9, ComputeState::Init))).await.unwrap();
    writer.submit(put("a", '2')).await.unwrap();
    let seen = news(tail.catch_up(9).await.unwrap());
    assert_eq!((seen.change_seq, told(&seen)), (10, vec!["a+".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_loaded_elsewhere_or_otherwise_is_loaded_afresh() {
    let Some(fleet) = Fleet::new("what_was_loaded_elsewhere_or_otherwise_is_loaded_afresh").await else { return };
    let leader = Leader::new(fleet.member().await, WriterHooks::default()).await;
    leader.register("a").await;
    leader.register("b").await;
    let mut tail = Tail::new(Arc::clone(&fleet.member().await.db));
    let client = fleet.client().await;
    for (sql, why) in [
        ("INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')", Afresh::Schema),
        ("UPDATE cluster SET cluster_id = '00000000-0000-0000-0000-000000000001'", Afresh::Identity),
        ("UPDATE change_cursor SET last_change = 1", Afresh::LostChanges),
    ] {
        let cursor = tail.load().await.unwrap().change_seq;
        assert!(news(tail.catch_up(cursor).await.unwrap()).items.is_empty());
        client.batch_execute(sql).await.unwrap();
        assert_eq!(tail.catch_up(cursor).await.unwrap(), Caught::Afresh(why));
        let again = tail.load().await.unwrap();
        assert!(news(tail.catch_up(again.change_seq).await.unwrap()).change_seq <= cursor, "{why:?}");
    }
}

/// Many rows, some with specs, and a session that is lost on the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_comes_in_pages_and_a_lost_session_is_made_anew() {
    let Some(fleet) = Fleet::new("a_load_comes_in_pages_and_a_lost_session_is_made_anew").await else { return };
    let leader = Leader::new(fleet.member().await, WriterHooks::default()).await;
    let changes: Vec<Change> =
        (0..600).map(|n| register(&format!("c{n:03}"), (n % 2 == 0).then(|| spec('1')))).collect();
    let answers = leader.writer.submit_all(changes).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|committed| committed.changed)));
    assert_eq!((leader.writer.last_change(), leader.writer.settled_at()), (600, Some(600)));
    let client = fleet.client().await;
    let batches = "SELECT count(DISTINCT xmin::text) FROM computes";
    assert_eq!(client.query_one(batches, &[]).await.unwrap().get::<_, i64>(0), 2, "taken together");

    let member = fleet.member().await;
    let mut tail = Tail::new(Arc::clone(&member.db));
    let loaded = tail.load().await.unwrap();
    assert_eq!((loaded.change_seq, loaded.computes.len()), (600, 600));
    assert_eq!(loaded.computes.iter().filter(|record| record.spec_hash.is_some()).count(), 300);
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
    let name = format!("pgfleet/{}", member.me);
    assert!(!client.query(sql, &[&name]).await.unwrap().is_empty());
    leader.writer.submit(put("c000", '2')).await.unwrap();
    let caught = match tail.catch_up(600).await {
        Ok(caught) => caught,
        Err(error) => {
            assert!(error.is_retryable(), "{error:?}");
            tail.catch_up(600).await.unwrap()
        }
    };
    let seen = news(caught);
    assert_eq!((seen.change_seq, told(&seen)), (601, vec!["c000".to_owned()]));
    let Item::Compute { record, .. } = &seen.items[0] else { panic!("{seen:?}") };
    assert_eq!(record.generation, Generation(2));
}

/// What a plain role may not ask would make every candidate cold in production, and no test with a superuser would show it.
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_role_may_follow() {
    let Some(fleet) = Fleet::new("a_plain_role_may_follow").await else { return };
    let admin = fleet.client().await;
    let role = format!("plain_{}", uuid::Uuid::new_v4().simple());
    admin
        .batch_execute(&format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"))
        .await
        .unwrap();
    let url = fleet.url.replace("postgres@", &format!("{role}@"));
    let member = Member::connect(&url, Duration::from_secs(5)).await;
    let mut tail = Tail::new(Arc::clone(&member.db));
    let loaded = tail.load().await.unwrap();
    assert!(news(tail.catch_up(loaded.change_seq).await.unwrap()).items.is_empty());
}
