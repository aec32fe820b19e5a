//! An agent that has seen a later term than the leader's own.
//!
//! Either somebody else leads by now, or the database has lost the claim of that term: the agent keeps for ever what a
//! database may lose. Called by [`super::decide`], and by whoever hears an agent refuse a fence.

use pgfleet_api::Term;

use super::State;

/// A term further above our own than this is no lost claim: at one claim a second it would be eleven days of them. It is a
/// ledger that is wrong, and a leader that followed it would use the numbers up.
pub const MAX_TERM_JUMP: i64 = 1_000_000;

/// What an agent's term means to a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jump {
    /// Nothing: it is not above our own.
    None,
    /// It was claimed, by a leader that the database knows or has lost.
    Claimed,
    /// Beyond belief: that agent is left alone until an operator has looked.
    TooFar,
}

/// Judges the highest term that an agent has seen.
#[must_use]
pub fn jump(own: Term, seen: Term) -> Jump {
    match seen.get().saturating_sub(own.get()) {
        ..=0 => Jump::None,
        1..=MAX_TERM_JUMP => Jump::Claimed,
        _ => Jump::TooFar,
    }
}

/// The next claim is above what the agent has seen. Returns whether there is anything to do about it.
pub(super) fn raise(next: &mut State, own: Term, seen: Term) -> bool {
    let claimed = jump(own, seen) == Jump::Claimed;
    if claimed {
        next.highest = next.highest.max(seen);
    }
    claimed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_believed_up_to_a_million() {
        let rows = [
            (5, 4, Jump::None),
            (5, 5, Jump::None),
            (5, 6, Jump::Claimed),
            (5, 1_000_005, Jump::Claimed),
            (5, 1_000_006, Jump::TooFar),
            (i64::MIN, i64::MAX, Jump::TooFar),
        ];
        for (own, seen, judged) in rows {
            assert_eq!(jump(Term(own), Term(seen)), judged, "{own} {seen}");
        }
    }
}
