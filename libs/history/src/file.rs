//! Histories as files: one JSON object per line, so that a recording that was cut is readable up to the cut.

use std::io::{self, BufRead, Write};

use crate::event::Entry;

/// Why a file is not a history.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It could not be read.
    #[error("line {line} cannot be read")]
    Io {
        /// Where, counted from 1.
        line: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is not an entry.
    #[error("line {line} is not an entry of a history: {source}")]
    Entry {
        /// Where, counted from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
}

/// Reads a whole history. Entry `i` is line `i + 1`: an empty line is an error, because reports name lines.
///
/// # Errors
/// The first line that cannot be read or is no entry.
pub fn read(from: impl BufRead) -> Result<Vec<Entry>, ReadError> {
    from.lines()
        .enumerate()
        .map(|(index, text)| {
            let line = index + 1;
            let text = text.map_err(|source| ReadError::Io { line, source })?;
            serde_json::from_str(&text).map_err(|source| ReadError::Entry { line, source })
        })
        .collect()
}

/// Writes one entry as one line. The caller buffers, and flushes when the line has to be there.
///
/// # Errors
/// As the writer's.
pub fn write(to: &mut impl Write, entry: &Entry) -> io::Result<()> {
    let mut line = serde_json::to_vec(entry).map_err(io::Error::other)?;
    line.push(b'\n');
    to.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    #[test]
    fn what_is_written_is_read_again() {
        let entries = vec![
            Entry { at_us: 0, event: Event::Begun { seed: Some(7), cluster_id: None } },
            Entry { at_us: 9, event: Event::Ended },
        ];
        let mut bytes = Vec::new();
        for entry in &entries {
            write(&mut bytes, entry).unwrap();
        }
        assert_eq!(read(&*bytes).unwrap(), entries);
    }

    #[test]
    fn an_error_names_the_line() {
        let text = "{\"at_us\":0,\"event\":\"ended\"}\n\n";
        assert!(read(text.as_bytes()).unwrap_err().to_string().starts_with("line 2 is not an entry"));
        let text = "{\"at_us\":0,\"event\":\"ended\"}\n{\"at_us\":0,\"event\":\"nothing_we_know\"}\n";
        assert!(read(text.as_bytes()).unwrap_err().to_string().starts_with("line 2 is not an entry"));
    }
}
