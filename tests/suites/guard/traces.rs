//! Traces go to a collector, the last ones too; one that hangs or is away holds nothing up.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::process::PATIENCE;
use pgfleet_harness::wait::wait_until;
use prost::Message as _;

use super::agents::Agent;

/// The end of a process with a collector, beyond that without one: the flush is bounded by 2 s.
const END_WITHIN: Duration = Duration::from_secs(8);

/// A collector that keeps what it gets, or takes requests and never answers.
#[derive(Default)]
struct Collector {
    hangs: bool,
    spans: Mutex<Vec<(String, Span)>>,
    requests: Mutex<usize>,
}

impl Collector {
    async fn start(hangs: bool) -> (Arc<Self>, String) {
        let collector = Arc::new(Self { hangs, ..Self::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/traces", post(collect)).with_state(collector.clone());
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await });
        server.detach_all();
        (collector, url)
    }

    /// Spans of this name.
    fn named(&self, name: &str) -> Vec<Span> {
        let spans = self.spans.lock().unwrap();
        spans.iter().filter(|(_, span)| span.name == name).map(|(_, span)| span.clone()).collect()
    }
}

async fn collect(State(collector): State<Arc<Collector>>, body: Bytes) -> StatusCode {
    *collector.requests.lock().unwrap() += 1;
    if collector.hangs {
        std::future::pending::<()>().await;
    }
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut kept = collector.spans.lock().unwrap();
    for resource in request.resource_spans {
        let of = resource.resource.unwrap_or_default().attributes.into_iter();
        let service = of.filter(|pair| pair.key == "service.name").find_map(|pair| text(pair.value?.value?));
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            kept.push((service.clone().unwrap_or_default(), span));
        }
    }
    StatusCode::OK
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// An attribute of a span, as text.
fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|pair| pair.key == key);
    found.and_then(|pair| text(pair.value.clone()?.value?)).unwrap_or_default()
}

/// A hand-over and the end of the new leader: both, and what happened between, are at the collector when the process is
/// gone. Nothing waits for the exporter's own time.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_arrive() {
    let Some(fleet) = Fleet::start("the_last_spans_arrive").await else { return };
    let (collector, url) = Collector::start(false).await;
    let a = fleet.controller("a").start_leader().await;
    let b = fleet.controller("b").args(&["--otlp-endpoint", &url]).as_candidate().start_leader().await;
    let agent = Agent::start("c1").await;
    agent.register(&fleet.client(&[&b])).await;
    agent.has(1).await;
    b.process.terminate();
    assert_eq!(b.process.exit_code(END_WITHIN).await, 0);
    assert!(collector.spans.lock().unwrap().iter().all(|(service, _)| service == "storage_controller"));

    let [hand_over] = &collector.named("hand_over")[..] else { panic!("{:?}", collector.spans) };
    assert_eq!(attribute(hand_over, "term"), "2");
    for phase in ["StepDown", "Claim", "take_up"] {
        let spans = collector.named(phase);
        assert!(spans.iter().any(|span| span.parent_span_id == hand_over.span_id), "{phase}: {spans:?}");
    }
    let [step_down] = &collector.named("step_down")[..] else { panic!("{:?}", collector.spans) };
    assert_eq!((attribute(step_down, "term"), attribute(step_down, "complete")), ("2".into(), "true".into()));
    let passes = collector.named("reconcile_pass");
    let pushed = passes.iter().find(|pass| attribute(pass, "outcome") == "Pushed").expect("a pass that pushed");
    assert_eq!((attribute(pushed, "compute_id"), attribute(pushed, "generation")), ("c1".into(), "1".into()));
    let requests = collector.named("PUT /control/v1/compute/{compute_id}");
    assert!(
        requests.iter().any(|span| attribute(span, "status") == "200" && !attribute(span, "request_id").is_empty())
    );
    assert!(collector.named("writer_batch").iter().any(|span| attribute(span, "size") == "1"));
    assert!(!b.process.log().contains("reconcile_pass"), "spans for the collector change no log line");
    a.process.still_runs();
}

/// Also after a failure: the process that ends with 1 because a vital task panicked has sent its spans.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_of_a_failure_arrive() {
    let Some(fleet) = Fleet::start("the_last_spans_of_a_failure_arrive").await else { return };
    let (collector, url) = Collector::start(false).await;
    let a = fleet.controller("a").args(&["--otlp-endpoint", &url]).panic_at("in_engine:c1").start_leader().await;
    let agent = Agent::start("c1").await;
    agent.register(&fleet.client(&[&a])).await;
    assert_eq!(a.process.exit_code(PATIENCE).await, 1);
    assert_eq!(collector.named("step_down").len(), 1, "{:?}", collector.spans);
}

/// The agent's program sends as well, and also at its end.
#[tokio::test(flavor = "multi_thread")]
async fn the_agent_sends_too() {
    let Some(fleet) = Fleet::start("the_agent_sends_too").await else { return };
    let (collector, url) = Collector::start(false).await;
    let agent = fleet.agent("c1").args(&["--otlp-endpoint", &url]).start().await;
    agent.status().await.unwrap();
    agent.process.terminate();
    assert_eq!(agent.process.exit_code(END_WITHIN).await, 0);
    assert!(!collector.named("GET /status").is_empty(), "{:?}", collector.spans);
    assert!(collector.spans.lock().unwrap().iter().all(|(service, _)| service == "compute_ctl"));
}

/// A collector that never answers, and one that is not there: the work goes on, the process ends in time and with 0, and
/// one line says what is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_answer() {
    let (hanging, url) = Collector::start(true).await;
    for url in [url, "http://127.0.0.1:1".to_owned()] {
        let Some(fleet) = Fleet::start("a_collector_that_does_not_answer").await else { return };
        let a = fleet.controller("a").args(&["--otlp-endpoint", &url]).start_leader().await;
        let agent = Agent::start("c1").await;
        agent.register(&fleet.client(&[&a])).await;
        agent.has(1).await;
        let told = Instant::now();
        a.process.terminate();
        assert_eq!(a.process.exit_code(PATIENCE).await, 0);
        assert!(told.elapsed() < END_WITHIN, "{url}: {:?}", told.elapsed());
        let log = a.process.log();
        let said = ["traces do not reach the collector", "the last spans did not reach the collector"];
        assert!(said.iter().any(|line| log.contains(line)), "{url}: {log}");
    }
    wait_until("the hanging collector was asked", PATIENCE, async || *hanging.requests.lock().unwrap() > 0).await;
}
