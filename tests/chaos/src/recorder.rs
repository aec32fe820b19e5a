//! The record of a run: one task owns the file, one clock orders it.
//!
//! Who calls it: everything in a run that sees something. An entry gets its time and its place in the order under one short
//! lock, before the caller goes on: a call is in the record before it is sent, an answer after it came.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use pgfleet_history::{Entry, Event};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Entries that may wait for the disk. A run has some thousands in all.
const WAITING: usize = 1 << 16;

/// Takes what happened. Clones write into the same record.
#[derive(Debug, Clone)]
pub struct Recorder {
    began: Instant,
    entries: Arc<Mutex<Option<mpsc::Sender<Entry>>>>,
}

/// The task that owns the file.
#[derive(Debug)]
pub struct Writing(JoinSet<Vec<Entry>>);

impl Recorder {
    /// Begins a record in this file.
    #[must_use]
    pub fn begin(path: &Path) -> (Self, Writing) {
        let file = File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (sender, receiver) = mpsc::channel(WAITING);
        let mut task = JoinSet::new();
        task.spawn(write(BufWriter::new(file), receiver));
        (Self { began: Instant::now(), entries: Arc::new(Mutex::new(Some(sender))) }, Writing(task))
    }

    /// Adds an entry. Panics if the disk cannot follow: a record with a hole proves nothing.
    pub fn record(&self, event: Event) {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let at_us = self.now_us();
        if let Some(sender) = entries.as_ref() {
            let taken = sender.try_send(Entry { at_us, event });
            taken.unwrap_or_else(|error| panic!("the record has a hole: {error}"));
        }
    }

    /// Microseconds on the record's clock.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Ends the record and gives it back.
    pub async fn end(self, mut writing: Writing) -> Vec<Entry> {
        self.record(Event::Ended);
        drop(self.entries.lock().unwrap_or_else(PoisonError::into_inner).take());
        let written = writing.0.join_next().await;
        written.and_then(Result::ok).unwrap_or_else(|| panic!("the record was not written"))
    }
}

async fn write(mut file: BufWriter<File>, mut entries: mpsc::Receiver<Entry>) -> Vec<Entry> {
    let mut all = Vec::new();
    while let Some(entry) = entries.recv().await {
        let line = serde_json::to_string(&entry).unwrap_or_else(|error| panic!("an entry is no JSON: {error}"));
        writeln!(file, "{line}").unwrap_or_else(|error| panic!("the record cannot be written: {error}"));
        all.push(entry);
    }
    file.flush().unwrap_or_else(|error| panic!("the record cannot be written: {error}"));
    all
}
