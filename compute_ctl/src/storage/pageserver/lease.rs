//! The lease of an LSN: asks the page servers to keep the moment that a static compute shows.
//!
//! One task for the life of the agent. It rests until there is a static compute, and begins anew when that changes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use pgfleet_runtime::exit::chain;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::metrics::StorageMetrics;
use super::source::{Role, Source};
use super::wire::{Login, Session, WireError};
use pgfleet_api::Lsn;

/// Between tries, growing by half up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Longest time until a renewal, whatever a page server's clock says: it may be ahead of ours, or ours behind.
const RENEW_AT_LEAST_EVERY: Duration = Duration::from_secs(240);
/// Shortest one.
const RENEW_AT_MOST_EVERY: Duration = Duration::from_secs(5);

/// How a lease was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    /// Good until then, in milliseconds since 1970 by the page server's clock.
    Until(i64),
    /// Never: the moment is gone.
    Refused,
}

/// Keeps the lease while there is something to lease.
///
/// # Errors
/// None; the type is the task's.
pub async fn keep(
    mut sources: watch::Receiver<Option<Arc<Source>>>,
    metrics: Arc<StorageMetrics>,
    token: CancellationToken,
) -> Result<(), Infallible> {
    let mut pause = PAUSES.0;
    loop {
        let source = sources.borrow_and_update().clone();
        let wait = match source.as_ref().map(|source| (source, source.role)) {
            Some((source, Role::Static(lsn))) => {
                let answer = tokio::select! {
                    () = token.cancelled() => return Ok(()),
                    answer = ask_all(source, lsn) => answer,
                };
                next(answer, lsn, &metrics, &mut pause)
            }
            Some((_, Role::Primary | Role::Replica)) | None => None,
        };
        let waited = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            changed = sources.changed() => match changed {
                Ok(()) => pause = PAUSES.0,
                Err(_) => return Ok(()),
            },
            () = waited => {}
        }
    }
}

/// When to ask again; none where asking is of no use.
fn next(
    answer: Result<Lease, WireError>,
    lsn: Lsn,
    metrics: &StorageMetrics,
    pause: &mut Duration,
) -> Option<Duration> {
    match answer {
        Ok(Lease::Until(valid_until_ms)) => {
            *pause = PAUSES.0;
            let left =
                Duration::from_millis(u64::try_from(valid_until_ms - Utc::now().timestamp_millis()).unwrap_or(0));
            metrics.lease_seconds.get_metric().set(i64::try_from(left.as_secs()).unwrap_or(i64::MAX));
            let wait = renewal(left);
            tracing::debug!(%lsn, "the lease of {lsn} is good for {} s, to be renewed in {} s", left.as_secs(), wait.as_secs());
            Some(wait)
        }
        Ok(Lease::Refused) => {
            metrics.lease_seconds.get_metric().set(0);
            metrics.lease_errors_total.inc();
            tracing::warn!(%lsn, "the page server does not lease {lsn}: what is read there may be gone soon");
            None
        }
        Err(error) => {
            metrics.lease_errors_total.inc();
            let wait = *pause;
            *pause = pause.mul_f64(1.5).min(PAUSES.1);
            tracing::warn!(%lsn, pause_ms = wait.as_millis(), "no lease of {lsn}: {}", chain(&error));
            Some(wait)
        }
    }
}

/// A minute before the end or at half-time, whichever is later, within bounds that no clock can move.
fn renewal(left: Duration) -> Duration {
    let before_end = left.saturating_sub(Duration::from_secs(60)).max(left / 2);
    before_end.clamp(RENEW_AT_MOST_EVERY, RENEW_AT_LEAST_EVERY)
}

/// At every page server of every shard; the earliest end counts.
async fn ask_all(source: &Arc<Source>, lsn: Lsn) -> Result<Lease, WireError> {
    let mut asked = JoinSet::new();
    for (number, urls) in source.shards.iter().enumerate() {
        for i in 0..urls.len() {
            let source = Arc::clone(source);
            asked.spawn(async move { ask(&source, (number, i), lsn).await });
        }
    }
    let mut least = Lease::Until(i64::MAX);
    for answer in asked.join_all().await {
        least = match (answer?, least) {
            (Lease::Until(one), Lease::Until(other)) => Lease::Until(one.min(other)),
            (Lease::Refused, _) | (_, Lease::Refused) => Lease::Refused,
        };
    }
    Ok(least)
}

async fn ask(source: &Source, (number, i): (usize, usize), lsn: Lsn) -> Result<Lease, WireError> {
    let url = source.shards.get(number).and_then(|urls| urls.get(i)).ok_or(WireError::NoHost)?;
    let options = format!("-c neon.compute_mode={}", source.role.as_str());
    let mut session = Session::open(&url.0, &Login { token: source.token.as_ref(), options }).await?;
    let query = format!("lease lsn {} {} {lsn}", source.tenant_shard(number), source.timeline_id);
    let rows = session.rows(&query).await?;
    let row = rows.first().ok_or(WireError::Unexpected("valid_until"))?;
    let (_, value) = row.iter().find(|(name, _)| name == "valid_until").ok_or(WireError::Unexpected("valid_until"))?;
    match value {
        None => Ok(Lease::Refused),
        Some(text) => text.parse().map(Lease::Until).map_err(|_| WireError::Unexpected("valid_until")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals() {
        let rows = [(0, 5), (8, 5), (60, 30), (100, 50), (150, 90), (300, 240), (600, 240), (1_000_000, 240)];
        for (left, wait) in rows {
            assert_eq!(renewal(Duration::from_secs(left)).as_secs(), wait, "{left}");
        }
    }

    #[test]
    fn what_follows_an_answer() {
        let (metrics, mut pause) = (StorageMetrics::default(), PAUSES.0);
        let mut ask = |answer| next(answer, Lsn(1), &metrics, &mut pause);
        let in_ten_minutes = Utc::now().timestamp_millis() + 600_000;
        assert_eq!(ask(Err(WireError::Tls)), Some(Duration::from_millis(500)));
        assert_eq!(ask(Err(WireError::Tls)), Some(Duration::from_millis(750)));
        assert_eq!(ask(Ok(Lease::Until(in_ten_minutes))), Some(RENEW_AT_LEAST_EVERY));
        assert_eq!(ask(Err(WireError::Tls)), Some(Duration::from_millis(500)));
        assert_eq!(ask(Ok(Lease::Until(0))), Some(RENEW_AT_MOST_EVERY));
        assert_eq!(ask(Ok(Lease::Refused)), None);
    }
}
