//! How many of the process's descriptors the connections to agents may have, and what a scrape says of it.

use std::sync::Arc;

use measured::MetricGroup;
use measured::label::{LabelGroup, LabelGroupVisitor, LabelName, NoLabels};
use measured::metric::MetricEncoding;
use measured::metric::counter::{CounterState, write_counter};
use measured::metric::gauge::{GaugeState, write_gauge};
use measured::metric::group::Encoding;
use measured::metric::name::MetricName;
use pgfleet_clients::connections::ConnectionStats;
use pgfleet_runtime::descriptors;

/// Descriptors that are for clients, the database, peers, files and traces.
const RESERVE: usize = 4096 + 512;

/// How many connections to agents may be open where the process may have `limit` descriptors: all but the reserve, and
/// where the limit is small, half of it.
#[must_use]
pub fn room(limit: usize) -> usize {
    limit - reserve(limit)
}

fn reserve(limit: usize) -> usize {
    RESERVE.min(limit / 2)
}

/// Reads what the connections are at the moment of the scrape.
#[derive(Clone)]
pub struct ConnectionMetrics(pub Arc<dyn Fn() -> ConnectionStats + Send + Sync>);

struct Kind(&'static str);

impl LabelGroup for Kind {
    fn visit_values(&self, v: &mut impl LabelGroupVisitor) {
        const KIND: &LabelName = LabelName::from_str("kind");
        v.write_value(KIND, &self.0);
    }
}

fn number(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl<Enc: Encoding> MetricGroup<Enc> for ConnectionMetrics
where
    GaugeState: MetricEncoding<Enc>,
    CounterState: MetricEncoding<Enc>,
{
    fn collect_group_into(&self, enc: &mut Enc) -> Result<(), Enc::Err> {
        const DESCRIPTORS: &MetricName = MetricName::from_str("descriptors");
        const CONNECTIONS: &MetricName = MetricName::from_str("agent_connections");
        const MADE: &MetricName = MetricName::from_str("agent_connections_made_total");
        const CLOSED: &MetricName = MetricName::from_str("agent_connections_closed_for_room_total");
        let (stats, limit) = ((self.0)(), descriptors::limit());
        enc.write_help(DESCRIPTORS, "Open descriptors, how many there may be, and how many agents leave to others.")?;
        GaugeState::write_type(DESCRIPTORS, enc)?;
        write_gauge(enc, DESCRIPTORS, Kind("used"), descriptors::open().unwrap_or_default())?;
        write_gauge(enc, DESCRIPTORS, Kind("limit"), number(limit))?;
        write_gauge(enc, DESCRIPTORS, Kind("reserve"), number(reserve(limit)))?;
        enc.write_help(CONNECTIONS, "Connections to agents: in use, idle, and how many there may be.")?;
        GaugeState::write_type(CONNECTIONS, enc)?;
        write_gauge(enc, CONNECTIONS, Kind("busy"), number(stats.open.saturating_sub(stats.idle)))?;
        write_gauge(enc, CONNECTIONS, Kind("idle"), number(stats.idle))?;
        write_gauge(enc, CONNECTIONS, Kind("room"), number(stats.room))?;
        enc.write_help(MADE, "Connections to agents that were made.")?;
        CounterState::write_type(MADE, enc)?;
        write_counter(enc, MADE, NoLabels, stats.made_total)?;
        enc.write_help(CLOSED, "Idle connections to agents that were closed because there was no room.")?;
        CounterState::write_type(CLOSED, enc)?;
        write_counter(enc, CLOSED, NoLabels, stats.closed_for_room_total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_always_have_their_part() {
        for (limit, expected) in [(256, 128), (1024, 512), (20_000, 15_392), (1 << 20, (1 << 20) - RESERVE)] {
            assert_eq!(room(limit), expected);
        }
    }
}
