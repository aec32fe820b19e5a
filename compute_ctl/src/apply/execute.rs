//! Carries out a plan, statement by statement, and collects what failed.

use std::time::Instant;

use pgfleet_api::agent::ErrorDetail;
use pgfleet_api::spec::ComputeSpec;
use tokio_postgres::Client;

use super::metrics::{ApplyMetrics, InPhase, Object, ObjectOutcome};
use super::plan::{Action, Phase, plan};
use super::{catalog, quote};
use crate::postgres::{LinkError, Postgres};

/// Statements are sent one by one, because some of them cannot run with others; each keeps the session out of the log
/// before a verifier is sent, and out of `pg_stat_activity`.
const QUIET: [&str; 9] = [
    "SET log_statement = 'none'",
    "SET log_min_error_statement = 'panic'",
    "SET log_min_duration_statement = -1",
    "SET log_min_duration_sample = -1",
    "SET log_transaction_sample_rate = 0",
    "SET debug_print_parse = off",
    "SET debug_print_rewritten = off",
    "SET track_activities = off",
    "SET pg_stat_statements.track = 'none'",
];

/// An object that could not be made as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFailure {
    /// Its phase.
    pub phase: Phase,
    /// Its name.
    pub object: String,
    /// PostgreSQL's code, where it answered.
    pub sqlstate: Option<String>,
    /// PostgreSQL's message.
    pub message: String,
}

impl From<ObjectFailure> for ErrorDetail {
    fn from(failure: ObjectFailure) -> Self {
        Self {
            phase: failure.phase.as_str().to_owned(),
            object: Some(failure.object),
            sqlstate: failure.sqlstate,
            message: failure.message,
        }
    }
}

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many statements worked.
    pub done: usize,
    /// What did not.
    pub failures: Vec<ObjectFailure>,
}

/// Makes the catalog have the spec's roles and databases.
///
/// # Errors
/// There is no session, or it broke: then the server is to be looked at, not the spec.
pub async fn apply_catalog(
    postgres: &Postgres,
    spec: &ComputeSpec,
    metrics: &ApplyMetrics,
) -> Result<Outcome, LinkError> {
    let mut outcome = Outcome::default();
    let actions = plan(spec, &catalog::read(&*postgres.session().await?).await?);
    if actions.is_empty() {
        return Ok(outcome);
    }
    let client = postgres.connect().await?;
    for statement in QUIET {
        client.batch_execute(statement).await?;
    }
    for phase in Phase::ALL {
        let begun = Instant::now();
        for action in actions.iter().filter(|action| action.phase == phase) {
            carry_out(&client, action, metrics, &mut outcome).await?;
        }
        metrics.phase_duration_seconds.observe_duration(InPhase { phase }, begun.elapsed());
    }
    Ok(outcome)
}

async fn carry_out(
    client: &Client,
    action: &Action,
    metrics: &ApplyMetrics,
    outcome: &mut Outcome,
) -> Result<(), LinkError> {
    let Action { phase, object, sql } = action;
    let object_outcome = match client.batch_execute(sql).await {
        Ok(()) => {
            tracing::info!(
                phase = phase.as_str(),
                object,
                "{} {} is as wanted",
                phase.as_str(),
                quote::identifier(object)
            );
            outcome.done += 1;
            ObjectOutcome::Done
        }
        Err(error) => {
            let Some(said) = error.as_db_error() else { return Err(error.into()) };
            let sqlstate = Some(said.code().code().to_owned());
            let message = said.message().to_owned();
            tracing::warn!(phase = phase.as_str(), object, sqlstate, "{} {object:?}: {message}", phase.as_str());
            outcome.failures.push(ObjectFailure { phase: *phase, object: object.clone(), sqlstate, message });
            ObjectOutcome::Failed
        }
    };
    metrics.objects_total.inc(Object { phase: *phase, outcome: object_outcome });
    Ok(())
}
