//! Rules for renames and deletions.
//!
//! A spec is applied again and again: at each start of the agent, at each push. So the deltas must say the same the second
//! time as the first. Roles are renamed before roles are made, databases are renamed and deleted before databases are
//! made, roles are deleted last. What would then undo itself at every run is refused: a name that is deleted and listed,
//! renamed away and listed, or renamed twice.

use std::collections::{BTreeMap, BTreeSet};

use pgfleet_api::spec::{ComputeSpec, DeltaOperation};

use super::SpecError;
use super::rules::check_name;

/// Databases that PostgreSQL itself needs.
const TEMPLATES: [&str; 2] = ["template0", "template1"];

/// What a delta asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Rename,
    Delete,
}

/// What it is asked of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Role,
    Database,
}

impl Kind {
    const fn word(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::Database => "database",
        }
    }
}

/// One delta of a kind that is known, and its place in the spec.
struct Delta<'a> {
    verb: Verb,
    kind: Kind,
    name: &'a str,
    new_name: &'a str,
    path: String,
}

/// What an action means; none where it is not known.
fn meaning(action: &str) -> Option<(Verb, Kind)> {
    match action {
        "rename_role" => Some((Verb::Rename, Kind::Role)),
        "delete_role" => Some((Verb::Delete, Kind::Role)),
        "rename_db" => Some((Verb::Rename, Kind::Database)),
        "delete_db" => Some((Verb::Delete, Kind::Database)),
        _ => None,
    }
}

/// Whether an action is one that is acted on.
pub(super) fn is_known(action: &str) -> bool {
    meaning(action).is_some()
}

/// Whether an action has a use for `new_name`.
pub(super) fn renames(action: &str) -> bool {
    meaning(action).is_some_and(|(verb, _)| verb == Verb::Rename)
}

/// A role of a user's: PostgreSQL keeps some names for itself. A listed role with such a name fails at PostgreSQL, alone.
fn check_role_name(name: &str, path: &str) -> Result<(), SpecError> {
    check_name(name, path)?;
    if name.starts_with("pg_") || matches!(name, "public" | "none") {
        return Err(SpecError::new(path, format!("{name:?} is reserved: PostgreSQL has no such role of a user's")));
    }
    Ok(())
}

pub(super) fn check_deltas(spec: &ComputeSpec) -> Result<(), SpecError> {
    let mut deltas = Vec::new();
    for (i, operation) in spec.delta_operations.iter().flatten().enumerate() {
        if let Some((verb, kind)) = meaning(&operation.action) {
            deltas.push(read(operation, verb, kind, format!("delta_operations[{i}]"))?);
        }
    }
    check_lists(spec, &deltas)?;
    check_each_other(&deltas)?;
    check_owners(spec, &deltas)
}

fn read<'a>(operation: &'a DeltaOperation, verb: Verb, kind: Kind, path: String) -> Result<Delta<'a>, SpecError> {
    let name = operation.name.as_str();
    let at_name = format!("{path}.name");
    match kind {
        Kind::Role => check_role_name(name, &at_name)?,
        Kind::Database => check_name(name, &at_name)?,
    }
    if kind == Kind::Database && TEMPLATES.contains(&name) {
        return Err(SpecError::new(at_name, format!("{name} is PostgreSQL's own and stays as it is")));
    }
    let new_name = match verb {
        Verb::Delete => "",
        Verb::Rename => {
            let at_new = format!("{path}.new_name");
            let Some(new_name) = operation.new_name.as_deref() else {
                return Err(SpecError::new(at_new, "a rename needs a new name"));
            };
            match kind {
                Kind::Role => check_role_name(new_name, &at_new)?,
                Kind::Database => check_name(new_name, &at_new)?,
            }
            if new_name == name {
                return Err(SpecError::new(at_new, "it is the name already"));
            }
            new_name
        }
    };
    Ok(Delta { verb, kind, name, new_name, path })
}

/// A name that goes must not be in the list of what is to be there.
fn check_lists(spec: &ComputeSpec, deltas: &[Delta<'_>]) -> Result<(), SpecError> {
    let roles = spec.cluster.roles.iter().map(|role| (Kind::Role, role.name.as_str()));
    let databases = spec.cluster.databases.iter().map(|database| (Kind::Database, database.name.as_str()));
    let listed: BTreeSet<_> = roles.chain(databases).collect();
    let Some(delta) = deltas.iter().find(|delta| listed.contains(&(delta.kind, delta.name))) else { return Ok(()) };
    let (kind, name) = (delta.kind.word(), delta.name);
    let msg = match delta.verb {
        Verb::Delete => format!("{kind} {name:?} is to be deleted and is listed in cluster as well"),
        Verb::Rename => format!("{kind} {name:?} is to be renamed and is listed in cluster under its old name"),
    };
    Err(SpecError::new(format!("{}.name", delta.path), msg))
}

/// No name may be the matter of two deltas, but for a deletion that is said twice.
fn check_each_other(deltas: &[Delta<'_>]) -> Result<(), SpecError> {
    let mut seen: BTreeMap<(Kind, &str), Verb> = BTreeMap::new();
    for delta in deltas {
        let mut take = |name, field: &str| match seen.insert((delta.kind, name), delta.verb) {
            None => Ok(()),
            Some(Verb::Delete) if delta.verb == Verb::Delete => Ok(()),
            Some(Verb::Delete | Verb::Rename) => {
                let msg =
                    format!("{} {name:?} is in another delta: these two cannot both stay true", delta.kind.word());
                Err(SpecError::new(format!("{}.{field}", delta.path), msg))
            }
        };
        take(delta.name, "name")?;
        match delta.verb {
            Verb::Rename => take(delta.new_name, "new_name")?,
            Verb::Delete => {}
        }
    }
    Ok(())
}

/// Databases are made when renames are done and before roles are deleted; an owner must outlive both.
fn check_owners(spec: &ComputeSpec, deltas: &[Delta<'_>]) -> Result<(), SpecError> {
    let gone: BTreeMap<&str, Verb> =
        deltas.iter().filter(|delta| delta.kind == Kind::Role).map(|delta| (delta.name, delta.verb)).collect();
    for (i, database) in spec.cluster.databases.iter().enumerate() {
        let msg = match gone.get(database.owner.as_str()) {
            None => continue,
            Some(Verb::Delete) => format!("owner {:?} does not exist: this spec deletes it", database.owner),
            Some(Verb::Rename) => format!("owner {:?} does not exist: this spec renames it", database.owner),
        };
        return Err(SpecError::new(format!("cluster.databases[{i}].owner"), msg));
    }
    Ok(())
}
