//! Phases of databases.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::stage::{Stage, database, delta, failed, quiet_spec, role, with_settings};
use crate::support::setting;

fn logical(spec: &Value) -> Value {
    with_settings(spec, json!([setting("wal_level", "logical"), setting("max_prepared_transactions", "5")]))
}

#[tokio::test]
async fn pre_drop() {
    let Some(stage) = Stage::new().await else { return };
    let roles = json!([role("a")]);
    let made = json!([database("doomed", "a"), database("shut", "a")]);
    stage.applies(&logical(&quiet_spec(roles.clone(), made, Value::Null))).await;
    for database in ["doomed", "shut"] {
        let sql = "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1 dbname=x' PUBLICATION p \
                   WITH (connect = false, slot_name = 'far'); ALTER SUBSCRIPTION s ENABLE";
        stage.run(database, sql).await;
    }
    stage.run("doomed", "SELECT pg_create_logical_replication_slot('slot', 'test_decoding')").await;
    // Somebody reads from the slot, and PostgreSQL drops no database with a slot in use.
    let mut reader = Command::new(stage.program_beside("pg_recvlogical"))
        .arg("-h")
        .arg(stage.compute.dir.0.join("d.pgfleet/s"))
        .args(["-p", &stage.compute.pgport.to_string(), "-U", "cloud_admin", "-d", "doomed"])
        .args(["-S", "slot", "--start", "-n", "-f", "/dev/null"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while stage.ask("postgres", "SELECT active FROM pg_replication_slots").await != "t" {
        assert!(Instant::now() < deadline, "nobody reads from the slot");
    }
    stage.run("postgres", "ALTER DATABASE shut ALLOW_CONNECTIONS false").await;
    let deltas = json!([delta("delete_db", "shut", None), delta("delete_db", "doomed", None)]);
    let spec = logical(&quiet_spec(roles, json!([]), deltas));
    // Half-way: nobody comes into one of them, so its subscription stays and keeps it.
    let failures = stage.fails(&spec).await;
    let _ = reader.kill();
    let _ = reader.wait();
    assert_eq!(failures, failed(&[("rename_and_delete_databases shut", "55006")]));
    stage.run("postgres", "ALTER DATABASE shut ALLOW_CONNECTIONS true").await;
    stage.applies(&spec).await;
    stage.is_done(&spec).await;
    assert_eq!(stage.ask("postgres", "SELECT count(*) FROM pg_database").await, "3");
}

#[tokio::test]
async fn drop_invalid_databases() {
    let Some(stage) = Stage::new().await else { return };
    let spec = quiet_spec(json!([role("a")]), json!([database("d", "a"), database("e", "a")]), Value::Null);
    stage.applies(&spec).await;
    stage.run("d", "CREATE TABLE t ()").await;
    let invalid = "UPDATE pg_database SET datconnlimit = -2 WHERE datname IN ('d', 'e')";
    stage.run("postgres", &format!("{invalid}; UPDATE pg_database SET datistemplate = true WHERE datname = 'e'")).await;
    let failures = stage.fails(&spec).await;
    assert_eq!(failures, failed(&[("drop_invalid_databases e", "42809"), ("databases e", "42P04")]));
    stage.run("postgres", "UPDATE pg_database SET datistemplate = false WHERE datname = 'e'").await;
    stage.applies(&spec).await;
    stage.is_done(&spec).await;
    assert_eq!(stage.ask("d", "SELECT to_regclass('public.t')").await, "", "it was not made again");
    assert_eq!(stage.ask("e", "SELECT count(*) FROM pg_database WHERE datconnlimit = -2").await, "0");
}

#[tokio::test]
async fn rename_and_delete_databases() {
    let Some(stage) = Stage::new().await else { return };
    let roles = json!([role("a")]);
    let old = json!([database("old", "a"), database("stuck", "a"), database("gone", "a"), database("x", "a")]);
    stage.applies(&logical(&quiet_spec(roles.clone(), old, Value::Null))).await;
    stage.run("postgres", "ALTER DATABASE gone IS_TEMPLATE true").await;
    stage.run("stuck", "BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'p'").await;
    let (in_old, in_gone) = (stage.admin("old").await, stage.admin("gone").await);
    let deltas = json!([
        delta("rename_db", "old", Some("new")),
        delta("delete_db", "gone", None),
        delta("delete_db", "stuck", None),
        delta("delete_db", "postgres", None),
        delta("delete_db", "absent", None),
        delta("rename_db", "nowhere", Some("other"))
    ]);
    let both = json!([delta("rename_db", "x", Some("new"))]);
    let new = json!([database("new", "a")]);
    let spec = |deltas: &Value| logical(&quiet_spec(roles.clone(), new.clone(), deltas.clone()));
    // Half-way: a prepared transaction keeps a database, and the agent's own is never dropped.
    let expected = [("rename_and_delete_databases stuck", "55006"), ("rename_and_delete_databases postgres", "42939")];
    assert_eq!(stage.fails(&spec(&deltas)).await, failed(&expected));
    assert!(
        in_old.client.simple_query("SELECT 1").await.is_err() && in_gone.client.simple_query("SELECT 1").await.is_err()
    );
    stage.run("stuck", "ROLLBACK PREPARED 'p'").await;
    let mut deltas = deltas;
    deltas.as_array_mut().unwrap().remove(3);
    stage.applies(&spec(&deltas)).await;
    stage.is_done(&spec(&deltas)).await;
    // Where the new name is taken, nobody is thrown out.
    let in_x = stage.admin("x").await;
    assert_eq!(stage.fails(&spec(&both)).await, failed(&[("rename_and_delete_databases x", "42P04")]));
    assert_eq!(in_x.ask("SELECT 1").await, "1");
    let names = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database";
    assert_eq!(stage.ask("postgres", names).await, "new postgres template0 template1 x");
}

#[tokio::test]
async fn databases_are_made_given_away_and_granted() {
    let Some(stage) = Stage::new().await else { return };
    let roles = json!([role("a"), role("b")]);
    let options = json!([
        {"name": "TEMPLATE", "value": "template0", "vartype": "enum"}, {"name": "LC_COLLATE", "value": "C", "vartype": "string"},
        {"name": "CONNECTION LIMIT", "value": "9", "vartype": "integer"}]);
    let copy = json!([{"name": "template", "value": "d", "vartype": "string"}]);
    let made = |owner: &str| {
        json!([{"name": "copy", "owner": "a", "options": copy}, {"name": "d", "owner": owner, "options": options},
            database("lost", "nobody"), database("e", "b")])
    };
    // Half-way: one has no owner.
    let lost = failed(&[("databases lost", "42704")]);
    assert_eq!(stage.fails(&quiet_spec(roles.clone(), made("a"), Value::Null)).await, lost);
    let mut spec = quiet_spec(roles.clone(), made("b"), Value::Null);
    spec["reconfigure_concurrency"] = json!(3);
    assert_eq!(stage.fails(&spec).await, lost);
    spec["cluster"]["databases"][2]["owner"] = json!("b");
    stage.applies(&spec).await;
    stage.is_done(&spec).await;
    let facts = "SELECT concat_ws(' ', pg_get_userbyid(datdba), datcollate, datconnlimit, \
                 (SELECT count(*) FROM aclexplode(datacl) WHERE grantee = 'neon_superuser'::regrole), \
                 (SELECT count(*) FROM pg_default_acl)) FROM pg_database WHERE datname = current_database()";
    assert_eq!(stage.ask("d", facts).await, "b C 9 3 2");
    assert!(stage.ask("e", facts).await.ends_with("-1 3 2"));
    assert!(stage.ask("copy", facts).await.starts_with("a C -1 3"));
    // What the privileged role lost, it gets back, inside and outside.
    stage.run("d", "DROP OWNED BY neon_superuser; ALTER SCHEMA public OWNER TO cloud_admin").await;
    stage.applies(&spec).await;
    stage.is_done(&spec).await;
    assert_eq!(stage.ask("d", facts).await, "b C 9 3 2");
    assert_eq!(stage.ask("d", "SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'public'").await, "b");
    stage.run("d", "CREATE TABLE public.t (x int)").await;
    assert_eq!(stage.ask("d", "SELECT has_table_privilege('a', 'public.t', 'SELECT WITH GRANT OPTION')").await, "t");
}
