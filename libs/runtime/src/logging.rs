//! Logs: one line per event on stderr, plain or JSON, filtered by `RUST_LOG` (default `info`).
//!
//! Events of the `log` crate are not taken over: libraries that still use it print whole SQL statements at debug level,
//! and some of those hold password verifiers. Spans for the collector are no part of a line, see [`crate::traces`].

use std::io::IsTerminal;

use tracing_subscriber::filter::{Directive, LevelFilter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::traces::{TARGET, Traces};

/// Sets up logging for the process, routes panics through it, and spans to the collector. A second call changes nothing.
pub fn init(program: &'static str, json: bool, traces: &Traces) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let filter = match format!("{TARGET}={}", LevelFilter::OFF).parse::<Directive>() {
        Ok(no_spans) => filter.add_directive(no_spans),
        Err(_) => filter,
    };
    let ansi = !json && std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi);
    let lines = if json { lines.json().boxed() } else { lines.boxed() };
    let installed = match traces.layer() {
        None => tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines).with(filter)),
        Some(layer) => tracing::subscriber::set_global_default(
            tracing_subscriber::registry().with(lines.with_filter(filter)).with(layer),
        ),
    };
    if installed.is_ok() {
        std::panic::set_hook(Box::new(move |panic| {
            let at = panic.location().map(ToString::to_string).unwrap_or_default();
            let said = panic.payload_as_str().unwrap_or("no message");
            tracing::error!(program, at, "panic: {said}");
        }));
    }
}
