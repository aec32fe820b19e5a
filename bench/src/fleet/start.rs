//! From the start of a process over a large fleet until it serves and pushes, and what the fleet takes of its memory.
//!
//! One compute is behind its spec, and its agent is a listener of this program, which sees the first push. All others are
//! settled, and nobody is asked. Memory per compute is what a leader has resident above one that leads nothing; in a hand-over
//! it is the peak of the process that had more of it, because old and new one are two machines.

use std::time::{Duration, Instant};

use pgfleet_harness::wait::wait_until;
use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::ground::{Ground, NOBODY, PATIENCE, Probes, planted};
use super::machine::{forget_peak, peak, rss};
use super::plan::Plan;
use super::report::Measured;
use crate::stats::rounded;

/// Fleets.
const SIZES: [usize; 2] = [50_000, 100_000];
const QUICK: [usize; 1] = [500];

/// Bytes of a kB, the smaller one: a target is not met by the choice of a unit.
const KB: f64 = 1000.0;

/// One run.
pub(super) async fn measure(plan: &Plan) -> Option<Measured> {
    let (mut figures, mut floors) = (Map::new(), Map::new());
    let calm = plan.window(5.0, 0.5);
    for size in plan.sizes_of(&SIZES, &QUICK) {
        let mut ground = Ground::make("start").await?;
        ground.lead(Probes::Never).await;
        tokio::time::sleep(calm).await;
        let nothing = rss(ground.leader().process.pid());
        ground.rest().await;
        let behind = TcpListener::bind("127.0.0.1:0").await.unwrap_or_else(|error| panic!("no agent: {error}"));
        let address = behind.local_addr().unwrap_or_else(|error| panic!("no agent: {error}"));
        ground.plant(size, NOBODY).await;
        let database = ground.fleet.database().await;
        let dirty =
            "UPDATE computes SET generation = 2, agent_url = $2, spec_hash = reverse(spec_hash) WHERE compute_id = $1";
        let (compute, url) = (planted(size / 2), format!("http://{address}"));
        let changed = database.execute(dirty, &[&compute, &url]).await;
        assert_eq!(changed.unwrap_or_else(|error| panic!("no compute that is behind: {error}")), 1);
        let read = Instant::now();
        let rows = database.query("SELECT * FROM computes JOIN observed USING (compute_id)", &[]).await;
        assert_eq!(rows.unwrap_or_else(|error| panic!("the tables cannot be read: {error}")).len(), size);
        floors.insert(format!("n{size}_read_s"), json!(rounded(read.elapsed().as_secs_f64())));

        let (ready_s, push_s) = start(&mut ground, behind).await;
        figures.insert(format!("n{size}"), json!({"ready_s": ready_s, "first_push_s": push_s}));
        tokio::time::sleep(calm).await;
        let each = |bytes: f64| json!(rounded((bytes - nothing) / KB / size as f64));
        figures.insert("kb_per_compute".to_owned(), each(rss(ground.leader().process.pid())));
        figures.insert("rss_mb".to_owned(), json!(rounded(rss(ground.leader().process.pid()) / 1e6)));
        figures.insert("kb_per_compute_handover".to_owned(), each(hand_over(&mut ground, calm).await));
    }
    let notes = vec![
        "every compute has a spec of its own; memory is that of the largest fleet, above a leader of none, in kB of 1,000 bytes"
            .to_owned(),
        "the floor is one client that reads both tables whole and throws them away".to_owned(),
    ];
    Some(Measured { figures: Value::Object(figures), floors: Value::Object(floors), notes })
}

/// Starts a member; the seconds until it is ready, and until the compute that is behind is pushed to.
async fn start(ground: &mut Ground, behind: TcpListener) -> (f64, f64) {
    let mut pushed = JoinSet::new();
    pushed.spawn(first_push(behind));
    let begun = Instant::now();
    let member = ground.launch(Probes::Never, false).await;
    let ready = async || member.call("GET", "/ready").try_send().await.is_ok_and(|answer| answer.status == 200);
    while !ready().await {
        assert!(begun.elapsed() < PATIENCE, "the member does not get ready");
        member.process.still_runs();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let ready_s = begun.elapsed().as_secs_f64();
    let pushed = tokio::time::timeout(PATIENCE, pushed.join_next()).await;
    let Ok(Some(Ok(pushed))) = pushed else { panic!("the compute that is behind is not pushed to: {pushed:?}") };
    member.leads(PATIENCE).await;
    ground.replace(member).await;
    (rounded(ready_s), rounded((pushed - begun).as_secs_f64()))
}

/// When the first spec arrives. It is not answered.
async fn first_push(listener: TcpListener) -> Instant {
    loop {
        let connection = listener.accept().await;
        let (mut stream, _) = connection.unwrap_or_else(|error| panic!("the agent cannot be reached: {error}"));
        let mut request = [0; 64];
        let read = stream.read(&mut request).await.unwrap_or(0);
        if request[..read].starts_with(b"POST /configure") {
            return Instant::now();
        }
    }
}

/// Lets another member take over, and gives the peak of the process that had more resident meanwhile.
async fn hand_over(ground: &mut Ground, calm: Duration) -> f64 {
    let old = ground.leader().process.pid();
    forget_peak(old);
    let member = ground.launch(Probes::Never, true).await;
    member.leads(PATIENCE).await;
    tokio::time::sleep(calm).await;
    let most = peak(old).max(peak(member.process.pid()));
    wait_until("the new leader is ready", PATIENCE, async || {
        member.call("GET", "/ready").try_send().await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    ground.replace(member).await;
    most
}
