//! Numbers of the voice, as of the last look.
#![expect(clippy::cast_precision_loss, reason = "metrics: milliseconds of error after millennia")]

use measured::MetricGroup;
use measured::label::NoLabels;
use measured::metric::MetricEncoding;
use measured::metric::counter::CounterState;
use measured::metric::gauge::{FloatGaugeState, GaugeState, write_float_gauge, write_gauge};
use measured::metric::group::Encoding;
use measured::metric::name::MetricName;

use super::Monitor;

/// Activity and downtime.
pub struct ReportMetrics(pub Monitor);

impl<Enc: Encoding> MetricGroup<Enc> for ReportMetrics
where
    CounterState: MetricEncoding<Enc>,
    GaugeState: MetricEncoding<Enc>,
    FloatGaugeState: MetricEncoding<Enc>,
{
    fn collect_group_into(&self, enc: &mut Enc) -> Result<(), Enc::Err> {
        const AWAKE: &MetricName = MetricName::from_str("awake");
        const SESSIONS: &MetricName = MetricName::from_str("client_sessions");
        const LAST_ACTIVE: &MetricName = MetricName::from_str("last_active_timestamp_seconds");
        const DOWN: &MetricName = MetricName::from_str("downtime_seconds");
        const DOWN_TOTAL: &MetricName = MetricName::from_str("downtime_seconds_total");
        let reading = self.0.reading();
        let activity = reading.activity();
        let seconds = |ms: u64| ms as f64 / 1000.0;

        enc.write_help(AWAKE, "Whether PostgreSQL is in use: 1 or 0.")?;
        GaugeState::write_type(AWAKE, enc)?;
        write_gauge(enc, AWAKE, NoLabels, i64::from(activity.as_ref().is_some_and(|seen| seen.awake)))?;
        enc.write_help(SESSIONS, "Client sessions, without those of the agent.")?;
        GaugeState::write_type(SESSIONS, enc)?;
        write_gauge(enc, SESSIONS, NoLabels, activity.map_or(0, |seen| i64::from(seen.sessions)))?;
        enc.write_help(LAST_ACTIVE, "Last activity since the Unix epoch, 0 before the first.")?;
        FloatGaugeState::write_type(LAST_ACTIVE, enc)?;
        let last = reading.last_active().map_or(0.0, |at| at.timestamp_millis() as f64 / 1000.0);
        write_float_gauge(enc, LAST_ACTIVE, NoLabels, last)?;
        enc.write_help(DOWN, "Time for which PostgreSQL has not answered the monitor, 0 while it answers.")?;
        FloatGaugeState::write_type(DOWN, enc)?;
        write_float_gauge(enc, DOWN, NoLabels, seconds(reading.downtime().current_ms))?;
        enc.write_help(DOWN_TOTAL, "Time for which PostgreSQL did not answer the monitor.")?;
        CounterState::write_type(DOWN_TOTAL, enc)?;
        write_float_gauge(enc, DOWN_TOTAL, NoLabels, seconds(reading.downtime().total_ms))
    }
}
