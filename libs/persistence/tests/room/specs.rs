//! The texts of specs: read when they are needed, by whatever member, and never for another content.

use std::sync::Arc;

use pgfleet_persistence::{Change, WriterHooks};
use tokio::task::JoinSet;

use crate::support::{Fleet, Leader, hash, id, put, register, spec};

async fn leader(fleet: &Fleet) -> Leader {
    Leader::new(fleet.member().await, WriterHooks::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_given_for_its_own_hash_only() {
    let Some(fleet) = Fleet::new("a_text_is_given_for_its_own_hash_only").await else { return };
    let leader = leader(&fleet).await;
    leader.writer.submit(register("a", Some(spec('1')))).await.unwrap();
    leader.writer.submit(register("bare", None)).await.unwrap();
    let other = fleet.member().await.db;
    for db in [&leader.member.db, &other] {
        assert_eq!(db.spec_text(&id("a"), &hash('1')).await.unwrap(), Some(spec('1').spec));
        assert_eq!(db.spec_text(&id("a"), &hash('2')).await.unwrap(), None, "it has another one");
        assert_eq!(db.spec_text(&id("bare"), &hash('3')).await.unwrap(), None, "it has none");
        assert_eq!(db.spec_text(&id("nobody"), &hash('3')).await.unwrap(), None);
    }
    leader.writer.submit(put("a", '2')).await.unwrap();
    leader.writer.submit(Change::Delete { compute_id: id("bare") }).await.unwrap();
    assert_eq!(other.spec_text(&id("a"), &hash('2')).await.unwrap(), Some(spec('2').spec));
}

/// Everybody who asks gets an answer, whoever runs the statement, and whoever goes away.
#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_at_once_are_all_answered() {
    let Some(fleet) = Fleet::new("many_who_ask_at_once_are_all_answered").await else { return };
    let leader = leader(&fleet).await;
    let fill = |n: u32| char::from_digit(n % 16, 16).unwrap();
    let changes = (0..400).map(|n| register(&format!("c{n}"), Some(spec(fill(n))))).collect();
    assert!(leader.writer.submit_all(changes).await.iter().all(Result::is_ok));
    let db = fleet.member().await.db;
    let mut asking = JoinSet::new();
    for n in 0..400 {
        let db = Arc::clone(&db);
        asking.spawn(async move {
            let id = id(&format!("c{n}"));
            let hash = hash(fill(n));
            if n % 3 == 0 {
                // Goes away at once, perhaps with the questions of others in its hands.
                let asked = db.spec_text(&id, &hash);
                drop(tokio::time::timeout(std::time::Duration::from_micros(u64::from(n) * 10), asked).await);
                return;
            }
            assert_eq!(db.spec_text(&id, &hash).await.unwrap(), Some(spec(fill(n)).spec));
        });
    }
    while let Some(ended) = asking.join_next().await {
        ended.unwrap();
    }
}
