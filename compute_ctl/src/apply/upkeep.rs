//! What the agent keeps in its own database: an extension, the table of the availability check, and its migrations. Pure.
//!
//! Migrations change what an earlier agent made, or made less of. The list is append-only: a number means the same for
//! ever. Each runs once, in one transaction with its number, in the schema `pgfleet`. One that needs a newer PostgreSQL
//! is passed over.

use measured::FixedCardinalityLabel;

use super::facts::{Catalog, Own};
use super::phase::Phase;
use super::quote::{identifier, literal};
use super::step::Step;

/// One migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
pub(super) enum Migration {
    /// The privileged role passes row security.
    PrivilegedBypassrls,
    /// Its members have its privileges without asking.
    MembersInherit,
    /// It may watch the server and let others.
    PrivilegedMonitor,
    /// It may see how far replication came.
    ReplicationOriginStatus,
    /// It may end sessions of others and let others.
    PrivilegedSignal,
    /// It may subscribe (PostgreSQL 16).
    CreateSubscription,
    /// It may export snapshots and log standby snapshots (PostgreSQL 16).
    SnapshotFunctions,
}

impl Migration {
    /// All, in their order; the first has the number 1.
    pub(super) const ALL: [Self; 7] = [
        Self::PrivilegedBypassrls,
        Self::MembersInherit,
        Self::PrivilegedMonitor,
        Self::ReplicationOriginStatus,
        Self::PrivilegedSignal,
        Self::CreateSubscription,
        Self::SnapshotFunctions,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::PrivilegedBypassrls => "privileged_bypassrls",
            Self::MembersInherit => "members_inherit",
            Self::PrivilegedMonitor => "privileged_monitor",
            Self::ReplicationOriginStatus => "replication_origin_status",
            Self::PrivilegedSignal => "privileged_signal",
            Self::CreateSubscription => "create_subscription",
            Self::SnapshotFunctions => "snapshot_functions",
        }
    }

    /// Lowest `server_version_num` that it makes sense for.
    const fn needs(self) -> i32 {
        match self {
            Self::PrivilegedBypassrls
            | Self::MembersInherit
            | Self::PrivilegedMonitor
            | Self::ReplicationOriginStatus
            | Self::PrivilegedSignal => 0,
            Self::CreateSubscription | Self::SnapshotFunctions => 160_000,
        }
    }

    fn sql(self, own: &Own) -> String {
        let role = identifier(&own.privileged);
        match self {
            Self::PrivilegedBypassrls => format!("ALTER ROLE {role} BYPASSRLS"),
            // The name has small letters and underscores only, so it is safe inside the body.
            Self::MembersInherit => format!(
                "DO $inherit$ DECLARE member name; BEGIN FOR member IN SELECT r.rolname FROM pg_auth_members m \
                 JOIN pg_roles r ON r.oid = m.member JOIN pg_roles g ON g.oid = m.roleid \
                 WHERE g.rolname = {} AND NOT r.rolinherit \
                 LOOP EXECUTE format('ALTER ROLE %I INHERIT', member); END LOOP; END $inherit$",
                literal(&own.privileged)
            ),
            Self::PrivilegedMonitor => format!("GRANT pg_monitor TO {role} WITH ADMIN OPTION"),
            Self::ReplicationOriginStatus => {
                format!("GRANT EXECUTE ON FUNCTION pg_show_replication_origin_status TO {role}")
            }
            Self::PrivilegedSignal => format!("GRANT pg_signal_backend TO {role} WITH ADMIN OPTION"),
            Self::CreateSubscription => format!("GRANT pg_create_subscription TO {role}"),
            Self::SnapshotFunctions => {
                format!("GRANT EXECUTE ON FUNCTION pg_export_snapshot, pg_log_standby_snapshot TO {role}")
            }
        }
    }
}

const MIGRATION_TABLE: &str = "CREATE SCHEMA IF NOT EXISTS pgfleet; \
     CREATE TABLE IF NOT EXISTS pgfleet.migration_id (key integer PRIMARY KEY CHECK (key = 0), id bigint NOT NULL); ";

/// Steps for the migrations that were not done yet.
pub(super) fn migrations(catalog: &Catalog, own: &Own) -> Vec<Step> {
    let done = catalog.server.migration.unwrap_or(0);
    let mut table = catalog.server.migration.is_none();
    let mut steps = Vec::new();
    for (number, migration) in (1_i64..).zip(Migration::ALL) {
        if number <= done || catalog.server.version < migration.needs() {
            continue;
        }
        let begin = if std::mem::take(&mut table) { MIGRATION_TABLE } else { "" };
        let sql = format!(
            "{begin}{}; INSERT INTO pgfleet.migration_id (key, id) VALUES (0, {number}) \
             ON CONFLICT (key) DO UPDATE SET id = excluded.id",
            migration.sql(own)
        );
        steps.push(Step::one(Phase::Migrations, migration.as_str(), format!("migration {number}"), sql));
    }
    steps
}

/// The step that makes an extension, where its library is loaded and it is not there.
pub(super) fn statements_extension(catalog: &Catalog, wanted: Option<&str>) -> Option<Step> {
    const NAME: &str = "pg_stat_statements";
    let names = |list: &str| list.split(',').any(|name| name.trim().trim_matches(['"', '\'']) == NAME);
    let loaded = names(&catalog.server.preloaded) || wanted.is_some_and(names);
    let due = loaded && catalog.server.has_public && !catalog.server.has_statements;
    let sql = format!("CREATE EXTENSION {NAME} WITH SCHEMA public");
    due.then(|| Step::one(Phase::Extensions, NAME, "create extension", sql))
}

/// The step that makes the table of the availability check, with its row.
pub(super) fn health_check(catalog: &Catalog) -> Option<Step> {
    let due = catalog.server.has_public && !catalog.server.has_health_check;
    let sql = "CREATE TABLE public.health_check (id serial PRIMARY KEY, updated_at timestamptz DEFAULT now()); \
               INSERT INTO public.health_check VALUES (1, now())";
    due.then(|| Step::one(Phase::AvailabilityCheck, "public.health_check", "create table", sql.to_owned()))
}

/// The step that writes down that all subscriptions were dropped.
pub(super) fn subscriptions_dropped() -> Step {
    let sql = "CREATE SCHEMA IF NOT EXISTS pgfleet; \
               CREATE TABLE IF NOT EXISTS pgfleet.drop_subscriptions_done (done_at timestamptz NOT NULL); \
               INSERT INTO pgfleet.drop_subscriptions_done VALUES (now())";
    let words = "write down that all subscriptions are dropped";
    Step::one(Phase::DropSubscriptions, "pgfleet.drop_subscriptions_done", words, sql.to_owned())
}
