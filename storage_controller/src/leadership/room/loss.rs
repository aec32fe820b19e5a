//! Whether the database still has what this member knows: asked of every row that is read and of every renewal.

use std::time::Duration;

use pgfleet_domain::leadership::{Ending, Event, Phase as Where, Why};
use pgfleet_domain::loss::What;
use pgfleet_persistence::Head;

use super::Room;

impl Room {
    /// A row that fell tells of terms that the database has lost.
    pub(super) fn look_for_lost_terms(&self, event: &Event) {
        let Event::RowRead(row) = event else { return };
        if let Some(known) = self.state.lost_term(row.as_ref()) {
            let found = row.as_ref().map_or(0, |row| row.term.get());
            self.handle.losses().found(What::Term, known.get(), found);
        }
    }

    /// The row is still ours. If what this leadership wrote is not there any more, what it believes and hands to agents is
    /// not either: it begins anew, from what the database has.
    pub(super) async fn renewed(&mut self, sent_at: Duration, reached: i64, head: Option<Head>) -> Option<Ending> {
        let lost = head.is_some_and(|head| self.has_lost(reached, head));
        // Before it serves it has not loaded anything yet.
        if lost && matches!(self.state.phase, Where::Leader { .. } | Where::Suspended { .. }) {
            return self.step(Event::Fenced).await;
        }
        let (held, highest) = (self.state.held_term(), self.state.highest);
        let ending = self.step(Event::Renewed { sent_at }).await;
        if let (Some(term), Where::SteppingDown { why: Why::Outbid, .. }) = (held, &self.state.phase) {
            self.handle.losses().found(What::AgentTerm, highest.get(), term.get());
        }
        ending
    }

    /// Compares with what was known, and remembers.
    fn has_lost(&mut self, reached: i64, head: Head) -> bool {
        let losses = self.handle.losses();
        let known = self.head.replace(head.clone());
        // A load in between may have found that less is there.
        let reached = reached.min(self.handle.reached());
        let mut lost = false;
        if let Some(known) = known.as_ref().filter(|known| known.system != head.system) {
            losses.found(What::Identity, known.system, head.system);
            lost = true;
        }
        if head.last_change < reached {
            losses.found(What::Changes, reached, head.last_change);
            lost = true;
        }
        if let Some(known) = known.filter(|known| !lost && known.timeline != head.timeline) {
            losses.failed_over(&known.timeline, &head.timeline);
        }
        lost
    }
}
