//! What is planned for what is there.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::apply::facts::{ServerFacts, Ties};
use crate::apply::step::Work;

const SCRAM: &str = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy";
const MD5: &str = "0123456789abcdef0123456789abcdef";
const GIVEN: &str = "INHERIT CREATEROLE CREATEDB BYPASSRLS REPLICATION IN ROLE \"neon_superuser\"";

fn own() -> Own {
    Own { superuser: "cloud_admin".into(), privileged: "neon_superuser".into(), database: "postgres".into() }
}

fn spec(roles: Value, databases: Value, deltas: Value) -> ComputeSpec {
    serde_json::from_value(json!({
        "format_version": 1.0, "suspend_timeout_seconds": 0, "delta_operations": deltas,
        "cluster": {"roles": roles, "databases": databases}
    }))
    .unwrap()
}

fn role(password: Option<&str>, attributes: &[(&str, &str)]) -> KnownRole {
    KnownRole {
        password: password.map(ToOwned::to_owned),
        login: true,
        attributes: attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..KnownRole::default()
    }
}

fn database(oid: u32, owner: &str) -> KnownDatabase {
    let owner = owner.to_owned();
    KnownDatabase { oid, owner, connectable: true, granted: true, prepared: true, ..KnownDatabase::default() }
}

/// A server that the agent has seen before, with more in it.
fn seen(roles: &[(&str, KnownRole)], databases: &[(&str, KnownDatabase)]) -> Catalog {
    let server = ServerFacts {
        version: 150_000,
        has_public: true,
        has_health_check: true,
        migration: Some(5),
        ..ServerFacts::default()
    };
    let mut catalog = Catalog { server, ..Catalog::default() };
    catalog.roles.insert("neon_superuser".into(), KnownRole::default());
    let bare = KnownDatabase { granted: false, prepared: false, ..database(5, "cloud_admin") };
    catalog.databases.insert("postgres".into(), bare);
    catalog.databases.insert("template1".into(), KnownDatabase { template: true, ..database(1, "cloud_admin") });
    catalog.roles.extend(roles.iter().map(|(name, role)| ((*name).to_owned(), role.clone())));
    catalog.databases.extend(databases.iter().map(|(name, known)| ((*name).to_owned(), known.clone())));
    catalog
}

/// Phase, database and statements of each step.
fn sql(steps: &[Step]) -> Vec<String> {
    let text = |statement: &Statement| match statement {
        Statement::Run(sql) | Statement::RunWithSecret(sql, _) => sql.clone(),
        Statement::RunEach(_) => "…".to_owned(),
    };
    let shown = |step: &Step| {
        let place = step.database.as_ref().map(|database| format!(" in {database}")).unwrap_or_default();
        let sql = match &step.work {
            Work::Do(statements) => statements.iter().map(text).collect::<Vec<_>>().join("; "),
            Work::Refuse { sqlstate, .. } => format!("refused {sqlstate}"),
        };
        format!("{}{place}: {sql}", step.phase.as_str())
    };
    steps.iter().map(shown).collect()
}

fn planned(spec: &ComputeSpec, catalog: &Catalog) -> Vec<String> {
    sql(&plan(spec, catalog, &own()))
}

#[test]
fn what_is_absent_is_made_in_order() {
    let spec = spec(
        json!([
            {"name": "a", "encrypted_password": SCRAM},
            {"name": "batch \"night\"", "encrypted_password": MD5.to_uppercase(), "options": [
                {"name": "CONNECTION LIMIT", "value": "5", "vartype": "integer"},
                {"name": "nocreatedb", "vartype": "bool"}, {"name": "IN ROLE", "value": "A", "vartype": "enum"}]},
            {"name": "c", "encrypted_password": null, "options": [{"name": "NOLOGIN", "vartype": "bool"}]}]),
        json!([
            {"name": "d", "owner": "a", "options": [
                {"name": "TEMPLATE", "value": "template0", "vartype": "enum"},
                {"name": "LC_COLLATE", "value": "C", "vartype": "string"}]},
            {"name": "e", "owner": "c"}]),
        Value::Null,
    );
    let mut catalog = seen(&[], &[]);
    catalog.roles.clear();
    catalog.databases.insert("template1".into(), KnownDatabase { prepared: false, ..database(1, "cloud_admin") });
    catalog.server = ServerFacts { version: 150_000, has_public: true, ..ServerFacts::default() };
    let steps = planned(&spec, &catalog);
    let expected = [
        "privileged_role: CREATE ROLE \"neon_superuser\" CREATEDB CREATEROLE NOLOGIN REPLICATION BYPASSRLS IN ROLE \
         pg_read_all_data, pg_write_all_data",
        "privileged_role in template1: …; …",
        &format!("roles: CREATE ROLE \"a\" WITH {GIVEN} LOGIN PASSWORD '{SCRAM}'"),
        &format!(
            "roles: CREATE ROLE \"batch \"\"night\"\"\" WITH INHERIT CREATEROLE BYPASSRLS REPLICATION NOCREATEDB IN ROLE \
             \"a\", \"neon_superuser\" CONNECTION LIMIT 5 LOGIN PASSWORD 'md5{MD5}'"
        ),
        &format!("roles: CREATE ROLE \"c\" WITH {GIVEN} NOLOGIN PASSWORD NULL"),
        "databases: CREATE DATABASE \"d\" WITH OWNER \"a\" TEMPLATE = template0 LC_COLLATE = 'C'; \
         GRANT ALL PRIVILEGES ON DATABASE \"d\" TO \"neon_superuser\"",
        "databases: CREATE DATABASE \"e\" WITH OWNER \"c\"; \
         GRANT ALL PRIVILEGES ON DATABASE \"e\" TO \"neon_superuser\"",
        "in_databases in d: …; …",
    ];
    assert_eq!(steps[..expected.len()], expected);
    let rest: Vec<_> = steps[expected.len()..].iter().map(|step| step.split(':').next().unwrap()).collect();
    let migrations = ["migrations"; 5];
    assert_eq!(rest, [["availability_check"].as_slice(), &migrations].concat());
}

#[test]
fn what_is_as_wanted_is_left_alone() {
    let spec = spec(
        json!([
            {"name": "a", "encrypted_password": SCRAM, "options": [
                {"name": "createdb", "vartype": "bool"}, {"name": "IN ROLE", "value": "b", "vartype": "enum"},
                {"name": "VALID UNTIL", "value": "2026-01-02T00:00:00Z", "vartype": "string"},
                {"name": "CONNECTION LIMIT", "value": "5", "vartype": "integer"}]},
            {"name": "b", "encrypted_password": MD5},
            {"name": "c", "options": [{"name": "NOLOGIN", "vartype": "bool"}]}]),
        json!([{"name": "d", "owner": "a"}, {"name": "shut", "owner": "a"}]),
        json!([
            {"action": "rename_role", "name": "gone", "new_name": "a"}, {"action": "delete_role", "name": "gone"},
            {"action": "rename_db", "name": "gone", "new_name": "d"}, {"action": "delete_db", "name": "gone"},
            {"action": "dance", "name": "d"}]),
    );
    let mut a = role(Some(SCRAM), &[("CREATEDB", "true"), ("CONNECTION LIMIT", "5"), ("VALID UNTIL", "1767312000")]);
    a.member_of.insert("b".to_owned());
    let catalog = seen(
        &[("a", a), ("b", role(Some(&format!("md5{MD5}")), &[])), ("c", KnownRole::default())],
        &[("d", database(7, "a")), ("shut", KnownDatabase { connectable: false, prepared: false, ..database(8, "a") })],
    );
    assert_eq!(planned(&spec, &catalog), [""; 0]);
}

#[test]
fn what_differs_is_altered_and_no_more() {
    let spec = spec(
        json!([
            {"name": "a", "encrypted_password": SCRAM, "options": [{"name": "CREATEDB", "vartype": "bool"}]},
            {"name": "b", "encrypted_password": null, "options": [{"name": "IN ROLE", "value": "c", "vartype": "enum"}]},
            {"name": "c", "encrypted_password": MD5}]),
        json!([{"name": "d", "owner": "b"}, {"name": "e", "owner": "a"}]),
        Value::Null,
    );
    let catalog = seen(
        &[
            ("a", role(Some(SCRAM), &[("CREATEDB", "false")])),
            ("b", KnownRole { login: false, ..role(Some("md5x"), &[]) }),
            ("c", role(Some(SCRAM), &[])),
        ],
        &[("d", database(7, "a")), ("e", KnownDatabase { granted: false, prepared: false, ..database(8, "a") })],
    );
    let steps = plan(&spec, &catalog, &own());
    assert_eq!(
        sql(&steps),
        [
            "roles: ALTER ROLE \"a\" WITH CREATEDB",
            "roles: ALTER ROLE \"b\" WITH LOGIN PASSWORD NULL; GRANT \"c\" TO \"b\"",
            &format!("roles: ALTER ROLE \"c\" WITH PASSWORD 'md5{MD5}'"),
            "databases: ALTER DATABASE \"d\" OWNER TO \"b\"",
            "databases: GRANT ALL PRIVILEGES ON DATABASE \"e\" TO \"neon_superuser\"",
            "in_databases in e: …; …",
        ]
    );
    assert_eq!(steps[1].words, "alter role: login, no password, member of c");
    assert!(!format!("{steps:?}").contains("SCRAM"), "a verifier is in Debug");
    assert!(steps.iter().all(|step| !step.words.contains("SCRAM") && !step.words.contains(MD5)));
}

#[test]
fn renames_are_seen_by_what_follows() {
    let roles = json!([{"name": "new", "encrypted_password": MD5}]);
    let deltas = json!([
        {"action": "rename_role", "name": "old", "new_name": "new"},
        {"action": "rename_role", "name": "x", "new_name": "y"},
        {"action": "rename_db", "name": "d", "new_name": "e"}]);
    let wanted = spec(roles, json!([{"name": "e", "owner": "new"}]), deltas);
    let md5 = role(Some(&format!("md5{MD5}")), &[]);
    let both = [("old", md5), ("x", role(None, &[])), ("y", role(None, &[]))];
    let catalog = seen(&both, &[("d", database(7, "old"))]);
    let steps = planned(&wanted, &catalog);
    assert_eq!(steps.len(), 4, "{steps:#?}");
    assert_eq!(steps[0], "rename_roles: ALTER ROLE \"old\" RENAME TO \"new\"");
    assert_eq!(steps[1], "rename_roles: ALTER ROLE \"x\" RENAME TO \"y\"", "PostgreSQL says that it is taken");
    assert_eq!(steps[2], format!("roles: ALTER ROLE \"new\" WITH PASSWORD 'md5{MD5}'"), "a rename clears an MD5 hash");
    assert!(steps[3].starts_with("rename_and_delete_databases: SELECT pg_terminate_backend"), "{}", steps[3]);
    assert!(steps[3].ends_with("ALTER DATABASE \"d\" RENAME TO \"e\""), "{}", steps[3]);
}

#[test]
fn a_role_is_forgotten_where_it_has_ties_and_dropped_at_the_end() {
    let wanted = spec(
        json!([]),
        json!([]),
        json!([
            {"action": "delete_role", "name": "x"}, {"action": "delete_db", "name": "gone"},
            {"action": "delete_role", "name": "y"}, {"action": "delete_role", "name": "absent"}]),
    );
    let ties = Ties { shared: true, databases: BTreeSet::from([7, 8, 9, 10]) };
    let roles = [("x", KnownRole { ties, ..role(None, &[]) }), ("y", role(None, &[]))];
    let databases = [
        ("d", database(7, "a")),
        ("his", database(8, "x")),
        ("gone", KnownDatabase { template: true, has_slots: true, ..database(9, "a") }),
        ("shut", KnownDatabase { connectable: false, ..database(10, "a") }),
    ];
    let steps = planned(&wanted, &seen(&roles, &databases));
    assert!(steps[0].starts_with("pre_drop: SELECT pg_terminate_backend(active_pid"), "{}", steps[0]);
    assert_eq!(
        steps[1..],
        [
            "rename_and_delete_databases: ALTER DATABASE \"gone\" WITH IS_TEMPLATE false; \
             DROP DATABASE \"gone\" WITH (FORCE)",
            "in_databases: …; REASSIGN OWNED BY \"x\" TO \"cloud_admin\"; DROP OWNED BY \"x\"",
            "in_databases in d: …; REASSIGN OWNED BY \"x\" TO \"a\"; DROP OWNED BY \"x\"",
            "in_databases in his: …; REASSIGN OWNED BY \"x\" TO \"cloud_admin\"; DROP OWNED BY \"x\"",
            "drop_roles: DROP ROLE \"x\"",
            "drop_roles: DROP ROLE \"y\"",
        ]
    );
}

#[test]
fn what_the_agent_stands_on_stays() {
    let delta = |action: &str, name: &str| json!({"action": action, "name": name, "new_name": "new"});
    let wanted = spec(
        json!([{"name": "neon_superuser"},
            {"name": "a", "options": [{"name": "encrypted password", "value": "x", "vartype": "string"}]}]),
        json!([]),
        json!([
            delta("delete_role", "cloud_admin"),
            delta("delete_role", "neon_superuser"),
            delta("delete_role", "pg_x"),
            delta("rename_role", "neon_superuser"),
            delta("delete_db", "postgres"),
            delta("delete_db", "template1"),
            delta("rename_db", "postgres")
        ]),
    );
    let shared = KnownRole { ties: Ties { shared: true, ..Ties::default() }, ..KnownRole::default() };
    let roles = [("cloud_admin", shared.clone()), ("neon_superuser", shared.clone()), ("pg_x", shared)];
    let steps = planned(&wanted, &seen(&roles, &[]));
    let refused = |phase: &str, n: usize| vec![format!("{phase}: refused 42939"); n];
    let expected = [
        refused("rename_roles", 1),
        refused("roles", 1),
        vec!["roles: refused 22023".to_owned()],
        refused("rename_and_delete_databases", 3),
        refused("drop_roles", 3),
    ];
    assert_eq!(steps, expected.concat());
}

#[test]
fn an_interrupted_drop_is_finished_and_the_database_made_again() {
    let wanted = spec(json!([{"name": "a"}]), json!([{"name": "d", "owner": "a"}]), Value::Null);
    let broken = KnownDatabase { invalid: true, ..database(7, "a") };
    let steps = planned(&wanted, &seen(&[("a", role(None, &[]))], &[("d", broken.clone()), ("e", broken)]));
    assert_eq!(
        steps,
        [
            "drop_invalid_databases: DROP DATABASE \"d\"",
            "drop_invalid_databases: DROP DATABASE \"e\"",
            "databases: CREATE DATABASE \"d\" WITH OWNER \"a\"; \
             GRANT ALL PRIVILEGES ON DATABASE \"d\" TO \"neon_superuser\"",
        ]
    );
}

#[test]
fn subscriptions_are_dropped_once() {
    let mut wanted = spec(json!([]), json!([]), Value::Null);
    wanted.drop_subscriptions_before_start = true;
    let mut catalog = seen(&[], &[("d", KnownDatabase { subscriptions: vec!["s".into()], ..database(7, "a") })]);
    let steps = planned(&wanted, &catalog);
    assert_eq!(steps.len(), 2, "{steps:#?}");
    assert!(steps[0].ends_with("DROP SUBSCRIPTION \"s\"") && steps[1].starts_with("drop_subscriptions:"), "{steps:#?}");
    catalog.server.subscriptions_dropped = true;
    assert_eq!(planned(&wanted, &catalog), [""; 0]);
}

#[test]
fn who_applies_no_sql_gets_no_plan() {
    let mut wanted = spec(json!([{"name": "a"}]), json!([]), Value::Null);
    let mut standby = seen(&[], &[]);
    standby.server.standby = true;
    assert_eq!(planned(&wanted, &standby), [""; 0]);
    for mode in [ComputeMode::Replica, ComputeMode::Static("0/1".into())] {
        wanted.mode = mode;
        assert_eq!(planned(&wanted, &seen(&[], &[])), [""; 0]);
    }
    wanted.mode = ComputeMode::Primary;
    assert_eq!(planned(&wanted, &seen(&[], &[])).len(), 1);
    wanted.skip_pg_catalog_updates = true;
    assert_eq!(planned(&wanted, &seen(&[], &[])), [""; 0]);
}

#[test]
fn a_role_of_a_proxy_gets_nothing_but_what_the_spec_says() {
    let mut wanted = spec(json!([{"name": "web"}]), json!([]), Value::Null);
    wanted.local_proxy_config = Some(json!({"jwks": [{"id": "k", "role_names": ["web"]}]}));
    assert_eq!(planned(&wanted, &seen(&[], &[])), ["roles: CREATE ROLE \"web\" WITH LOGIN PASSWORD NULL"]);
}
