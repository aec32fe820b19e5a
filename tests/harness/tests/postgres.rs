//! The test server itself: it starts, survives what tests do to it, and leaves nothing behind.

use pgfleet_harness::postgres::{Cluster, Options, StopMode, bin_dir_or_skip};

#[tokio::test]
async fn a_cluster_lives_stops_restarts_and_leaves_nothing() {
    if bin_dir_or_skip("a_cluster_lives_stops_restarts_and_leaves_nothing").is_none() {
        return;
    }
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.create_database("template").await.unwrap();
    let client = cluster.connect("template").await.unwrap();
    client.batch_execute("CREATE TABLE t (x int); INSERT INTO t VALUES (7)").await.unwrap();
    drop(client);
    let url = cluster.database_from_template("template").await.unwrap();
    let other = cluster.database_from_template("template").await.unwrap();
    assert_ne!(url, other);

    cluster.restart(StopMode::Fast).await.unwrap();
    cluster.restart(StopMode::Immediate).await.unwrap();
    cluster.kill().await.unwrap();
    cluster.start_again().await.unwrap();

    let client = pgfleet_harness::postgres::connect(&url).await.unwrap();
    let row = client.query_one("SELECT x FROM t", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 7);

    let (dir, pid) = (cluster.dir().to_path_buf(), cluster.server_pid().unwrap());
    drop(cluster);
    assert!(!dir.exists(), "{} is left", dir.display());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left");
}
