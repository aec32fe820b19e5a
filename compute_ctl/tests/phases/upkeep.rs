//! Phases of what the agent keeps in its own database.

use serde_json::{Value, json};

use crate::stage::{Stage, database, failed, quiet_spec, role, with_settings};
use crate::support::setting;

#[tokio::test]
async fn extensions_and_availability_check() {
    let Some(stage) = Stage::new().await else { return };
    let bare = quiet_spec(json!([]), json!([]), Value::Null);
    stage.applies(&bare).await;
    assert_eq!(stage.ask("postgres", "SELECT count(*) FROM pg_extension").await, "1");
    assert_eq!(stage.ask("postgres", "SELECT string_agg(id::text, ',') FROM public.health_check").await, "1");
    // Half-way: both names are taken.
    stage
        .run(
            "postgres",
            "DROP TABLE public.health_check; CREATE TYPE public.health_check AS ENUM ('x'); \
        CREATE TYPE public.pg_stat_statements AS ENUM ('x')",
        )
        .await;
    let spec = with_settings(&bare, json!([setting("shared_preload_libraries", "pg_stat_statements")]));
    let expected = [("availability_check public.health_check", "42710"), ("extensions pg_stat_statements", "42710")];
    let failures = stage.fails(&spec).await;
    assert_eq!(failures.keys().collect::<Vec<_>>(), failed(&expected).keys().collect::<Vec<_>>(), "{failures:?}");
    stage.run("postgres", "DROP TYPE public.health_check, public.pg_stat_statements").await;
    stage.applies(&spec).await;
    stage.is_done(&spec).await;
    assert_eq!(stage.ask("postgres", "SELECT string_agg(id::text, ',') FROM public.health_check").await, "1");
    assert_eq!(stage.ask("postgres", "SELECT to_regclass('public.pg_stat_statements') IS NOT NULL").await, "t");
}

#[tokio::test]
async fn subscriptions_are_dropped_once() {
    let Some(stage) = Stage::new().await else { return };
    let mut spec = quiet_spec(json!([role("a")]), json!([database("d", "a"), database("e", "a")]), Value::Null);
    stage.applies(&spec).await;
    let subscribe = "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1 dbname=x' PUBLICATION p \
                     WITH (connect = false, slot_name = 'far')";
    for database in ["d", "e"] {
        stage.run(database, &subscribe.replace(" s ", &format!(" \"s {database}\" "))).await;
    }
    stage.run("e", "CREATE FUNCTION public.no() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'; \
        CREATE EVENT TRIGGER no ON ddl_command_start WHEN TAG IN ('DROP SUBSCRIPTION') EXECUTE FUNCTION public.no()").await;
    spec["drop_subscriptions_before_start"] = json!(true);
    assert_eq!(stage.fails(&spec).await, failed(&[("in_databases e", "P0001")]));
    let left = "SELECT string_agg(subname, ',') FROM pg_subscription";
    assert_eq!(stage.ask("postgres", left).await, "s e");
    stage.run("e", "DROP EVENT TRIGGER no").await;
    stage.applies(&spec).await;
    assert_eq!(stage.ask("postgres", left).await, "");
    stage.is_done(&spec).await;
    stage.run("d", subscribe).await;
    stage.is_done(&spec).await;
    assert_eq!(stage.ask("postgres", left).await, "s", "a subscription made afterwards was dropped");
    stage.run("d", "ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s").await;
}

#[tokio::test]
async fn migrations_go_on_where_they_stopped() {
    let Some(stage) = Stage::new().await else { return };
    let spec = quiet_spec(json!([role("a")]), json!([]), Value::Null);
    stage.applies(&spec).await;
    let number = "SELECT id FROM pgfleet.migration_id";
    assert_eq!(stage.ask("postgres", number).await, "5");
    stage.is_done(&spec).await;
    stage
        .run(
            "postgres",
            "UPDATE pgfleet.migration_id SET id = 1; ALTER TABLE pgfleet.migration_id ADD CHECK (id < 4); \
        ALTER ROLE a NOINHERIT; REVOKE pg_monitor, pg_signal_backend FROM neon_superuser",
        )
        .await;
    // It stops at the first that fails, and the spec is not to blame.
    let (code, body) = stage.apply(&spec).await;
    assert_eq!(code, 200, "{body}");
    assert_eq!(stage.ask("postgres", number).await, "3");
    let (_, page) = stage.compute.get("/metrics").await;
    let counted = "compute_ctl_db_migration_failed_total{migration_id=\"replication_origin_status\"} 1";
    assert!(page.as_str().unwrap().contains(counted), "{page}");
    let roles = "SELECT concat_ws(' ', rolinherit, pg_has_role('neon_superuser', 'pg_monitor', 'MEMBER WITH ADMIN OPTION'), \
                 pg_has_role('neon_superuser', 'pg_signal_backend', 'MEMBER')) FROM pg_roles WHERE rolname = 'a'";
    assert_eq!(stage.ask("postgres", roles).await, "t t f");
    stage.run("postgres", "ALTER TABLE pgfleet.migration_id DROP CONSTRAINT migration_id_id_check").await;
    stage.applies(&spec).await;
    stage.is_done(&spec).await;
    assert_eq!((stage.ask("postgres", number).await, stage.ask("postgres", roles).await), ("5".into(), "t t t".into()));
}

#[tokio::test]
async fn nothing_of_it_where_the_catalog_is_not_ours() {
    let Some(stage) = Stage::new().await else { return };
    let mut spec = quiet_spec(json!([role("a")]), json!([database("d", "a")]), Value::Null);
    spec["skip_pg_catalog_updates"] = json!(true);
    stage.applies(&spec).await;
    stage.is_done(&spec).await;
    let found = "SELECT concat_ws(' ', to_regrole('a'), to_regrole('neon_superuser'), to_regnamespace('pgfleet'), \
                 to_regclass('public.health_check'), (SELECT count(*) FROM pg_database))";
    assert_eq!(stage.ask("postgres", found).await, "3");
}
