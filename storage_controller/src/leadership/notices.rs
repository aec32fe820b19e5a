//! Listens for claims and releases of the leader row: a successor is known at once, and a released row is claimed at once.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::Term;
use pgfleet_persistence::{Database, LEADER_CHANNEL, Notices};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::room::Input;

/// Listens until the token ends it. A session that ends is made anew after `pause`; the periodic reading goes on anyway.
pub(super) async fn listen(
    database: Arc<Database>,
    pause: Duration,
    reports: mpsc::Sender<Input>,
    token: CancellationToken,
) -> Result<(), Infallible> {
    loop {
        let listening = async {
            match database.listen(&[LEADER_CHANNEL]).await {
                Ok(notices) => hear(notices, &reports).await,
                Err(error) => tracing::debug!(%error, "cannot listen for claims; tried again"),
            }
            tokio::time::sleep(pause).await;
        };
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            () = listening => {}
        }
    }
}

async fn hear(mut notices: Notices, reports: &mpsc::Sender<Input>) {
    // What was said before it listened is found by one look.
    let _ = reports.send(Input::Noticed(None)).await;
    while let Some(notice) = notices.next().await {
        // The room ends before this task does.
        let _ = reports.send(Input::Noticed(notice.payload.parse().ok().map(Term))).await;
    }
}
