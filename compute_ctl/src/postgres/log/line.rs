//! Lines of PostgreSQL's log: which of them belong together, and how loud they are.

use measured::FixedCardinalityLabel;

/// Longest event that is repeated; the rest of it stands in the file.
const EVENT_LIMIT_BYTES: usize = 8 * 1024;

/// How loud an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
pub(in crate::postgres) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    /// Somebody must act on a panic of PostgreSQL alone: an ERROR is a statement that failed, a FATAL a session.
    fn of(word: &str) -> Option<Self> {
        match word {
            "DEBUG" | "DEBUG1" | "DEBUG2" | "DEBUG3" | "DEBUG4" | "DEBUG5" => Some(Self::Debug),
            "LOG" | "INFO" | "NOTICE" => Some(Self::Info),
            "WARNING" | "ERROR" | "FATAL" => Some(Self::Warn),
            "PANIC" => Some(Self::Error),
            _ => None,
        }
    }
}

/// One message with all its lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) level: Level,
    pub(super) text: String,
    /// Bytes that did not fit.
    pub(super) cut_bytes: usize,
    /// Whether the postmaster says that a process of it was ended by a signal. Its own words: nothing is decided by it.
    pub(super) backend_crash: bool,
}

/// Puts lines together.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    open: Option<Event>,
    level: Option<Level>,
}

impl Joiner {
    /// Takes a line, without its end; gives the event before it, where the line begins another one.
    pub(super) fn push(&mut self, line: &str) -> Option<Event> {
        if line.starts_with('\t')
            && let Some(open) = &mut self.open
        {
            append(open, " ");
            append(open, line.trim_start_matches('\t'));
            return None;
        }
        // DETAIL, HINT and STATEMENT are as loud as the message that they explain.
        let level = severity(line).or(self.level).unwrap_or(Level::Info);
        self.level = Some(level);
        let backend_crash = line.contains("was terminated by signal");
        let mut event = Event { level, text: String::new(), cut_bytes: 0, backend_crash };
        append(&mut event, line);
        self.open.replace(event)
    }

    /// The last event, when nothing more comes.
    pub(super) fn take(&mut self) -> Option<Event> {
        self.open.take()
    }
}

fn append(event: &mut Event, text: &str) {
    let room = EVENT_LIMIT_BYTES.saturating_sub(event.text.len());
    let fits = text.floor_char_boundary(room);
    event.text.push_str(&text[..fits]);
    event.cut_bytes += text.len() - fits;
}

/// The word before the first `":  "` that is a severity; the prefix before it is the user's to choose.
fn severity(line: &str) -> Option<Level> {
    line.match_indices(":  ").take(4).find_map(|(at, _)| {
        let word = line[..at].rsplit([' ', '\t']).next()?;
        Level::of(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(lines: &[&str]) -> Vec<Event> {
        let mut joiner = Joiner::default();
        let mut all: Vec<_> = lines.iter().filter_map(|line| joiner.push(line)).collect();
        all.extend(joiner.take());
        all
    }

    #[test]
    fn lines_that_belong_together() {
        let all = events(&[
            "2026-01-01 00:00:00 UTC [1] LOG:  ready",
            "2026-01-01 00:00:00 UTC [2] ERROR:  no: LOG:  x",
            "2026-01-01 00:00:00 UTC [2] STATEMENT:  SELECT",
            "\t  1;",
            "[3] FATAL:  gone",
            "PANIC:  could not write",
            "[1] LOG:  server process (PID 9) was terminated by signal 9: Killed",
        ]);
        let levels: Vec<_> = all.iter().map(|event| event.level).collect();
        use Level as L;
        assert_eq!(levels, [L::Info, L::Warn, L::Warn, L::Warn, L::Error, L::Info]);
        assert!(all[2].text.ends_with("SELECT   1;"));
        assert_eq!(all.iter().filter(|event| event.backend_crash).count(), 1);
    }

    #[test]
    fn an_event_is_bounded_at_a_character() {
        let long = format!("LOG:  {}", "é".repeat(EVENT_LIMIT_BYTES));
        let all = events(&[&long, "\tmore"]);
        assert!(all[0].text.len() <= EVENT_LIMIT_BYTES);
        assert_eq!(all[0].text.len() + all[0].cut_bytes, long.len() + 1 + 4);
    }
}
