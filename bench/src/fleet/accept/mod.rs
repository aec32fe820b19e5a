//! Specs accepted durably per second, beside etcd, a plain handler, pgbench and the load itself.
//!
//! All stand on the same disk and get the same bodies from as many clients, one request of each under way. The agents of the
//! computes take connections and never answer, so the engine's pushes wait and cost nothing: what is measured is the way from
//! the request to the commit. At the end the database is stopped as in a crash and started again, and every generation that was
//! acknowledged has to be in its journal.

mod bare;
mod etcd;
mod pgbench;
mod plain;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgfleet_harness::postgres::StopMode;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use super::blast::{Blast, Blasted, Compose, Note, blast, head};
use super::ground::{Ground, Probes, marked_orders, planted};
use super::machine::{cpu_of_children_s, cpu_s};
use super::plan::Plan;
use super::report::Measured;
use crate::stats::{Spread, rounded};

/// Clients that ask at the same time.
const CLIENTS: [usize; 3] = [1, 16, 256];
/// Computes that each client writes to, in turn.
const EACH: usize = 16;
/// The stand-in for a mark in a body; as long as a mark.
const PLACE: &str = "0123456789abcdef";

/// What all loads have in common.
#[derive(Clone)]
pub(super) struct Course {
    window: Duration,
    warm_up: Duration,
    /// A body up to its mark, and from there on.
    before: Arc<str>,
    after: Arc<str>,
    marks: Arc<AtomicU64>,
}

impl Course {
    fn of(plan: &Plan) -> Self {
        let body = marked_orders(PLACE).to_string();
        let (before, after) = body.split_once(PLACE).unwrap_or_else(|| panic!("no mark in {body}"));
        let (before, after) = (Arc::from(before), Arc::from(after));
        let (window, warm_up) = (plan.window(4.0, 0.4), plan.window(1.0, 0.2));
        Self { window, warm_up, before, after, marks: Arc::default() }
    }

    /// Bytes of a body.
    fn bytes(&self) -> usize {
        self.before.len() + PLACE.len() + self.after.len()
    }

    /// A body that was never there before.
    fn body(&self, into: &mut Vec<u8>) {
        use std::io::Write as _;
        into.extend_from_slice(self.before.as_bytes());
        let mark = self.marks.fetch_add(1, Ordering::Relaxed);
        // Writing to memory cannot fail.
        let _ = write!(into, "{mark:016x}");
        into.extend_from_slice(self.after.as_bytes());
    }

    /// A load of this course.
    async fn blast(&self, to: SocketAddr, clients: usize, compose: Compose, note: Note) -> Blasted {
        blast(Blast { to, clients, window: self.window, warm_up: self.warm_up, compose, note }).await
    }

    /// The rate of the same requests at each number of clients, whatever the answers say.
    async fn rates(&self, to: SocketAddr) -> Rates {
        let mut rates = Vec::new();
        for clients in CLIENTS {
            let load = self.blast(to, clients, self.puts(""), Arc::new(|_, _, _| {})).await;
            rates.push((clients, rounded(load.per_s)));
        }
        rates
    }

    /// Requests with new bodies to the computes of each client.
    fn puts(&self, token: &str) -> Compose {
        let (course, token) = (self.clone(), token.to_owned());
        Arc::new(move |client, number, request| {
            let path = format!("/control/v1/compute/{}/spec", compute_of(client, number));
            head(request, "PUT", &path, &token, course.bytes());
            course.body(request);
        })
    }
}

/// The compute that a client writes to with this request.
fn compute_of(client: usize, number: usize) -> String {
    planted(client * EACH + number % EACH)
}

/// One run.
pub(super) async fn measure(plan: &Plan) -> Option<Measured> {
    let course = Course::of(plan);
    let mut ground = Ground::make("accept").await?;
    let bare = bare::ceiling(&course).await;
    let plain = plain::measure(&ground, &course).await;
    let pgbench = pgbench::measure(&ground, &course).await;
    let etcd = etcd::measure(&ground, &course).await;
    let deaf = TcpListener::bind("127.0.0.1:0").await.and_then(|socket| Ok((socket.local_addr()?, socket)));
    let (address, _deaf) = deaf.unwrap_or_else(|error| panic!("no agent that does not answer: {error}"));
    ground.plant(CLIENTS[CLIENTS.len() - 1] * EACH, &format!("http://{address}")).await;
    ground.lead(Probes::Never).await;
    let mut loads = Vec::new();
    for clients in CLIENTS {
        let (note, acknowledged) = taking_down();
        let compose = course.puts(&ground.token());
        let before = Spent::of(&ground);
        let blasted = course.blast(ground.address(), clients, compose, note).await;
        let count = acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len();
        let spent = Spent::of(&ground).since(before, count);
        loads.push(Load { clients, blasted, acknowledged, spent });
    }
    let figures = figures(&mut ground, loads).await;
    let mut floors = Map::new();
    for (name, rates) in [("etcd_put", etcd), ("plain_handler", plain), ("bare_handler", Some(bare))] {
        let rates = rates.unwrap_or_default();
        // The floor is the one at most clients; the others stand beside it.
        floors.insert(format!("{name}_per_s"), json!(rates.last().map(|(_, rate)| rate)));
        rates.iter().for_each(|(clients, rate)| drop(floors.insert(format!("{name}_{clients}_per_s"), json!(rate))));
    }
    pgbench.iter().for_each(|(clients, rate)| drop(floors.insert(format!("pgbench_{clients}_per_s"), json!(rate))));
    let best = pgbench.iter().max_by(|(_, a), (_, b)| a.total_cmp(b));
    floors.insert("pgbench_best_per_s".to_owned(), json!(best.map(|(_, rate)| rate)));
    floors.insert("pgbench_best_clients".to_owned(), json!(best.map(|(clients, _)| clients)));
    let notes = vec![
        format!("every body has {} bytes and was never sent before; every load has one request of each client under way", course.bytes()),
        "etcd is asked over gRPC by a client of this program (HTTP/2, 16 clients on a connection), not over its JSON gateway; one \
         member, its defaults, on the disk of the database"
            .to_owned(),
        "the plain handler has a pool of 16 connections and a prepared upsert; pgbench runs prepared statements with the same body as \
         a parameter"
            .to_owned(),
        "bare_handler is the ceiling of the load itself: a handler that answers at once".to_owned(),
        "lost: acknowledged generations that the journal lacks after a crash of the database at the end".to_owned(),
    ];
    Some(Measured { figures, floors: Value::Object(floors), notes })
}

/// Processor time of the leader and of its database.
#[derive(Debug, Clone, Copy)]
struct Spent {
    leader_s: f64,
    database_s: f64,
}

impl Spent {
    fn of(ground: &Ground) -> Self {
        let server = ground.fleet.cluster().server_pid().unwrap_or_else(|| panic!("there is no database"));
        Self { leader_s: cpu_s(ground.leader().process.pid()), database_s: cpu_of_children_s(server) }
    }

    /// What each of so many requests cost, in microseconds.
    fn since(self, before: Self, count: usize) -> Value {
        let each = |now: f64, before: f64| rounded((now - before) * 1e6 / count.max(1) as f64);
        json!({"leader": each(self.leader_s, before.leader_s), "database": each(self.database_s, before.database_s)})
    }
}

/// What one number of clients gave.
struct Load {
    clients: usize,
    blasted: Blasted,
    acknowledged: Acknowledged,
    /// Of the processor, for each spec.
    spent: Value,
}

/// Requests per second by clients.
type Rates = Vec<(usize, f64)>;

/// Compute and generation of each acknowledged request.
type Acknowledged = Arc<Mutex<Vec<(String, i64)>>>;

fn taking_down() -> (Note, Acknowledged) {
    let acknowledged = Acknowledged::default();
    let book = acknowledged.clone();
    let note: Note = Arc::new(move |client, number, body| {
        let generation = generation(body);
        let generation = generation.unwrap_or_else(|| panic!("no generation in {}", String::from_utf8_lossy(body)));
        book.lock().unwrap_or_else(PoisonError::into_inner).push((compute_of(client, number), generation));
    });
    (note, acknowledged)
}

/// The generation in an answer, without reading all of it: the load shares the machine with what it measures.
fn generation(body: &[u8]) -> Option<i64> {
    const FIELD: &str = "\"generation\":";
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once(FIELD)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The figures of the loads, with what was lost of them.
async fn figures(ground: &mut Ground, loads: Vec<Load>) -> Value {
    ground.rest().await;
    let crash = ground.fleet.cluster().restart(StopMode::Immediate).await;
    crash.unwrap_or_else(|error| panic!("the database does not come back: {error}"));
    let kept = journalled(ground).await;
    let mut figures = Map::new();
    for Load { clients, blasted, acknowledged, spent } in loads {
        let Blasted { per_s, latencies_ms } = blasted;
        let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap_or_else(PoisonError::into_inner));
        let lost = acknowledged.into_iter().filter(|one| !kept.contains(one)).count();
        let p99_ms = Spread::of(latencies_ms).map(|spread| spread.p99);
        let figure =
            json!({"accepted_per_s": rounded(per_s), "p99_ms": p99_ms, "lost": lost, "cpu_us_per_spec": spent});
        figures.insert(format!("clients_{clients}"), figure);
    }
    Value::Object(figures)
}

/// Every spec that the journal knows of: compute and generation.
async fn journalled(ground: &Ground) -> HashSet<(String, i64)> {
    let sql = "SELECT compute_id, (detail->>'generation')::bigint FROM journal WHERE detail->>'op' = 'put_spec'";
    let rows = ground.fleet.database().await.query(sql, &[]).await;
    let rows = rows.unwrap_or_else(|error| panic!("the journal cannot be read: {error}"));
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_do_not_share_computes_and_bodies_differ() {
        let course = Course::of(&<Plan as clap::Parser>::parse_from(["fleet"]));
        let (mut one, mut two) = (Vec::new(), Vec::new());
        course.body(&mut one);
        course.body(&mut two);
        assert!(one != two && one.len() == course.bytes() && two.len() == course.bytes());
        assert!(serde_json::from_slice::<Value>(&one).is_ok());
        let computes: HashSet<_> = (0..256).flat_map(|client| (0..EACH).map(move |n| compute_of(client, n))).collect();
        assert_eq!(computes.len(), 256 * EACH);
        assert_eq!(compute_of(3, 0), compute_of(3, EACH));
    }

    #[test]
    fn the_generation_of_an_answer_is_found() {
        assert_eq!(generation(br#"{"spec_hash":"a","generation":17,"ignored_fields":[]}"#), Some(17));
        assert_eq!(generation(br#"{"generation":3}"#), Some(3));
        assert_eq!(generation(b"{}"), None);
    }
}
