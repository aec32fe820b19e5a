//! `--port-file`: tells whoever started the process which ports `:0` became.

use std::io::Write;
use std::path::{Path, PathBuf};

use pgfleet_api::agent::PortFile;

/// The file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the port file {path}")]
pub struct PortFileError {
    /// Where it should have gone.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: std::io::Error,
}

/// Writes the file beside its place and renames it, so that a reader never sees half of it.
///
/// # Errors
/// The path and what the system said.
pub fn write(path: &Path, content: &PortFile) -> Result<(), PortFileError> {
    let attempt = || -> std::io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}.tmp", content.pid));
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(&serde_json::to_vec(content)?)?;
        file.write_all(b"\n")?;
        drop(file);
        std::fs::rename(&beside, path)
    };
    attempt().map_err(|source| PortFileError { path: path.to_owned(), source })
}
