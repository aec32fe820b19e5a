//! The client of the demo: a writer and some readers through each of the two first controllers, for as long as the story
//! lasts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgfleet_clients::controller::{CallRecord, ControllerClient, Hook, Options};
use pgfleet_clients::token::Source;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::examples::{Example, setting_of};
use crate::exit::CliError;

/// Between two requests of one writer or reader. Every write makes an agent apply a spec and fsync it, so the writers
/// keep the pace of a busy fleet's owners, and not that of a benchmark of this machine's disk.
const WRITER_PAUSE: Duration = Duration::from_millis(30);
const READER_PAUSE: Duration = Duration::from_millis(10);

/// Between two rounds over the members while nobody leads: the writers measure the gap, the readers need not crowd it.
const WRITER_LONGEST_PAUSE: Duration = Duration::from_millis(10);
const READER_LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Readers of each member.
const READERS: usize = 2;

/// A running load.
pub struct Load {
    calls: Arc<Mutex<Vec<CallRecord>>>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Load {
    /// Starts it. Each client begins every request at its own member of `endpoints` and knows the others, and `spare`.
    pub fn start(endpoints: &[String], spare: &str, tokens: &Source, examples: &[Example]) -> Result<Self, CliError> {
        let calls: Arc<Mutex<Vec<CallRecord>>> = Arc::default();
        let stop = CancellationToken::new();
        let round = Arc::new(AtomicU64::new(1));
        let mut tasks = JoinSet::new();
        for first in 0..endpoints.len() {
            let mut order = endpoints.to_vec();
            order.rotate_left(first);
            order.push(spare.to_owned());
            let log = Arc::clone(&calls);
            let on_call: Hook = Arc::new(move |call| lock(&log).push(call.clone()));
            let options = Options {
                deadline: Duration::from_secs(10),
                refused_deadline: Duration::from_secs(10),
                attempt: Duration::from_secs(3),
                max_pause: WRITER_LONGEST_PAUSE,
                remember_leader: false,
                on_call: Some(on_call),
                roots: None,
            };
            let reader = Options { max_pause: READER_LONGEST_PAUSE, ..options.clone() };
            let reader = ControllerClient::new(order.clone(), tokens.clone(), reader)?;
            let writer = ControllerClient::new(order, tokens.clone(), options)?;
            let examples: Arc<[Example]> = examples.into();
            tasks.spawn(write(writer, Arc::clone(&examples), Arc::clone(&round), stop.clone()));
            for _ in 0..READERS {
                tasks.spawn(read(reader.clone(), Arc::clone(&examples), stop.clone()));
            }
        }
        Ok(Self { calls, tasks, stop })
    }

    /// How many requests have been finished so far.
    pub fn count(&self) -> usize {
        lock(&self.calls).len()
    }

    /// Lets every client finish its request, and gives all that happened in the order of the answers.
    pub async fn finish(mut self) -> Result<Vec<CallRecord>, CliError> {
        self.stop.cancel();
        while let Some(done) = self.tasks.join_next().await {
            done.map_err(|error| CliError::Failed(format!("a client of the demo broke: {error}")))?;
        }
        let mut calls = std::mem::take(&mut *lock(&self.calls));
        calls.sort_by_key(|call| call.ended);
        Ok(calls)
    }
}

/// Every spec differs from all before, so that every write is one and none is a repetition.
async fn write(client: ControllerClient, examples: Arc<[Example]>, round: Arc<AtomicU64>, stop: CancellationToken) {
    for example in examples.iter().cycle() {
        if stop.is_cancelled() {
            return;
        }
        let kilobytes = setting_of(&example.spec).unwrap_or(4096) + round.fetch_add(1, Ordering::Relaxed);
        // The outcome is in the record that the hook kept.
        let _ = client.put_spec(&example.id, &example.with_setting(kilobytes), None).await;
        tokio::time::sleep(WRITER_PAUSE).await;
    }
}

async fn read(client: ControllerClient, examples: Arc<[Example]>, stop: CancellationToken) {
    for example in examples.iter().cycle() {
        if stop.is_cancelled() {
            return;
        }
        let _ = client.get(&example.id).await;
        tokio::time::sleep(READER_PAUSE).await;
    }
}

fn lock(calls: &Mutex<Vec<CallRecord>>) -> std::sync::MutexGuard<'_, Vec<CallRecord>> {
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}
