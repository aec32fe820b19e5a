//! The statements that take longest on average, from `pg_stat_statements`, for `GET /insights`.
//!
//! Invariants: the superuser's own statements are left out; where the extension is absent or not loaded there are none.
//! PostgreSQL keeps the text of utility statements as it came, so a text that may hold a password loses its literals.

use std::time::Duration;

use serde_json::Value;
use tokio_postgres::error::SqlState;

use super::ReadOnly;
use super::ask::{AskError, within};

/// How long the question may take.
const LIMIT: Duration = Duration::from_secs(15);
/// The query, for the schema that the extension lies in.
const QUERY: &str = "SELECT format('SELECT to_jsonb(s) FROM %I.pg_stat_statements s \
                     WHERE userid IS DISTINCT FROM (SELECT oid FROM pg_authid WHERE rolname = $1) \
                     ORDER BY mean_exec_time + mean_plan_time DESC LIMIT 100', n.nspname) \
                     FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace \
                     WHERE e.extname = 'pg_stat_statements'";
/// Words of texts that may hold a secret: passwords of roles, subscriptions, servers and user mappings.
const TELLING: [&str; 4] = ["password", "connection", "options", "secret"];
/// What stands in the place of a literal.
const REDACTED: &str = "'<redacted>'";

impl ReadOnly {
    /// At most 100 rows of `pg_stat_statements`, the slowest on average first.
    ///
    /// # Errors
    /// PostgreSQL cannot be asked.
    pub async fn slowest_statements(&self) -> Result<Vec<Value>, AskError> {
        within(LIMIT, async {
            let reader = self.reader(None, "compute_ctl:insights").await?;
            let Some(found) = reader.client.query_opt(QUERY, &[]).await? else { return Ok(Vec::new()) };
            let query: String = found.get(0);
            let rows = match reader.client.query(&query, &[&self.postgres.options().superuser]).await {
                Ok(rows) => rows,
                // Created and not in shared_preload_libraries: it has nothing to tell.
                Err(error) if error.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => Vec::new(),
                Err(error) => return Err(error.into()),
            };
            Ok(rows.iter().map(|row| without_secrets(row.get(0))).collect())
        })
        .await
    }
}

fn without_secrets(mut row: Value) -> Value {
    if let Some(Value::String(text)) = row.get_mut("query") {
        *text = redact(text);
    }
    row
}

/// The statement without its literals, where they may be secrets.
fn redact(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    if !TELLING.iter().any(|word| lower.contains(word)) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['\'', '$']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        match literal_length(from, before) {
            Some(length) => {
                out.push_str(REDACTED);
                rest = &from[length..];
            }
            None => {
                // A parameter or a lone sign.
                out.push_str(&from[..1]);
                rest = &from[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Length in bytes of the literal that `text` begins with. One that does not end goes to the end.
fn literal_length(text: &str, before: &str) -> Option<usize> {
    if text.starts_with('\'') {
        let escapes = before.ends_with(['e', 'E']);
        let mut chars = text.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' if escapes => drop(chars.next()),
                '\'' if chars.next_if(|(_, next)| *next == '\'').is_none() => return Some(at + 1),
                _ => {}
            }
        }
        return Some(text.len());
    }
    // $tag$…$tag$; a parameter such as $1 has no second sign after a tag.
    let tag_end = text[1..].find('$')? + 2;
    let tag = &text[..tag_end];
    let inside = &tag[1..tag.len() - 1];
    let is_tag =
        inside.chars().all(|c| c.is_alphanumeric() || c == '_') && !inside.starts_with(|c: char| c.is_ascii_digit());
    if !is_tag {
        return None;
    }
    Some(text[tag_end..].find(tag).map_or(text.len(), |at| tag_end + at + tag.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_of_telling_texts_are_gone() {
        let rows = [
            ("ALTER ROLE a PASSWORD 'it''s s3cret'", "ALTER ROLE a PASSWORD '<redacted>'"),
            (
                r"CREATE ROLE a LOGIN password E'a\'b' VALID UNTIL 'x'",
                "CREATE ROLE a LOGIN password E'<redacted>' VALID UNTIL '<redacted>'",
            ),
            ("DO $x$ BEGIN ALTER ROLE a PASSWORD 'b'; END $x$", "DO '<redacted>'"),
            ("CREATE SUBSCRIPTION s CONNECTION 'host=h password=p", "CREATE SUBSCRIPTION s CONNECTION '<redacted>'"),
            ("SELECT 'ü', $1, password FROM t WHERE a = $2", "SELECT '<redacted>', $1, password FROM t WHERE a = $2"),
            ("ALTER ROLE a PASSWORD $$p$$ CONNECTION LIMIT 5", "ALTER ROLE a PASSWORD '<redacted>' CONNECTION LIMIT 5"),
            ("SELECT 'kept'", "SELECT 'kept'"),
        ];
        for (text, wanted) in rows {
            assert_eq!(redact(text), wanted);
        }
    }
}
