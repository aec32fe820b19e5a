//! What is there: roles, databases and a few facts of the server. Read by `catalog`; a plan changes a copy of it as it
//! goes, so that each phase is planned on what the phases before it leave behind.

use std::collections::{BTreeMap, BTreeSet};

/// A role that is there.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct KnownRole {
    /// Its verifier, as stored.
    pub password: Option<String>,
    /// Whether it may log in.
    pub login: bool,
    /// Attributes by the option that sets them, like `CREATEDB` or `CONNECTION LIMIT` to its value.
    pub attributes: BTreeMap<String, String>,
    /// Roles that it is a direct member of.
    pub member_of: BTreeSet<String>,
    /// Where something depends on it; read only for roles that are to be deleted.
    pub ties: Ties,
}

/// Where objects or grants depend on a role.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Ties {
    /// It owns databases or tablespaces, or was granted something on them.
    pub shared: bool,
    /// Oids of databases with objects or grants of it.
    pub databases: BTreeSet<u32>,
}

/// A database that is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KnownDatabase {
    /// Its oid; 0 for one that a plan makes.
    pub oid: u32,
    /// Who owns it.
    pub owner: String,
    /// Whether it takes connections.
    pub connectable: bool,
    /// A drop of it was interrupted.
    pub invalid: bool,
    /// Whether it is marked as a template.
    pub template: bool,
    /// The privileged role has every privilege on it.
    pub granted: bool,
    /// The privileged role has its default privileges inside.
    pub prepared: bool,
    /// Its subscriptions; read only where they are to be dropped.
    pub subscriptions: Vec<String>,
    /// Whether a logical slot reads from it; read only where it is to be dropped.
    pub has_slots: bool,
}

/// Facts of the server and of the agent's own database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerFacts {
    /// It replays somebody else's WAL.
    pub standby: bool,
    /// `server_version_num`.
    pub version: i32,
    /// `max_connections`.
    pub max_connections: i32,
    /// `shared_preload_libraries`.
    pub preloaded: String,
    /// The database has a schema `public`.
    pub has_public: bool,
    /// `public.health_check` is there.
    pub has_health_check: bool,
    /// The extension `pg_stat_statements` is there.
    pub has_statements: bool,
    /// The number in `pgfleet.migration_id`; none: the table is absent.
    pub migration: Option<i64>,
    /// It is written down that all subscriptions were dropped.
    pub subscriptions_dropped: bool,
}

/// What is there.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Catalog {
    /// Roles by name: those that a spec speaks of.
    pub roles: BTreeMap<String, KnownRole>,
    /// All databases by name.
    pub databases: BTreeMap<String, KnownDatabase>,
    /// The server.
    pub server: ServerFacts,
}

impl Catalog {
    /// A rename, and what PostgreSQL does with it: an MD5 hash holds the name, so it is cleared.
    pub(super) fn rename_role(&mut self, from: &str, to: &str) {
        let Some(mut role) = self.roles.remove(from) else { return };
        if role.password.as_deref().is_some_and(|password| password.starts_with("md5")) {
            role.password = None;
        }
        for other in self.roles.values_mut() {
            if other.member_of.remove(from) {
                other.member_of.insert(to.to_owned());
            }
        }
        for database in self.databases.values_mut().filter(|database| database.owner == from) {
            to.clone_into(&mut database.owner);
        }
        self.roles.insert(to.to_owned(), role);
    }
}

/// Names that the agent itself depends on.
#[derive(Debug, Clone)]
pub struct Own {
    /// The superuser it works as.
    pub superuser: String,
    /// The role that every new role is a member of.
    pub privileged: String,
    /// The database it works in.
    pub database: String,
}
