//! One object and what is done to it: the unit of a plan, of its execution and of a failure.

use std::fmt;

use pgfleet_api::plan::PlannedChange;

use super::phase::Phase;

/// One object of a plan.
#[derive(Clone, PartialEq, Eq)]
pub struct Step {
    /// Its phase.
    pub phase: Phase,
    /// Name of the role, database or other object.
    pub object: String,
    /// What is done, in words; never a verifier.
    pub words: String,
    /// The database whose session does it; none: the agent's own.
    pub(super) database: Option<String>,
    pub(super) work: Work,
    /// It needs others of its phase to be done before.
    pub(super) last: bool,
}

/// What a step comes to.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// Statements, one after the other; the first that fails ends the step.
    Do(Vec<Statement>),
    /// Nothing may be done: it is a failure from the outset.
    Refuse { sqlstate: &'static str, message: String },
}

/// Something to send.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// SQL without a result. Several statements in one are one transaction.
    Run(String),
    /// SQL that holds a verifier, and the verifier, which must not come back in an error.
    RunWithSecret(String, String),
    /// A query whose rows are statements to run.
    RunEach(String),
}

impl Step {
    pub(super) fn new(phase: Phase, object: &str, words: impl Into<String>, statements: Vec<Statement>) -> Self {
        let work = Work::Do(statements);
        Self { phase, object: object.to_owned(), words: words.into(), database: None, work, last: false }
    }

    pub(super) fn one(phase: Phase, object: &str, words: impl Into<String>, sql: String) -> Self {
        Self::new(phase, object, words, vec![Statement::Run(sql)])
    }

    pub(super) fn refused(phase: Phase, object: &str, sqlstate: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        let words = format!("refused: {message}");
        let work = Work::Refuse { sqlstate, message };
        Self { phase, object: object.to_owned(), words, database: None, work, last: false }
    }

    pub(super) fn within(self, database: &str) -> Self {
        Self { database: Some(database.to_owned()), ..self }
    }
}

impl From<Step> for PlannedChange {
    fn from(step: Step) -> Self {
        Self { phase: step.phase.as_str().to_owned(), object: step.object, words: step.words }
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { phase, object, words, database, work: _, last: _ } = self;
        let mut shown = f.debug_struct("Step");
        shown.field("phase", phase).field("object", object).field("words", words).field("database", database);
        shown.finish_non_exhaustive()
    }
}
