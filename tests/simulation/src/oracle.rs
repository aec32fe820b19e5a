//! The oracle: it sees everything at once and says what must never be. It shares no rule with what it watches.

use std::collections::{BTreeMap, BTreeSet};

use pgfleet_api::{Fence, InstanceId, Term};

use crate::Us;
use crate::database::{Data, Put, RowRecord};

/// What it remembers.
#[derive(Debug)]
pub struct Oracle {
    /// What went wrong first.
    pub violation: Option<String>,
    owners: BTreeMap<Term, InstanceId>,
    highest: Term,
    /// Every spec that was ever committed: (compute, generation) and its contents.
    committed: BTreeMap<(usize, i64), Vec<u64>>,
    /// Writes that were acknowledged and not lost with the database: (compute, generation, content).
    acknowledged: Vec<(usize, i64, u64)>,
    /// Writes that were committed and that the database lost: (compute, generation, content).
    lost: BTreeSet<(usize, i64, u64)>,
    /// Highest (term, generation) that each agent took.
    agents: Vec<(Term, i64)>,
    /// Own clock of each process before its last proof of a term was sent, as the database saw it.
    proofs: BTreeMap<InstanceId, (Term, Us)>,
    /// Writes acknowledged in all.
    pub writes: u64,
}

impl Oracle {
    /// For so many agents.
    #[must_use]
    pub fn new(agents: usize) -> Self {
        Self {
            violation: None,
            owners: BTreeMap::new(),
            highest: Term(0),
            committed: BTreeMap::new(),
            acknowledged: Vec::new(),
            lost: BTreeSet::new(),
            agents: vec![(Term(0), 0); agents],
            proofs: BTreeMap::new(),
            writes: 0,
        }
    }

    /// Keeps the first thing that must not be.
    pub fn refuse(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// A claim is committed.
    pub fn claimed(&mut self, old: Option<&RowRecord>, new: &RowRecord, watched: Option<i64>, sent_at: Us) {
        if new.term <= self.highest {
            self.refuse(format!("term {} after term {}", new.term, self.highest));
        }
        if self.owners.insert(new.term, new.instance).is_some_and(|owner| owner != new.instance) {
            self.refuse(format!("term {} has two owners", new.term));
        }
        if let (Some(old), Some(watched)) = (old, watched)
            && old.renewals != watched
        {
            self.refuse(format!("term {} was taken without consent although it was renewed meanwhile", old.term));
        }
        self.highest = new.term;
        self.proofs.insert(new.instance, (new.term, sent_at));
    }

    /// A renewal is committed.
    pub fn renewed(&mut self, instance: InstanceId, term: Term, sent_at: Us) {
        let proof = self.proofs.entry(instance).or_insert((term, sent_at));
        *proof = if proof.0 == term { (term, proof.1.max(sent_at)) } else { (term, sent_at) };
    }

    /// A fenced transaction is committed.
    pub fn wrote(&mut self, row: Option<&RowRecord>, term: Term, instance: InstanceId, written: &[(Put, i64)]) {
        if row.is_none_or(|row| row.term != term || row.instance != instance) {
            let now = row.map(|row| row.term);
            self.refuse(format!("a write was committed under term {term} of {instance} while the row has {now:?}"));
        }
        for (put, generation) in written {
            self.lost.remove(&(put.compute, *generation, put.content));
            self.committed.entry((put.compute, *generation)).or_default().push(put.content);
        }
    }

    /// A client is told that its write is safe.
    pub fn acknowledged(&mut self, put: &Put, generation: i64) {
        self.writes += 1;
        // The answer to a commit may come after the database has lost it.
        if !self.lost.contains(&(put.compute, generation, put.content)) {
            self.acknowledged.push((put.compute, generation, put.content));
        }
        if !self.has(put.compute, generation, put.content) {
            self.refuse(format!("write {} of compute {} was acknowledged and is not committed", put.id, put.compute));
        }
    }

    fn has(&self, compute: usize, generation: i64, content: u64) -> bool {
        self.committed.get(&(compute, generation)).is_some_and(|contents| contents.contains(&content))
    }

    /// A member does something only a leader may do.
    pub fn executes(&mut self, instance: InstanceId, term: Term, clock: Us, proved_for: Us) {
        match self.proofs.get(&instance) {
            Some((proved, at)) if *proved == term && clock < *at + proved_for => {}
            proof => {
                let proof = *proof.unwrap_or(&(Term(0), 0));
                self.refuse(format!("{instance} executes for term {term} at its {clock} us; its proof is {proof:?}"));
            }
        }
    }

    /// An agent takes a spec.
    pub fn accepted(&mut self, agent: usize, fence: &Fence, content: u64) {
        let (term, generation) = self.agents.get(agent).copied().unwrap_or((Term(0), 0));
        if fence.term < term || fence.generation.get() <= generation {
            self.refuse(format!(
                "agent {agent} took ({}, {}) after ({term}, {generation})",
                fence.term, fence.generation
            ));
        }
        if !self.has(agent, fence.generation.get(), content) {
            self.refuse(format!("agent {agent} took generation {} that nobody committed", fence.generation));
        }
        if let Some(known) = self.agents.get_mut(agent) {
            *known = (fence.term.max(term), fence.generation.get().max(generation));
        }
    }

    /// An agent's record is durable.
    pub fn promised(&mut self, agent: usize, term: Term) {
        if let Some(known) = self.agents.get_mut(agent) {
            if term < known.0 {
                let was = known.0;
                self.refuse(format!("agent {agent} went back from term {was} to {term}"));
                return;
            }
            known.0 = term;
        }
    }

    /// The database lost commits: what it no longer has is forgiven, and a term it forgot may be given again.
    pub fn lost(&mut self, data: &Data) {
        self.highest = data.history.iter().map(|past| past.term).max().unwrap_or(Term(0));
        let highest = self.highest;
        self.owners.retain(|term, _| *term <= highest);
        let has = |compute: usize, generation: i64| data.specs.get(compute).is_some_and(|spec| spec.0 >= generation);
        self.acknowledged.retain(|(compute, generation, _)| has(*compute, *generation));
        let gone = self.committed.iter().filter(|((compute, generation), _)| !has(*compute, *generation));
        self.lost
            .extend(gone.flat_map(|((compute, generation), all)| all.iter().map(|one| (*compute, *generation, *one))));
    }

    /// At the end: every acknowledged write is there, or a later one.
    pub fn all_there(&mut self, data: &Data) {
        let gone = self.acknowledged.iter().find(|(compute, generation, content)| {
            data.specs
                .get(*compute)
                .is_none_or(|spec| spec.0 < *generation || (spec.0 == *generation && spec.1 != *content))
        });
        if let Some((compute, generation, _)) = gone.copied() {
            self.refuse(format!("generation {generation} of compute {compute} was acknowledged and is lost"));
        }
    }
}
