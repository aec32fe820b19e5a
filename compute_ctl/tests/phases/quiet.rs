//! No verifier is ever seen.

use serde_json::{Value, json};

use crate::stage::{Stage, failed, quiet_spec, with_settings};
use crate::support::{SCRAM_PW1, setting};

#[tokio::test]
async fn a_verifier_is_seen_nowhere() {
    let Some(stage) = Stage::new().await else { return };
    let md5 = "6e72a8aa7a66f8f4aaad2b4a6f8bd0a3";
    let loud = json!([
        setting("log_statement", "all"),
        setting("log_min_duration_statement", "0"),
        setting("log_min_messages", "debug2"),
        setting("log_min_error_statement", "debug1"),
        setting("log_duration", "on"),
        setting("debug_print_parse", "on"),
        setting("debug_print_plan", "on"),
        setting("debug_print_rewritten", "on"),
        setting("log_lock_waits", "on"),
        setting("deadlock_timeout", "50ms"),
        setting("log_parser_stats", "on"),
        setting("log_error_verbosity", "verbose"),
        setting("shared_preload_libraries", "pg_stat_statements,auto_explain"),
        setting("auto_explain.log_min_duration", "0"),
        setting("auto_explain.log_nested_statements", "on"),
        setting("pg_stat_statements.track", "all"),
        setting("pg_stat_statements.track_utility", "on")
    ]);
    let spec = |roles: Value| with_settings(&quiet_spec(roles, json!([]), Value::Null), loud.clone());
    let role = |name: &str, password: Value| json!({"name": name, "encrypted_password": password});
    stage.applies(&spec(json!([role("a", json!(SCRAM_PW1)), role("b", json!(md5)), role("c", Value::Null)]))).await;
    // What would be louder still, and is overridden.
    stage.run("postgres", "ALTER DATABASE postgres SET log_statement = 'all'; ALTER ROLE cloud_admin SET log_statement = 'all'; \
        ALTER ROLE cloud_admin SET track_activities = on; ALTER ROLE cloud_admin SET log_min_error_statement = 'debug5'").await;

    // One is refused and quotes what stands near the error; one waits for a lock and is given up.
    let near = json!({"name": "near", "encrypted_password": SCRAM_PW1, "options": [{"name": "IN ROLE IN ROLE", "vartype": "x"}]});
    let also = json!({"name": "also", "encrypted_password": md5, "options": [
        {"name": "VALID UNTIL", "value": "no time", "vartype": "string"}]});
    let reserved = role("pg_x", json!(SCRAM_PW1));
    let wanted = spec(json!([role("c", json!(SCRAM_PW1)), reserved, near, also, role("b", json!(SCRAM_PW1))]));
    let admin = stage.admin("postgres").await;
    admin.run("BEGIN; ALTER ROLE c CONNECTION LIMIT 3").await;
    let (failures, activity) = tokio::join!(stage.fails(&wanted), async {
        stage.blocked().await;
        stage
            .ask("postgres", "SELECT string_agg(concat_ws(' ', query, application_name), '; ') FROM pg_stat_activity")
            .await
    });
    let expected = [("roles c", "55P03"), ("roles pg_x", "42939"), ("roles near", "42601"), ("roles also", "22007")];
    assert_eq!(failures, failed(&expected));
    admin.run("ROLLBACK").await;
    stage.applies(&spec(json!([role("a", json!(md5)), role("b", Value::Null), role("c", json!(SCRAM_PW1))]))).await;

    let statements = admin.ask("SELECT string_agg(query, '; ') FROM pg_stat_statements").await;
    assert!(statements.contains("FROM pg_subscription") || statements.contains("pg_stat_activity"), "{statements}");
    let postgres = stage.compute.postgres_log();
    assert!(postgres.contains("ALTER ROLE c CONNECTION LIMIT 3"), "the log was not loud");
    let status = stage.compute.status().await.to_string();
    let metrics = stage.compute.get("/metrics").await.1.to_string();
    let seen = [
        ("PostgreSQL's log", postgres),
        ("the agent's log", stage.compute.agent_log()),
        ("status", status),
        ("metrics", metrics),
        ("pg_stat_statements", statements),
        ("pg_stat_activity", activity),
    ];
    for (what, text) in seen {
        for part in ["SCRAM-SHA-256$", "pzBAVl7hCY10", md5] {
            let at = text.find(part).map(|at| &text[at.saturating_sub(300)..(at + 60).min(text.len())]);
            assert_eq!(at, None, "a verifier is seen in {what}");
        }
    }
}
