//! This member's own clock. It counts while the machine sleeps, so a lease cannot be stretched by a suspend.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the machine booted.
pub(super) fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}
