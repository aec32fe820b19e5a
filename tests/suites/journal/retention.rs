//! How long the journal remembers, and what is said to whoever asks for more.

use std::collections::BTreeSet;

use pgfleet_api::auth::Scope;
use pgfleet_api::compute::{HistoryQuery, RegisterCompute};
use pgfleet_api::{ErrorBody, ErrorCode};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::Call;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::wait_until;

/// A watch from a pruned past gets 410 with the oldest cursor, at every member; from there on it goes. Writes go on while
/// partitions come and go.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_pruned_past_is_told_so() {
    let Some(fleet) = Fleet::start("a_watch_from_a_pruned_past_is_told_so").await else { return };
    let short = |name| fleet.controller(name).args(&["--journal-period", "1s", "--journal-retention", "3s"]);
    let a = short("a").start_leader().await;
    let b = short("b").start().await;
    b.follows(&a, PATIENCE).await;
    let client = fleet.client(&[&a]);
    let id = "c1".parse().unwrap();
    let nobody = RegisterCompute { agent_url: "http://127.0.0.1:1".to_owned(), labels: Default::default(), spec: None };
    client.register(&id, &nobody).await.unwrap();
    let watch = |url: &str, from: i64| {
        Call::new("GET", format!("{url}/control/v1/watch?from={from}")).token(&fleet.keys().scope(Scope::Viewer))
    };
    assert_eq!(watch(a.url(), 0).status().await, 200, "all of it is there");
    let n = std::cell::Cell::new(0);
    wait_until("what was before is pruned", 2 * PATIENCE, async || {
        n.set(n.get() + 1);
        client.put_spec(&id, &marked(&n.get().to_string()), None).await.unwrap();
        watch(a.url(), 0).status().await == 410
    })
    .await;
    let gone: ErrorBody = watch(a.url(), 0).send().await.error();
    assert_eq!(gone.code, ErrorCode::CursorPruned);
    let oldest = gone.oldest.unwrap();
    let through_b = watch(b.url(), 0).send().await;
    assert_eq!(through_b.refusal(), (410, ErrorCode::CursorPruned));
    assert!(through_b.error().oldest >= Some(oldest));
    assert_eq!(watch(b.url(), client_cursor(&fleet).await).status().await, 200);

    let names: BTreeSet<String> = partitions(&fleet).await;
    assert!(names.len() >= 3, "the default one, and at least two ahead: {names:?}");
    // A compute keeps what is left of its history, and says nothing of what is gone.
    let page = client.history(&id, &HistoryQuery::default()).await.unwrap();
    assert!(page.lines.iter().all(|line| line.change_seq > 0) && !page.lines.is_empty());
    client.delete(&id).await.unwrap();
    wait_until("the tombstone is pruned", 2 * PATIENCE, async || {
        let row = fleet.database().await.query_one("SELECT count(*) FROM computes", &[]).await.unwrap();
        row.get::<_, i64>(0) == 0
    })
    .await;
}

async fn client_cursor(fleet: &Fleet) -> i64 {
    fleet.database().await.query_one("SELECT last_change FROM change_cursor", &[]).await.unwrap().get(0)
}

async fn partitions(fleet: &Fleet) -> BTreeSet<String> {
    let sql = "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
               WHERE i.inhparent = 'journal'::regclass";
    fleet.database().await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}
