//! What a PostgreSQL has, seen from the side: settings, roles, databases.

use std::collections::BTreeMap;

use pgfleet_harness::postgres::{TestClient, connect};

/// Settings that are no line of `pg_settings`.
const CUSTOM: [&str; 1] = ["my.text"];

/// A look at everything that a spec can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Lower-case name to the value that a new session begins with.
    pub(super) settings: BTreeMap<String, Option<String>>,
    /// Phase and object to all that is known of it, as one text.
    pub(super) objects: BTreeMap<(String, String), String>,
}

const SETTINGS: &str = "SELECT lower(name), reset_val FROM pg_settings WHERE context <> 'internal'";
const ROLES: &str = "SELECT 'roles'::text, rolname::text, (to_jsonb(a) - 'oid')::text FROM pg_authid a";
const DATABASES: &str = "SELECT 'databases'::text, datname::text, \
     jsonb_build_array(pg_get_userbyid(datdba), datconnlimit, datallowconn, datistemplate, encoding, datcollate)::text FROM pg_database";

impl Seen {
    /// Over a session of its own, because an open one may not have heard of a reload yet.
    pub(super) async fn by(url: &str) -> Result<Self, String> {
        let told = |error: &dyn std::fmt::Debug| format!("{error:?}");
        let client: TestClient = connect(url).await.map_err(|error| told(&error))?;
        let mut seen = Self { settings: BTreeMap::new(), objects: BTreeMap::new() };
        for row in client.query(SETTINGS, &[]).await.map_err(|error| told(&error))? {
            seen.settings.insert(row.get(0), row.get(1));
        }
        for name in CUSTOM {
            let row =
                client.query_one("SELECT current_setting($1, true)", &[&name]).await.map_err(|error| told(&error))?;
            // Once it was set, a name that no extension knows is empty and not absent any more.
            seen.settings.insert(name.to_owned(), Some(row.get::<_, Option<String>>(0).unwrap_or_default()));
        }
        for query in [ROLES, DATABASES] {
            for row in client.query(query, &[]).await.map_err(|error| told(&error))? {
                seen.objects.insert((row.get(0), row.get(1)), row.get(2));
            }
        }
        Ok(seen)
    }

    /// Objects that are there and were not, or were otherwise.
    pub(super) fn changed_since(&self, before: &Self) -> Vec<(String, String)> {
        let changed = self.objects.iter().filter(|(key, text)| before.objects.get(*key) != Some(*text));
        changed.map(|(key, _)| key.clone()).collect()
    }
}
