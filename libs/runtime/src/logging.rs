//! Logs: one line per event on stderr, plain or JSON, filtered by `RUST_LOG` (default `info`).
//!
//! Events of the `log` crate are not taken over: libraries that still use it print whole SQL statements at debug level,
//! and some of those hold password verifiers.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sets up logging for the process and routes panics through it. A second call changes nothing.
pub fn init(program: &'static str, json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(!json && std::io::stderr().is_terminal());
    let installed = if json {
        tracing::subscriber::set_global_default(builder.json().finish())
    } else {
        tracing::subscriber::set_global_default(builder.finish())
    };
    if installed.is_ok() {
        std::panic::set_hook(Box::new(move |panic| {
            let at = panic.location().map(ToString::to_string).unwrap_or_default();
            let said = panic.payload_as_str().unwrap_or("no message");
            tracing::error!(program, at, "panic: {said}");
        }));
    }
}
