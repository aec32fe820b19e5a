//! The search for a linearization, by the crate `porcupine-rs`. Nothing else in this crate knows it.
//!
//! The register is a counter here: `check::linearizable` numbers the values that a compute is known to have had by their
//! generations, and a register can only go from one to the next. That leaves the search next to nothing to guess.

use std::time::Duration;

use porcupine_rs::{CheckResult, Model, Operation, check_operations_timeout};

/// What one operation does to the register, in ranks of its known values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Puts the next value, or finds its own content there.
    Write(u32),
    /// The same, or nothing at all: it may have come too late, or never.
    MayWrite(u32),
    /// Finds this value.
    Read(u32),
    /// Shows a value that the register never had.
    Impossible,
}

/// An operation and when it was under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timed {
    pub(crate) step: Step,
    /// Not before.
    pub(crate) from: usize,
    /// Not after; none: whenever.
    pub(crate) to: Option<usize>,
}

/// What came of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is an order that explains everything.
    Linearizable,
    /// There is none.
    NotLinearizable,
    /// Time was up.
    NotDecided,
}

/// Looks for an order of `ops`, in the limits of their times, that a register could have gone through.
pub(crate) fn search(ops: &[Timed], within: Duration) -> Verdict {
    let history: Vec<_> = ops.iter().map(operation).collect();
    match check_operations_timeout(&history, within) {
        CheckResult::Ok => Verdict::Linearizable,
        CheckResult::Illegal => Verdict::NotLinearizable,
        CheckResult::Unknown => Verdict::NotDecided,
    }
}

#[derive(Debug, Clone)]
struct Register;

impl Model for Register {
    type State = u32;
    type Op = Step;
    type Metadata = ();

    fn init() -> u32 {
        0
    }

    fn step(at: &u32, step: &Step) -> (bool, u32) {
        match *step {
            Step::Write(rank) => (*at == rank || at + 1 == rank, rank),
            Step::MayWrite(rank) => (at + 1 >= rank, rank.max(*at)),
            Step::Read(rank) => (*at == rank, *at),
            Step::Impossible => (false, *at),
        }
    }
}

fn operation(timed: &Timed) -> Operation<Register> {
    let time = |line: usize| i64::try_from(line).unwrap_or(i64::MAX);
    Operation {
        client_id: None,
        call_time: time(timed.from),
        return_time: timed.to.map_or(i64::MAX, time),
        op: timed.step,
        metadata: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(step: Step, from: usize, to: usize) -> Timed {
        Timed { step, from, to: Some(to) }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_read_that_overlaps_a_write_may_see_it_or_not() {
        for seen in [0, 1] {
            let ops = [timed(Step::Write(1), 1, 4), timed(Step::Read(seen), 2, 3)];
            assert_eq!(search(&ops, LONG), Verdict::Linearizable);
        }
    }

    #[test]
    fn a_read_after_a_write_sees_it() {
        let ops = [timed(Step::Write(1), 1, 2), timed(Step::Read(0), 3, 4)];
        assert_eq!(search(&ops, LONG), Verdict::NotLinearizable);
    }

    #[test]
    fn nothing_is_unread_again() {
        let ops = [timed(Step::Write(1), 1, 6), timed(Step::Read(1), 2, 3), timed(Step::Read(0), 4, 5)];
        assert_eq!(search(&ops, LONG), Verdict::NotLinearizable);
    }

    #[test]
    fn what_may_have_been_written_may_take_effect_whenever() {
        let open = Timed { step: Step::MayWrite(1), from: 1, to: None };
        for seen in [0, 1] {
            assert_eq!(search(&[open, timed(Step::Read(seen), 7, 8)], LONG), Verdict::Linearizable);
        }
        let before = [timed(Step::Read(1), 1, 2), Timed { step: Step::MayWrite(1), from: 3, to: None }];
        assert_eq!(search(&before, LONG), Verdict::NotLinearizable);
    }

    #[test]
    fn no_time_is_no_pass() {
        let ops: Vec<_> = (0..4000).map(|n| timed(Step::Write(1), 1, 9000 + n)).collect();
        assert_eq!(search(&ops, Duration::ZERO), Verdict::NotDecided);
    }
}
