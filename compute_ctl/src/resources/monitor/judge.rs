//! When a compute wants more memory and how much it can do without: pure, on samples and times that are handed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const MIB: u64 = 1024 * 1024;
/// Kept for the kernel out of every size that is named from outside.
const KERNEL_BYTES: u64 = 100 * MIB;
/// A smaller size must leave this much free below its threshold.
const DOWNSCALE_ROOM_BYTES: u64 = 100 * MIB;
/// Samples that are averaged.
const SAMPLES: usize = 5;
/// Older samples say nothing.
const STALE: Duration = Duration::from_secs(5);
/// Between two wishes for more.
const WISH_EVERY: Duration = Duration::from_secs(1);

/// The threshold and the last samples.
#[derive(Debug)]
pub(super) struct Judge {
    ratio: f64,
    threshold_bytes: u64,
    samples: VecDeque<(Instant, u64)>,
    wished: Option<Instant>,
}

/// Whether a compute can be made smaller.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) ok: bool,
    pub(super) status: String,
}

impl Judge {
    /// For a compute with this much memory.
    pub(super) fn new(ratio: f64, memory_bytes: u64) -> Self {
        let mut judge = Self { ratio, threshold_bytes: 0, samples: VecDeque::with_capacity(SAMPLES), wished: None };
        judge.threshold_bytes = judge.threshold(memory_bytes);
        judge
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a size in bytes: positive, and exact enough"
    )]
    fn threshold(&self, memory_bytes: u64) -> u64 {
        (memory_bytes as f64 * self.ratio) as u64
    }

    pub(super) fn sample(&mut self, now: Instant, anon_bytes: u64) {
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, anon_bytes));
    }

    /// Samples from before a pause are of another time.
    pub(super) fn forget(&mut self) {
        self.samples.clear();
    }

    fn mean(&self) -> Option<u64> {
        let count = u64::try_from(self.samples.len()).ok().filter(|count| *count > 0)?;
        Some(self.samples.iter().map(|(_, bytes)| bytes).sum::<u64>() / count)
    }

    /// Whether to ask for more now; asking is remembered.
    pub(super) fn wants_more(&mut self, now: Instant) -> bool {
        let full = self.samples.len() == SAMPLES && self.mean() > Some(self.threshold_bytes);
        let due = self.wished.is_none_or(|at| now.duration_since(at) >= WISH_EVERY);
        if full && due {
            self.wished = Some(now);
        }
        full && due
    }

    /// The compute has this much now.
    pub(super) fn granted(&mut self, memory_bytes: u64) {
        self.threshold_bytes = self.threshold(memory_bytes.saturating_sub(KERNEL_BYTES));
    }

    /// Whether it could do with this much; then that counts from now on.
    ///
    /// # Errors
    /// There is no sample that is young enough to say.
    pub(super) fn downscale(&mut self, now: Instant, memory_bytes: u64) -> Result<Verdict, &'static str> {
        let youngest = self.samples.back().map(|(at, _)| *at).ok_or("there is no sample of memory yet")?;
        if now.duration_since(youngest) > STALE {
            return Err("the last sample of memory is too old");
        }
        let used = self.mean().unwrap_or_default();
        let threshold = self.threshold(memory_bytes.saturating_sub(KERNEL_BYTES));
        let ok = threshold >= used + DOWNSCALE_ROOM_BYTES;
        let status = format!(
            "{}: {} MiB are in use and the new threshold would be {} MiB, of which {} MiB must stay free",
            if ok { "possible" } else { "refused" },
            used / MIB,
            threshold / MIB,
            DOWNSCALE_ROOM_BYTES / MIB,
        );
        if ok {
            self.threshold_bytes = threshold;
        }
        Ok(Verdict { ok, status })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_needs_five_samples_above_and_comes_once_a_second() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut judge = Judge::new(0.85, 1000 * MIB);
        for i in 0..4 {
            judge.sample(at(i * 100), 900 * MIB);
            assert!(!judge.wants_more(at(i * 100)));
        }
        judge.sample(at(400), 900 * MIB);
        assert!(judge.wants_more(at(400)) && !judge.wants_more(at(1399)) && judge.wants_more(at(1400)));
        // One high sample is not the mean.
        for bytes in [100, 100, 100, 100, 2000] {
            judge.sample(at(3000), bytes * MIB);
        }
        assert!(!judge.wants_more(at(3000)));
        judge.granted(300 * MIB);
        assert!(judge.wants_more(at(3000)), "300 - 100 for the kernel, 85 % of it: 170 MiB");
    }

    #[test]
    fn smaller_only_with_room() {
        let now = Instant::now();
        let mut judge = Judge::new(0.85, 4096 * MIB);
        assert!(judge.downscale(now, 1024 * MIB).is_err());
        judge.sample(now, 500 * MIB);
        // 0.85 * (806 - 100) = 600.1; 0.85 * (804 - 100) = 598.4.
        assert!(judge.downscale(now, 806 * MIB).unwrap().ok);
        let verdict = judge.downscale(now, 804 * MIB).unwrap();
        assert!(!verdict.ok && verdict.status.starts_with("refused: 500 MiB are in use"), "{verdict:?}");
        assert!(judge.downscale(now + Duration::from_secs(6), 4096 * MIB).is_err());
        assert!(!judge.downscale(now, 10 * MIB).unwrap().ok, "less than the kernel's part");
    }
}
