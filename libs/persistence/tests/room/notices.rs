//! LISTEN: what is said is heard, in order, until the session ends.

use pgfleet_persistence::{LEADER_CHANNEL, Notice, Notices};

use crate::support::{Fleet, SOON, until};

async fn next(notices: &mut Notices) -> Option<Notice> {
    tokio::time::timeout(SOON, notices.next()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_heard_and_the_end_of_the_session_too() {
    let Some(fleet) = Fleet::new("a_claim_is_heard_and_the_end_of_the_session_too").await else { return };
    let (listener, other) = (fleet.member().await, fleet.member().await);
    let mut notices = listener.db.listen(&[LEADER_CHANNEL, "Other \"channel\""]).await.unwrap();
    let term = other.lead().await;
    let told = Notice { channel: LEADER_CHANNEL.to_owned(), payload: term.term().to_string() };
    assert_eq!(next(&mut notices).await, Some(told));

    let client = fleet.client().await;
    client.batch_execute(r#"NOTIFY "Other ""channel""", 'a'; NOTIFY "Other ""channel""", 'b'"#).await.unwrap();
    for payload in ["a", "b"] {
        assert_eq!(next(&mut notices).await.map(|notice| notice.payload).as_deref(), Some(payload));
    }
    assert_eq!(notices.try_next(), None);

    let mine = format!("application_name = 'pgfleet/{}' AND query LIKE 'LISTEN%'", listener.me);
    until(&client, "it listens", &format!("SELECT count(*) = 1 FROM pg_stat_activity WHERE {mine}")).await;
    client.execute(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}"), &[]).await.unwrap();
    assert_eq!(next(&mut notices).await, None, "its end is told");
}
