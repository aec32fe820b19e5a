//! What a member's metrics page says: about the change that made it the leader, and whether it could be the next one.

use std::collections::BTreeMap;

use pgfleet_harness::controller::Controller;

/// Parts of the last hand-over to a member, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Phases {
    /// From asking the old leader, or noticing its death, to serving.
    pub gap_ms: Option<f64>,
    /// Its parts, by name.
    pub parts_ms: BTreeMap<String, f64>,
}

impl Phases {
    /// Of the last hand-over to this member.
    pub async fn of(member: &Controller) -> Self {
        Self::read(&member.call("GET", "/metrics").send().await.body)
    }

    fn read(page: &str) -> Self {
        let mut phases = Self::default();
        for (series, seconds) in samples(page) {
            if series == "storage_controller_handover_gap_seconds" {
                phases.gap_ms = Some(seconds * 1e3);
            }
            let phase = series.strip_prefix("storage_controller_handover_phase_seconds{phase=\"");
            if let Some(name) = phase.and_then(|rest| rest.strip_suffix("\"}")) {
                phases.parts_ms.insert(name.to_owned(), seconds * 1e3);
            }
        }
        phases
    }
}

/// Whether a member's memory is as warm as its metrics page can say; one that has no word for it counts as warm.
pub async fn is_warm(member: &Controller) -> bool {
    let page = member.call("GET", "/metrics").send().await.body;
    samples(&page).all(|(series, value)| series != "storage_controller_follower_warm" || value > 0.0)
}

/// Series and values of a metrics page.
pub(crate) fn samples(page: &str) -> impl Iterator<Item = (&str, f64)> {
    page.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        Some((series, value.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read() {
        let page = "# TYPE storage_controller_handover_phase_seconds gauge\n\
            storage_controller_handover_phase_seconds{phase=\"claim\"} 0.0015\n\
            storage_controller_handover_phase_seconds{phase=\"step_down\"} 0.5\n\
            storage_controller_handover_gap_seconds 0.004\nother 1\n";
        let parts_ms = [("claim".to_owned(), 1.5), ("step_down".to_owned(), 500.0)].into();
        assert_eq!(Phases::read(page), Phases { gap_ms: Some(4.0), parts_ms });
    }
}
