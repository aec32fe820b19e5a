//! Reads what is there. One round trip for a spec without deltas, so that finding out that nothing is to be done costs
//! next to nothing; roles that a spec does not speak of are not read.

use std::collections::{BTreeMap, BTreeSet};

use pgfleet_api::spec::ComputeSpec;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

use super::facts::{Catalog, KnownDatabase, KnownRole, Own, ServerFacts};
use super::plan::deltas;
use super::roles::FLAGS;

const ROLES: &str = "SELECT rolname, rolpassword, rolcanlogin, rolconnlimit, rolsuper, rolinherit, rolcreaterole, \
    rolcreatedb, rolreplication, rolbypassrls, \
    CASE WHEN isfinite(rolvaliduntil) THEN extract(epoch FROM rolvaliduntil)::bigint::text ELSE rolvaliduntil::text END, \
    ARRAY(SELECT g.rolname FROM pg_auth_members m JOIN pg_authid g ON g.oid = m.roleid WHERE m.member = a.oid) \
    FROM pg_authid a WHERE rolname = ANY($1)";

/// A database is prepared when the superuser's default privileges for the privileged role, two of them, are in it. That
/// is told by the shared catalog of dependencies, so no session inside is needed to know.
const DATABASES: &str = "SELECT d.oid, d.datname, pg_get_userbyid(d.datdba), d.datallowconn, d.datconnlimit = -2, \
    d.datistemplate, (SELECT count(DISTINCT a.privilege_type) = 3 FROM aclexplode(d.datacl) a WHERE a.grantee = p.oid), \
    coalesce(w.entries, 0) >= 2 \
    FROM pg_database d LEFT JOIN pg_authid p ON p.rolname = $1 LEFT JOIN ( \
        SELECT s.dbid, count(*) AS entries FROM pg_shdepend s \
        WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = (SELECT oid FROM pg_authid WHERE rolname = $1) \
        AND s.classid = 'pg_default_acl'::regclass AND s.deptype = 'a' AND NOT EXISTS (SELECT FROM pg_shdepend o \
            WHERE o.dbid = s.dbid AND o.classid = s.classid AND o.objid = s.objid AND o.deptype = 'o' \
            AND o.refobjid <> (SELECT oid FROM pg_authid WHERE rolname = current_user)) GROUP BY 1 \
    ) w ON w.dbid = d.oid";

const SERVER: &str = "SELECT pg_is_in_recovery(), current_setting('server_version_num')::int4, \
    current_setting('max_connections')::int4, current_setting('shared_preload_libraries'), \
    to_regnamespace('public') IS NOT NULL, to_regclass('public.health_check') IS NOT NULL, \
    EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_stat_statements'), \
    to_regclass('pgfleet.migration_id') IS NOT NULL, to_regclass('pgfleet.drop_subscriptions_done') IS NOT NULL";

const MIGRATION: &str = "SELECT max(id) FROM pgfleet.migration_id";
const SUBSCRIPTIONS_DROPPED: &str = "SELECT EXISTS (SELECT FROM pgfleet.drop_subscriptions_done)";

const TIES: &str = "SELECT a.rolname, s.dbid FROM pg_shdepend s JOIN pg_authid a ON a.oid = s.refobjid \
    WHERE s.refclassid = 'pg_authid'::regclass AND a.rolname = ANY($1) GROUP BY 1, 2";
const SUBSCRIPTIONS: &str =
    "SELECT d.datname, s.subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid";
const SLOTS: &str = "SELECT DISTINCT database FROM pg_replication_slots WHERE database = ANY($1)";

/// Reads everything that a plan for this spec looks at.
pub(super) async fn read(client: &Client, spec: &ComputeSpec, own: &Own) -> Result<Catalog, Error> {
    let names = names(spec, own);
    let deleted = |action| deltas(spec, action).map(|delta| delta.name.as_str()).collect::<Vec<_>>();
    let (gone_roles, gone_databases) = (deleted("delete_role"), deleted("delete_db"));
    let subscriptions_matter = spec.drop_subscriptions_before_start || !gone_databases.is_empty();
    // Polled together, they are sent together.
    let (roles, databases, server, ties, subscriptions, slots) = tokio::try_join!(
        ask(client, ROLES, Some((&names, Type::TEXT_ARRAY))),
        ask(client, DATABASES, Some((&own.privileged, Type::TEXT))),
        ask(client, SERVER, None),
        ask_if(!gone_roles.is_empty(), client, TIES, Some((&gone_roles, Type::TEXT_ARRAY))),
        ask_if(subscriptions_matter, client, SUBSCRIPTIONS, None),
        ask_if(!gone_databases.is_empty(), client, SLOTS, Some((&gone_databases, Type::TEXT_ARRAY))),
    )?;
    let mut catalog = Catalog {
        roles: roles.iter().map(role).collect(),
        databases: databases.iter().map(database).collect(),
        server: ServerFacts::default(),
    };
    if let Some(row) = server.first() {
        catalog.server = facts(client, row).await?;
    }
    for row in &ties {
        let (name, database): (&str, u32) = (row.get(0), row.get(1));
        let Some(role) = catalog.roles.get_mut(name) else { continue };
        if database == 0 {
            role.ties.shared = true;
        } else {
            role.ties.databases.insert(database);
        }
    }
    for row in &subscriptions {
        let Some(database) = catalog.databases.get_mut(row.get::<_, &str>(0)) else { continue };
        database.subscriptions.push(row.get(1));
    }
    for row in &slots {
        let Some(database) = catalog.databases.get_mut(row.get::<_, &str>(0)) else { continue };
        database.has_slots = true;
    }
    Ok(catalog)
}

type Parameter<'a> = Option<(&'a (dyn ToSql + Sync), Type)>;

/// One question in one round trip: the types are known, so nothing is prepared before.
async fn ask(client: &Client, sql: &str, parameter: Parameter<'_>) -> Result<Vec<Row>, Error> {
    client.query_typed(sql, &parameter.into_iter().collect::<Vec<_>>()).await
}

async fn ask_if(wanted: bool, client: &Client, sql: &str, parameter: Parameter<'_>) -> Result<Vec<Row>, Error> {
    if wanted { ask(client, sql, parameter).await } else { Ok(Vec::new()) }
}

/// Roles that a plan looks at.
fn names<'a>(spec: &'a ComputeSpec, own: &'a Own) -> Vec<&'a str> {
    let mut names = BTreeSet::from([own.privileged.as_str()]);
    names.extend(spec.cluster.roles.iter().map(|role| role.name.as_str()));
    for delta in ["rename_role", "delete_role"].into_iter().flat_map(|action| deltas(spec, action)) {
        names.insert(&delta.name);
        names.extend(delta.new_name.as_deref());
    }
    names.into_iter().collect()
}

fn role(row: &Row) -> (String, KnownRole) {
    let mut attributes = BTreeMap::from([("CONNECTION LIMIT".to_owned(), row.get::<_, i32>(3).to_string())]);
    for (i, flag) in FLAGS.into_iter().enumerate() {
        let set: bool = row.get(4 + i);
        attributes.insert(flag.to_owned(), set.to_string());
        attributes.insert(format!("NO{flag}"), (!set).to_string());
    }
    attributes.extend(row.get::<_, Option<String>>(10).map(|until| ("VALID UNTIL".to_owned(), until)));
    let member_of = row.get::<_, Vec<String>>(11).into_iter().collect();
    let known = KnownRole { password: row.get(1), login: row.get(2), attributes, member_of, ..KnownRole::default() };
    (row.get(0), known)
}

fn database(row: &Row) -> (String, KnownDatabase) {
    let known = KnownDatabase {
        oid: row.get(0),
        owner: row.get(2),
        connectable: row.get(3),
        invalid: row.get(4),
        template: row.get(5),
        granted: row.get::<_, Option<bool>>(6).unwrap_or(false),
        prepared: row.get(7),
        ..KnownDatabase::default()
    };
    (row.get(1), known)
}

async fn facts(client: &Client, row: &Row) -> Result<ServerFacts, Error> {
    let (numbered, noted): (bool, bool) = (row.get(7), row.get(8));
    // A table can be named in a query only where it is.
    let (number, note) = tokio::try_join!(
        ask_if(numbered, client, MIGRATION, None),
        ask_if(noted, client, SUBSCRIPTIONS_DROPPED, None)
    )?;
    Ok(ServerFacts {
        standby: row.get(0),
        version: row.get(1),
        max_connections: row.get(2),
        preloaded: row.get(3),
        has_public: row.get(4),
        has_health_check: row.get(5),
        has_statements: row.get(6),
        migration: number.first().map(|row| row.get::<_, Option<i64>>(0).unwrap_or(0)),
        subscriptions_dropped: note.first().is_some_and(|row| row.get(0)),
    })
}
