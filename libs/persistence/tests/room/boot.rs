//! Connecting and the first boot.

use std::collections::BTreeSet;
use std::time::Duration;

use pgfleet_api::InstanceId;
use pgfleet_harness::wait::wait_until;
use pgfleet_persistence::{Began, ClaimOutcome, Database, DatabaseConfig, DbError, ErrorClass, Release};

use crate::support::{Fleet, Member, cluster, spawn, value};

fn config(url: String) -> DatabaseConfig {
    DatabaseConfig {
        url,
        instance_id: InstanceId::generate(),
        lease: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(2),
        pool_size: 1,
        release: Release::this(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_url_is_not_an_unreachable_database() {
    let Some(cluster) = cluster("an_unusable_url_is_not_an_unreachable_database").await else { return };
    let unusable = Database::connect(config("postgres://u@h/db?nonsense=1".to_owned())).await.unwrap_err();
    assert!(matches!(unusable, DbError::Config { .. }), "{unusable:?}");

    let away = Database::connect(config("postgres://u:s3cret@127.0.0.1:1/db".to_owned())).await.unwrap_err();
    assert!(matches!(away, DbError::Connect { .. }), "{away:?}");
    assert_eq!(away.class(), ErrorClass::Connection);
    assert!(!format!("{away:?} {away}").contains("s3cret"), "{away:?}");

    let url = cluster.url("postgres").replace("postgres@", "nobody@");
    let refused = Database::connect(config(url)).await.unwrap_err();
    assert_eq!((refused.class(), refused.sqlstate()), (ErrorClass::Permission, Some("28000")), "{refused:?}");

    let missing = Database::connect(config(cluster.url("no_such_database"))).await.unwrap_err();
    assert_eq!(missing.sqlstate(), Some("3D000"), "{missing:?}");
}

/// As the machine of an old primary does that stands still: the kernel takes the connection, and nobody answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_keeps_silent_does_not_hide_the_next_one() {
    let Some(cluster) = cluster("a_host_that_keeps_silent_does_not_hide_the_next_one").await else { return };
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let silent = silent.local_addr().unwrap();
    let both = format!("postgres://postgres@{silent},127.0.0.1:{}/postgres?sslmode=disable", cluster.port());
    let url = format!("{both}&target_session_attrs=read-write");
    let patient = DatabaseConfig { connect_timeout: Duration::from_secs(10), ..config(url) };
    let database = Database::connect(patient).await.unwrap();
    // The pool connects in another way.
    assert_eq!(database.compat().await.unwrap(), None);
}

/// As a standby does that is promoted while the old primary stands still: an attempt that has begun finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_refused_is_asked_again_while_another_keeps_silent() {
    let Some(cluster) = cluster("a_host_that_refused_is_asked_again_while_another_keeps_silent").await else { return };
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let silent = silent.local_addr().unwrap();
    let url = format!("postgres://postgres@{silent},127.0.0.1:{}/late?sslmode=disable", cluster.port());
    let later = async {
        let refused =
            || std::fs::read_to_string(cluster.dir().join("log")).unwrap().contains("\"late\" does not exist");
        wait_until("it was refused", Duration::from_secs(10), async || refused()).await;
        cluster.create_database("late").await.unwrap();
    };
    let patient = DatabaseConfig { connect_timeout: Duration::from_secs(30), ..config(url) };
    let (connected, ()) = tokio::join!(Box::pin(Database::connect(patient)), later);
    connected.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_refused_by_a_server_without_it() {
    let Some(cluster) = cluster("tls_is_refused_by_a_server_without_it").await else { return };
    let url = cluster.url("postgres").replace("sslmode=disable", "sslmode=verify-full");
    assert!(matches!(Database::connect(config(url)).await, Err(DbError::Connect { .. })), "it went on without TLS");
    let plain = cluster.url("postgres").replace("?sslmode=disable", "");
    Database::connect(config(plain)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_session_carries_its_settings() {
    let Some(fleet) = Fleet::new("every_session_carries_its_settings").await else { return };
    let member = fleet.member().await;
    let _term = member.lead().await;
    let mut session = member.session();
    session.read().await.unwrap();
    member.db.read_leader().await.unwrap();
    let client = fleet.client().await;
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgfleet/{}'", member.me);
    assert_eq!(value(&client, &sql).await, 2, "the lease session and one of the pool");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_first_boots_at_once_make_one_fleet_and_one_leader() {
    let Some(fleet) = Fleet::empty("many_first_boots_at_once_make_one_fleet_and_one_leader").await else { return };
    let mut boots = Vec::new();
    for _ in 0..12 {
        let url = fleet.url.clone();
        boots.push(spawn(async move {
            let member = Member::connect(&url, Duration::from_secs(5)).await;
            let cluster_id = member.db.bootstrap().await.unwrap();
            let outcome = member.claim(None, Began::First).await.unwrap();
            (cluster_id, matches!(outcome, ClaimOutcome::Won(_)))
        }));
    }
    let (mut ids, mut wins) = (BTreeSet::new(), 0);
    for boot in boots {
        let (cluster_id, won) = boot.await.unwrap();
        ids.insert(cluster_id);
        wins += i32::from(won);
    }
    assert_eq!((ids.len(), wins), (1, 1));
    let member = fleet.member().await;
    assert_eq!(Some(&member.db.bootstrap().await.unwrap()), ids.first(), "a later boot changes nothing");
    assert_eq!(member.db.read_leader().await.unwrap().unwrap().term.get(), 1);
    assert_eq!(member.db.compat().await.unwrap(), None, "before the migrations there is no such row");
}
