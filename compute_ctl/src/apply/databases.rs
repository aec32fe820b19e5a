//! Statements for databases: made, given away, renamed, dropped; and what is done inside each. Pure.

use pgfleet_api::spec::{Database, PgOption};

use super::facts::{KnownDatabase, Own};
use super::phase::Phase;
use super::quote::{identifier, literal};
use super::step::{Statement, Step};

/// How long a session may take to end.
const IN_USE_PATIENCE_MS: u32 = 5000;

/// The step that makes a database.
pub(super) fn create(database: &Database, own: &Own) -> Step {
    let (name, owner) = (identifier(&database.name), identifier(&database.owner));
    let options: String = database.options.iter().flatten().map(|option| format!(" {}", render(option))).collect();
    let statements = vec![
        Statement::Run(format!("CREATE DATABASE {name} WITH OWNER {owner}{options}")),
        Statement::Run(grant(&database.name, own)),
    ];
    let words = format!("create database, owner {}", database.owner);
    Step::new(Phase::Databases, &database.name, words, statements)
}

/// The step that gives an existing database what it lacks.
pub(super) fn alter(database: &Database, known: &KnownDatabase, own: &Own) -> Option<Step> {
    let (mut words, mut statements) = (Vec::new(), Vec::new());
    if known.owner != database.owner {
        let (name, owner) = (identifier(&database.name), identifier(&database.owner));
        words.push(format!("owner {}", database.owner));
        statements.push(Statement::Run(format!("ALTER DATABASE {name} OWNER TO {owner}")));
    }
    if !known.granted {
        words.push(format!("all privileges for {}", own.privileged));
        statements.push(Statement::Run(grant(&database.name, own)));
    }
    let words = format!("alter database: {}", words.join(", "));
    (!statements.is_empty()).then(|| Step::new(Phase::Databases, &database.name, words, statements))
}

fn grant(name: &str, own: &Own) -> String {
    format!("GRANT ALL PRIVILEGES ON DATABASE {} TO {}", identifier(name), identifier(&own.privileged))
}

/// The template that a database is copied from.
pub(super) fn template(database: &Database) -> &str {
    let named = database.options.iter().flatten().rfind(|option| option.name.trim().eq_ignore_ascii_case("template"));
    named.and_then(|option| option.value.as_deref()).unwrap_or("template1")
}

/// `NAME = value`: some of the options want the sign and all allow it. A template is a name, whatever its type says.
fn render(option: &PgOption) -> String {
    let name = &option.name;
    match option.value.as_deref() {
        None => name.clone(),
        Some(value) if option.vartype == "string" && name.trim().eq_ignore_ascii_case("template") => {
            format!("{name} = {}", identifier(value))
        }
        Some(value) if option.vartype == "string" => format!("{name} = {}", literal(value)),
        Some(value) => format!("{name} = {value}"),
    }
}

/// Ends the sessions in a database, and waits until they have ended.
fn end_sessions(name: &str) -> Statement {
    Statement::Run(format!(
        "SELECT pg_terminate_backend(pid, {IN_USE_PATIENCE_MS}) FROM pg_stat_activity \
         WHERE datname = {} AND pid <> pg_backend_pid()",
        literal(name)
    ))
}

/// The step that drops a database, with everybody in it.
pub(super) fn drop(name: &str, known: &KnownDatabase) -> Step {
    let mut statements = Vec::new();
    if known.template {
        statements.push(Statement::Run(format!("ALTER DATABASE {} WITH IS_TEMPLATE false", identifier(name))));
    }
    statements.push(Statement::Run(format!("DROP DATABASE {} WITH (FORCE)", identifier(name))));
    Step::new(Phase::RenameAndDeleteDatabases, name, "drop database, with the sessions in it", statements)
}

/// The step that renames a database. Where the new name is taken PostgreSQL says so before anybody is thrown out.
pub(super) fn rename(from: &str, to: &str, taken: bool) -> Step {
    let rename = format!("ALTER DATABASE {} RENAME TO {}", identifier(from), identifier(to));
    let statements =
        if taken { vec![Statement::Run(rename)] } else { vec![end_sessions(from), Statement::Run(rename)] };
    Step::new(Phase::RenameAndDeleteDatabases, from, format!("rename database to {to}"), statements)
}

/// The step that frees a database of the slots that read from it: a slot in use keeps it from being dropped.
pub(super) fn drop_slots(name: &str) -> Step {
    let name_literal = literal(name);
    let statements = vec![
        Statement::Run(format!(
            "SELECT pg_terminate_backend(active_pid, {IN_USE_PATIENCE_MS}) FROM pg_replication_slots \
             WHERE database = {name_literal} AND active_pid IS NOT NULL"
        )),
        Statement::Run(format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = {name_literal}"
        )),
    ];
    Step::new(Phase::PreDrop, name, "drop its replication slots", statements)
}

/// The step that drops a database's subscriptions and leaves the publisher's slots alone: it may be out of reach.
pub(super) fn drop_subscriptions(phase: Phase, name: &str, subscriptions: &[String]) -> Step {
    let each = |subscription: &String| {
        let quoted = identifier(subscription);
        [
            Statement::Run(format!("ALTER SUBSCRIPTION {quoted} DISABLE")),
            Statement::Run(format!("ALTER SUBSCRIPTION {quoted} SET (slot_name = NONE)")),
            Statement::Run(format!("DROP SUBSCRIPTION {quoted}")),
        ]
    };
    let words = format!("drop {} subscriptions", subscriptions.len());
    Step::new(phase, name, words, subscriptions.iter().flat_map(each).collect()).within(name)
}

/// The step that lets the privileged role at what the superuser makes in `public`, and gives that schema to the
/// database's owner where it is still the superuser's, as it was made before PostgreSQL 15.
pub(super) fn prepare(phase: Phase, name: &str, owner: &str, own: &Own) -> Step {
    let (superuser, privileged) = (literal(&own.superuser), literal(&own.privileged));
    let statements = vec![
        Statement::RunEach(format!(
            "SELECT format('ALTER SCHEMA public OWNER TO %I', {}) FROM pg_namespace \
             WHERE nspname = 'public' AND pg_get_userbyid(nspowner) = {superuser} AND {} <> {superuser}",
            literal(owner),
            literal(owner)
        )),
        Statement::RunEach(format!(
            "SELECT format('ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON %s TO %I WITH GRANT OPTION', \
             kind, {privileged}) FROM pg_namespace, (VALUES ('TABLES'), ('SEQUENCES')) AS kinds (kind) \
             WHERE nspname = 'public'"
        )),
    ];
    Step::new(phase, name, format!("default privileges for {} in public", own.privileged), statements).within(name)
}

/// The step that makes a database forget a role: what it owns goes to `heir`, what it was granted is revoked.
///
/// `DROP OWNED` revokes what an object's owner granted. What others granted, who may by a grant option, is revoked in
/// their name before.
pub(super) fn forget(role: &str, database: &str, heir: &str) -> Step {
    let (name, quoted, heir_quoted) = (literal(role), identifier(role), identifier(heir));
    let revokes = format!(
        "SELECT format('SET LOCAL ROLE %I; REVOKE ALL ON %s FROM %I CASCADE', g.rolname, o.what, {name}) FROM ( \
           SELECT relowner, relacl, format('TABLE %I.%I', nspname, relname) FROM pg_class, pg_namespace n \
             WHERE n.oid = relnamespace AND relkind <> 'S' \
           UNION ALL SELECT relowner, relacl, format('SEQUENCE %I.%I', nspname, relname) FROM pg_class, pg_namespace n \
             WHERE n.oid = relnamespace AND relkind = 'S' \
           UNION ALL SELECT nspowner, nspacl, format('SCHEMA %I', nspname) FROM pg_namespace \
           UNION ALL SELECT proowner, proacl, format('ROUTINE %s', oid::regprocedure) FROM pg_proc \
           UNION ALL SELECT datdba, datacl, format('DATABASE %I', datname) FROM pg_database \
         ) AS o (owner, acl, what), aclexplode(o.acl) AS a, pg_roles AS g, pg_roles AS r \
         WHERE o.acl IS NOT NULL AND r.rolname = {name} AND a.grantee = r.oid AND a.grantor <> o.owner \
         AND g.oid = a.grantor GROUP BY 1"
    );
    let statements = vec![
        Statement::RunEach(revokes),
        Statement::Run(format!("REASSIGN OWNED BY {quoted} TO {heir_quoted}")),
        Statement::Run(format!("DROP OWNED BY {quoted}")),
    ];
    let words = format!("in database {database}: give what it owns to {heir} and revoke what it was granted");
    Step::new(Phase::InDatabases, role, words, statements)
}
