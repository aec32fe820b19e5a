use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use http::StatusCode;
use tokio::net::TcpListener;

use super::*;

/// A member that answers every request alike and counts them.
struct Fake {
    url: String,
    asked: Arc<AtomicUsize>,
    _server: JoinSet<()>,
}

impl Fake {
    async fn start(status: u16, body: String) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let answer = move || async move {
            count.fetch_add(1, Ordering::Relaxed);
            (StatusCode::from_u16(status).unwrap(), body)
        };
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move { drop(axum::serve(socket, Router::new().fallback(answer)).await) });
        Self { url, asked, _server: server }
    }

    async fn accepts() -> Self {
        let accepted = SpecAccepted {
            generation: Generation(7),
            spec_hash: "ab".repeat(32).parse().unwrap(),
            ignored_fields: vec![],
        };
        Self::start(202, serde_json::to_string(&accepted).unwrap()).await
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

async fn nobody() -> String {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", socket.local_addr().unwrap())
}

async fn writes(endpoints: Vec<String>, keep_alive: bool, pace: Pace) -> Vec<Exchange> {
    let lane = Lane { kind: Kind::Write, endpoints, pace, keep_alive };
    let load = Load::start(vec![lane], &["c1".parse().unwrap()], &Source::Anonymous);
    wait_until("some requests have ended", PATIENCE, async || load.look(|book| book.len() >= 10)).await;
    load.finish().await
}

#[tokio::test]
async fn a_refused_connection_moves_a_client_on_and_nothing_else_does() {
    for keep_alive in [true, false] {
        let good = Fake::accepts().await;
        let done = writes(vec![nobody().await, good.url.clone()], keep_alive, Pace::BackToBack).await;
        assert!(done.iter().all(|one| one.outcome == Ok(Generation(7))), "{done:?}");
        assert_eq!(good.asked(), done.len(), "each request was sent once");

        let body = r#"{"code":"no_leader","msg":"m"}"#.to_owned();
        let (bad, good) = (Fake::start(503, body).await, Fake::accepts().await);
        let done = writes(vec![bad.url.clone(), good.url.clone()], keep_alive, Pace::BackToBack).await;
        let why = Failure::Status(503, Some(pgfleet_api::ErrorCode::NoLeader));
        assert!(done.iter().all(|one| one.outcome == Err(why.clone())), "{done:?}");
        assert_eq!((bad.asked(), good.asked()), (done.len(), 0), "a failure stays a failure");
    }
    let done = writes(vec![nobody().await, nobody().await], true, Pace::BackToBack).await;
    assert!(done.iter().all(|one| one.outcome == Err(Failure::Refused)), "{done:?}");
}

#[tokio::test]
async fn with_a_period_a_request_is_due_at_its_time() {
    let good = Fake::accepts().await;
    let period = Duration::from_millis(3);
    let done = writes(vec![good.url.clone()], true, Pace::Every { first: period, period }).await;
    let distances: Vec<Duration> = done.windows(2).map(|pair| pair[1].due - pair[0].due).collect();
    assert!(distances.iter().all(|distance| *distance == period), "{distances:?}");
    assert!(done.iter().all(|one| one.ended >= one.due), "{done:?}");
}

#[test]
fn lanes_share_a_rate_evenly() {
    let members = ["a".to_owned(), "b".to_owned()];
    let lanes = Lane::spread(Kind::Read, &members, 4, 1000);
    let firsts: Vec<_> = lanes
        .iter()
        .map(|lane| match lane.pace {
            Pace::Every { first, period } => (first.as_millis(), period.as_millis()),
            Pace::BackToBack => panic!("{lane:?}"),
        })
        .collect();
    assert_eq!(firsts, (0..8).map(|index| (index, 8)).collect::<Vec<_>>());
    assert_eq!(lanes.iter().filter(|lane| lane.endpoints == ["a"]).count(), 4);
}
