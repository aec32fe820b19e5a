//! What is dirty, in fair order: an owner's change before a repair before drift, and nobody for ever last.
//!
//! Owned by the engine. Pure: no clock, no I/O. Of eight turns five go to changes, two to repairs and one to drift; a turn
//! that its own kind does not need goes to the first kind that has something. A compute that must wait for a place at its
//! host, or for the connect budget, is *parked* there and takes no turn; it comes back to where it stood. Invariants: a
//! compute is queued once, at its highest priority; whoever waits at a gate is let in when somebody leaves it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pgfleet_api::ComputeId;

/// Why a compute is dirty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// It may differ from what is wanted: a first look, something a probe saw.
    Drift,
    /// It is known to differ: it failed, or was left unfinished by the last leader.
    Repair,
    /// Its owner asked for something new, or its agent works on that.
    Change,
}

impl Priority {
    /// The most urgent first.
    pub(super) const ALL: [Self; 3] = [Self::Change, Self::Repair, Self::Drift];

    const fn index(self) -> usize {
        match self {
            Self::Change => 0,
            Self::Repair => 1,
            Self::Drift => 2,
        }
    }
}

/// Whose turn it is, over and over.
const TURNS: [Priority; 8] = [
    Priority::Change,
    Priority::Repair,
    Priority::Change,
    Priority::Drift,
    Priority::Change,
    Priority::Change,
    Priority::Repair,
    Priority::Change,
];

/// Where a compute waits that must not begin yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Gate {
    /// For a place at this host.
    Host(Arc<str>),
    /// For the connect budget.
    Budget,
}

/// One that was taken from the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) id: ComputeId,
    pub(super) priority: Priority,
    ticket: u64,
    /// Where it was parked last.
    from: Option<Gate>,
}

#[derive(Debug, Default)]
struct Lanes {
    lanes: [BTreeMap<u64, ComputeId>; 3],
    turn: usize,
}

impl Lanes {
    fn insert(&mut self, priority: Priority, ticket: u64, id: ComputeId) {
        if let Some(lane) = self.lanes.get_mut(priority.index()) {
            lane.insert(ticket, id);
        }
    }

    fn remove(&mut self, priority: Priority, ticket: u64) {
        if let Some(lane) = self.lanes.get_mut(priority.index()) {
            lane.remove(&ticket);
        }
    }

    fn is_empty(&self) -> bool {
        self.lanes.iter().all(BTreeMap::is_empty)
    }

    /// The next change, though it may not be its turn.
    fn pick_change(&mut self) -> Option<ComputeId> {
        self.lanes.get_mut(Priority::Change.index())?.pop_first().map(|(_, id)| id)
    }

    fn pick(&mut self) -> Option<ComputeId> {
        let favoured = TURNS.get(self.turn % TURNS.len()).copied().unwrap_or(Priority::Change);
        let taken = std::iter::once(favoured)
            .chain(Priority::ALL)
            .find_map(|priority| self.lanes.get_mut(priority.index())?.pop_first());
        self.turn = (self.turn + usize::from(taken.is_some())) % TURNS.len();
        taken.map(|(_, id)| id)
    }
}

#[derive(Debug)]
struct Standing {
    priority: Priority,
    ticket: u64,
    parked: Option<Gate>,
    from: Option<Gate>,
}

/// The queue and who is under way at which host.
#[derive(Debug)]
pub(super) struct Queue {
    per_host: usize,
    open: Lanes,
    parked: HashMap<Gate, Lanes>,
    known: HashMap<ComputeId, Standing>,
    counts: [usize; 3],
    hosts: HashMap<Arc<str>, usize>,
    next_ticket: u64,
    at_hosts: usize,
}

impl Queue {
    /// At most `per_host` under way at one host.
    pub(super) fn new(per_host: usize) -> Self {
        Self {
            per_host,
            open: Lanes::default(),
            parked: HashMap::new(),
            known: HashMap::new(),
            counts: [0; 3],
            hosts: HashMap::new(),
            next_ticket: 0,
            at_hosts: 0,
        }
    }

    /// Queues a compute. One that is queued keeps its place unless this is more urgent; one that waits at a gate is looked
    /// at again, because what it waits for may be over.
    pub(super) fn push(&mut self, id: ComputeId, priority: Priority) {
        match self.known.get(&id) {
            Some(known) if known.priority >= priority && known.parked.is_none() => {}
            Some(known) if known.priority >= priority => {
                let (priority, ticket, from) = (known.priority, known.ticket, known.parked.clone());
                self.take_out(&id);
                self.put(id, Standing { priority, ticket, parked: None, from });
            }
            known => {
                let from = known.and_then(|known| known.parked.clone().or_else(|| known.from.clone()));
                self.take_out(&id);
                self.next_ticket += 1;
                self.put(id, Standing { priority, ticket: self.next_ticket, parked: None, from });
            }
        }
    }

    /// Takes the next one that does not wait at a gate; `only_changes`: the next change.
    pub(super) fn pop(&mut self, only_changes: bool) -> Option<Taken> {
        let id = if only_changes { self.open.pick_change()? } else { self.open.pick()? };
        let Standing { priority, ticket, from, .. } = self.known.remove(&id)?;
        self.count(priority, false);
        Some(Taken { id, priority, ticket, from })
    }

    /// Has one that was taken wait at a gate, where it stood.
    pub(super) fn park(&mut self, taken: Taken, gate: Gate) {
        let Taken { id, priority, ticket, from } = taken;
        if from.as_ref() != Some(&gate) {
            self.pass_on(from.as_ref());
        }
        self.put(id, Standing { priority, ticket, parked: Some(gate), from: None });
    }

    /// Says that one that was taken does not begin: whoever waits where it waited may.
    pub(super) fn drop_taken(&mut self, taken: &Taken) {
        self.pass_on(taken.from.as_ref());
    }

    /// Takes a place at a host for one that was taken, `anyway` or if there is one; `false`: there is none.
    pub(super) fn enter(&mut self, taken: &Taken, host: &Arc<str>, anyway: bool) -> bool {
        let used = self.hosts.entry(host.clone()).or_default();
        if *used >= self.per_host && !anyway {
            return false;
        }
        *used += 1;
        if taken.from.as_ref() != Some(&Gate::Host(host.clone())) {
            self.pass_on(taken.from.as_ref());
        }
        true
    }

    /// Gives a place at a host back; the next that waits for it is let in.
    pub(super) fn leave(&mut self, host: &Arc<str>) {
        if let Some(used) = self.hosts.get_mut(host) {
            *used = used.saturating_sub(1);
            if *used == 0 {
                self.hosts.remove(host);
            }
        }
        self.let_in(&Gate::Host(host.clone()));
    }

    /// Lets the next one in that waits at a gate. `false`: nobody does.
    pub(super) fn let_in(&mut self, gate: &Gate) -> bool {
        let Some(id) = self.parked.get_mut(gate).and_then(Lanes::pick) else { return false };
        if let Some(known) = self.known.remove(&id) {
            self.count(known.priority, false);
            self.at_hosts -= usize::from(matches!(gate, Gate::Host(_)));
            self.put(id, Standing { parked: None, from: Some(gate.clone()), ..known });
        }
        if self.parked.get(gate).is_some_and(Lanes::is_empty) {
            self.parked.remove(gate);
        }
        true
    }

    /// Whether anybody waits at a gate.
    pub(super) fn waits_at(&self, gate: &Gate) -> bool {
        self.parked.contains_key(gate)
    }

    /// How many wait at no gate.
    pub(super) fn open(&self) -> usize {
        self.open.lanes.iter().map(BTreeMap::len).sum()
    }

    /// How many are queued or parked, in the order of [`Priority::ALL`].
    pub(super) fn counts(&self) -> [usize; 3] {
        self.counts
    }

    /// How many wait for a place at their host.
    pub(super) fn waiting_at_hosts(&self) -> usize {
        self.at_hosts
    }

    /// One that was let in and did not use it leaves it to the next.
    fn pass_on(&mut self, from: Option<&Gate>) {
        if let Some(gate @ Gate::Host(host)) = from
            && self.hosts.get(host).copied().unwrap_or(0) < self.per_host
        {
            self.let_in(&gate.clone());
        }
    }

    fn put(&mut self, id: ComputeId, standing: Standing) {
        let lanes = match &standing.parked {
            Some(gate) => {
                self.at_hosts += usize::from(matches!(gate, Gate::Host(_)));
                self.parked.entry(gate.clone()).or_default()
            }
            None => &mut self.open,
        };
        lanes.insert(standing.priority, standing.ticket, id.clone());
        self.count(standing.priority, true);
        self.known.insert(id, standing);
    }

    fn take_out(&mut self, id: &ComputeId) {
        let Some(known) = self.known.remove(id) else { return };
        self.count(known.priority, false);
        match &known.parked {
            Some(gate) => {
                self.at_hosts -= usize::from(matches!(gate, Gate::Host(_)));
                if let Some(lanes) = self.parked.get_mut(gate) {
                    lanes.remove(known.priority, known.ticket);
                    if lanes.is_empty() {
                        self.parked.remove(gate);
                    }
                }
            }
            None => self.open.remove(known.priority, known.ticket),
        }
    }

    fn count(&mut self, priority: Priority, more: bool) {
        if let Some(count) = self.counts.get_mut(priority.index()) {
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
        }
    }
}

/// The host of an agent's base URL, without its port.
pub(super) fn host(agent_url: &str) -> Arc<str> {
    let rest = agent_url.split_once("://").map_or(agent_url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let name = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => place.split_once(':').map_or(place, |(name, _)| name),
    };
    Arc::from(name)
}

#[cfg(test)]
mod tests;
