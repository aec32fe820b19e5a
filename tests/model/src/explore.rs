//! The whole graph of a scene, and the search backwards from the states in which a member governs.
//!
//! Called by the tests and the program `model`. States are told apart by 64 bits of their hash; only those that were not
//! expanded yet are kept whole. A path is walked again from the first state.
//!
//! Headless: a state from which some member cannot govern *by itself*, with all others frozen and nothing failing any more:
//! lead and, where there is an agent, have it do what the database says.
//! That is stricter than "a leader can emerge": it also asks that nobody waits for ever for one that does not move.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

use crate::moves::{Move, moves};
use crate::scene::{Breach, Finding, Scene};
use crate::step::step;
use crate::world::World;

/// A hash is its own hash.
#[derive(Debug, Default)]
pub struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// A fair step: what it leads to, who made it, and where that member is then.
#[derive(Debug, Clone, Copy)]
struct Edge(u32);

impl Edge {
    fn new(to: u32, by: u8, after: u8) -> Self {
        assert!(to < 1 << 28, "the graph is too large for its edges");
        Self(to << 4 | u32::from(by) << 2 | u32::from(after))
    }

    const fn parts(self) -> (u32, u8, u8) {
        (self.0 >> 4, (self.0 >> 2 & 3) as u8, (self.0 & 3) as u8)
    }
}

/// What an exploration found.
#[derive(Debug)]
pub struct Explored {
    scene: Scene,
    /// Whether every state that can be reached was seen.
    pub complete: bool,
    /// How many states.
    pub states: usize,
    /// How many steps between them.
    pub steps: usize,
    /// The first state that breaks each rule, and how many do.
    pub breaches: Vec<(Breach, u32, usize)>,
    /// How many states are headless, the first of them, and for which member.
    pub headless: (usize, Option<(u32, u8)>),
    parents: Vec<(u32, u16)>,
    leading: Vec<u8>,
    edges: Vec<Edge>,
    starts: Vec<usize>,
}

/// Explores `scene`, up to `limit` states. `tell` hears of the progress.
#[must_use]
pub fn explore(scene: &Scene, limit: usize, mut tell: impl FnMut(usize, usize)) -> Explored {
    let mut found = Explored {
        scene: *scene,
        complete: true,
        states: 0,
        steps: 0,
        breaches: Vec::new(),
        headless: (0, None),
        parents: Vec::new(),
        leading: Vec::new(),
        edges: Vec::new(),
        starts: vec![0],
    };
    let mut seen: HashMap<u64, u32, BuildHasherDefault<AsIs>> = HashMap::default();
    let mut queue = VecDeque::new();
    let first = first_of(scene);
    seen.insert(mark(&first), 0);
    found.parents.push((u32::MAX, 0));
    queue.push_back(first);
    let mut next = Vec::new();
    while let Some(world) = queue.pop_front() {
        let id = index(found.states);
        found.states += 1;
        found.note(&world, id);
        if scene.mutant.is_some_and(|mutant| mutant.finds().iter().any(|finding| found.has(*finding))) {
            // It was missed, which is all that is asked of it.
            found.complete = false;
            break;
        }
        next.clear();
        moves(&world, scene, &mut next);
        for (number, &step) in (0..).zip(&next) {
            let Some((after, places)) = successor(&world, step, scene) else { continue };
            found.steps += 1;
            let known = index(found.parents.len());
            let to = *seen.entry(mark(&after)).or_insert(known);
            if to == known {
                found.parents.push((id, number));
                queue.push_back(after);
            }
            if step.what.is_fair() {
                found.edges.push(Edge::new(to, step.by, places[usize::from(step.by)]));
            }
        }
        found.starts.push(found.edges.len());
        if found.states.is_multiple_of(100_000) {
            tell(found.states, queue.len());
        }
        if found.states >= limit {
            found.complete = queue.is_empty();
            break;
        }
    }
    drop(seen);
    if found.complete {
        found.search_backwards();
    }
    found
}

impl Explored {
    /// Notes what is to be said of a state.
    fn note(&mut self, world: &World, id: u32) {
        let leading = (0..self.scene.members)
            .filter(|slot| world.governs(*slot, &self.scene))
            .fold(0, |all, slot| all | 1 << slot);
        self.leading.push(leading);
        let Some(breach) = world.broken else { return };
        match self.breaches.iter_mut().find(|(known, ..)| *known == breach) {
            Some((_, _, count)) => *count += 1,
            None => self.breaches.push((breach, id, 1)),
        }
    }

    /// What was explored.
    #[must_use]
    pub const fn scene(&self) -> &Scene {
        &self.scene
    }

    /// Whether this was found.
    #[must_use]
    pub fn has(&self, finding: Finding) -> bool {
        match finding {
            Finding::Breach(breach) => self.breaches.iter().any(|(known, ..)| *known == breach),
            Finding::Headless => self.headless.0 > 0,
        }
    }

    /// How many states break a rule.
    #[must_use]
    pub fn violations(&self) -> usize {
        self.breaches.iter().map(|(_, _, count)| count).sum()
    }

    /// Backwards over the fair steps of each member, from the states in which it leads.
    fn search_backwards(&mut self) {
        let members = usize::from(self.scene.members);
        let node = |state: u32, member: u8| state as usize * members + usize::from(member);
        let mut begin = vec![0u32; self.states * members + 1];
        for &edge in &self.edges {
            let (to, _, after) = edge.parts();
            begin[node(to, after) + 1] += 1;
        }
        for at in 1..begin.len() {
            begin[at] += begin[at - 1];
        }
        let mut free = begin.clone();
        let mut from = vec![0u32; self.edges.len()];
        for state in 0..self.states {
            for &edge in &self.edges[self.starts[state]..self.starts[state + 1]] {
                let (to, by, after) = edge.parts();
                let place = &mut free[node(to, after)];
                from[*place as usize] = index(node(index(state), by));
                *place += 1;
            }
        }
        drop(free);
        let mut reached = vec![false; self.states * members];
        let mut todo: Vec<u32> = Vec::new();
        for state in 0..self.states {
            for slot in (0..self.scene.members).filter(|slot| self.leading[state] & 1 << slot != 0) {
                let at = node(index(state), slot);
                reached[at] = true;
                todo.push(index(at));
            }
        }
        while let Some(at) = todo.pop() {
            let at = at as usize;
            for &before in &from[begin[at] as usize..begin[at + 1] as usize] {
                if !std::mem::replace(&mut reached[before as usize], true) {
                    todo.push(before);
                }
            }
        }
        for (state, members) in (0..).zip(reached.chunks(members)) {
            if let Some(member) = members.iter().position(|reached| !reached) {
                self.headless.0 += 1;
                self.headless.1.get_or_insert((state, u8::try_from(member).unwrap_or(u8::MAX)));
            }
        }
    }

    /// The steps to a state and the worlds after each of them.
    #[must_use]
    pub fn path(&self, state: u32) -> Vec<(Option<Move>, World)> {
        let mut numbers = Vec::new();
        let mut at = state;
        while let Some(&(parent, number)) = self.parents.get(at as usize).filter(|(parent, _)| *parent != u32::MAX) {
            numbers.push(number);
            at = parent;
        }
        let mut path = vec![(None, first_of(&self.scene))];
        for number in numbers.into_iter().rev() {
            let Some((_, world)) = path.last() else { break };
            let mut next = Vec::new();
            moves(world, &self.scene, &mut next);
            let taken = next[usize::from(number)];
            let Some((after, _)) = successor(world, taken, &self.scene) else { break };
            path.push((Some(taken), after));
        }
        path
    }
}

fn first_of(scene: &Scene) -> World {
    let mut world = World::new(scene);
    world.canon(scene);
    world
}

/// The canonical world after a step that changes something, and where each member is in it.
fn successor(world: &World, taken: Move, scene: &Scene) -> Option<(World, Vec<u8>)> {
    let mut after = step(world, taken, scene)?;
    let places = after.canon(scene);
    (after != *world).then_some((after, places))
}

fn mark(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

fn index(number: usize) -> u32 {
    u32::try_from(number).unwrap_or_else(|_| panic!("the graph is too large: {number}"))
}
