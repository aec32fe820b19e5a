//! Readings as numbers, taken at scrape time. A family without a reading has no series.

use measured::MetricGroup;
use measured::label::{LabelGroup, LabelGroupVisitor, LabelName, NoLabels};
use measured::metric::MetricEncoding;
use measured::metric::counter::{CounterState, write_counter};
use measured::metric::gauge::{FloatGaugeState, GaugeState, write_float_gauge, write_gauge};
use measured::metric::group::Encoding;
use measured::metric::name::MetricName;
use pgfleet_api::resources::Pressure;

use super::Readings;

/// Nest it flat under `compute_ctl`.
#[derive(Debug, Clone)]
pub struct ResourceMetrics(pub Readings);

/// Part of a pressure reading.
struct Part {
    kind: &'static str,
    window: &'static str,
}

impl LabelGroup for Part {
    fn visit_values(&self, v: &mut impl LabelGroupVisitor) {
        const KIND: &LabelName = LabelName::from_str("kind");
        const WINDOW: &LabelName = LabelName::from_str("window");
        v.write_value(KIND, &self.kind);
        v.write_value(WINDOW, &self.window);
    }
}

struct Reason(&'static str);

impl LabelGroup for Reason {
    fn visit_values(&self, v: &mut impl LabelGroupVisitor) {
        const REASON: &LabelName = LabelName::from_str("reason");
        v.write_value(REASON, &self.0);
    }
}

impl<Enc: Encoding> MetricGroup<Enc> for ResourceMetrics
where
    CounterState: MetricEncoding<Enc>,
    GaugeState: MetricEncoding<Enc>,
    FloatGaugeState: MetricEncoding<Enc>,
{
    fn collect_group_into(&self, enc: &mut Enc) -> Result<(), Enc::Err> {
        const KILLS: &MetricName = MetricName::from_str("memory_oom_kills_total");
        const ADVICE: &MetricName = MetricName::from_str("resource_advice");
        let reading = self.0.reading();
        let gauges = [
            (
                MetricName::from_str("memory_usage_bytes"),
                "Memory in use, with caches of files.",
                reading.as_ref().map(|r| r.memory_bytes),
            ),
            (
                MetricName::from_str("memory_limit_bytes"),
                "Lowest memory limit that holds.",
                reading.as_ref().map(|r| r.limit_bytes),
            ),
            (
                MetricName::from_str("memory_anon_bytes"),
                "Memory that cannot be given back without swapping.",
                reading.as_ref().map(|r| r.anon_bytes),
            ),
        ];
        for (name, help, value) in gauges {
            enc.write_help(name, help)?;
            GaugeState::write_type(name, enc)?;
            if let Some(bytes) = value {
                write_gauge(enc, name, NoLabels, i64::try_from(bytes).unwrap_or(i64::MAX))?;
            }
        }
        enc.write_help(KILLS, "Processes that the kernel has killed for lack of memory.")?;
        CounterState::write_type(KILLS, enc)?;
        if let Some(reading) = &reading {
            write_counter(enc, KILLS, NoLabels, reading.oom_kills)?;
        }
        let pressures = [
            (
                MetricName::from_str("memory_pressure_ratio"),
                "Part of the time in which processes waited for memory.",
                reading.as_ref().and_then(|r| r.memory_pressure),
            ),
            (
                MetricName::from_str("cpu_pressure_ratio"),
                "Part of the time in which processes waited for the processor.",
                reading.as_ref().and_then(|r| r.cpu_pressure),
            ),
        ];
        for (name, help, value) in pressures {
            enc.write_help(name, help)?;
            FloatGaugeState::write_type(name, enc)?;
            for (part, ratio) in value.map(parts).into_iter().flatten() {
                write_float_gauge(enc, name, part, ratio)?;
            }
        }
        enc.write_help(ADVICE, "1 where a reading is above its threshold; the status says more.")?;
        GaugeState::write_type(ADVICE, enc)?;
        if let Some(reading) = &reading {
            let above = self.0.above(reading);
            for (reason, on) in [("memory", above.memory), ("pressure", above.pressure), ("oom_kills", above.oom_kills)]
            {
                write_gauge(enc, ADVICE, Reason(reason), i64::from(on))?;
            }
        }
        Ok(())
    }
}

fn parts(psi: Pressure) -> [(Part, f64); 4] {
    [
        (Part { kind: "some", window: "10s" }, psi.some_avg10),
        (Part { kind: "some", window: "60s" }, psi.some_avg60),
        (Part { kind: "full", window: "10s" }, psi.full_avg10),
        (Part { kind: "full", window: "60s" }, psi.full_avg60),
    ]
}
