//! How answers are shown: aligned columns for people, JSON for programs.

use std::io::{self, Write as _};

use comfy_table::Table;
use comfy_table::presets::{NOTHING, UTF8_FULL_CONDENSED};
use serde::Serialize;

use crate::exit::CliError;

/// A borderless table, as listings are.
pub fn listing(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// A framed table, for a report.
pub fn framed(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header.to_vec());
    table
}

/// Prints text. A reader that has gone (`| head`) is no error.
pub fn print(text: &str) -> Result<(), CliError> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::Failed(format!("cannot write the answer: {error}")))
        }
        _ => Ok(()),
    }
}

/// Tells a person on standard error what is going on. That nobody reads it any more ends nothing (`eprintln!` would panic).
pub fn to_stderr(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints a table without trailing blanks.
pub fn print_table(table: &Table) -> Result<(), CliError> {
    print(&table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n"))
}

/// Prints a value as indented JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value);
    print(&text.map_err(|error| CliError::Failed(format!("cannot write the answer: {error}")))?)
}

/// A value or a dash.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
