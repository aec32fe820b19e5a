//! Traces: spans by OTLP over HTTP (protobuf), to a collector that an operator names. Without one nothing is installed.
//!
//! Called by every server's `main`: [`Traces::open`] before the logs are set up, [`Traces::close`] as the very last thing.
//! Invariants: work never waits for a collector (spans wait in a bounded queue, and what does not fit is dropped); the end
//! of the process waits for it for [`FLUSH_WITHIN`] at most; spans for the collector have a target that begins with
//! `spans`, and only those go there, so a log line is never changed by them and they cost nothing without a collector.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tokio_util::context::TokioContext;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::LookupSpan;

use crate::exit::{ExitCode, USAGE, chain};

/// How long the end of a process waits until the last spans are with the collector.
pub const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// How long one request to the collector may take.
const SEND_WITHIN: Duration = Duration::from_secs(5);

/// What the targets of spans for the collector begin with.
pub const TARGET: &str = "spans";

/// Where traces go, on the command line.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TraceArgs {
    /// Send traces to this OTLP/HTTP collector, like http://127.0.0.1:4318; the path /v1/traces is added.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide_env_values = true, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

/// Traces cannot be sent where they are to go.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The endpoint is no base URL. It is not shown: it may hold a password.
    #[error("--otlp-endpoint must look like http://127.0.0.1:4318, without user, password or query")]
    Endpoint,
    /// The HTTP client cannot be set up.
    #[error("--otlp-endpoint: cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// The exporter does not take its settings, from the environment for example.
    #[error("--otlp-endpoint: cannot set up the exporter")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
}

impl ExitCode for TraceError {
    fn exit_code(&self) -> u8 {
        USAGE
    }
}

/// The way of the spans to the collector, if there is one.
#[derive(Debug)]
pub struct Traces {
    program: &'static str,
    provider: Option<SdkTracerProvider>,
}

impl Traces {
    /// No collector.
    #[must_use]
    pub const fn off() -> Self {
        Self { program: "", provider: None }
    }

    /// Spans of `program` go where `args` says; they are sent on the runtime of `handle`, which outlives [`Self::close`].
    ///
    /// # Errors
    /// See [`TraceError`]; a collector that is away is no error.
    pub fn open(program: &'static str, args: &TraceArgs, handle: Handle) -> Result<Self, TraceError> {
        let Some(endpoint) = args.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty()) else {
            return Ok(Self::off());
        };
        let url = url_of(endpoint).ok_or(TraceError::Endpoint)?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(SEND_WITHIN)
            .build()
            .map_err(TraceError::Client)?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector { client, handle, away: Arc::default() })
            .with_endpoint(url)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(SEND_WITHIN)
            .with_retry_policy(RetryPolicy::default().with_max_retries(1))
            .build()
            .map_err(TraceError::Exporter)?;
        let resource = Resource::builder()
            .with_service_name(program)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
        Ok(Self { program, provider: Some(provider) })
    }

    /// The layer that takes spans to the collector.
    pub(crate) fn layer<S>(&self) -> Option<impl Layer<S> + Send + Sync + use<S>>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        let tracer = self.provider.as_ref()?.tracer(self.program);
        let only = Targets::new().with_target(TARGET, LevelFilter::INFO);
        Some(
            tracing_opentelemetry::layer()
                .with_tracer(tracer)
                .with_location(false)
                .with_threads(false)
                .with_filter(only),
        )
    }

    /// Sends what is left, within [`FLUSH_WITHIN`]. Not to be called on a thread that drives the runtime.
    pub fn close(self) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(FLUSH_WITHIN)
        {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
    }
}

/// The address of traces below a base URL.
fn url_of(endpoint: &str) -> Option<String> {
    let url = reqwest::Url::parse(endpoint).ok()?;
    let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    let usable = matches!(url.scheme(), "http" | "https") && url.has_host() && bare;
    usable.then(|| format!("{}/v1/traces", endpoint.trim_end_matches('/')))
}

/// The exporter has a thread of its own; what it sends is driven by our runtime.
#[derive(Debug)]
struct Collector {
    client: reqwest::Client,
    handle: Handle,
    /// The last request failed; it is said once.
    away: Arc<AtomicBool>,
}

impl Collector {
    fn note(&self, outcome: Result<(), &str>) {
        match outcome {
            Ok(()) if self.away.swap(false, Ordering::SeqCst) => tracing::info!("traces reach the collector again"),
            Err(why) if !self.away.swap(true, Ordering::SeqCst) => {
                tracing::warn!("traces do not reach the collector and are dropped: {why}");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let exchange = async {
            let answer = self.client.execute(request.try_into()?).await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.bytes().await?))
        };
        match TokioContext::new(exchange, self.handle.clone()).await {
            Ok((status, body)) => {
                let refused = format!("it answers {status}");
                self.note(if status.is_success() { Ok(()) } else { Err(&refused) });
                let mut response = Response::new(body);
                *response.status_mut() = status;
                Ok(response)
            }
            Err(error) => {
                self.note(Err(&chain(&error)));
                Err(error.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let at = |endpoint| url_of(endpoint).unwrap_or_default();
        assert_eq!(at("http://127.0.0.1:4318"), "http://127.0.0.1:4318/v1/traces");
        assert_eq!(at("https://otel.example/base/"), "https://otel.example/base/v1/traces");
        for bad in ["127.0.0.1:4318", "grpc://a:4317", "http://", "http://a/?x=1", "http://u:p@a"] {
            assert_eq!(url_of(bad), None, "{bad}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_an_endpoint_there_is_nothing() {
        for endpoint in [None, Some(String::new())] {
            let traces = Traces::open("test", &TraceArgs { otlp_endpoint: endpoint }, Handle::current()).unwrap();
            assert!(traces.provider.is_none());
        }
        let bad = TraceArgs { otlp_endpoint: Some("collector".to_owned()) };
        let error = Traces::open("test", &bad, Handle::current()).unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().starts_with("--otlp-endpoint")), (USAGE, true));
    }
}
