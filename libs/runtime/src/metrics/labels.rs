//! Label values that are known when the process starts.

use measured::CounterVec;
use measured::label::{FixedCardinalitySet, LabelGroupSet, LabelSet};

/// Makes every series of a counter visible with a zero. One that begins with its first event has no increase that an alert
/// could see.
pub fn show_zeros<L: LabelGroupSet + Default>(counter: &CounterVec<L>) {
    let labels = L::default();
    for label in 0..labels.cardinality().unwrap_or(0) {
        counter.inc_by(labels.decode_dense(label), 0);
    }
}

/// A fixed set of names; a name that is not in it counts as the last one, `other`.
#[derive(Debug, Clone)]
pub struct FixedNames(Vec<&'static str>);

impl FixedNames {
    /// The names and `other`.
    #[must_use]
    pub fn new(names: &[&'static str]) -> Self {
        let mut names = names.to_vec();
        names.push("other");
        Self(names)
    }

    /// The member of the set that stands for `name`.
    #[must_use]
    pub fn resolve(&self, name: &str) -> &'static str {
        self.0.iter().copied().find(|known| *known == name).unwrap_or("other")
    }
}

impl LabelSet for FixedNames {
    type Value<'a> = &'a str;

    fn dynamic_cardinality(&self) -> Option<usize> {
        Some(self.0.len())
    }

    fn encode(&self, value: &str) -> Option<usize> {
        Some(self.0.iter().position(|known| *known == value).unwrap_or(self.0.len() - 1))
    }

    fn decode(&self, value: usize) -> &str {
        self.0[value]
    }
}

impl FixedCardinalitySet for FixedNames {}
