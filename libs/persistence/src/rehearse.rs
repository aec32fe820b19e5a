//! The rehearsal: a candidate tries its migrations before it asks anybody to step down for them.
//!
//! Called by: the controller's start-up. What it calls: `session`, `compat`. Invariants: everything happens in one
//! transaction, in a schema of its own that is made in it, and is rolled back, so nothing is left behind even by a
//! process that dies; the search path holds that schema alone, so no real table is read, written or locked.
//!
//! It finds what is wrong with the SQL itself, and contract steps that shut out a living member. What depends on the rows
//! that are there, on locks or on the time it takes shows only in the real run, which rolls back as well.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::compat::{admit, compat_in};
use crate::database::Database;
use crate::error::{DbError, ErrorClass};
use crate::lease::bounded;
use crate::migrate::{MigrationError, VERSIONS, execute, limit_statements, refused};
use crate::session::{Session, SessionKind};

/// How a rehearsal ended that found nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rehearsed {
    /// All migrations of this build run, one after the other.
    Well,
    /// This role may not make a schema, so nothing was tried.
    NotAllowed,
}

impl Database {
    /// Runs all migrations of this build, from the first, in a scratch schema, and takes everything back.
    ///
    /// # Errors
    /// [`MigrationError`] names the first that would not run; nothing was touched.
    pub async fn rehearse(&self, budget: Duration) -> Result<Rehearsed, MigrationError> {
        let session = self.connector().session(SessionKind::Migration).await?;
        let deadline = Instant::now() + budget;
        let over_budget =
            |name: &str| MigrationError::OverBudget { name: name.to_owned(), budget_ms: budget.as_millis() };
        let rehearsal = self.rehearse_on(&session, deadline, &over_budget);
        // Without an answer the session is dropped, and with it everything is rolled back.
        let outcome =
            timeout_at(deadline, rehearsal).await.unwrap_or_else(|_| Err(over_budget(self.release().newest())))?;
        const DOING: &str = "rolled back the rehearsal";
        bounded(self.connector().patience(), DOING, execute(session.client(), "ROLLBACK", DOING)).await?;
        Ok(outcome)
    }

    async fn rehearse_on(
        &self,
        session: &Session,
        deadline: Instant,
        over_budget: &(impl Fn(&str) -> MigrationError + Sync),
    ) -> Result<Rehearsed, MigrationError> {
        const DOING: &str = "prepared the rehearsal";
        let client = session.client();
        let allowed = "SELECT has_database_privilege(current_database(), 'CREATE')";
        if !client.query_one(allowed, &[]).await.map_err(DbError::query(DOING))?.get::<_, bool>(0) {
            return Ok(Rehearsed::NotAllowed);
        }
        let before = compat_in(client).await?;
        let schema = format!("pgfleet_rehearsal_{}", self.instance_id().0.simple());
        execute(client, "BEGIN", DOING).await?;
        limit_statements(client, deadline).await?;
        execute(client, &format!("CREATE SCHEMA {schema}; SET LOCAL search_path = {schema}"), DOING).await?;
        execute(client, VERSIONS, DOING).await?;
        for migration in self.release().migrations() {
            execute(client, migration.up(), "rehearsed a migration").await.map_err(|error| match error.class() {
                ErrorClass::StatementTimeout if Instant::now() >= deadline => over_budget(migration.name()),
                ErrorClass::Connection | ErrorClass::Shutdown => error.into(),
                _ => refused(migration.name().to_owned(), &error),
            })?;
        }
        admit(client, self.release().newest(), self.release().number(), before, compat_in(client).await?).await?;
        Ok(Rehearsed::Well)
    }
}
