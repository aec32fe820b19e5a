//! What of the catalog would be changed, in words. Reads only.

use pgfleet_api::plan::PlannedChange;
use pgfleet_api::spec::ComputeSpec;

use super::catalog;
use super::plan::{Action, Catalog, plan};
use super::quote::identifier;
use crate::postgres::{LinkError, Postgres};

/// Objects that the running server has otherwise than the spec, in the order of the work.
///
/// # Errors
/// PostgreSQL cannot be asked.
pub async fn preview(postgres: &Postgres, spec: &ComputeSpec) -> Result<Vec<PlannedChange>, LinkError> {
    if spec.skip_pg_catalog_updates {
        return Ok(Vec::new());
    }
    let catalog = catalog::read(&*postgres.session().await?).await?;
    Ok(plan(spec, &catalog).iter().map(in_words).collect())
}

/// The same for a data directory that is yet to be made.
#[must_use]
pub fn first(spec: &ComputeSpec) -> Vec<PlannedChange> {
    if spec.skip_pg_catalog_updates {
        return Vec::new();
    }
    plan(spec, &Catalog::default()).iter().map(in_words).collect()
}

fn in_words(action: &Action) -> PlannedChange {
    let Action { phase, object, sql } = action;
    let name = identifier(object);
    // What follows the name: never more than the words before a verifier.
    let (verb, rest) = sql.split_once(&name).unwrap_or((sql, ""));
    let rest = rest.trim_start().strip_prefix("WITH").unwrap_or(rest).trim();
    let (plain, password) = rest.split_once("PASSWORD").map_or((rest, false), |(plain, _)| (plain.trim(), true));
    let verb = verb.trim().to_ascii_lowercase();
    let mut details: Vec<&str> = Vec::new();
    details.extend(Some(plain).filter(|plain| !plain.is_empty()));
    details.extend(password.then_some("password"));
    let words = if details.is_empty() { verb } else { format!("{verb}: {}", details.join(", ")) };
    PlannedChange { phase: phase.as_str().to_owned(), object: object.clone(), words }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Phase;

    #[test]
    fn words_hold_no_verifier() {
        let rows = [
            (
                "a",
                "ALTER ROLE \"a\" WITH CONNECTION LIMIT 5 PASSWORD 'md5secret'",
                "alter role: CONNECTION LIMIT 5, password",
            ),
            ("a", "CREATE ROLE \"a\" WITH LOGIN PASSWORD 'SCRAM-SHA-256$secret'", "create role: LOGIN, password"),
            ("x", "ALTER DATABASE \"x\" OWNER TO \"b\"", "alter database: OWNER TO \"b\""),
            ("PASSWORD", "ALTER ROLE \"PASSWORD\" WITH LOGIN", "alter role: LOGIN"),
        ];
        for (object, sql, words) in rows {
            let action = Action { phase: Phase::Roles, object: object.to_owned(), sql: sql.to_owned() };
            assert_eq!(in_words(&action).words, words);
        }
    }
}
