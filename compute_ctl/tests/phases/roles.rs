//! Phases of roles.

use serde_json::{Value, json};

use crate::stage::{Stage, database, delta, failed, quiet_spec, role};
use crate::support::SCRAM_PW1;

#[tokio::test]
async fn privileged_role() {
    let Some(stage) = Stage::new().await else { return };
    let bare = quiet_spec(json!([]), json!([]), Value::Null);
    stage.applies(&bare).await;
    let attributes = "SELECT concat_ws(' ', rolcanlogin, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolsuper, \
        pg_has_role(oid, 'pg_read_all_data', 'USAGE'), pg_has_role(oid, 'pg_write_all_data', 'USAGE')) \
        FROM pg_authid WHERE rolname = 'neon_superuser'";
    assert_eq!(stage.ask("postgres", attributes).await, "f t t t t f t t");
    stage.is_done(&bare).await;

    // A session is ended while it waits: what is left is done in another one.
    let spec = quiet_spec(json!([role("a")]), json!([database("d", "a")]), Value::Null);
    stage.applies(&spec).await;
    stage.run("postgres", "DROP DATABASE d").await;
    stage.run("template1", "DROP OWNED BY neon_superuser").await;
    let admin = stage.admin("postgres").await;
    admin.run("BEGIN; LOCK TABLE pg_catalog.pg_shdepend IN SHARE MODE").await;
    let (answer, ()) = tokio::join!(stage.apply(&spec), async {
        let pid = stage.blocked().await;
        admin.run(&format!("SELECT pg_terminate_backend({pid}, 5000)")).await;
        admin.run("COMMIT").await;
    });
    assert_eq!(answer.0, 200, "{}", answer.1);
    assert!(stage.compute.agent_log().contains("the session was lost"), "{}", stage.compute.agent_log());
    stage.is_done(&spec).await;
    let inherited = "SELECT count(*) FROM pg_default_acl";
    assert_eq!(stage.ask("d", inherited).await, "2", "a new database lacks what its template has");
}

#[tokio::test]
async fn roles_are_made_altered_and_left_alone() {
    let Some(stage) = Stage::new().await else { return };
    let md5 = "6e72a8aa7a66f8f4aaad2b4a6f8bd0a3";
    let options = json!([
        {"name": "CONNECTION LIMIT", "value": "5", "vartype": "integer"}, {"name": "NOREPLICATION", "vartype": "bool"},
        {"name": "VALID UNTIL", "value": "2036-01-02 03:04:05+01", "vartype": "string"}]);
    let roles = json!([role("a"), {"name": "b", "encrypted_password": md5, "options": options}, {"name": "c"},
        {"name": "d", "options": [{"name": "IN ROLE", "value": "b", "vartype": "enum"}]}]);
    let spec = quiet_spec(roles, json!([]), Value::Null);
    stage.applies(&spec).await;
    let attributes = |name: &str| {
        format!(
            "SELECT concat_ws(' ', rolcanlogin, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolinherit, \
             rolconnlimit, extract(epoch FROM rolvaliduntil)::bigint, coalesce(rolpassword, 'null'), \
             pg_has_role(oid, 'neon_superuser', 'MEMBER'), pg_has_role(oid, 'b', 'MEMBER')) \
             FROM pg_authid WHERE rolname = '{name}'"
        )
    };
    let admin = stage.admin("postgres").await;
    assert_eq!(admin.ask(&attributes("a")).await, format!("t t t t t t -1 {SCRAM_PW1} t f"));
    assert_eq!(admin.ask(&attributes("b")).await, format!("t t t f t t 5 2082852245 md5{md5} t t"));
    assert_eq!(admin.ask(&attributes("c")).await, "t t t t t t -1 null t f");
    assert_eq!(admin.ask(&attributes("d")).await, "t t t t t t -1 null t t");
    stage.is_done(&spec).await;

    // Drift is put right, what the spec is silent about stays, and one bad object stops no other.
    admin.run("ALTER ROLE a PASSWORD NULL NOLOGIN; ALTER ROLE b CONNECTION LIMIT 7; ALTER ROLE c NOCREATEDB; REVOKE b FROM d").await;
    let mut bad = spec.clone();
    bad["cluster"]["roles"].as_array_mut().unwrap().insert(0, json!({"name": "pg_x"}));
    bad["cluster"]["roles"].as_array_mut().unwrap().push(json!({"name": "e", "options": [
        {"name": "IN ROLE", "value": "nobody", "vartype": "enum"}]}));
    assert_eq!(stage.fails(&bad).await, failed(&[("roles pg_x", "42939"), ("roles e", "42704")]));
    stage.applies(&spec).await;
    stage.is_done(&spec).await;
    assert_eq!(admin.ask(&attributes("a")).await, format!("t t t t t t -1 {SCRAM_PW1} t f"));
    assert_eq!(admin.ask(&attributes("b")).await, format!("t t t f t t 5 2082852245 md5{md5} t t"));
    assert_eq!(admin.ask(&attributes("c")).await, "t f t t t t -1 null t f");
    assert_eq!(admin.ask(&attributes("d")).await, "t t t t t t -1 null t t");
}

#[tokio::test]
async fn rename_roles() {
    let Some(stage) = Stage::new().await else { return };
    let md5 = json!("6e72a8aa7a66f8f4aaad2b4a6f8bd0a3");
    let old = json!([{"name": "old", "encrypted_password": md5}, role("x"), role("y")]);
    stage.applies(&quiet_spec(old, json!([database("d", "old")]), Value::Null)).await;
    let new = json!([{"name": "new", "encrypted_password": md5}, role("y")]);
    let deltas = |more: &[Value]| {
        let renames = [delta("rename_role", "old", Some("new")), delta("rename_role", "absent", Some("other"))];
        json!(renames.iter().chain(more).collect::<Vec<_>>())
    };
    // Half-way: the new name of another one is taken.
    let both = quiet_spec(new.clone(), json!([database("d", "new")]), deltas(&[delta("rename_role", "x", Some("y"))]));
    assert_eq!(stage.fails(&both).await, failed(&[("rename_roles x", "42710")]));
    let spec = quiet_spec(new, json!([database("d", "new")]), deltas(&[]));
    stage.applies(&spec).await;
    stage.is_done(&spec).await;
    let owner = "SELECT pg_get_userbyid(datdba) || ' ' || (SELECT rolpassword FROM pg_authid WHERE oid = datdba) \
                 FROM pg_database WHERE datname = 'd'";
    assert_eq!(stage.ask("postgres", owner).await, format!("new md5{}", md5.as_str().unwrap()));
}

#[tokio::test]
async fn a_deleted_role_leaves_its_things_to_the_owners() {
    let Some(stage) = Stage::new().await else { return };
    let roles = json!([role("a"), role("b"), role("gone"), role("giver")]);
    let databases = json!([database("d", "a"), database("e", "b"), database("his", "gone"), database("shut", "b")]);
    stage.applies(&quiet_spec(roles, databases, Value::Null)).await;
    for database in ["d", "e", "his", "shut"] {
        let sql = "SET ROLE gone; CREATE SCHEMA s; CREATE TABLE s.t (x int); CREATE FUNCTION s.f() RETURNS int LANGUAGE sql \
                   AS 'SELECT 1'; RESET ROLE; CREATE TABLE public.given (x int); \
                   GRANT ALL ON public.given TO giver WITH GRANT OPTION; GRANT ALL ON SCHEMA public TO giver; \
                   SET ROLE giver; GRANT SELECT ON public.given TO gone; RESET ROLE; \
                   ALTER DEFAULT PRIVILEGES FOR ROLE gone GRANT SELECT ON TABLES TO a";
        stage.run(database, sql).await;
    }
    stage.run("postgres", "ALTER DATABASE shut ALLOW_CONNECTIONS false; GRANT ALL ON DATABASE postgres TO gone").await;
    // In one database somebody forbids it, another takes no connections: the rest is done.
    let objection = "CREATE FUNCTION public.no() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'; \
                     CREATE EVENT TRIGGER no ON ddl_command_start WHEN TAG IN ('DROP OWNED') EXECUTE FUNCTION public.no()";
    stage.run("e", objection).await;
    let roles = json!([role("a"), role("b"), role("giver")]);
    let databases = json!([database("d", "a"), database("e", "b"), database("shut", "b")]);
    let deltas = json!([delta("delete_role", "gone", None), delta("delete_role", "absent", None)]);
    let spec = quiet_spec(roles, databases, deltas);
    assert_eq!(stage.fails(&spec).await, failed(&[("drop_roles gone", "2BP01"), ("in_databases gone", "P0001")]));
    stage.run("e", "DROP EVENT TRIGGER no").await;
    assert_eq!(stage.fails(&spec).await, failed(&[("drop_roles gone", "2BP01")]));
    stage.run("postgres", "ALTER DATABASE shut ALLOW_CONNECTIONS true").await;
    stage.applies(&spec).await;
    stage.is_done(&spec).await;
    let owners = "SELECT concat_ws(' ', pg_get_userbyid(c.relowner), pg_get_userbyid(n.nspowner), \
                  (SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database())) \
                  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = 's.t'::regclass";
    for (database, owners_are) in [("d", "a a a"), ("e", "b b b"), ("shut", "b b b")] {
        assert_eq!(stage.ask(database, owners).await, owners_are, "{database}");
    }
    assert_eq!(stage.ask("his", owners).await, "cloud_admin cloud_admin cloud_admin");
}
