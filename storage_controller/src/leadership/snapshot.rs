//! What a step-down hands over, as the pieces of one JSON text: a fleet has no limit, the memory for one answer has.

use std::sync::Arc;

use futures_util::stream::{self, Stream};
use pgfleet_api::ComputeId;

use super::leader::SteppedDown;

/// Computes in one piece.
const PAGE: usize = 200;

/// Where the text has come to.
enum Part {
    Head,
    After(Option<ComputeId>),
    End,
}

/// The whole answer, piece by piece, in the order of the ids.
pub fn pieces(answer: Arc<SteppedDown>) -> impl Stream<Item = Result<Vec<u8>, serde_json::Error>> {
    stream::try_unfold((answer, Part::Head), |(answer, part)| async move {
        Ok(next(&answer, part)?.map(|(text, part)| (text, (answer, part))))
    })
}

fn next(answer: &SteppedDown, part: Part) -> Result<Option<(Vec<u8>, Part)>, serde_json::Error> {
    let after = match part {
        Part::Head => {
            let mut text = serde_json::to_vec(&answer.head())?;
            // The computes are the last field of the head, and it has none of them: they go between its braces.
            text.truncate(text.len().saturating_sub(2));
            return Ok(Some((text, Part::After(None))));
        }
        Part::After(after) => after,
        Part::End => return Ok(None),
    };
    let page = answer.page(after.as_ref(), PAGE);
    let Some((last, _)) = page.last().cloned() else {
        return Ok(Some((b"}}".to_vec(), Part::End)));
    };
    let mut text = Vec::new();
    for (index, (id, observed)) in page.iter().enumerate() {
        if index > 0 || after.is_some() {
            text.push(b',');
        }
        serde_json::to_writer(&mut text, id)?;
        text.push(b':');
        serde_json::to_writer(&mut text, observed.as_ref())?;
    }
    Ok(Some((text, Part::After(Some(last)))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound::{Excluded, Unbounded};
    use std::time::{Duration, Instant};

    use axum::Router;
    use axum::body::Body;
    use axum::routing::put;
    use futures_util::StreamExt as _;
    use pgfleet_api::agent::ComputeState;
    use pgfleet_api::compute::Observed;
    use pgfleet_api::{BootId, InstanceId, Term};
    use pgfleet_clients::peer::{Identity, PeerClient};
    use pgfleet_clients::token::Source;
    use tokio::task::JoinSet;

    use super::*;
    use crate::leadership::leader::Observations;

    struct Fleet(BTreeMap<ComputeId, Arc<Observed>>);

    impl Observations for Fleet {
        fn page(&self, after: Option<&ComputeId>, limit: usize) -> Vec<(ComputeId, Arc<Observed>)> {
            let rest = self.0.range::<ComputeId, _>((after.map_or(Unbounded, Excluded), Unbounded));
            rest.take(limit).map(|(id, observed)| (id.clone(), observed.clone())).collect()
        }
    }

    fn fleet(count: u64) -> Fleet {
        let one = |n: u64| {
            let observed = Observed {
                state: ComputeState::Running,
                boot_id: BootId::generate(),
                status_seq: n,
                term: Some(Term(3)),
                generation: None,
                applied_generation: None,
                rejected_generation: None,
                spec_hash: None,
                pending_restart: vec!["shared_buffers".to_owned()],
                ignored_fields: Vec::new(),
                error: Some(r#"a "quoted" } brace, "#.to_owned()),
                error_detail: None,
                failures: Vec::new(),
                postgres: None,
            };
            (format!("c{n:06}").parse().unwrap(), Arc::new(observed))
        };
        Fleet((0..count).map(one).collect())
    }

    /// A server that hands this over at `/control/v1/step_down`, with a pause after each piece.
    async fn serve(answer: Arc<SteppedDown>, pause: Duration) -> (String, JoinSet<()>) {
        let slow = move || {
            let pieces = pieces(answer.clone()).then(move |piece| async move {
                tokio::time::sleep(pause).await;
                piece
            });
            async move { Body::from_stream(pieces) }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move {
            drop(axum::serve(listener, Router::new().route("/control/v1/step_down", put(slow))).await)
        });
        (url, server)
    }

    fn client() -> PeerClient {
        pgfleet_clients::install_crypto_provider();
        let identity = Identity { instance_id: InstanceId::generate(), address: "a".into(), version: "v".into() };
        PeerClient::new(identity, Source::Anonymous).unwrap()
    }

    /// Fifty thousand computes, for longer in all than the client waits for any part of it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_large_fleet_is_handed_over_whatever_time_it_takes() {
        let all = fleet(50_000);
        let want: BTreeMap<_, _> = all.0.iter().map(|(id, seen)| (id.clone(), Observed::clone(seen))).collect();
        let answer = Arc::new(SteppedDown::new(Term(3), true, Some(Arc::new(all))));
        let (url, _server) = serve(answer, Duration::from_millis(10)).await;
        let patience = Duration::from_secs(2);
        let begun = Instant::now();
        let got = client().step_down(&url, None, patience).await.unwrap();
        assert!(begun.elapsed() > patience, "it was too fast to prove anything: {:?}", begun.elapsed());
        assert_eq!((got.format, got.term, got.complete), (1, Term(3), true));
        assert!(got.computes == want, "{} of {} came", got.computes.len(), want.len());
    }

    #[tokio::test]
    async fn pages_end_where_they_should() {
        for count in [0, 1, 199, 200, 201, 400] {
            let answer = Arc::new(SteppedDown::new(Term(3), false, Some(Arc::new(fleet(count)))));
            let (url, _server) = serve(answer, Duration::ZERO).await;
            let got = client().step_down(&url, None, Duration::from_secs(10)).await.unwrap();
            assert_eq!((got.complete, got.computes.len() as u64), (false, count));
        }
        let nothing = Arc::new(SteppedDown::new(Term(3), true, None));
        let (url, _server) = serve(nothing, Duration::ZERO).await;
        assert!(client().step_down(&url, None, Duration::from_secs(10)).await.unwrap().computes.is_empty());
    }
}
