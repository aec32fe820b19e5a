//! The kept session: one connection of the superuser that small questions share, so that a spec that changes nothing
//! opens none.
//!
//! It is lent to one caller at a time; a second one gets a session of its own. Invariants: nobody sets anything in it (what
//! changes a session's settings uses [`Postgres::connect`]); it is tried before it is lent, so a server that was started
//! again costs a new connection and no error; it is closed when nobody used it for a minute, and replaced after ten,
//! because a session's caches only grow.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgfleet_runtime::Kind;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::{LinkError, Postgres};

/// Closed when it was not used for so long.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Not kept when it is older.
const LIFE: Duration = Duration::from_secs(600);
/// A server that does not answer an empty question for so long is asked over a new connection.
const TRY_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
struct Kept {
    client: Arc<Client>,
    born: Instant,
    used: Instant,
}

/// Where the session lies while nobody uses it.
#[derive(Debug, Clone, Default)]
pub(super) struct Slot(Arc<Mutex<Option<Kept>>>);

impl Slot {
    fn take(&self) -> Option<Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, kept: Kept) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
    }

    fn close_idle(&self) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_some_and(|kept| kept.used.elapsed() >= IDLE_LIMIT) {
            *slot = None;
        }
    }
}

/// The kept session on loan; it goes back when this is dropped.
#[derive(Debug)]
pub struct Session {
    kept: Kept,
    slot: Slot,
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.kept.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.kept.client.is_closed() && self.kept.born.elapsed() < LIFE {
            self.slot.put(Kept { used: Instant::now(), ..self.kept.clone() });
        }
    }
}

impl Postgres {
    /// The kept session, for questions that leave nothing behind in it.
    ///
    /// # Errors
    /// PostgreSQL does not take a connection.
    pub async fn session(&self) -> Result<Session, LinkError> {
        let slot = self.slot.clone();
        if let Some(kept) = slot.take()
            && matches!(tokio::time::timeout(TRY_LIMIT, kept.client.check_connection()).await, Ok(Ok(())))
        {
            return Ok(Session { kept, slot });
        }
        let (client, connection) = self.link(&self.options().database).await?;
        let keeper = slot.clone();
        self.tasks.spawn("kept_session", Kind::Worker, async move {
            let mut connection = std::pin::pin!(connection);
            loop {
                tokio::select! {
                    ended = &mut connection => return ended,
                    () = tokio::time::sleep(IDLE_LIMIT) => keeper.close_idle(),
                }
            }
        });
        let now = Instant::now();
        Ok(Session { kept: Kept { client: Arc::new(client), born: now, used: now }, slot })
    }
}
