//! What applying a spec would do, in words. Reads only: a preview is the plan itself.

use pgfleet_api::plan::PlannedChange;
use pgfleet_api::spec::ComputeSpec;

use super::catalog;
use super::facts::{Catalog, KnownDatabase, KnownRole, Own, ServerFacts};
use super::plan::{concerns, plan};
use super::step::Step;
use crate::postgres::{LinkError, Postgres};

/// Objects that the running server has otherwise than the spec, in the order of the work.
///
/// # Errors
/// PostgreSQL cannot be asked.
pub async fn preview(postgres: &Postgres, spec: &ComputeSpec) -> Result<Vec<PlannedChange>, LinkError> {
    if !concerns(spec) {
        return Ok(Vec::new());
    }
    let (_, steps) = look(postgres, spec).await?;
    Ok(steps.into_iter().map(PlannedChange::from).collect())
}

/// The same for a data directory that is yet to be made.
#[must_use]
pub fn first(postgres: &Postgres, spec: &ComputeSpec) -> Vec<PlannedChange> {
    let own = own(postgres);
    let as_made = |template| {
        let owner = own.superuser.clone();
        KnownDatabase { owner, connectable: true, template, ..KnownDatabase::default() }
    };
    let major = postgres.options().programs.version.split('.').next().and_then(|major| major.parse::<i32>().ok());
    let server = ServerFacts { version: major.unwrap_or(0) * 10_000, has_public: true, ..ServerFacts::default() };
    let mut catalog = Catalog { server, ..Catalog::default() };
    catalog.roles.insert(own.superuser.clone(), KnownRole { login: true, ..KnownRole::default() });
    catalog.databases.insert("postgres".to_owned(), as_made(false));
    catalog.databases.insert("template0".to_owned(), KnownDatabase { connectable: false, ..as_made(true) });
    catalog.databases.insert("template1".to_owned(), as_made(true));
    plan(spec, &catalog, &own).into_iter().map(PlannedChange::from).collect()
}

fn own(postgres: &Postgres) -> Own {
    let options = postgres.options();
    Own {
        superuser: options.superuser.clone(),
        privileged: options.privileged_role.clone(),
        database: options.database.clone(),
    }
}

/// What is there, and what is to be done about it.
pub(super) async fn look(postgres: &Postgres, spec: &ComputeSpec) -> Result<(Catalog, Vec<Step>), LinkError> {
    let own = own(postgres);
    let session = postgres.session().await?;
    let catalog = catalog::read(&session, spec, &own).await?;
    let steps = plan(spec, &catalog, &own);
    Ok((catalog, steps))
}
