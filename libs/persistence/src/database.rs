//! The handle of the database: the connector and the pool behind one value that everybody shares.
//!
//! Called by: the controller's start-up, and through the handle by `lease`, `load`, `migrate` and `writer`.
//! What it calls: `session` (connections), `bootstrap`, diesel's pool. Invariant: pooled connections serve reads only;
//! what writes has a session of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use pgfleet_api::controller::LeaderView;
use pgfleet_api::{ClusterId, InstanceId, Term};

use crate::bootstrap;
use crate::config::DatabaseConfig;
use crate::error::DbError;
use crate::records::{Compat, TermRecord};
use crate::release::Release;
use crate::schema::{cluster, leader, leader_history, schema_compat};
use crate::session::{Connector, Session, SessionKind};
use crate::specs::Specs;
use crate::writer::Wire;

/// How the pool of reading connections is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUse {
    /// Connections that work for somebody.
    pub busy: usize,
    /// Connections that are open and free.
    pub idle: usize,
    /// Readers that wait for a connection.
    pub waiting: usize,
    /// The most connections that there may be.
    pub limit: usize,
}

/// The controller's database.
pub struct Database {
    connector: Connector,
    pool: Pool<AsyncPgConnection>,
    pool_wait: Duration,
    instance_id: InstanceId,
    release: Release,
    /// Whether the table that claims are gated by was seen; before the migrations there is none.
    gated: AtomicBool,
    /// A writer's session that is open and prepared before there is a writer.
    spare: Mutex<Option<Wire>>,
    /// Bodies of specs that were read or written a moment ago.
    specs: Specs,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("target", &self.connector.target()).finish_non_exhaustive()
    }
}

impl Database {
    /// Takes the settings apart; nothing is dialled.
    ///
    /// # Errors
    /// [`DbError::Config`] if the URL cannot be used at all.
    pub fn open(config: DatabaseConfig) -> Result<Arc<Self>, DbError> {
        let connector = Connector::new(&config)?;
        let pool = pool(&connector, config.pool_size)?;
        let pool_wait = config.connect_timeout;
        Ok(Arc::new(Self {
            connector,
            pool,
            pool_wait,
            instance_id: config.instance_id,
            release: config.release,
            gated: AtomicBool::new(false),
            spare: Mutex::new(None),
            specs: Specs::new(),
        }))
    }

    /// [`Self::open`] and [`Self::check`].
    ///
    /// # Errors
    /// Those of both.
    pub async fn connect(config: DatabaseConfig) -> Result<Arc<Self>, DbError> {
        let database = Self::open(config)?;
        database.check().await?;
        Ok(database)
    }

    /// Connects once to see that the database is there, takes writes, and lets us in.
    ///
    /// # Errors
    /// [`DbError::Connect`], [`DbError::Timeout`] or [`DbError::ReadOnly`] if it is away or not writable.
    pub async fn check(&self) -> Result<(), DbError> {
        let connector = &self.connector;
        let session = connector.session(SessionKind::Control).await?;
        let row = session
            .client()
            .query_one(
                "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean,
                        current_user::text, to_regclass('leader') IS NOT NULL",
                &[],
            )
            .await
            .map_err(DbError::query("looked at it for the first time"))?;
        if row.get(0) {
            return Err(DbError::ReadOnly { target: connector.target().to_owned() });
        }
        let (role, bootstrapped): (String, bool) = (row.get(1), row.get(2));
        tracing::info!(database = connector.target(), %role, bootstrapped, "connected to the database");
        Ok(())
    }

    /// The process whose sessions these are.
    #[must_use]
    pub fn instance_id(&self) -> InstanceId {
        self.instance_id
    }

    /// This build, as far as the schema is concerned.
    #[must_use]
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// Makes the tables of leadership and the fleet's id if they are missing. Harmless at any time and from any
    /// number of processes at once.
    ///
    /// # Errors
    /// Any [`DbError`] of the connection; a role that may not create tables is [`crate::ErrorClass::Permission`].
    pub async fn bootstrap(&self) -> Result<ClusterId, DbError> {
        bootstrap::bootstrap(&self.connector).await
    }

    /// Opens and prepares the session that the next writer of this process will need, while nothing waits for it. It
    /// does nothing while there is one that lives. Needs the migrated tables.
    ///
    /// # Errors
    /// Any [`DbError`]; a leadership works without it, only later.
    pub async fn warm_up(&self) -> Result<(), DbError> {
        let there = self.spare().as_ref().is_some_and(|wire| !wire.is_closed());
        if !there {
            let wire = Wire::open(self).await?;
            self.leave_spare(wire);
        }
        Ok(())
    }

    /// Keeps a writer's session that nobody uses for the next writer.
    pub(crate) fn leave_spare(&self, wire: Wire) {
        *self.spare() = Some(wire);
    }

    fn spare(&self) -> MutexGuard<'_, Option<Wire>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer's session that [`Self::warm_up`] left, if it still lives.
    pub(crate) fn take_spare(&self) -> Option<Wire> {
        self.spare().take().filter(|wire| !wire.is_closed())
    }

    /// The leader row; none before the first claim. Who reads every half second keeps a [`crate::LeaseSession`].
    ///
    /// # Errors
    /// Any [`DbError`]; before the bootstrap the tables are missing.
    pub async fn read_leader(&self) -> Result<Option<LeaderView>, DbError> {
        const DOING: &str = "read the leader row";
        let mut conn = self.pooled(DOING).await?;
        let row: Option<LeaderRow> = leader::table
            .select(LeaderRow::as_select())
            .first(&mut conn)
            .await
            .optional()
            .map_err(DbError::diesel(DOING))?;
        let Some(row) = row else { return Ok(None) };
        // Minted once and never changed, so it needs no snapshot together with the row.
        let cluster_id =
            cluster::table.select(cluster::cluster_id).first(&mut conn).await.map_err(DbError::diesel(DOING))?;
        Ok(Some(row.view(ClusterId(cluster_id))))
    }

    /// The newest terms first.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn leader_history(&self, limit: i64) -> Result<Vec<TermRecord>, DbError> {
        const DOING: &str = "read the history of leadership";
        let mut conn = self.pooled(DOING).await?;
        let rows: Vec<HistoryRow> = leader_history::table
            .order(leader_history::term.desc())
            .limit(limit)
            .select(HistoryRow::as_select())
            .load(&mut conn)
            .await
            .map_err(DbError::diesel(DOING))?;
        Ok(rows.into_iter().map(TermRecord::from).collect())
    }

    /// Which builds may read and lead; none before the migration that makes the row. From the first time that there is
    /// one, a claim is gated by it.
    ///
    /// # Errors
    /// Any [`DbError`].
    pub async fn compat(&self) -> Result<Option<Compat>, DbError> {
        const DOING: &str = "read the schema's compatibility";
        let mut conn = self.pooled(DOING).await?;
        let there: bool =
            diesel::select(diesel::dsl::sql::<diesel::sql_types::Bool>("to_regclass('schema_compat') IS NOT NULL"))
                .get_result(&mut conn)
                .await
                .map_err(DbError::diesel(DOING))?;
        if !there {
            return Ok(None);
        }
        self.gated.store(true, Ordering::SeqCst);
        let row: Option<(i32, i32)> = schema_compat::table
            .select((schema_compat::lowest_reader, schema_compat::lowest_writer))
            .first(&mut conn)
            .await
            .optional()
            .map_err(DbError::diesel(DOING))?;
        Ok(row.map(|(lowest_reader, lowest_writer)| Compat { lowest_reader, lowest_writer }))
    }

    pub(crate) fn is_gated(&self) -> bool {
        AtomicBool::load(&self.gated, Ordering::SeqCst)
    }

    /// The tables of the migrations are gone.
    pub(crate) fn ungate(&self) {
        self.gated.store(false, Ordering::SeqCst);
    }

    pub(crate) fn specs(&self) -> &Specs {
        &self.specs
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    pub(crate) async fn control_session(&self) -> Result<Session, DbError> {
        self.connector.session(SessionKind::Control).await
    }

    /// How the pool is used at this moment.
    #[must_use]
    pub fn pool_use(&self) -> PoolUse {
        let status = self.pool.status();
        let idle = status.available;
        PoolUse { busy: status.size.saturating_sub(idle), idle, waiting: status.waiting, limit: status.max_size }
    }

    pub(crate) async fn pooled(&self, doing: &'static str) -> Result<Object<AsyncPgConnection>, DbError> {
        match tokio::time::timeout(self.pool_wait, self.pool.get()).await {
            Ok(conn) => conn.map_err(|error| DbError::Pool { doing, reason: error.to_string() }),
            Err(_) => Err(DbError::Timeout { doing, after_ms: self.pool_wait.as_millis() }),
        }
    }
}

fn pool(connector: &Connector, size: usize) -> Result<Pool<AsyncPgConnection>, DbError> {
    let mut config = ManagerConfig::<AsyncPgConnection>::default();
    let dial = connector.clone();
    // `establish` never encrypts, whatever the URL says: connections come from our own connector.
    config.custom_setup = Box::new(move |_url| {
        let dial = dial.clone();
        Box::pin(async move { dial.diesel(SessionKind::Pool).await })
    });
    let manager = AsyncDieselConnectionManager::new_with_config(connector.target(), config);
    Pool::builder(manager).max_size(size.max(1)).build().map_err(|error| DbError::Config { reason: error.to_string() })
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = leader)]
struct LeaderRow {
    term: i64,
    instance_id: uuid::Uuid,
    address: String,
    renewals: i64,
    lease_ms: i64,
    started_at: DateTime<Utc>,
    renewed_at: DateTime<Utc>,
    released_at: Option<DateTime<Utc>>,
}

impl LeaderRow {
    fn view(self, cluster_id: ClusterId) -> LeaderView {
        LeaderView {
            cluster_id,
            term: Term(self.term),
            instance_id: InstanceId(self.instance_id),
            address: self.address,
            renewals: self.renewals,
            lease_ms: self.lease_ms,
            started_at: self.started_at,
            renewed_at: self.renewed_at,
            released_at: self.released_at,
        }
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = leader_history)]
struct HistoryRow {
    term: i64,
    instance_id: uuid::Uuid,
    address: String,
    began: String,
    started_at: chrono::DateTime<chrono::Utc>,
    ended: Option<String>,
    ended_at: Option<chrono::DateTime<chrono::Utc>>,
    note: Option<String>,
    target_schema: String,
}

impl From<HistoryRow> for TermRecord {
    fn from(row: HistoryRow) -> Self {
        Self {
            term: Term(row.term),
            instance_id: InstanceId(row.instance_id),
            address: row.address,
            began: row.began,
            started_at: row.started_at,
            ended: row.ended,
            ended_at: row.ended_at,
            note: row.note,
            target_schema: row.target_schema,
        }
    }
}
