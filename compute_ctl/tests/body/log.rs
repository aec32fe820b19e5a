//! PostgreSQL's log, said again.

use serde_json::json;

use crate::support::{Compute, postgres_program, setting, spec};

#[tokio::test]
async fn the_log_is_said_again_without_secrets_and_stays_short() {
    let Some(program) = postgres_program() else { return };
    let mut compute = Compute::start(program, &["--pg-log-max-mb", "1"]).await;
    let wanted = spec(json!([]), json!([]), json!([setting("log_statement", "all")]));
    assert_eq!(compute.post("/spec", wanted.to_string()).await.0, 200);
    compute.wait_for("PostgreSQL's first words", async || compute.agent_log().contains(" INFO postgres: PG: ")).await;

    // What a user types.
    compute.admin("CREATE ROLE typed LOGIN PASSWORD 'pl''ain secret'").await.unwrap();
    compute.admin("ALTER ROLE typed\n  PASSWORD\n  'second secret'").await.unwrap();
    assert!(compute.admin("ALTER ROLE nobody PASSWORD 'third secret'").await.is_err());
    compute
        .wait_for("the failed statement", async || compute.agent_log().contains("role \"nobody\" does not exist"))
        .await;
    compute.wait_for("its text", async || compute.agent_log().contains("STATEMENT:  ALTER ROLE nobody")).await;
    assert!(compute.agent_log().contains("WARN postgres: PG: "), "an ERROR is no warning");
    assert!(compute.agent_log().contains("LOGIN PASSWORD '[redacted]'"));
    assert!(!compute.agent_log().contains("secret"));
    assert!(compute.postgres_log().contains("third secret"), "the test logs nothing");

    // More than anybody reads: it is bounded, and said so by a counter; the file is cut and goes on.
    let flood = "DO $$ BEGIN FOR i IN 1..4000 LOOP RAISE LOG 'flood % %', i, repeat('x', 500); END LOOP; END $$";
    compute.admin(flood).await.unwrap();
    let left_out = async || compute.metric("compute_ctl_postgres_log_left_out_total").await > 0.0;
    compute.wait_for("left out", left_out).await;
    let log = compute.dir.0.join("d.pgfleet/postgres.log");
    let length = || std::fs::metadata(&log).unwrap().len();
    compute.wait_for("cut", async || length() < 1024 * 1024).await;
    assert!(std::fs::metadata(compute.dir.0.join("d.pgfleet/postgres.log.1")).unwrap().len() >= 1024 * 1024);
    compute.admin("DO $$ BEGIN RAISE LOG 'after the cut'; END $$").await.unwrap();
    compute.wait_for("on after the cut", async || compute.agent_log().contains("LOG:  after the cut")).await;

    // Its last words are heard.
    compute.signal_agent("TERM");
    compute.agent_ended().await;
    assert!(compute.agent_log().contains("LOG:  database system is shut down"));
}
