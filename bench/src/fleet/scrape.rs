//! The page of metrics, at a small and at a large fleet: its time on a connection that is kept, and its size.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::blast::{Blast, Note, blast, head};
use super::ground::{Ground, NOBODY, Probes};
use super::plan::Plan;
use super::report::Measured;
use crate::stats::Spread;

/// Fleets.
const SIZES: [usize; 2] = [1000, 100_000];
const QUICK: [usize; 1] = [200];

/// One run.
pub(super) async fn measure(plan: &Plan) -> Option<Measured> {
    let (mut figures, mut floors) = (Map::new(), Map::new());
    for size in plan.sizes_of(&SIZES, &QUICK) {
        let mut ground = Ground::make("scrape").await?;
        ground.plant(size, NOBODY).await;
        ground.lead(Probes::Never).await;
        let window = plan.window(2.0, 0.2);
        let (page, bytes) = get(&ground, "/metrics", window).await;
        assert!(bytes > 0, "the page of metrics is empty");
        let (live, _) = get(&ground, "/live", window).await;
        figures.insert(format!("n{size}"), json!({"ms": page.p50, "p99_ms": page.p99, "bytes": bytes}));
        floors.insert(format!("n{size}_live_ms"), json!(live.p50));
    }
    let notes =
        vec!["medians of one request after the other on one connection; the floor is GET /live on the same".to_owned()];
    Some(Measured { figures: Value::Object(figures), floors: Value::Object(floors), notes })
}

/// How long one request of these takes, and the bytes of the last answer.
async fn get(ground: &Ground, path: &'static str, window: Duration) -> (Spread, usize) {
    let bytes = Arc::new(AtomicUsize::new(0));
    let seen = bytes.clone();
    let note: Note = Arc::new(move |_, _, body| seen.store(body.len(), Ordering::Relaxed));
    let compose = Arc::new(move |_, _, request: &mut Vec<u8>| head(request, "GET", path, "", 0));
    let load = Blast { to: ground.address(), clients: 1, window, warm_up: window / 4, compose, note };
    let spread = Spread::of(blast(load).await.latencies_ms);
    (spread.unwrap_or_else(|| panic!("no answer to GET {path}")), bytes.load(Ordering::Relaxed))
}
