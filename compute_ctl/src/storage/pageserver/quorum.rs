//! Whether the safekeepers agree where the WAL ends, from what they answer. Pure.

use pgfleet_api::Lsn;

/// What one safekeeper says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Up to where it has the timeline's WAL, and up to where it knows a majority has.
    Status {
        /// On its disk.
        flush: Lsn,
        /// At a majority.
        commit: Lsn,
    },
    /// It does not know the timeline.
    Unknown,
    /// Nothing in time, or nothing of use.
    Silent,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A majority has everything up to here and nobody has more: nothing is to be done.
    Agreed(Lsn),
    /// The WAL's end has to be settled.
    Settle,
}

/// Judges the answers of all safekeepers, silent ones included. All that answer have to say the same: one that has more
/// WAL than is committed has to be settled, even where it is alone.
#[must_use]
pub fn judge(answers: &[Answer]) -> Verdict {
    let majority = answers.len() / 2 + 1;
    let known: Vec<_> = answers
        .iter()
        .filter_map(|answer| match answer {
            Answer::Status { flush, commit } => Some((*flush, *commit)),
            Answer::Unknown | Answer::Silent => None,
        })
        .collect();
    match known.first() {
        Some((flush, commit)) if known.len() >= majority && flush == commit => {
            let same = known.iter().all(|other| other == &(*flush, *commit));
            if same { Verdict::Agreed(*flush) } else { Verdict::Settle }
        }
        Some(_) | None => Verdict::Settle,
    }
}

#[cfg(test)]
mod tests {
    use super::Answer::{Silent, Unknown};
    use super::*;

    fn at(flush: u64, commit: u64) -> Answer {
        Answer::Status { flush: Lsn(flush), commit: Lsn(commit) }
    }

    #[test]
    fn every_kind_of_answer() {
        let agreed = Verdict::Agreed(Lsn(9));
        let rows = [
            (vec![], Verdict::Settle),
            (vec![at(9, 9)], agreed),
            (vec![Unknown], Verdict::Settle),
            (vec![at(9, 9), at(9, 9), at(9, 9)], agreed),
            (vec![Silent, at(9, 9), at(9, 9)], agreed),
            (vec![at(9, 9), Unknown, at(9, 9)], agreed),
            (vec![at(9, 9), Silent, Unknown], Verdict::Settle),
            (vec![Silent, Silent, Silent], Verdict::Settle),
            (vec![at(9, 9), at(9, 9), at(8, 8)], Verdict::Settle),
            (vec![at(9, 9), at(9, 8), at(9, 9)], Verdict::Settle),
            // More on one disk than is committed: the election decides whether it counts.
            (vec![at(10, 9), at(9, 9), at(9, 9)], Verdict::Settle),
            (vec![at(9, 8), at(9, 8), at(9, 8)], Verdict::Settle),
            (vec![at(9, 9), at(9, 9)], agreed),
            (vec![at(9, 9), Silent], Verdict::Settle),
            (vec![at(9, 9), at(9, 9), Silent, Silent], Verdict::Settle),
            (vec![at(0, 0), at(0, 0), at(0, 0)], Verdict::Agreed(Lsn(0))),
        ];
        for (answers, verdict) in rows {
            assert_eq!(judge(&answers), verdict, "{answers:?}");
        }
    }
}
