//! The process as the kernel sees it, read at scrape time from `/proc/self`.

use std::time::{SystemTime, UNIX_EPOCH};

use measured::MetricGroup;
use measured::label::NoLabels;
use measured::metric::MetricEncoding;
use measured::metric::counter::CounterState;
use measured::metric::gauge::{FloatGaugeState, GaugeState, write_float_gauge, write_gauge};
use measured::metric::group::Encoding;
use measured::metric::name::MetricName;

use crate::descriptors;

/// Nest it under the namespace `process`.
#[derive(Debug, Clone, Copy)]
pub struct ProcessMetrics {
    start_time_seconds: f64,
}

impl ProcessMetrics {
    /// Of this process; call it early, its birth is the process's.
    #[must_use]
    pub fn for_self() -> Self {
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start_time_seconds: start.as_secs_f64() }
    }
}

fn cpu_seconds() -> f64 {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "a metric: microseconds of error after centuries")]
    let seconds = spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9;
    seconds
}

/// `Name:  123 kB` of `/proc/self/status`.
fn status_field(status: &str, name: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

impl<Enc: Encoding> MetricGroup<Enc> for ProcessMetrics
where
    CounterState: MetricEncoding<Enc>,
    GaugeState: MetricEncoding<Enc>,
    FloatGaugeState: MetricEncoding<Enc>,
{
    fn collect_group_into(&self, enc: &mut Enc) -> Result<(), Enc::Err> {
        const CPU: &MetricName = MetricName::from_str("cpu_seconds_total");
        const START: &MetricName = MetricName::from_str("start_time_seconds");
        enc.write_help(CPU, "User and system CPU time spent.")?;
        CounterState::write_type(CPU, enc)?;
        write_float_gauge(enc, CPU, NoLabels, cpu_seconds())?;
        enc.write_help(START, "Start of the process since the Unix epoch.")?;
        FloatGaugeState::write_type(START, enc)?;
        write_float_gauge(enc, START, NoLabels, self.start_time_seconds)?;

        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |name| status_field(&status, name).map(|n| n * 1024);
        let gauges = [
            (MetricName::from_str("resident_memory_bytes"), "Resident memory.", kib("VmRSS")),
            (MetricName::from_str("virtual_memory_bytes"), "Virtual memory.", kib("VmSize")),
            (MetricName::from_str("threads"), "Threads.", status_field(&status, "Threads")),
            (MetricName::from_str("open_fds"), "Open file descriptors.", descriptors::open()),
            (
                MetricName::from_str("max_fds"),
                "Limit of open file descriptors.",
                i64::try_from(descriptors::limit()).ok(),
            ),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                enc.write_help(name, help)?;
                GaugeState::write_type(name, enc)?;
                write_gauge(enc, name, NoLabels, value)?;
            }
        }
        Ok(())
    }
}
