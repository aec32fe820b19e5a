//! All agents of the process, what they share, and the time they live in.
//!
//! Who calls it: the routes and the listener. Each agent has a lock of its own, held for moments and never across a wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use pgfleet_api::{BootId, ComputeId};
use tokio::sync::watch;
use uuid::Uuid;

use crate::agent::{Agent, Face, Micros};
use crate::connections::ConnectionCounts;
use crate::script::{Away, Script};

/// The agents of one process.
#[derive(Debug)]
pub struct Fleet {
    agents: Vec<Mutex<Agent>>,
    prefix: String,
    /// Makes the boot ids of this process differ from those of any other.
    run: Uuid,
    began: Instant,
    epoch: DateTime<Utc>,
    script: watch::Sender<Playing>,
    /// Counts of connections.
    pub connections: ConnectionCounts,
    counted_since: AtomicU64,
}

/// The script and when it began. Also sent again when an agent's life ends, so that connections look at their agent.
#[derive(Debug, Clone)]
pub struct Playing {
    /// What is played.
    pub script: Arc<Script>,
    /// When it began.
    pub since: Micros,
}

impl Fleet {
    /// Agents `0..n`; agent `k` owns the compute `<prefix>k`. Panics if the prefix makes no compute id.
    #[must_use]
    pub fn new(n: u32, prefix: &str, script: Script) -> Self {
        Self {
            agents: (0..n).map(|_| Mutex::new(Agent::new(0))).collect(),
            prefix: prefix.to_owned(),
            run: Uuid::new_v4(),
            began: Instant::now(),
            epoch: Utc::now(),
            script: watch::Sender::new(Playing { script: Arc::new(script), since: 0 }),
            connections: ConnectionCounts::default(),
            counted_since: AtomicU64::new(0),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn size(&self) -> u32 {
        u32::try_from(self.agents.len()).unwrap_or(u32::MAX)
    }

    /// The time in which agents live. Never 0, which stands for never.
    #[must_use]
    pub fn now(&self) -> Micros {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// When a moment of theirs was, in milliseconds since 1970.
    #[must_use]
    pub fn unix_ms(&self, at: Micros) -> i64 {
        self.epoch.timestamp_millis().saturating_add_unsigned(at / 1000)
    }

    /// One agent; none that does not exist.
    #[must_use]
    pub fn agent(&self, n: u32) -> Option<MutexGuard<'_, Agent>> {
        let agent = self.agents.get(usize::try_from(n).ok()?)?;
        Some(agent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The compute that agent `n` owns.
    #[must_use]
    pub fn compute_id(&self, n: u32) -> ComputeId {
        let id = format!("{}{n}", self.prefix).parse();
        id.unwrap_or_else(|error| panic!("the prefix makes no compute id: {error}"))
    }

    /// Who agent `n` says it is, in this life.
    #[must_use]
    pub fn face(&self, n: u32, life: u32) -> Face {
        let life = u128::from(n) << 32 | u128::from(life);
        // The bits of version and variant stay as they are.
        let boot_id = BootId(Uuid::from_u128(self.run.as_u128() ^ (life & 0x3fff_ffff_ffff_ffff)));
        Face { own: self.compute_id(n), boot_id, epoch: self.epoch, number: n + 2 }
    }

    /// What is played now.
    #[must_use]
    pub fn playing(&self) -> Playing {
        self.script.borrow().clone()
    }

    /// For those who must notice when that changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Playing> {
        self.script.subscribe()
    }

    /// Plays another script from now on.
    pub fn play(&self, script: Script) {
        self.script.send_replace(Playing { script: Arc::new(script), since: self.now() });
    }

    /// Whether and how an agent is away: by the script, or because its process has ended.
    #[must_use]
    pub fn away(&self, n: u32) -> Option<Away> {
        let now = self.now();
        let playing = self.script.borrow();
        let scripted = playing.script.of(n).away(now.saturating_sub(playing.since));
        drop(playing);
        scripted.or_else(|| self.agent(n).is_none_or(|agent| agent.is_gone(now)).then_some(Away::Reset))
    }

    /// After what time an agent goes or comes by itself; none where it does not.
    #[must_use]
    pub fn next_turn(&self, n: u32) -> Option<Duration> {
        let now = self.now();
        let playing = self.script.borrow();
        playing.script.of(n).next_turn_us(now.saturating_sub(playing.since)).map(Duration::from_micros)
    }

    /// Time before the next answer of an agent, and whether its connection is reset instead.
    pub fn next_answer(&self, n: u32) -> (Duration, bool) {
        let Some(k) = self.agent(n).map(|mut agent| {
            agent.answers += 1;
            agent.answers
        }) else {
            return (Duration::ZERO, true);
        };
        let playing = self.playing();
        let role = playing.script.of(n);
        (Duration::from_micros(role.answer_us(k)), role.cuts(k))
    }

    /// How long the next application at an agent takes, and whether it fails.
    #[must_use]
    pub fn next_apply(&self, n: u32, k: u64) -> (Micros, bool) {
        let playing = self.playing();
        let role = playing.script.of(n);
        (role.apply_us(k), role.fails())
    }

    /// Ends the life of agents and begins their next; their connections are reset.
    pub fn restart(&self, from: u32, to: u32) {
        for n in from..to.min(self.size()) {
            let apply = self.next_apply(n, 0).0;
            if let Some(mut agent) = self.agent(n) {
                agent.restart(self.now(), apply);
            }
        }
        self.look_again();
    }

    /// Has every connection look at its agent.
    pub fn look_again(&self) {
        self.script.send_modify(|_| {});
    }

    /// Begins to count anew; with `forget` the agents are as they were before they were first asked.
    pub fn reset(&self, forget: bool) {
        let now = self.now();
        for agent in &self.agents {
            let mut agent = agent.lock().unwrap_or_else(PoisonError::into_inner);
            if forget {
                agent.forget(now);
            }
            agent.tally = crate::agent::Tally::default();
        }
        self.connections.reset();
        self.counted_since.store(now, Ordering::Relaxed);
        if forget {
            self.look_again();
        }
    }

    /// When counting began.
    #[must_use]
    pub fn counted_since(&self) -> Micros {
        self.counted_since.load(Ordering::Relaxed)
    }
}
