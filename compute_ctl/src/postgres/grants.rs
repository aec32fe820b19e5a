//! Privileges of a role on objects, for `POST /grants`.
//!
//! One question reads what the objects' access lists have and lets PostgreSQL quote the statement that adds the rest.
//! Privileges that come by membership or from PUBLIC do not count: a grant is about the role itself.

use pgfleet_api::errands::{GrantObject, GrantRequest};
use tokio_postgres::Client;

use super::Errands;
use super::ask::AskError;

const ROLE: &str = "SELECT 1 FROM pg_roles WHERE rolname = $1";
const SCHEMA: &str = "SELECT 1 FROM pg_namespace WHERE nspname = $1";

/// How one kind of object is found and named. In both, `$2` is the schema (or the database) and `$4` the object.
struct Kind {
    /// What one of them is called; none where any number will do.
    single: Option<&'static str>,
    /// A query that gives the access list of each as `acl`.
    lists: &'static str,
    /// What follows `ON`, for `format()`.
    on: &'static str,
}

const fn kind(object: &GrantObject) -> Kind {
    match object {
        GrantObject::Schema => Kind {
            single: Some("schema"),
            lists: "SELECT coalesce(nspacl, acldefault('n', nspowner)) AS acl FROM pg_namespace WHERE nspname = $2",
            on: "SCHEMA %1$I",
        },
        GrantObject::Database => Kind {
            single: Some("database"),
            lists: "SELECT coalesce(datacl, acldefault('d', datdba)) AS acl FROM pg_database WHERE datname = $2",
            on: "DATABASE %1$I",
        },
        GrantObject::AllTables => Kind { single: None, lists: TABLES, on: "ALL TABLES IN SCHEMA %1$I" },
        GrantObject::AllSequences => Kind { single: None, lists: SEQUENCES, on: "ALL SEQUENCES IN SCHEMA %1$I" },
        GrantObject::AllFunctions => Kind { single: None, lists: FUNCTIONS, on: "ALL FUNCTIONS IN SCHEMA %1$I" },
        GrantObject::Table { .. } => Kind { single: Some("table"), lists: TABLES, on: "TABLE %1$I.%2$I" },
        GrantObject::Sequence { .. } => Kind { single: Some("sequence"), lists: SEQUENCES, on: "SEQUENCE %1$I.%2$I" },
    }
}

const TABLES: &str = "SELECT coalesce(relacl, acldefault('r', relowner)) AS acl FROM pg_class \
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $2) \
    AND relkind IN ('r', 'p', 'v', 'm', 'f') AND ($4::text IS NULL OR relname = $4)";
const SEQUENCES: &str = "SELECT coalesce(relacl, acldefault('s', relowner)) AS acl FROM pg_class \
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $2) \
    AND relkind = 'S' AND ($4::text IS NULL OR relname = $4)";
const FUNCTIONS: &str = "SELECT coalesce(proacl, acldefault('f', proowner)) AS acl FROM pg_proc \
    WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = $2) AND prokind <> 'p' AND $4::text IS NULL";

impl Errands {
    /// Lets the role have the privileges; writes nothing where it has them.
    ///
    /// # Errors
    /// A privilege does not fit the object, something does not exist, or PostgreSQL refuses.
    pub async fn grant(&self, wanted: &GrantRequest) -> Result<(), AskError> {
        let object = wanted.object.as_ref().unwrap_or(&GrantObject::Schema);
        fits(wanted, object)?;
        let place = match object {
            GrantObject::Database => &wanted.database,
            _ => wanted.schema.as_ref().ok_or_else(|| AskError::Unfit {
                path: "schema",
                msg: "a schema is needed for objects of this type".to_owned(),
            })?,
        };
        Self::within(async {
            let writer = self.writer(&wanted.database, "compute_ctl:grants").await?;
            let Some(statement) = missing(&writer.client, wanted, object, place).await? else { return Ok(()) };
            writer.client.batch_execute(&statement).await?;
            tracing::info!(database = wanted.database, role = wanted.role, "{statement}");
            Ok(())
        })
        .await
    }
}

fn fits(wanted: &GrantRequest, object: &GrantObject) -> Result<(), AskError> {
    let unfit = |msg| Err(AskError::Unfit { path: "privileges", msg });
    if wanted.privileges.is_empty() {
        return unfit("name at least one privilege".to_owned());
    }
    let allowed = object.privileges();
    match wanted.privileges.iter().find(|privilege| !allowed.contains(privilege)) {
        None => Ok(()),
        Some(bad) => {
            let names: Vec<_> = allowed.iter().map(|privilege| privilege.as_str()).collect();
            unfit(format!("{} cannot be granted on objects of this type: {}", bad.as_str(), names.join(", ")))
        }
    }
}

/// The statement that is needed, if one is.
async fn missing(
    client: &Client,
    wanted: &GrantRequest,
    object: &GrantObject,
    place: &str,
) -> Result<Option<String>, AskError> {
    let unknown = |what, name: &str| AskError::Unknown { what, name: name.to_owned() };
    if client.query_opt(ROLE, &[&wanted.role]).await?.is_none() {
        return Err(unknown("role", &wanted.role));
    }
    if !matches!(object, GrantObject::Database) && client.query_opt(SCHEMA, &[&place]).await?.is_none() {
        return Err(unknown("schema", place));
    }
    let name = match object {
        GrantObject::Table { name } | GrantObject::Sequence { name } => Some(name),
        _ => None,
    };
    let Kind { single, lists, on } = kind(object);
    let question = format!(
        "WITH o AS ({lists}), r AS (SELECT oid, rolname FROM pg_roles WHERE rolname = $1) \
         SELECT (SELECT count(*) FROM o), \
         EXISTS (SELECT FROM o, r, unnest($3::text[]) AS w(privilege) WHERE NOT EXISTS \
             (SELECT FROM aclexplode(o.acl) a WHERE a.grantee = r.oid AND a.privilege_type = w.privilege)), \
         format('GRANT %3$s ON {on} TO %4$I', $2::text, $4::text, array_to_string($3::text[], ', '), r.rolname) FROM r"
    );
    let privileges: Vec<_> = wanted.privileges.iter().map(|privilege| privilege.as_str()).collect();
    let row = client.query_one(&question, &[&wanted.role, &place, &privileges, &name]).await?;
    match (row.get::<_, i64>(0), single) {
        (0, Some(what)) => Err(unknown(what, name.map_or(place, String::as_str))),
        _ if row.get(1) => Ok(Some(row.get(2))),
        _ => Ok(None),
    }
}
