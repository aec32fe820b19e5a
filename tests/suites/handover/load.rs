//! Writers and readers that never try again, and remember what they were told.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgfleet_api::compute::SpecAccepted;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::wait_until;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::plain::Plain;

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Book {
    /// (compute, generation, hash) of every write that was answered with success.
    pub written: Vec<(String, i64, String)>,
    /// Reads that were answered with success.
    pub reads: usize,
    /// Everything else, in words.
    pub failed: Vec<String>,
    /// The longest that a request took.
    pub slowest: Duration,
}

/// A load under way.
pub struct Load {
    book: Arc<Mutex<Book>>,
    end: CancellationToken,
    clients: JoinSet<()>,
}

impl Load {
    /// Beside each other: for each list of endpoints and each compute a writer and two readers, each at this pace.
    pub fn start(fleet: &Fleet, endpoints: &[&[&str]], computes: &[&str], pace: Duration) -> Self {
        let mut load = Self { book: Arc::default(), end: CancellationToken::new(), clients: JoinSet::new() };
        for (who, endpoints) in endpoints.iter().enumerate() {
            for compute in computes {
                for kind in ["PUT", "GET", "GET"] {
                    let client = Plain::new(fleet, endpoints);
                    let name = format!("{kind} {compute} of client {who}");
                    let (compute, book, end) = ((*compute).to_owned(), load.book.clone(), load.end.clone());
                    load.clients.spawn(async move {
                        let mut round = 0;
                        let mut ticks = tokio::time::interval(pace);
                        while !end.is_cancelled() {
                            ticks.tick().await;
                            round += 1;
                            one(&client, kind, &name, &compute, round, &book).await;
                        }
                    });
                }
            }
        }
        load
    }

    /// Waits until that many more writes and reads have succeeded.
    pub async fn goes_on(&self, what: &str, count: usize) {
        let (writes, reads) = self.count();
        wait_until(what, PATIENCE, async || {
            let now = self.count();
            now.0 >= writes + count && now.1 >= reads + count
        })
        .await;
    }

    fn count(&self) -> (usize, usize) {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        (book.written.len(), book.reads)
    }

    /// Ends it; every success must be in the journal.
    pub async fn finish(mut self, fleet: &Fleet) -> Book {
        self.end.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        let book = std::mem::take(&mut *self.book.lock().unwrap_or_else(PoisonError::into_inner));
        let sql = "SELECT compute_id, (detail->>'generation')::bigint, detail->>'spec_hash' FROM journal
                   WHERE kind = 'action' AND detail->>'spec_hash' IS NOT NULL";
        let rows = fleet.database().await.query(sql, &[]).await.unwrap();
        let history: BTreeSet<(String, i64, String)> =
            rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        let lost: Vec<_> = book.written.iter().filter(|told| !history.contains(told)).collect();
        assert!(lost.is_empty(), "acknowledged and not in the history: {lost:?}");
        let (writes, reads, slowest) = (book.written.len(), book.reads, book.slowest);
        println!("{writes} writes, {reads} reads, {} failed, slowest {slowest:?}", book.failed.len());
        book
    }
}

async fn one(client: &Plain, kind: &str, name: &str, compute: &str, round: u64, book: &Mutex<Book>) {
    let begun = Instant::now();
    let answer = match kind {
        "PUT" => {
            let body = marked(&format!("{name} {round}")).to_string();
            client.ask("PUT", &format!("/control/v1/compute/{compute}/spec"), Some(body)).await
        }
        _ => client.ask("GET", &format!("/control/v1/compute/{compute}"), None).await,
    };
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    book.slowest = book.slowest.max(begun.elapsed());
    match answer {
        Ok(answer) if answer.status == 202 => {
            let told: SpecAccepted = answer.json();
            book.written.push((compute.to_owned(), told.generation.get(), told.spec_hash.to_string()));
        }
        Ok(answer) if answer.status == 200 => book.reads += 1,
        Ok(answer) => book.failed.push(format!("{name} {round}: {} {}", answer.status, answer.body)),
        Err(error) => book.failed.push(format!("{name} {round}: {error}")),
    }
}
