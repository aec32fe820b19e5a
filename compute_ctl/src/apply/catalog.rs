//! Reads roles and databases.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::plan::{Catalog, KnownDatabase, KnownRole};

const ROLES: &str = "SELECT rolname, rolpassword, rolcanlogin, rolconnlimit, rolsuper, rolinherit, rolcreaterole, \
                     rolcreatedb, rolreplication, rolbypassrls FROM pg_catalog.pg_authid";
const DATABASES: &str = "SELECT d.datname, pg_catalog.pg_get_userbyid(d.datdba) FROM pg_catalog.pg_database d";
/// Columns of [`ROLES`] from the fifth on, by the option that sets them.
const FLAGS: [&str; 6] = ["SUPERUSER", "INHERIT", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS"];

pub(super) async fn read(client: &Client) -> Result<Catalog, tokio_postgres::Error> {
    let mut catalog = Catalog::default();
    for row in client.query(ROLES, &[]).await? {
        let mut attributes = BTreeMap::from([("CONNECTION LIMIT".to_owned(), row.get::<_, i32>(3).to_string())]);
        for (i, flag) in FLAGS.into_iter().enumerate() {
            let set: bool = row.get(4 + i);
            attributes.insert(flag.to_owned(), set.to_string());
            attributes.insert(format!("NO{flag}"), (!set).to_string());
        }
        let role = KnownRole { password: row.get(1), login: row.get(2), attributes };
        catalog.roles.insert(row.get(0), role);
    }
    for row in client.query(DATABASES, &[]).await? {
        // The column is of type name, and so is the function's answer.
        catalog.databases.insert(row.get(0), KnownDatabase { owner: row.get(1) });
    }
    Ok(catalog)
}
