//! The psql script that does what an agent has done, written from the catalogs of the agent's own server: so both do the
//! same work, whatever an agent gives a role or a database.

use pgfleet_harness::postgres::TestClient;

use super::home::stop;

const ROLES: &str = "SELECT format('CREATE ROLE %I WITH%s%s%s%s%s%s%s%s;', r.rolname, \
    CASE WHEN r.rolinherit THEN ' INHERIT' END, CASE WHEN r.rolcreaterole THEN ' CREATEROLE' END, \
    CASE WHEN r.rolcreatedb THEN ' CREATEDB' END, CASE WHEN r.rolbypassrls THEN ' BYPASSRLS' END, \
    CASE WHEN r.rolreplication THEN ' REPLICATION' END, CASE WHEN r.rolcanlogin THEN ' LOGIN' END, \
    (SELECT ' IN ROLE ' || string_agg(format('%I', g.rolname), ', ') FROM pg_auth_members m, pg_roles g \
     WHERE m.member = r.oid AND g.oid = m.roleid), \
    ' PASSWORD ' || quote_literal(a.rolpassword)) \
    FROM pg_roles r JOIN pg_authid a USING (oid) WHERE r.oid >= 16384 AND NOT r.rolsuper ORDER BY r.rolcanlogin, r.oid";
const DATABASES: &str = "SELECT format('CREATE DATABASE %I WITH OWNER %I;', d.datname, pg_get_userbyid(d.datdba)) || \
    coalesce((SELECT string_agg(DISTINCT format(E'\\nGRANT ALL PRIVILEGES ON DATABASE %I TO %I;', d.datname, g.rolname), '') \
     FROM aclexplode(d.datacl) x, pg_roles g WHERE g.oid = x.grantee AND x.grantee <> d.datdba), ''), d.datname::text \
    FROM pg_database d WHERE d.oid >= 16384 ORDER BY d.oid";
const IN_DATABASE: &str = "SELECT DISTINCT format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT ALL ON %s TO %I%s;', n.nspname, \
    CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' ELSE 'TYPES' END, \
    g.rolname, CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' END) \
    FROM pg_default_acl d JOIN pg_namespace n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) x, pg_roles g \
    WHERE g.oid = x.grantee AND x.grantee <> d.defaclrole";
/// What two servers with the same content agree in.
const CONTENT: &str = "SELECT (SELECT count(*) FROM pg_roles WHERE oid >= 16384)::text || ' roles, ' || \
    (SELECT count(*) FROM pg_auth_members WHERE member >= 16384) || ' memberships, ' || \
    (SELECT count(*) FROM pg_database WHERE oid >= 16384) || ' databases, ' || \
    (SELECT count(*) FROM pg_database, aclexplode(datacl) WHERE oid >= 16384) || ' grants on them'";

/// The script. `postgres` and `one` are sessions in the database of that name and in one of the spec's: what is in that one
/// is done in all.
pub(super) async fn of(postgres: &TestClient, one: &TestClient) -> String {
    let mut lines = rows(postgres, ROLES).await;
    let databases = postgres.query(DATABASES, &[]).await.unwrap_or_else(|error| stop("databases", error));
    lines.extend(databases.iter().map(|row| row.get::<_, String>(0)));
    let inside = rows(one, IN_DATABASE).await;
    if !inside.is_empty() {
        for database in &databases {
            lines.push(format!("\\connect \"{}\"", database.get::<_, String>(1)));
            lines.extend(inside.iter().cloned());
        }
    }
    lines.join("\n") + "\n"
}

/// What a server has, in one line.
pub(super) async fn content(postgres: &TestClient) -> String {
    rows(postgres, CONTENT).await.concat()
}

async fn rows(session: &TestClient, sql: &str) -> Vec<String> {
    let rows = session.query(sql, &[]).await.unwrap_or_else(|error| stop("a catalog", format!("{error:?}")));
    rows.iter().map(|row| row.get(0)).collect()
}
