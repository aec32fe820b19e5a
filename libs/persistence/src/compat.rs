//! Which builds may work with the schema, and which of them are alive.
//!
//! Called by: `migrate` (before a step that shuts builds out), `rehearse`, `lease` (the gate in a claim), `database`.
//! A living member is found by a shared advisory lock: `lease` takes one whose key is the number of its build, on a
//! session that lives as long as the member does. It needs no table, which an older build might not have, and ends with
//! its process.

use std::fmt;

use tokio_postgres::Client;

use crate::error::DbError;
use crate::migrate::MigrationError;
use crate::records::Compat;

/// First key of the members' advisory locks ("pgfl" in ASCII); the second is the number of their build.
pub(crate) const MEMBER_LOCK: i32 = 0x7067_666c;

impl Compat {
    /// Whether a build of this number may load and follow.
    #[must_use]
    pub const fn lets_read(&self, number: i32) -> bool {
        number >= self.lowest_reader
    }

    /// Whether a build of this number may claim.
    #[must_use]
    pub const fn lets_lead(&self, number: i32) -> bool {
        number >= self.lowest_writer
    }
}

/// A member of an older build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Older {
    /// Name of its sessions, `pgfleet/<instance_id>`.
    pub session: String,
    /// Number of its build.
    pub number: i32,
}

impl fmt::Display for Older {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.session, self.number)
    }
}

/// The row as this session sees it: in its transaction, and by its search path. None before the table is there.
pub(crate) async fn compat_in(client: &Client) -> Result<Option<Compat>, DbError> {
    const DOING: &str = "read the schema's compatibility";
    let there = client
        .query_one("SELECT to_regclass('schema_compat') IS NOT NULL", &[])
        .await
        .map_err(DbError::query(DOING))?;
    if !there.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = client
        .query_opt("SELECT lowest_reader, lowest_writer FROM schema_compat", &[])
        .await
        .map_err(DbError::query(DOING))?;
    Ok(row.map(|row| Compat { lowest_reader: row.get(0), lowest_writer: row.get(1) }))
}

/// Refuses a step that shuts out this very build, or a member that is alive. `before` is what held so far.
pub(crate) async fn admit(
    client: &Client,
    name: &str,
    number: i32,
    before: Option<Compat>,
    after: Option<Compat>,
) -> Result<(), MigrationError> {
    let Some(after) = after else { return Ok(()) };
    let (reader, writer) = before.map_or((0, 0), |before| (before.lowest_reader, before.lowest_writer));
    if after.lowest_reader <= reader && after.lowest_writer <= writer {
        return Ok(());
    }
    if !after.lets_lead(number) {
        return Err(MigrationError::ShutsOutItself { name: name.to_owned(), lowest: after.lowest_writer, number });
    }
    let older = members_below(client, after.lowest_writer).await?;
    if older.is_empty() {
        return Ok(());
    }
    Err(MigrationError::ShutsOutMembers { name: name.to_owned(), lowest: after.lowest_writer, older })
}

async fn members_below(client: &Client, lowest: i32) -> Result<Vec<Older>, DbError> {
    let rows = client
        .query(
            "SELECT DISTINCT a.application_name, l.objid::bigint::integer
             FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
             WHERE l.locktype = 'advisory' AND l.classid::bigint = $1::integer AND l.objsubid = 2 AND l.granted
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND l.objid::bigint < $2::integer
             ORDER BY 2, 1",
            &[&MEMBER_LOCK, &lowest],
        )
        .await
        .map_err(DbError::query("looked for members of older builds"))?;
    Ok(rows.iter().map(|row| Older { session: row.get(0), number: row.get(1) }).collect())
}
