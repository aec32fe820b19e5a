//! What the running server and its configuration files say about settings, read and never changed.

use super::link::OWN_NAME;
use super::{CONF_FILE, LinkError, Postgres};

/// One row of `pg_settings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// As PostgreSQL writes it; compared without case.
    pub name: String,
    /// What it takes to change it.
    pub context: String,
    /// Unit of a bare number.
    pub unit: Option<String>,
    /// Where the value comes from.
    pub source: String,
    /// PostgreSQL says that it waits for a restart. The mark may stay when it does no more.
    pub pending: bool,
    /// The value that a new session starts with.
    pub value: Option<String>,
    /// The value that PostgreSQL has where nobody sets one.
    pub default: Option<String>,
}

/// One line of a configuration file, as the server reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// As it is written.
    pub name: String,
    /// As it is written, without quotes.
    pub text: String,
}

/// Settings and files of a running server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// All settings that it knows.
    pub rows: Vec<Row>,
    /// Lines before the agent's file.
    pub before: Vec<Line>,
    /// The agent's file.
    pub own: Vec<Line>,
    /// Lines that win over it: after the include line, and those of `ALTER SYSTEM`.
    pub after: Vec<Line>,
    /// Client sessions; the agent's own are none, under whatever name.
    pub connections: u32,
}

const ROWS: &str = "SELECT name, context, unit, source, reset_val, boot_val, pending_restart FROM pg_settings";
const LINES: &str = "SELECT sourcefile, name, setting FROM pg_file_settings WHERE name IS NOT NULL ORDER BY seqno";
const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                        AND NOT starts_with(application_name, $1)";
/// Where `ALTER SYSTEM` writes; read last of all.
const AUTO_FILE: &str = "postgresql.auto.conf";

impl Postgres {
    /// Settings, files and sessions of the running server.
    ///
    /// # Errors
    /// PostgreSQL cannot be asked.
    pub async fn view(&self) -> Result<View, LinkError> {
        let session = self.session().await?;
        let row = |row: tokio_postgres::Row| Row {
            name: row.get(0),
            context: row.get(1),
            unit: row.get(2),
            source: row.get(3),
            value: row.get(4),
            default: row.get(5),
            pending: row.get(6),
        };
        let rows = session.query(ROWS, &[]).await?.into_iter().map(row).collect();
        let mut view = View { rows, ..View::default() };
        let own = self.options().data_dir.join(CONF_FILE);
        for row in session.query(LINES, &[]).await? {
            let (file, line): (&str, _) = (row.get(0), Line { name: row.get(1), text: text(&row) });
            if std::path::Path::new(file) == own {
                view.own.push(line);
            } else if file.ends_with(AUTO_FILE) || !view.own.is_empty() {
                view.after.push(line);
            } else {
                view.before.push(line);
            }
        }
        let sessions: i64 = session.query_one(SESSIONS, &[&OWN_NAME]).await?.get(0);
        view.connections = u32::try_from(sessions).unwrap_or(u32::MAX);
        Ok(view)
    }
}

fn text(row: &tokio_postgres::Row) -> String {
    row.get::<_, Option<String>>(2).unwrap_or_default()
}
