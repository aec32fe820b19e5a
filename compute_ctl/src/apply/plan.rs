//! What has to be done so that a server is as a spec wants it. Pure: what is there goes in, steps come out, in order.
//!
//! Each phase is planned on what the phases before it will leave behind, so that the whole plan stands before its first
//! statement, and a preview of it is the plan itself. A server that is as wanted gives an empty plan. Nothing is dropped
//! because a spec is silent about it, only because a delta operation says so.

use std::collections::BTreeSet;

use pgfleet_api::spec::{ComputeMode, ComputeSpec, Database, DeltaOperation};

use super::facts::{Catalog, KnownDatabase, KnownRole, Own};
use super::phase::Phase;
use super::quote::identifier;
use super::step::{Statement, Step};
use super::{databases, roles, upkeep};

/// Code for an object that may not be touched.
const RESERVED: &str = "42939";
/// Code for a request that makes no sense.
const INVALID: &str = "22023";
/// The template that databases are copied from unless they name another.
const TEMPLATE: &str = "template1";

/// Whether a spec asks for any of this.
#[must_use]
pub(super) fn concerns(spec: &ComputeSpec) -> bool {
    spec.mode == ComputeMode::Primary && !spec.skip_pg_catalog_updates
}

/// Plans all changes.
#[must_use]
pub fn plan(spec: &ComputeSpec, catalog: &Catalog, own: &Own) -> Vec<Step> {
    if !concerns(spec) || catalog.server.standby {
        return Vec::new();
    }
    let mut planner = Planner { spec, own, now: catalog.clone(), steps: Vec::new() };
    planner.pre_drop();
    planner.privileged_role();
    planner.drop_invalid_databases();
    planner.rename_roles();
    planner.roles();
    planner.rename_and_delete_databases();
    planner.databases();
    planner.in_databases();
    planner.steps.extend(upkeep::statements_extension(&planner.now, preload_of(spec)));
    planner.steps.extend(upkeep::health_check(&planner.now));
    planner.drop_roles();
    if planner.subscriptions_are_due() {
        planner.steps.push(upkeep::subscriptions_dropped());
    }
    planner.steps.extend(upkeep::migrations(&planner.now, own));
    planner.steps
}

/// The operations of a spec that have this name.
pub(super) fn deltas<'a>(spec: &'a ComputeSpec, action: &'a str) -> impl Iterator<Item = &'a DeltaOperation> {
    spec.delta_operations.iter().flatten().filter(move |delta| delta.action == action)
}

fn preload_of(spec: &ComputeSpec) -> Option<&str> {
    let settings = spec.cluster.settings.iter().flatten();
    settings
        .filter(|s| s.name.eq_ignore_ascii_case("shared_preload_libraries"))
        .filter_map(|s| s.value.as_deref())
        .next_back()
}

struct Planner<'a> {
    spec: &'a ComputeSpec,
    own: &'a Own,
    /// What is there once the steps so far are done.
    now: Catalog,
    steps: Vec<Step>,
}

impl Planner<'_> {
    /// Why a database must stay.
    fn keeps_database(&self, name: &str) -> Option<&'static str> {
        let templates = ["template0", TEMPLATE];
        if name == self.own.database {
            Some("the agent works in this database")
        } else {
            templates.contains(&name).then_some("a template of PostgreSQL's own stays")
        }
    }

    /// Why a role must stay.
    fn keeps_role(&self, name: &str) -> Option<&'static str> {
        if name == self.own.superuser {
            Some("the agent works as this role")
        } else if name == self.own.privileged {
            Some("this is the privileged role, which the agent keeps")
        } else {
            name.starts_with("pg_").then_some("names that begin with pg_ are PostgreSQL's own")
        }
    }

    fn pre_drop(&mut self) {
        for delta in deltas(self.spec, "delete_db") {
            let Some(known) = self.now.databases.get(&delta.name) else { continue };
            if self.keeps_database(&delta.name).is_some() {
                continue;
            }
            if known.has_slots {
                self.steps.push(databases::drop_slots(&delta.name));
            }
            if !known.subscriptions.is_empty() && known.connectable && !known.invalid {
                self.steps.push(databases::drop_subscriptions(Phase::PreDrop, &delta.name, &known.subscriptions));
            }
        }
    }

    fn privileged_role(&mut self) {
        let privileged = &self.own.privileged;
        if !self.now.roles.contains_key(privileged) {
            let sql = format!(
                "CREATE ROLE {} CREATEDB CREATEROLE NOLOGIN REPLICATION BYPASSRLS \
                 IN ROLE pg_read_all_data, pg_write_all_data",
                identifier(privileged)
            );
            self.steps.push(Step::one(Phase::PrivilegedRole, privileged, "create role", sql));
            self.now.roles.insert(privileged.clone(), KnownRole::default());
        }
        // A database has what its template has: prepared once there, no session is needed in each new one.
        let to_come =
            |database: &Database| databases::template(database) == TEMPLATE && self.will_be_made(&database.name);
        let due = self.spec.cluster.databases.iter().any(to_come);
        if let Some(template) = self.now.databases.get_mut(TEMPLATE)
            && due
            && template.connectable
            && !template.prepared
        {
            template.prepared = true;
            let owner = template.owner.clone();
            self.steps.push(databases::prepare(Phase::PrivilegedRole, TEMPLATE, &owner, self.own));
        }
    }

    fn will_be_made(&self, name: &str) -> bool {
        let renamed = |delta: &DeltaOperation| {
            delta.new_name.as_deref() == Some(name) && self.now.databases.contains_key(&delta.name)
        };
        match self.now.databases.get(name) {
            Some(known) => known.invalid,
            None => !deltas(self.spec, "rename_db").any(renamed),
        }
    }

    fn drop_invalid_databases(&mut self) {
        let invalid: Vec<String> =
            self.now.databases.iter().filter(|(_, known)| known.invalid).map(|(name, _)| name.clone()).collect();
        for name in invalid {
            let sql = format!("DROP DATABASE {}", identifier(&name));
            let words = "drop database, whose drop was interrupted";
            self.steps.push(Step::one(Phase::DropInvalidDatabases, &name, words, sql));
            self.now.databases.remove(&name);
        }
    }

    fn rename_roles(&mut self) {
        for delta in deltas(self.spec, "rename_role") {
            let Some(to) = &delta.new_name else { continue };
            if !self.now.roles.contains_key(&delta.name) {
                continue;
            }
            if let Some(why) = self.keeps_role(&delta.name).or_else(|| self.keeps_role(to)) {
                self.steps.push(Step::refused(Phase::RenameRoles, &delta.name, RESERVED, why));
                continue;
            }
            let sql = format!("ALTER ROLE {} RENAME TO {}", identifier(&delta.name), identifier(to));
            let words = format!("rename role to {to}");
            self.steps.push(Step::one(Phase::RenameRoles, &delta.name, words, sql));
            // Where the new name is taken PostgreSQL refuses, and both stay.
            if !self.now.roles.contains_key(to) {
                self.now.rename_role(&delta.name, to);
            }
        }
    }

    fn roles(&mut self) {
        let plain = plain_roles(self.spec);
        for role in &self.spec.cluster.roles {
            let name = &role.name;
            if *name == self.own.privileged {
                let why = "this is the privileged role, which no spec can have";
                self.steps.push(Step::refused(Phase::Roles, name, RESERVED, why));
                continue;
            }
            if let Some(why) = roles::objection(role) {
                self.steps.push(Step::refused(Phase::Roles, name, INVALID, why));
                continue;
            }
            let work = match self.now.roles.get(name) {
                None => Some(roles::create(role, &self.own.privileged, plain.contains(name.as_str()))),
                Some(known) => roles::alter(role, known),
            };
            if let Some(work) = work {
                self.steps.push(Step::new(Phase::Roles, name, work.words, work.statements));
            }
            self.now.roles.entry(name.clone()).or_default();
        }
    }

    fn rename_and_delete_databases(&mut self) {
        for delta in self.spec.delta_operations.iter().flatten() {
            let name = &delta.name;
            let (delete, to) = match (delta.action.as_str(), &delta.new_name) {
                ("delete_db", _) => (true, None),
                ("rename_db", Some(to)) => (false, Some(to)),
                _ => continue,
            };
            let Some(known) = self.now.databases.get(name).cloned() else { continue };
            let keeps = self.keeps_database(name);
            if let Some(why) = keeps.or_else(|| to.and_then(|to| self.keeps_database(to))) {
                self.steps.push(Step::refused(Phase::RenameAndDeleteDatabases, name, RESERVED, why));
                continue;
            }
            match to {
                Some(to) => {
                    let taken = self.now.databases.contains_key(to);
                    self.steps.push(databases::rename(name, to, taken));
                    if !taken {
                        self.now.databases.remove(name);
                        self.now.databases.insert(to.clone(), known);
                    }
                }
                None if delete => {
                    self.steps.push(databases::drop(name, &known));
                    self.now.databases.remove(name);
                }
                None => {}
            }
        }
    }

    fn databases(&mut self) {
        let listed: BTreeSet<&str> =
            self.spec.cluster.databases.iter().map(|database| database.name.as_str()).collect();
        for database in &self.spec.cluster.databases {
            if let Some(known) = self.now.databases.get_mut(&database.name) {
                self.steps.extend(databases::alter(database, known, self.own));
                known.owner.clone_from(&database.owner);
                continue;
            }
            let mut step = databases::create(database, self.own);
            let template = databases::template(database);
            // A copy of another database of this spec waits until that is there.
            step.last = listed.contains(template);
            self.steps.push(step);
            let prepared = self.now.databases.get(template).is_some_and(|template| template.prepared);
            let closed = |name: &str, value: Option<&str>| {
                name.trim().eq_ignore_ascii_case("allow_connections") && value.is_some_and(|v| v != "true")
            };
            let connectable = !database.options.iter().flatten().any(|o| closed(&o.name, o.value.as_deref()));
            let owner = database.owner.clone();
            let made = KnownDatabase { owner, connectable, prepared, granted: true, ..KnownDatabase::default() };
            self.now.databases.insert(database.name.clone(), made);
        }
    }

    fn subscriptions_are_due(&self) -> bool {
        self.spec.drop_subscriptions_before_start && !self.now.server.subscriptions_dropped
    }

    /// The agent's own database comes first: what a role owns beside databases is given away there.
    fn in_databases(&mut self) {
        let usable = |known: &&KnownDatabase| known.connectable && !known.invalid;
        if self.subscriptions_are_due() {
            for (name, known) in &self.now.databases {
                if !known.subscriptions.is_empty() && usable(&known) {
                    let step = databases::drop_subscriptions(Phase::InDatabases, name, &known.subscriptions);
                    self.steps.push(step);
                }
            }
        }
        for delta in deltas(self.spec, "delete_role") {
            self.forget_role(&delta.name);
        }
        for database in &self.spec.cluster.databases {
            let known = self.now.databases.get(&database.name).filter(usable);
            if known.is_some_and(|known| !known.prepared) {
                let step = databases::prepare(Phase::InDatabases, &database.name, &database.owner, self.own);
                self.steps.push(step);
            }
        }
    }

    fn forget_role(&mut self, name: &str) {
        let Some(role) = self.now.roles.get(name).filter(|_| self.keeps_role(name).is_none()) else { return };
        let ties = role.ties.clone();
        let main = &self.own.database;
        let tied = |known: &KnownDatabase| known.connectable && !known.invalid && ties.databases.contains(&known.oid);
        if ties.shared || self.now.databases.get(main).is_some_and(tied) {
            self.steps.push(databases::forget(name, main, &self.own.superuser));
        }
        for (database, known) in self.now.databases.iter().filter(|(database, known)| *database != main && tied(known))
        {
            let heir = if known.owner == name { &self.own.superuser } else { &known.owner };
            self.steps.push(databases::forget(name, database, heir).within(database));
        }
    }

    fn drop_roles(&mut self) {
        for delta in deltas(self.spec, "delete_role") {
            let name = &delta.name;
            if !self.now.roles.contains_key(name) {
                continue;
            }
            if let Some(why) = self.keeps_role(name) {
                self.steps.push(Step::refused(Phase::DropRoles, name, RESERVED, why));
                continue;
            }
            let sql = Statement::Run(format!("DROP ROLE {}", identifier(name)));
            self.steps.push(Step::new(Phase::DropRoles, name, "drop role", vec![sql]));
            self.now.roles.remove(name);
        }
    }
}

/// Roles that a proxy logs in for its callers: they get nothing but what the spec says.
fn plain_roles(spec: &ComputeSpec) -> BTreeSet<&str> {
    let keys = spec.local_proxy_config.as_ref().and_then(|config| config["jwks"].as_array());
    let names = keys.into_iter().flatten().filter_map(|key| key["role_names"].as_array()).flatten();
    names.filter_map(serde_json::Value::as_str).collect()
}

#[cfg(test)]
mod tests;
