//! Carries out a plan, phase by phase, and collects what failed.
//!
//! ```text
//! read ─► plan ─► quiet session ─► each phase: here, one by one, pipelined, or side by side ─► inside databases ─► flush
//!   ▲                  │ lost
//!   └──── once ────────┘
//! ```
//!
//! An object that fails does not stop the others. A session that breaks is another thing: what is there is read again and
//! planned again, once; statements that had worked are not in the new plan.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use pgfleet_api::spec::ComputeSpec;

use super::metrics::{ApplyMetrics, FailedMigration, InPhase};
use super::outcome::{Outcome, Tally};
use super::phase::Phase;
use super::plan::concerns;
use super::preview::look;
use super::session::{LONG, ORDINARY, Said, Session, Trouble, not_let_in};
use super::step::{Step, Work};
use super::upkeep::Migration;
use crate::postgres::{LinkError, Postgres};

/// Statements that are on their way at a time where their order is all that matters.
const PIPELINE: usize = 64;
/// Sessions that make databases side by side: each copies files, so more of them only queue for the disk.
const COPIES: usize = 4;

/// When a spec is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Right after PostgreSQL was started, when nobody is disturbed.
    Start,
    /// While it serves.
    Live,
}

/// Makes roles, databases and what belongs to them as the spec wants them.
///
/// # Errors
/// There is no session, or it broke twice: then the server is to be looked at, not the spec.
pub async fn apply_catalog(
    postgres: &Postgres,
    spec: &ComputeSpec,
    moment: Moment,
    metrics: &ApplyMetrics,
) -> Result<Outcome, LinkError> {
    if !concerns(spec) {
        return Ok(Outcome::default());
    }
    let work = Attempt { postgres, spec, moment, metrics, tally: Tally::new(metrics) };
    if let Err(lost) = work.run().await {
        tracing::warn!(
            "the session was lost ({}): what is left is done in a new one",
            pgfleet_runtime::exit::chain(&lost)
        );
        work.run().await?;
    }
    Ok(work.tally.into_outcome())
}

struct Attempt<'a> {
    postgres: &'a Postgres,
    spec: &'a ComputeSpec,
    moment: Moment,
    metrics: &'a ApplyMetrics,
    tally: Tally<'a>,
}

impl Attempt<'_> {
    async fn run(&self) -> Result<(), LinkError> {
        let (catalog, steps) = look(self.postgres, self.spec).await?;
        let steps: Vec<Step> = steps.into_iter().filter(|step| !self.tally.has_failed(step)).collect();
        // After a lost session there is nothing left to do, perhaps, but what was done is to be durable.
        if steps.is_empty() && self.tally.is_empty() {
            return Ok(());
        }
        let width = self.width(catalog.server.max_connections);
        let mut main = Session::open(self.postgres, &self.postgres.options().database).await?;
        for phase in Phase::ALL {
            let steps: Vec<&Step> = steps.iter().filter(|step| step.phase == phase).collect();
            if steps.is_empty() {
                continue;
            }
            let begun = Instant::now();
            self.phase(&mut main, phase, &steps, width).await?;
            self.metrics.objects.phase_duration_seconds.observe_duration(InPhase { phase }, begun.elapsed());
        }
        main.flush().await
    }

    /// How many sessions work side by side: while the compute runs as many as its owner allows, at its start as many as
    /// leave room.
    fn width(&self, max_connections: i32) -> usize {
        let all = usize::try_from(max_connections).unwrap_or(0);
        match (self.moment, all) {
            (Moment::Live, _) => self.spec.reconfigure_concurrency.clamp(1, all.max(1)),
            (Moment::Start, 0) => 10,
            (Moment::Start, 1..=9) => all,
            (Moment::Start, 10..=29) => 10,
            (Moment::Start, 30..=299) => all / 3,
            (Moment::Start, _) => 100,
        }
    }

    /// One phase: first what is done in the agent's database, then what is done inside others.
    async fn phase(&self, main: &mut Session, phase: Phase, steps: &[&Step], width: usize) -> Result<(), LinkError> {
        let here: Vec<&Step> = steps.iter().copied().filter(|step| step.database.is_none()).collect();
        match phase {
            Phase::Roles => {
                let all: Vec<_> = here.into_iter().map(|step| self.carry_out(main, step)).collect();
                stream::iter(all).buffered(PIPELINE).try_collect::<Vec<()>>().await?;
            }
            Phase::Databases => self.side_by_side(main, &here, width.min(COPIES)).await?,
            Phase::DropInvalidDatabases | Phase::RenameAndDeleteDatabases => {
                main.allow(LONG).await?;
                self.in_turn(main, &here).await?;
                main.allow(ORDINARY).await?;
            }
            Phase::DropSubscriptions if self.tally.any_failed(Phase::InDatabases) => {
                tracing::warn!("not all subscriptions are dropped: the next spec tries again");
            }
            Phase::Migrations => self.migrate(main, &here).await?,
            Phase::PreDrop
            | Phase::PrivilegedRole
            | Phase::RenameRoles
            | Phase::InDatabases
            | Phase::Extensions
            | Phase::AvailabilityCheck
            | Phase::DropRoles
            | Phase::DropSubscriptions => self.in_turn(main, &here).await?,
        }
        let groups = by_database(steps);
        let inside: Vec<_> = groups.iter().map(|(database, steps)| self.inside(database, steps)).collect();
        stream::iter(inside).buffer_unordered(width).try_collect::<Vec<()>>().await?;
        if phase == Phase::PrivilegedRole {
            for (template, _) in &groups {
                main.until_left(template).await?;
            }
        }
        Ok(())
    }

    async fn in_turn(&self, session: &Session, steps: &[&Step]) -> Result<(), LinkError> {
        for step in steps {
            self.carry_out(session, step).await?;
        }
        Ok(())
    }

    /// Makes databases in several sessions at once; what is a copy of another one comes at the end.
    async fn side_by_side(&self, main: &mut Session, steps: &[&Step], width: usize) -> Result<(), LinkError> {
        let (last, first): (Vec<&Step>, Vec<&Step>) = steps.iter().copied().partition(|step| step.last);
        main.allow(LONG).await?;
        let queue = Mutex::new(first.into_iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let helper = || async {
            let mut session = Session::open(self.postgres, &self.postgres.options().database).await?;
            session.allow(LONG).await?;
            while let Some(step) = next() {
                self.carry_out(&session, step).await?;
            }
            Ok::<(), LinkError>(())
        };
        let own = async {
            while let Some(step) = next() {
                self.carry_out(main, step).await?;
            }
            Ok(())
        };
        let helpers: Vec<_> = (1..width.min(steps.len())).map(|_| helper()).collect();
        tokio::try_join!(own, stream::iter(helpers).buffer_unordered(COPIES).try_collect::<Vec<()>>())?;
        self.in_turn(main, &last).await?;
        main.allow(ORDINARY).await
    }

    /// In a session of its own inside a database. One that lets nobody in fails all that was to be done there.
    async fn inside(&self, database: &str, steps: &[&Step]) -> Result<(), LinkError> {
        match Session::open(self.postgres, database).await {
            Ok(session) => self.in_turn(&session, steps).await,
            Err(error) => {
                let Some(said) = not_let_in(&error) else { return Err(error) };
                for step in steps {
                    self.tally.failed(step, said.sqlstate.clone(), said.message.clone());
                }
                Ok(())
            }
        }
    }

    /// One after the other, and no further than the first that fails: that is for the agent's next version to mend, not
    /// for the spec's owner, so the spec does not fail.
    async fn migrate(&self, session: &Session, steps: &[&Step]) -> Result<(), LinkError> {
        for step in steps {
            let Work::Do(statements) = &step.work else { continue };
            match session.run(statements).await {
                Ok(()) => self.tally.done(step),
                Err(Trouble::Lost(error)) => return Err(error),
                Err(Trouble::Refused(said)) => {
                    let sqlstate = said.sqlstate;
                    tracing::error!(
                        migration = step.object,
                        sqlstate,
                        "migration {} failed: {}",
                        step.object,
                        said.message
                    );
                    for migration in Migration::ALL.into_iter().filter(|migration| migration.as_str() == step.object) {
                        self.metrics
                            .migrations
                            .db_migration_failed_total
                            .inc(FailedMigration { migration_id: migration });
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    async fn carry_out(&self, session: &Session, step: &Step) -> Result<(), LinkError> {
        let said = match &step.work {
            Work::Refuse { sqlstate, message } => {
                Said { sqlstate: Some((*sqlstate).to_owned()), message: message.clone() }
            }
            Work::Do(statements) => match session.run(statements).await {
                Ok(()) => {
                    self.tally.done(step);
                    return Ok(());
                }
                Err(Trouble::Lost(error)) => return Err(error),
                Err(Trouble::Refused(said)) => said,
            },
        };
        self.tally.failed(step, said.sqlstate, said.message);
        Ok(())
    }
}

/// Steps inside other databases, by database, in the order in which those come up.
fn by_database<'a>(steps: &[&'a Step]) -> Vec<(&'a str, Vec<&'a Step>)> {
    let mut groups: Vec<(&str, Vec<&Step>)> = Vec::new();
    let mut places = std::collections::BTreeMap::new();
    for step in steps {
        let Some(database) = step.database.as_deref() else { continue };
        let place = *places.entry(database).or_insert_with(|| {
            groups.push((database, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(step);
    }
    groups
}
