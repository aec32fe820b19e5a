//! Extensions, grants, and whether PostgreSQL takes writes.

use reqwest::Method;
use serde_json::{Value, json};

use super::{internal, running, superuser};
use crate::support::{Compute, postgres_program};

async fn post(compute: &Compute, path: &str, body: Value) -> (u16, Value) {
    internal(compute, Method::POST, path, body).await
}

/// The next transaction that writes: what changes nothing does not move it.
async fn next_writer(client: &tokio_postgres::Client) -> String {
    let question = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
    client.query_one(question, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn extensions() {
    let Some(program) = postgres_program() else { return };
    let compute = running(program, &[]).await;
    let ask = |database: &str, extension: &str, version: Value| {
        post(&compute, "/extensions", json!({"database": database, "extension": extension, "version": version}))
    };
    let in_orders = superuser(&compute, "orders").await;
    let version = "SELECT extversion || ' in ' || extnamespace::regnamespace FROM pg_extension WHERE extname = $1";

    let (code, said) = ask("orders", "pg_stat_statements", json!("1.8")).await;
    assert_eq!((code, &said), (201, &json!({"extension": "pg_stat_statements", "version": "1.8"})));
    let found: String = in_orders.query_one(version, &[&"pg_stat_statements"]).await.unwrap().get(0);
    assert_eq!(found, "1.8 in public");
    let (code, said) = ask("orders", "pg_stat_statements", json!("1.10")).await;
    assert_eq!((code, &said["version"]), (201, &json!("1.10")), "updated: {said}");

    let before = next_writer(&in_orders).await;
    assert_eq!(ask("orders", "pg_stat_statements", json!("1.10")).await.0, 201);
    assert_eq!(ask("orders", "pg_stat_statements", Value::Null).await.1["version"], "1.10");
    assert_eq!(next_writer(&in_orders).await, before, "a repeated request writes");

    // One whose control file says where it lies.
    assert_eq!(ask("orders", "adminpack", Value::Null).await.0, 201);

    let rows = [
        ("orders", "no such\"thing", json!("1"), 404, "unknown_object"),
        ("nowhere", "pg_stat_statements", json!("1.10"), 404, "unknown_object"),
        ("postgres", "adminpack", json!("9.9'\\"), 422, "invalid_body"),
        ("orders", "pg_stat_statements", json!("9.9"), 422, "refused"),
        ("template0", "pg_stat_statements", json!("1.10"), 422, "refused"),
    ];
    for (database, extension, version, code, name) in rows {
        let (got, said) = ask(database, extension, version).await;
        assert_eq!((got, &said["code"]), (code, &json!(name)), "{database} {extension}: {said}");
    }
    assert_eq!(post(&compute, "/extensions", json!({"database": "orders"})).await.0, 422);
}

/// A schema and a role whose names want quotes.
const SCHEMA: &str = r#"s "x" %I $1"#;
const ROLE: &str = "r \"y\"";

/// A compute whose database has one object of each kind in that schema.
async fn with_objects(program: std::path::PathBuf) -> (Compute, tokio_postgres::Client) {
    let compute = running(program, &[]).await;
    let orders = superuser(&compute, "orders").await;
    let schema = r#""s ""x"" %I $1""#;
    let objects = format!(
        "CREATE ROLE \"r \"\"y\"\"\" LOGIN; CREATE SCHEMA {schema}; CREATE TABLE {schema}.t (a int); \
         CREATE TABLE {schema}.u (a int); CREATE SEQUENCE {schema}.n; \
         CREATE FUNCTION {schema}.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; \
         REVOKE EXECUTE ON FUNCTION {schema}.f() FROM PUBLIC"
    );
    orders.batch_execute(&objects).await.unwrap();
    (compute, orders)
}

fn grant(privileges: Value, object: Value) -> Value {
    let mut body = json!({"database": "orders", "schema": SCHEMA, "privileges": privileges, "role": ROLE});
    if !object.is_null() {
        body["object"] = object;
    }
    body
}

#[tokio::test]
async fn grants() {
    let Some(program) = postgres_program() else { return };
    let (compute, orders) = with_objects(program).await;
    let may = async |question: &str| -> bool { orders.query_one(question, &[&ROLE, &SCHEMA]).await.unwrap().get(0) };
    let has = |kind: &str, relation: &str, privilege: &str| {
        format!(
            "SELECT has_{kind}_privilege($1, c.oid, '{privilege}') FROM pg_class c \
             JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = $2 AND relname = '{relation}'"
        )
    };
    let function = "SELECT has_function_privilege($1, p.oid, 'EXECUTE') FROM pg_proc p \
                    JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = $2";
    let database = "SELECT has_database_privilege($1, 'orders', 'CREATE') AND $2::text <> ''";
    let schema = "SELECT has_schema_privilege($1, $2, 'USAGE') AND has_schema_privilege($1, $2, 'CREATE')";
    // What is asked for, and a question that is true only afterwards.
    let rows = [
        (json!(["USAGE", "CREATE"]), Value::Null, schema.to_owned()),
        (json!(["SELECT"]), json!({"type": "table", "name": "t"}), has("table", "t", "SELECT")),
        (json!(["SELECT", "INSERT"]), json!({"type": "all_tables"}), has("table", "u", "INSERT")),
        (json!(["USAGE"]), json!({"type": "sequence", "name": "n"}), has("sequence", "n", "USAGE")),
        (json!(["SELECT"]), json!({"type": "all_sequences"}), has("sequence", "n", "SELECT")),
        (json!(["EXECUTE"]), json!({"type": "all_functions"}), function.to_owned()),
        (json!(["CREATE"]), json!({"type": "database"}), database.to_owned()),
    ];
    for (privileges, object, question) in rows {
        assert!(!may(&question).await, "{question}");
        let body = grant(privileges, object);
        let (code, said) = post(&compute, "/grants", body.clone()).await;
        assert_eq!((code, &said), (201, &body));
        assert!(may(&question).await, "{question}");
        let before = next_writer(&orders).await;
        assert_eq!(post(&compute, "/grants", body.clone()).await.0, 201);
        assert_eq!(next_writer(&orders).await, before, "a repeated grant writes: {body}");
        if body["object"]["type"] == "table" {
            assert!(!may(&has("table", "u", "SELECT")).await, "only the one that was named");
        }
    }
}

#[tokio::test]
async fn grants_that_are_refused() {
    let Some(program) = postgres_program() else { return };
    let (compute, orders) = with_objects(program).await;
    let usage = |database: &str, schema: &str, role: &str| json!({"database": database, "schema": schema, "privileges": ["USAGE"], "role": role});
    let mut more = usage("orders", SCHEMA, ROLE);
    more["mode"] = json!(1);
    let no_schema = json!({"database": "orders", "privileges": ["USAGE"], "role": ROLE});
    let invalid = |body, path: &'static str| (body, 422, "invalid_body", Some(path));
    let unknown = |body| (body, 404, "unknown_object", None);
    let rows = [
        invalid(grant(json!(["SELECT"]), Value::Null), "privileges"),
        invalid(grant(json!([]), Value::Null), "privileges"),
        invalid(grant(json!(["usage"]), Value::Null), "privileges[0]"),
        invalid(grant(json!(["EXECUTE"]), json!({"type": "table", "name": "t"})), "privileges"),
        invalid(grant(json!(["SELECT"]), json!({"type": "cast"})), "object.type"),
        invalid(no_schema, "schema"),
        invalid(more, "mode"),
        unknown(grant(json!(["SELECT"]), json!({"type": "table", "name": "n"}))),
        unknown(usage("orders", "nope", ROLE)),
        unknown(usage("orders", SCHEMA, "public")),
        unknown(usage("nope", SCHEMA, ROLE)),
    ];
    let before = next_writer(&orders).await;
    for (body, code, name, path) in rows {
        let (got, said) = post(&compute, "/grants", body.clone()).await;
        assert_eq!((got, &said["code"], &said["path"]), (code, &json!(name), &json!(path)), "{body}: {said}");
    }
    assert_eq!(next_writer(&orders).await, before);
}

#[tokio::test]
async fn writability() {
    let Some(program) = postgres_program() else { return };
    let compute = running(program, &[]).await;
    let admin = superuser(&compute, "postgres").await;
    let table =
        "CREATE TABLE IF NOT EXISTS public.health_check (id serial PRIMARY KEY, updated_at timestamptz DEFAULT now())";
    admin.batch_execute("DROP TABLE IF EXISTS public.health_check").await.unwrap();
    let (code, said) = compute.post("/check_writability", "").await;
    assert_eq!((code, &said["code"]), (500, &json!("unknown_object")), "{said}");
    assert!(said["error"].as_str().unwrap().contains("public.health_check"), "{said}");

    admin.batch_execute(table).await.unwrap();
    for _ in 0..2 {
        assert_eq!(compute.post("/check_writability", "").await, (200, json!(true)));
    }
    let rows: i64 = admin.query_one("SELECT count(*) FROM public.health_check", &[]).await.unwrap().get(0);
    assert_eq!(rows, 1);

    // A full disk is the owner's business; anything else is a failure.
    for (state, code) in [("53100", 200), ("25006", 500)] {
        let trap = format!(
            "CREATE OR REPLACE FUNCTION public.trap() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE SQLSTATE '{state}'; END $$; DROP TRIGGER IF EXISTS trap ON public.health_check; \
             CREATE TRIGGER trap BEFORE INSERT ON public.health_check EXECUTE FUNCTION public.trap()"
        );
        admin.batch_execute(&trap).await.unwrap();
        let (got, said) = compute.post("/check_writability", "").await;
        assert_eq!(got, code, "{said}");
    }
}
