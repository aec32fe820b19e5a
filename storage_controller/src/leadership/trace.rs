//! Spans of leaderships for the collector of traces; they cost nothing without one.

use pgfleet_api::Term;
use tracing::Span;
use tracing::field::Empty;

use super::metrics::Phase;

/// The hand-over that is under way: a span for the whole, and below it one for each phase.
pub(super) struct Trace {
    whole: Span,
    phase: Span,
}

impl Default for Trace {
    fn default() -> Self {
        Self { whole: Span::none(), phase: Span::none() }
    }
}

impl Trace {
    /// A phase begins, and with the first one the hand-over.
    pub(super) fn begin(&mut self) {
        if self.whole.is_disabled() {
            self.whole = tracing::info_span!(target: "spans::leadership", parent: None, "hand_over", term = Empty);
        }
        self.phase = tracing::info_span!(
            target: "spans::leadership",
            parent: &self.whole,
            "phase",
            otel.name = Empty,
        );
    }

    /// A phase has ended, and the next one begins; what follows the claim is [`Self::take_up`].
    pub(super) fn phase(&mut self, phase: Phase) {
        self.phase.record("otel.name", tracing::field::debug(phase));
        self.phase = Span::none();
        if phase != Phase::Claim {
            self.begin();
        }
    }

    /// Below this stands what the new leader does before it serves.
    pub(super) fn take_up(&self, term: Term) -> Span {
        tracing::info_span!(target: "spans::leadership", parent: &self.whole, "take_up", %term)
    }

    /// This member leads and serves.
    pub(super) fn end(&mut self, term: Term) {
        self.whole.record("term", term.get());
        *self = Self::default();
    }
}

/// The way out of a leadership, from the decision to the last flush.
pub(super) fn step_down(term: Term, flush: bool) -> Span {
    tracing::info_span!(target: "spans::leadership", parent: None, "step_down", %term, flush, complete = Empty)
}
