//! What waits for a restart, who would notice one, and how sessions of the agent are ended.

use std::time::Duration;

use tokio::time::Instant;

use super::{LinkError, Postgres};

/// How long a terminated session may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Sessions of others. The agent's own come over the unix socket as the superuser, under names that begin so.
const OTHERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
     AND pid <> pg_backend_pid() \
     AND NOT (client_addr IS NULL AND usename = current_user AND application_name LIKE 'compute\\_ctl%')";

/// `reset_val` is written as the program's `-C` writes a value; `setting` is written for people, like a mode in octal.
const SETTINGS: &str = "SELECT name, coalesce(reset_val, ''), (SELECT reset_val FROM pg_settings WHERE name = 'shared_buffers') \
     FROM pg_settings WHERE pending_restart ORDER BY name";

impl Postgres {
    /// Sessions under another name than `compute_ctl`, but for the kept one, which is shared.
    #[must_use]
    pub fn named(&self, session_name: &'static str) -> Self {
        Self { session_name, ..self.clone() }
    }

    /// Settings whose value would be another one after a restart.
    ///
    /// PostgreSQL marks a setting also when it was removed from a file and its default is what it has: the server
    /// program is asked what the value would be.
    ///
    /// # Errors
    /// PostgreSQL cannot be asked.
    pub async fn waits_for_restart(&self) -> Result<Vec<String>, LinkError> {
        let rows = self.session().await?.query(SETTINGS, &[]).await?;
        let mut waiting = Vec::new();
        for row in rows {
            let (name, now, buffers): (String, String, String) = (row.get(0), row.get(1), row.get(2));
            let then = match self.would_be(&name).await {
                // Of other shared buffers it would choose otherwise, but then those wait and this does not.
                Some(then) if name == "wal_buffers" && then == "-1" => buffers.parse().ok().map(chosen_wal_buffers),
                then => then,
            };
            if then.is_none_or(|then| !is_same(&now, &then)) {
                waiting.push(name);
            }
        }
        Ok(waiting)
    }

    /// The value that a start would give, as `pg_settings.reset_val` has it.
    async fn would_be(&self, name: &str) -> Option<String> {
        let mut command = self.command(&self.options.programs.postgres);
        command.arg("-D").arg(&self.options.data_dir);
        for (fixed, value) in self.fixed_settings() {
            command.arg("-c").arg(format!("{fixed}={value}"));
        }
        command.args(["-C", name]);
        let output = tokio::process::Command::from(command).kill_on_drop(true).output().await.ok()?;
        let said = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| said.trim_end_matches('\n').to_owned())
    }

    /// How many sessions a restart would cut.
    ///
    /// # Errors
    /// PostgreSQL cannot be asked.
    pub async fn other_clients(&self) -> Result<i64, LinkError> {
        Ok(self.session().await?.query_one(OTHERS, &[]).await?.get(0))
    }

    /// Ends the agent's sessions of that name, with what they are doing, and waits until they are gone.
    ///
    /// # Errors
    /// PostgreSQL cannot be asked.
    pub async fn end_sessions(&self, session_name: &str) -> Result<(), LinkError> {
        const END: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE application_name = $1 AND usename = current_user AND pid <> pg_backend_pid()";
        let client = self.connect().await?;
        let begun = Instant::now();
        loop {
            let left: i64 = client.query_one(END, &[&session_name]).await?.get(0);
            if left == 0 {
                return Ok(());
            }
            if begun.elapsed() > END_LIMIT {
                tracing::warn!(sessions = left, "sessions of the agent do not end; going on beside them");
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What PostgreSQL chooses for `wal_buffers = -1`, in blocks: a 32nd of the shared buffers, from 8 blocks to one segment of
/// the usual size.
#[must_use]
pub fn chosen_wal_buffers(shared_buffers: u64) -> String {
    (shared_buffers / 32).clamp(8, 2048).to_string()
}

/// Lists may be written with other white space.
fn is_same(now: &str, then: &str) -> bool {
    let bare = |text: &str| text.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    now == then || bare(now) == bare(then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_compared_without_white_space() {
        assert!(is_same("a, b", "a,b") && is_same("100", "100"));
        assert!(!is_same("a,b", "b,a") && !is_same("100", "1000"));
    }
}
