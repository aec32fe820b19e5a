//! What readings mean for an operator: pure.

use pgfleet_api::resources::{Resources, SuggestedSetting};

use super::reading::Reading;

const MIB: u64 = 1024 * 1024;

/// From where on there is advice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Thresholds {
    /// Part of the memory limit.
    pub(super) memory_high_ratio: f64,
    /// Part of the last minute.
    pub(super) memory_pressure_high: f64,
    /// Kills of the kernel that were known when the agent started.
    pub(super) oom_kills_before: u64,
}

/// Which readings are above their thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Above {
    pub(super) memory: bool,
    pub(super) pressure: bool,
    pub(super) oom_kills: bool,
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people; bytes are exact up to 8 PiB")]
fn part(bytes: u64, of_bytes: u64) -> f64 {
    bytes as f64 / of_bytes.max(1) as f64
}

pub(super) fn above(reading: &Reading, thresholds: &Thresholds) -> Above {
    Above {
        memory: part(reading.anon_bytes, reading.limit_bytes) > thresholds.memory_high_ratio,
        pressure: reading.memory_pressure.is_some_and(|psi| psi.some_avg60 > thresholds.memory_pressure_high),
        oom_kills: reading.oom_kills > thresholds.oom_kills_before,
    }
}

/// The reading with its advice.
pub(super) fn advise(reading: &Reading, thresholds: &Thresholds) -> Resources {
    let found = above(reading, thresholds);
    let percent = |ratio: f64| format!("{:.0} %", ratio * 100.0);
    let mut advice = Vec::new();
    if found.memory {
        advice.push(format!(
            "memory above {} of its limit: {} of {} MiB cannot be given back; give it more memory, or lower work_mem or \
             max_connections",
            percent(thresholds.memory_high_ratio),
            reading.anon_bytes / MIB,
            reading.limit_bytes / MIB,
        ));
    }
    if let Some(psi) = reading.memory_pressure.filter(|_| found.pressure) {
        advice.push(format!(
            "processes waited for memory in {} of the last minute, which is above {}; give it more memory, or lower \
             shared_buffers at the next restart",
            percent(psi.some_avg60),
            percent(thresholds.memory_pressure_high),
        ));
    }
    if found.oom_kills {
        let kills = reading.oom_kills - thresholds.oom_kills_before;
        advice.push(format!(
            "the kernel has killed {kills} processes for lack of memory since the agent started; give it more memory, or \
             lower work_mem or max_connections"
        ));
    }
    Resources {
        source: reading.source,
        memory_bytes: reading.memory_bytes,
        memory_limit_bytes: reading.limit_bytes,
        memory_high_bytes: reading.high_bytes,
        memory_anon_bytes: reading.anon_bytes,
        oom_kills: reading.oom_kills,
        memory_pressure: reading.memory_pressure,
        cpu_pressure: reading.cpu_pressure,
        advice,
        suggested_settings: vec![effective_cache_size(reading.limit_bytes)],
    }
}

/// Three quarters, as long as that leaves room for the rest of the system. Only a reload is needed for it.
fn effective_cache_size(limit_bytes: u64) -> SuggestedSetting {
    let bytes = (limit_bytes / 4 * 3).min(limit_bytes.saturating_sub(256 * MIB) / 11 * 10).max(8 * MIB);
    SuggestedSetting { name: "effective_cache_size".to_owned(), value: format!("{}MB", bytes / MIB) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgfleet_api::resources::{Pressure, ResourceSource};

    #[test]
    fn advice_only_above_the_thresholds() {
        let thresholds = Thresholds { memory_high_ratio: 0.85, memory_pressure_high: 0.1, oom_kills_before: 2 };
        let psi = |some_avg60| Some(Pressure { some_avg60, ..Pressure::default() });
        let calm = Reading {
            source: ResourceSource::Cgroup,
            memory_bytes: 1000 * MIB,
            limit_bytes: 1000 * MIB,
            high_bytes: None,
            anon_bytes: 850 * MIB,
            oom_kills: 2,
            memory_pressure: psi(0.1),
            cpu_pressure: None,
        };
        assert_eq!(advise(&calm, &thresholds).advice, Vec::<String>::new(), "caches of files are no reason");
        let busy = Reading { anon_bytes: 851 * MIB, oom_kills: 3, memory_pressure: psi(0.11), ..calm };
        let advice = advise(&busy, &thresholds).advice;
        assert_eq!(advice.len(), 3, "{advice:?}");
        assert!(advice[0].starts_with("memory above 85 % of its limit: 851 of 1000 MiB"), "{advice:?}");
        assert!(
            advice[1].contains("11 % of the last minute") && advice[2].contains("killed 1 processes"),
            "{advice:?}"
        );
    }

    #[test]
    fn a_cache_size_leaves_room() {
        let rows = [(8 << 30, "6144MB"), (1 << 30, "698MB"), (100 * MIB, "8MB")];
        for (limit, value) in rows {
            assert_eq!(effective_cache_size(limit).value, value);
        }
    }
}
