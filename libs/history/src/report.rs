//! What a check found: for machines by serde, for people by `Display`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How many violations of one invariant a printed report names; the JSON has all.
const SHOWN: usize = 5;

/// What came of one invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It held for every fact.
    Kept,
    /// It did not.
    Broken,
    /// The search did not end in its time. Not a pass.
    NotDecided,
    /// Nothing in this history bears on it.
    NotChecked,
}

impl Outcome {
    /// The wire word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Broken => "broken",
            Self::NotDecided => "not_decided",
            Self::NotChecked => "not_checked",
        }
    }
}

/// One way in which a history breaks an invariant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The lines that contradict each other, counted from 1; empty where something is missing.
    pub lines: Vec<usize>,
    /// What is wrong, in plain words.
    pub what: String,
}

/// One invariant, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its stable name.
    pub name: String,
    /// What it says, in one line.
    pub says: String,
    /// What came of it.
    pub outcome: Outcome,
    /// How many facts it looked at.
    pub facts: u64,
    /// Facts it let pass because the database had lost commits on purpose.
    pub exempted: u64,
    /// Every violation.
    pub violations: Vec<Violation>,
    /// Why it was not checked or not decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What the history holds, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Lines.
    pub entries: u64,
    /// What reproduces the schedule.
    pub seed: Option<u64>,
    /// Milliseconds from the first line to the last.
    pub duration_ms: u64,
    /// Different computes.
    pub computes: u64,
    /// Different terms in the database's history.
    pub terms: u64,
    /// Calls sent.
    pub calls: u64,
    /// Writes acknowledged.
    pub writes: u64,
    /// Reads answered.
    pub reads: u64,
    /// Calls known not to have been executed.
    pub refused: u64,
    /// Calls without a certain answer.
    pub unknown: u64,
    /// Milliseconds of the longest time without an acknowledged write, from the first write asked for to the last one
    /// acknowledged; none without one.
    pub longest_gap_ms: Option<u64>,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Pause points by name.
    pub pause_points: BTreeMap<String, u64>,
}

/// What a check says about a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Every invariant, also those that could not be checked.
    pub invariants: Vec<Finding>,
    /// What was there to check.
    pub figures: Figures,
}

impl Report {
    /// Whether nothing was broken and nothing was left undecided.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.invariants.iter().all(|one| matches!(one.outcome, Outcome::Kept | Outcome::NotChecked))
    }

    /// How many violations there are.
    #[must_use]
    pub fn violations(&self) -> usize {
        self.invariants.iter().map(|one| one.violations.len()).sum()
    }

    /// How many facts were checked.
    #[must_use]
    pub fn facts(&self) -> u64 {
        self.invariants.iter().map(|one| one.facts).sum()
    }

    /// The names of the invariants that came out as `outcome`.
    #[must_use]
    pub fn named(&self, outcome: Outcome) -> Vec<&str> {
        self.invariants.iter().filter(|one| one.outcome == outcome).map(|one| one.name.as_str()).collect()
    }
}

/// Collects what one invariant finds.
pub(crate) struct Findings {
    finding: Finding,
    undecided: bool,
}

impl Findings {
    pub(crate) fn new(name: &str, says: &str) -> Self {
        let finding = Finding {
            name: name.to_owned(),
            says: says.to_owned(),
            outcome: Outcome::NotChecked,
            facts: 0,
            exempted: 0,
            violations: Vec::new(),
            note: None,
        };
        Self { finding, undecided: false }
    }

    /// One more fact was looked at.
    pub(crate) fn fact(&mut self) {
        self.finding.facts += 1;
    }

    /// One fact was let pass.
    pub(crate) fn exempt(&mut self) {
        self.finding.exempted += 1;
    }

    pub(crate) fn violation(&mut self, lines: impl Into<Vec<usize>>, what: impl Into<String>) {
        self.finding.violations.push(Violation { lines: lines.into(), what: what.into() });
    }

    /// A question that was given up; the rest still counts.
    pub(crate) fn undecided(&mut self, note: impl Into<String>) {
        self.undecided = true;
        self.finding.note = Some(note.into());
    }

    /// Why there is nothing to check. Kept only if that is how it ends.
    pub(crate) fn nothing(&mut self, note: impl Into<String>) {
        self.finding.note.get_or_insert(note.into());
    }

    pub(crate) fn end(mut self) -> Finding {
        self.finding.outcome = if !self.finding.violations.is_empty() {
            Outcome::Broken
        } else if self.undecided {
            Outcome::NotDecided
        } else if self.finding.facts > 0 {
            Outcome::Kept
        } else {
            Outcome::NotChecked
        };
        if matches!(self.finding.outcome, Outcome::Kept | Outcome::Broken) {
            self.finding.note = None;
        }
        self.finding
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = self.invariants.iter().map(|one| one.name.len()).max().unwrap_or_default();
        for one in &self.invariants {
            let outcome = one.outcome.as_str().replace('_', " ");
            write!(f, "{outcome:<11}  {:<wide$}  {:>7} facts  {}", one.name, one.facts, one.says)?;
            if one.exempted > 0 {
                write!(f, " ({} exempted: the database had lost commits)", one.exempted)?;
            }
            writeln!(f)?;
            if let Some(note) = &one.note {
                writeln!(f, "{:13}{note}", "")?;
            }
            for violation in one.violations.iter().take(SHOWN) {
                writeln!(f, "{:13}{violation}", "")?;
            }
            if one.violations.len() > SHOWN {
                writeln!(f, "{:13}and {} more", "", one.violations.len() - SHOWN)?;
            }
        }
        self.figures.fmt(f)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.lines.iter().map(usize::to_string).collect();
        match lines.len() {
            0 => {}
            1 => write!(f, "line {}: ", lines.concat())?,
            _ => write!(f, "lines {}: ", lines.join(", "))?,
        }
        f.write_str(&self.what)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lines, {} computes, {} terms", self.entries, self.computes, self.terms)?;
        if self.calls > 0 {
            write!(
                f,
                "; {} calls: {} writes acknowledged, {} reads, {} refused, {} unknown",
                self.calls, self.writes, self.reads, self.refused, self.unknown
            )?;
        }
        if let Some(gap) = self.longest_gap_ms {
            write!(f, "; longest gap in writes {gap} ms")?;
        }
        if !self.faults.is_empty() {
            let total: u64 = self.faults.values().sum();
            write!(f, "; {total} faults of {} kinds", self.faults.len())?;
        }
        Ok(())
    }
}
