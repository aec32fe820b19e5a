//! The measured scenarios. Each makes a bed of its own and gives figures for machines and notes for people.

pub mod planned;
pub mod restarts;
pub mod sigkill;
pub mod sigstop;
pub mod steady;

use std::collections::BTreeMap;
use std::time::Instant;

use crate::load::{Exchange, Kind};

/// What a scenario gives.
#[derive(Debug, Clone)]
pub struct Measured<T> {
    /// For machines.
    pub figures: T,
    /// For people: where the time goes, what failed.
    pub notes: Vec<String>,
}

/// How often each kind of failure came, in one line; empty if none did.
fn failures<'a>(exchanges: impl IntoIterator<Item = &'a Exchange>) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for failure in exchanges.into_iter().filter_map(|one| one.outcome.as_ref().err()) {
        *kinds.entry(failure.to_string()).or_default() += 1;
    }
    let kinds: Vec<String> = kinds.into_iter().map(|(kind, count)| format!("{count} x {kind}")).collect();
    kinds.join(", ")
}

/// When requests of a kind were executed, in order.
fn answers(exchanges: &[Exchange], kind: Kind) -> Vec<Instant> {
    exchanges.iter().filter(|one| one.executed(kind)).map(|one| one.ended).collect()
}

fn failed(exchanges: &[Exchange]) -> usize {
    exchanges.iter().filter(|one| one.outcome.is_err()).count()
}
