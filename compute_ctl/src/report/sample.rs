//! One look at PostgreSQL: one prepared statement on one session that is kept.

use chrono::{DateTime, Utc};
use tokio_postgres::{Client, Error, Row, Statement};

/// The agent's own sessions are those of its superuser under its name: a stranger who uses only one of them counts.
/// Times are epochs, so no session's time zone has a say. A worker of autovacuum is `active` only while it is at a table;
/// the launcher sends one to every database once a minute, which is no work. A walsender in `backup` sends a base backup;
/// one that holds a logical slot feeds a subscriber; the others feed standbys.
const LOOK: &str = "
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
           count(*) FILTER (WHERE client),
           count(*) FILTER (WHERE client AND state NOT LIKE 'idle%'),
           count(*) FILTER (WHERE client AND state LIKE 'idle in%'),
           (extract(epoch FROM max(state_change) FILTER (WHERE client AND state = 'idle')) * 1000000)::bigint,
           coalesce(bool_or(backend_type = 'autovacuum worker' AND state = 'active'), false),
           coalesce(bool_or(backend_type = 'walsender'), false)
               AND EXISTS (SELECT FROM pg_stat_replication WHERE state = 'backup'),
           EXISTS (SELECT FROM pg_replication_slots WHERE slot_type = 'logical' AND active_pid IS NOT NULL),
           EXISTS (SELECT FROM pg_stat_subscription WHERE pid IS NOT NULL)
    FROM (SELECT backend_type, state, state_change, backend_type = 'client backend' AS client
          FROM pg_stat_activity
          WHERE (usesysid = (SELECT oid FROM pg_authid WHERE rolname = session_user)
                 AND application_name LIKE 'compute\\_ctl%') IS NOT TRUE) AS others";

/// Work in the databases of users, as the cumulative statistics have it.
const WORK: &str = "
    SELECT coalesce(sum(active_time), 0)::float8, coalesce(sum(sessions), 0)::bigint
    FROM pg_stat_database WHERE datname NOT IN ('postgres', 'template0', 'template1')";

/// Counters of the databases; what they are says nothing, that they moved does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Work {
    pub(super) active_time_ms: f64,
    pub(super) sessions: i64,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// PostgreSQL's clock.
    pub(super) at: DateTime<Utc>,
    /// Sessions of clients.
    pub(super) sessions: u32,
    /// Of them, those that run a statement.
    pub(super) active: bool,
    /// Of them, those that hold a transaction open.
    pub(super) in_transaction: bool,
    /// When the last of the idle ones came to rest.
    pub(super) rested_at: Option<DateTime<Utc>>,
    pub(super) autovacuum: bool,
    pub(super) base_backup: bool,
    pub(super) logical_replication: bool,
    pub(super) subscription: bool,
    /// Asked for with a feature of the spec.
    pub(super) work: Option<Work>,
}

/// A session with its statements prepared. It ends when dropped.
pub(super) struct Eye {
    client: Client,
    look: Statement,
    work: Option<Statement>,
}

impl Eye {
    pub(super) async fn open(client: Client) -> Result<Self, Error> {
        let look = client.prepare(LOOK).await?;
        Ok(Self { client, look, work: None })
    }

    pub(super) async fn look(&mut self, with_work: bool) -> Result<Sample, Error> {
        let mut sample = sample_of(&self.client.query_one(&self.look, &[]).await?)?;
        if with_work {
            let statement = match &self.work {
                Some(statement) => statement,
                None => self.work.insert(self.client.prepare(WORK).await?),
            };
            let row = self.client.query_one(statement, &[]).await?;
            sample.work = Some(Work { active_time_ms: row.try_get(0)?, sessions: row.try_get(1)? });
        }
        Ok(sample)
    }
}

fn sample_of(row: &Row) -> Result<Sample, Error> {
    let time = |us: i64| DateTime::from_timestamp_micros(us).unwrap_or_default();
    Ok(Sample {
        at: time(row.try_get(0)?),
        sessions: u32::try_from(row.try_get::<_, i64>(1)?).unwrap_or(u32::MAX),
        active: row.try_get::<_, i64>(2)? > 0,
        in_transaction: row.try_get::<_, i64>(3)? > 0,
        rested_at: row.try_get::<_, Option<i64>>(4)?.map(time),
        autovacuum: row.try_get(5)?,
        base_backup: row.try_get(6)?,
        logical_replication: row.try_get(7)?,
        subscription: row.try_get(8)?,
        work: None,
    })
}
