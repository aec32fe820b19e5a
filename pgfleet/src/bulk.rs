//! `pgfleet compute apply`: many computes from newline-delimited JSON, a piece at a time, so that a file of any size needs
//! no more memory than a piece.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal as _};
use std::path::Path;

use pgfleet_api::bulk::{ApplyOutcome, ApplyResult};
use pgfleet_clients::controller::ControllerClient;

use crate::cli::{ApplyArgs, Output};
use crate::exit::CliError;
use crate::output::print;

/// Lines and bytes of one request.
const PIECE_LINES: usize = 1000;
const PIECE_BYTES: usize = 4 << 20;

/// What came of the lines so far.
#[derive(Debug, Default)]
struct Counts {
    lines: u64,
    applied: u64,
    unchanged: u64,
    refused: u64,
    unknown: u64,
    not_executed: u64,
}

impl Counts {
    fn count(&mut self, outcome: ApplyOutcome) {
        self.lines += 1;
        match outcome {
            ApplyOutcome::Applied | ApplyOutcome::Planned => self.applied += 1,
            ApplyOutcome::Unchanged => self.unchanged += 1,
            ApplyOutcome::Refused => self.refused += 1,
            ApplyOutcome::OutcomeUnknown => self.unknown += 1,
            ApplyOutcome::NotExecuted => self.not_executed += 1,
        }
    }

    const fn bad(&self) -> u64 {
        self.refused + self.unknown + self.not_executed
    }

    fn words(&self) -> String {
        let mut words = format!("{} applied, {} unchanged", self.applied, self.unchanged);
        for (count, what) in
            [(self.refused, "refused"), (self.unknown, "of unknown outcome"), (self.not_executed, "not executed")]
        {
            if count > 0 {
                words.push_str(&format!(", {count} {what}"));
            }
        }
        words
    }
}

pub async fn apply(args: ApplyArgs, client: &ControllerClient, output: Output) -> Result<(), CliError> {
    let client = client.because(args.why.reason.as_deref());
    let mut pieces = Pieces::open(&args.file)?;
    let mut counts = Counts::default();
    let shows_progress = std::io::stderr().is_terminal();
    while let Some((first, piece)) = pieces.next()? {
        let results = client.apply(piece).await.map_err(|error| {
            eprintln!("pgfleet: of the lines from {first} on nothing is known; before them: {}", counts.words());
            CliError::from(error)
        })?;
        for result in results {
            counts.count(result.outcome);
            show(ApplyResult { line: result.line + first - 1, ..result }, output)?;
        }
        if shows_progress {
            eprint!("\r{} lines: {}", counts.lines, counts.words());
        }
    }
    if shows_progress {
        eprintln!();
    }
    if output == Output::Table {
        print(&counts.words())?;
    }
    match counts.bad() {
        0 => Ok(()),
        bad => Err(CliError::Failed(format!("{bad} of {} lines were not applied: {}", counts.lines, counts.words()))),
    }
}

/// For people only what went wrong; for programs every line.
fn show(result: ApplyResult, output: Output) -> Result<(), CliError> {
    if output == Output::Json {
        let text = serde_json::to_string(&result);
        return print(&text.map_err(|error| CliError::Failed(format!("cannot write the answer: {error}")))?);
    }
    let what = match result.outcome {
        ApplyOutcome::Applied | ApplyOutcome::Unchanged | ApplyOutcome::Planned => return Ok(()),
        ApplyOutcome::Refused => "refused",
        ApplyOutcome::OutcomeUnknown => "outcome unknown",
        ApplyOutcome::NotExecuted => "not executed",
    };
    let name = result.compute_id.map(|id| format!(" ({id})")).unwrap_or_default();
    let why = result.error.map(|error| {
        let path = error.path.map(|path| format!("{path}: ")).unwrap_or_default();
        format!(": {path}{}", error.msg)
    });
    print(&format!("line {}{name}: {what}{}", result.line, why.unwrap_or_default()))
}

/// The file, some lines at a time.
struct Pieces {
    reader: Box<dyn BufRead>,
    place: String,
    /// Number of the next line.
    next: u64,
}

impl Pieces {
    fn open(path: &Path) -> Result<Self, CliError> {
        let place = path.display().to_string();
        let reader: Box<dyn BufRead> = if path == Path::new("-") {
            Box::new(BufReader::new(std::io::stdin()))
        } else {
            let file = File::open(path).map_err(|error| CliError::Usage(format!("cannot read {place}: {error}")))?;
            Box::new(BufReader::new(file))
        };
        Ok(Self { reader, place, next: 1 })
    }

    /// The number of the first line, and the lines as they are.
    fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>, CliError> {
        let (first, mut piece, mut lines) = (self.next, Vec::new(), 0);
        while lines < PIECE_LINES && piece.len() < PIECE_BYTES {
            let read = self.reader.read_until(b'\n', &mut piece);
            let read = read.map_err(|error| CliError::Failed(format!("cannot read {}: {error}", self.place)))?;
            if read == 0 {
                break;
            }
            lines += 1;
        }
        self.next += lines as u64;
        Ok((!piece.is_empty()).then_some((first, piece)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_lines_and_know_their_number() {
        let text: String = (1..=2500).map(|n| format!("{{\"n\": {n}}}\n")).collect();
        let mut pieces =
            Pieces { reader: Box::new(std::io::Cursor::new(text.clone())), place: "t".to_owned(), next: 1 };
        let (mut all, mut firsts) = (Vec::new(), Vec::new());
        while let Some((first, piece)) = pieces.next().unwrap() {
            firsts.push(first);
            all.extend(piece);
        }
        assert_eq!(firsts, [1, 1001, 2001]);
        assert_eq!(String::from_utf8(all).unwrap(), text);
    }

    #[test]
    fn what_was_not_done_is_counted() {
        let mut counts = Counts::default();
        for outcome in
            [ApplyOutcome::Applied, ApplyOutcome::Unchanged, ApplyOutcome::Refused, ApplyOutcome::NotExecuted]
        {
            counts.count(outcome);
        }
        assert_eq!((counts.lines, counts.bad()), (4, 2));
        assert_eq!(counts.words(), "1 applied, 1 unchanged, 1 refused, 1 not executed");
    }
}
