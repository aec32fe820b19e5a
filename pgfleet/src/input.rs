//! What a command reads: a file, or standard input under the name `-`.

use std::io::Read as _;
use std::path::Path;

use crate::exit::CliError;

/// The text of a file or of standard input; `what` it is goes into the error.
pub fn read_text(path: &Path, what: &str) -> Result<String, CliError> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    text.map_err(|error| CliError::Usage(format!("cannot read the {what} {}: {error}", path.display())))
}
