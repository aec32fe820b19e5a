//! Waiting for a condition with a deadline; nothing in the tests waits in another way.

use std::time::Duration;

use tokio::time::Instant;

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until `look` gives something, and panics with `what` when the time is over.
pub async fn wait_for<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "within {limit:?} it did not come to this: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks until `look` is true.
pub async fn wait_until(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> bool) {
    wait_for(what, limit, async || look().await.then_some(())).await;
}

/// Looks again and again for the whole time and panics as soon as `look` is false.
pub async fn stays(what: &str, time: Duration, mut look: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        assert!(look().await, "it did not stay like this: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
