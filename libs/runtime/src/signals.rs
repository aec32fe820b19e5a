//! SIGTERM, SIGINT and SIGQUIT, which mean the same: the first asks the process to end in order, the second ends it at once.

use tokio::signal::unix::{SignalKind, signal};

use crate::supervisor::{TaskGroup, detached};

/// Watches for signals from now on. The first cancels the token of `root`.
///
/// # Errors
/// What the system said when a handler could not be installed.
pub fn install(root: &TaskGroup) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let token = root.token();
    detached(async move {
        let mut next = async || {
            tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
                _ = quit.recv() => "SIGQUIT",
            }
        };
        let name = next().await;
        tracing::info!("{name} received: ending in order; a second signal ends at once");
        token.cancel();
        let name = next().await;
        tracing::warn!("{name} received again: ending at once");
        exit_now();
    });
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the one place where an operator's second signal ends the process")]
fn exit_now() -> ! {
    std::process::exit(i32::from(crate::exit::FAILED))
}
