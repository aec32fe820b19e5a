//! What has to be done so that the catalog has the spec's roles and databases. Pure; an unchanged catalog gives an empty
//! plan, so a second run does nothing.

use std::collections::BTreeMap;
use std::fmt;

use measured::FixedCardinalityLabel;
use pgfleet_api::spec::{ComputeSpec, Database, PgOption, Role};

use super::quote::{identifier, literal};

/// Part of a spec's application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, FixedCardinalityLabel)]
pub enum Phase {
    /// Roles.
    Roles,
    /// Databases, whose owners are roles.
    Databases,
}

impl Phase {
    /// Both, in their order.
    pub const ALL: [Self; 2] = [Self::Roles, Self::Databases];

    /// Its name in error details.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Roles => "roles",
            Self::Databases => "databases",
        }
    }
}

/// A role that is there.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct KnownRole {
    /// Its verifier, as stored.
    pub password: Option<String>,
    /// Whether it may log in.
    pub login: bool,
    /// Attributes by the option that sets them, like `CREATEDB` or `CONNECTION LIMIT` to its value.
    pub attributes: BTreeMap<String, String>,
}

/// A database that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownDatabase {
    /// Who owns it.
    pub owner: String,
}

/// What is there.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Catalog {
    /// Roles by name.
    pub roles: BTreeMap<String, KnownRole>,
    /// Databases by name.
    pub databases: BTreeMap<String, KnownDatabase>,
}

/// One statement for one object.
#[derive(Clone, PartialEq, Eq)]
pub struct Action {
    /// Its phase.
    pub phase: Phase,
    /// Name of the role or database.
    pub object: String,
    /// The statement; it may hold a verifier.
    pub sql: String,
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { phase, object, sql: _ } = self;
        f.debug_struct("Action").field("phase", phase).field("object", object).finish_non_exhaustive()
    }
}

/// Plans all changes, roles before the databases that they own.
#[must_use]
pub fn plan(spec: &ComputeSpec, catalog: &Catalog) -> Vec<Action> {
    let roles = spec.cluster.roles.iter().filter_map(|role| {
        let sql = role_statement(role, catalog.roles.get(&role.name))?;
        Some(Action { phase: Phase::Roles, object: role.name.clone(), sql })
    });
    let databases = spec.cluster.databases.iter().filter_map(|database| {
        let sql = database_statement(database, catalog.databases.get(&database.name))?;
        Some(Action { phase: Phase::Databases, object: database.name.clone(), sql })
    });
    roles.chain(databases).collect()
}

/// The verifier as PostgreSQL stores it: a bare MD5 hash gets its prefix.
fn stored(verifier: &str) -> String {
    if verifier.starts_with("SCRAM-SHA-256$") || verifier.starts_with("md5") {
        verifier.to_owned()
    } else {
        format!("md5{verifier}")
    }
}

fn role_statement(role: &Role, known: Option<&KnownRole>) -> Option<String> {
    let name = identifier(&role.name);
    let wanted = role.encrypted_password.as_deref().map(stored);
    let password = wanted.as_deref().map_or_else(|| "PASSWORD NULL".to_owned(), |v| format!("PASSWORD {}", literal(v)));
    let options = role.options.as_deref().unwrap_or_default();
    let Some(known) = known else {
        let options: String = options.iter().map(|option| format!(" {}", render(option, false))).collect();
        return Some(format!("CREATE ROLE {name} WITH{options} LOGIN {password}"));
    };
    let mut changes: Vec<_> =
        options.iter().filter(|option| !in_effect(option, known)).map(|option| render(option, false)).collect();
    if !known.login {
        changes.push("LOGIN".to_owned());
    }
    if known.password != wanted {
        changes.push(password);
    }
    (!changes.is_empty()).then(|| format!("ALTER ROLE {name} WITH {}", changes.join(" ")))
}

/// Whether an option needs no change. One that is not known is set at each run, which PostgreSQL takes calmly.
fn in_effect(option: &PgOption, known: &KnownRole) -> bool {
    let name = option.name.trim().to_ascii_uppercase();
    if name == "LOGIN" {
        return known.login;
    }
    let is = known.attributes.get(&name);
    match option.value.as_deref() {
        Some(value) => is.is_some_and(|is| is == value),
        None => is.is_some_and(|is| is == "true"),
    }
}

fn database_statement(database: &Database, known: Option<&KnownDatabase>) -> Option<String> {
    let (name, owner) = (identifier(&database.name), identifier(&database.owner));
    match known {
        Some(known) if known.owner == database.owner => None,
        Some(_) => Some(format!("ALTER DATABASE {name} OWNER TO {owner}")),
        None => {
            let options = database.options.iter().flatten().map(|option| format!(" {}", render(option, true)));
            Some(format!("CREATE DATABASE {name} WITH OWNER {owner}{}", options.collect::<String>()))
        }
    }
}

/// `NAME value` or, for databases, `NAME = value`: some of their options want the sign and all allow it.
fn render(option: &PgOption, with_sign: bool) -> String {
    let sign = if with_sign { " =" } else { "" };
    match option.value.as_deref() {
        None => option.name.clone(),
        Some(value) if option.vartype == "string" => format!("{}{sign} {}", option.name, literal(value)),
        Some(value) => format!("{}{sign} {value}", option.name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SCRAM: &str = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy";
    const MD5: &str = "0123456789abcdef0123456789abcdef";

    fn spec(roles: serde_json::Value, databases: serde_json::Value) -> ComputeSpec {
        serde_json::from_value(json!({
            "format_version": 1.0, "suspend_timeout_seconds": 0, "cluster": {"roles": roles, "databases": databases}
        }))
        .unwrap()
    }

    fn sql(spec: &ComputeSpec, catalog: &Catalog) -> Vec<String> {
        plan(spec, catalog).into_iter().map(|action| action.sql).collect()
    }

    fn role(password: Option<&str>, attributes: &[(&str, &str)]) -> KnownRole {
        KnownRole {
            password: password.map(ToOwned::to_owned),
            login: true,
            attributes: attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    #[test]
    fn what_is_absent_is_created_in_order() {
        let spec = spec(
            json!([
                {"name": "a", "encrypted_password": SCRAM},
                {"name": "batch \"night\"", "encrypted_password": MD5, "options":
                    [{"name": "CONNECTION LIMIT", "value": "5", "vartype": "integer"}]},
                {"name": "c", "encrypted_password": null}]),
            json!([
                {"name": "d", "owner": "a", "options": [
                    {"name": "TEMPLATE", "value": "template0", "vartype": "enum"},
                    {"name": "LC_COLLATE", "value": "C", "vartype": "string"}]}]),
        );
        assert_eq!(
            sql(&spec, &Catalog::default()),
            [
                &format!("CREATE ROLE \"a\" WITH LOGIN PASSWORD '{SCRAM}'"),
                &format!("CREATE ROLE \"batch \"\"night\"\"\" WITH CONNECTION LIMIT 5 LOGIN PASSWORD 'md5{MD5}'"),
                "CREATE ROLE \"c\" WITH LOGIN PASSWORD NULL",
                "CREATE DATABASE \"d\" WITH OWNER \"a\" TEMPLATE = template0 LC_COLLATE = 'C'",
            ]
        );
    }

    #[test]
    fn what_is_as_wanted_is_left_alone() {
        let spec = spec(
            json!([
                {"name": "a", "encrypted_password": SCRAM, "options": [
                    {"name": "createdb", "vartype": "bool"}, {"name": "CONNECTION LIMIT", "value": "5", "vartype": "integer"}]},
                {"name": "b", "encrypted_password": MD5},
                {"name": "c"}]),
            json!([{"name": "d", "owner": "a"}]),
        );
        let catalog = Catalog {
            roles: BTreeMap::from([
                ("a".into(), role(Some(SCRAM), &[("CREATEDB", "true"), ("CONNECTION LIMIT", "5")])),
                ("b".into(), role(Some(&format!("md5{MD5}")), &[])),
                ("c".into(), role(None, &[])),
                ("not in the spec".into(), role(None, &[])),
            ]),
            databases: BTreeMap::from([
                ("d".into(), KnownDatabase { owner: "a".into() }),
                ("postgres".into(), KnownDatabase { owner: "x".into() }),
            ]),
        };
        assert_eq!(sql(&spec, &catalog), [""; 0]);
    }

    #[test]
    fn what_differs_is_altered_and_no_more() {
        let spec = spec(
            json!([
                {"name": "a", "encrypted_password": SCRAM, "options": [{"name": "CREATEDB", "vartype": "bool"}]},
                {"name": "b", "encrypted_password": null},
                {"name": "c", "encrypted_password": MD5}]),
            json!([{"name": "d", "owner": "b"}]),
        );
        let catalog = Catalog {
            roles: BTreeMap::from([
                ("a".into(), role(Some(SCRAM), &[("CREATEDB", "false")])),
                ("b".into(), KnownRole { login: false, ..role(Some("md5x"), &[]) }),
                ("c".into(), role(Some(SCRAM), &[])),
            ]),
            databases: BTreeMap::from([("d".into(), KnownDatabase { owner: "a".into() })]),
        };
        assert_eq!(
            sql(&spec, &catalog),
            [
                "ALTER ROLE \"a\" WITH CREATEDB",
                "ALTER ROLE \"b\" WITH LOGIN PASSWORD NULL",
                &format!("ALTER ROLE \"c\" WITH PASSWORD 'md5{MD5}'"),
                "ALTER DATABASE \"d\" OWNER TO \"b\"",
            ]
        );
    }

    #[test]
    fn a_verifier_is_not_in_debug() {
        let spec = spec(json!([{"name": "a", "encrypted_password": SCRAM}]), json!([]));
        assert!(!format!("{:?}", plan(&spec, &Catalog::default())).contains("SCRAM"));
    }
}
