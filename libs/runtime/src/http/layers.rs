//! The layers around a router, outside in: request id, metrics, panic, timeout, body limit.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::{HeaderValue, StatusCode};
use pgfleet_api::{ErrorCode, headers};
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::ApiError;
use super::json::BodyLimit;
use crate::metrics::{HttpMetrics, TaskMetrics};
use crate::supervisor::panic_text;

/// A caller's id longer than this is not taken over.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// What [`finish`] puts around a router.
#[derive(Clone)]
pub struct Layers {
    /// Where requests are counted.
    pub metrics: Arc<HttpMetrics>,
    /// Where a handler's panic is counted, under the group `http`.
    pub tasks: Arc<TaskMetrics>,
    /// Largest body.
    pub body_limit_bytes: usize,
    /// Longest a handler may take; none where routes have deadlines of their own.
    pub request_timeout: Option<Duration>,
}

/// The id of the request being handled, in its extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub String);

/// Adds the fallbacks and layers that every server has.
pub fn finish(router: Router, layers: Layers) -> Router {
    layers.tasks.register("http");
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(layers.body_limit_bytes))
        .layer(from_fn_with_state(Arc::new(layers), around))
}

/// All that is around a request, in one layer: each layer of its own is cloned with all layers inside it for each request.
async fn around(State(layers): State<Arc<Layers>>, mut request: Request, next: Next) -> Response {
    let (id, span) = identify(&mut request);
    request.extensions_mut().insert(BodyLimit(layers.body_limit_bytes));
    let mut response = observe(&layers, request, next).instrument(span).await;
    if let Some(id) = id {
        response.headers_mut().insert(headers::REQUEST_ID, id);
    }
    response
}

async fn unknown_route(request: Request) -> ApiError {
    let msg = format!("there is no route {}", request.uri().path());
    ApiError::new(StatusCode::NOT_FOUND, ErrorCode::UnknownRoute, msg)
}

async fn method_not_allowed(request: Request) -> ApiError {
    let msg = format!("{} is not possible on {}", request.method(), request.uri().path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::MethodNotAllowed, msg)
}

/// Gives a request its id, or takes over the caller's. The header for the answer, and the span.
fn identify(request: &mut Request) -> (Option<HeaderValue>, Span) {
    let given = request.headers().get(headers::REQUEST_ID).and_then(|value| value.to_str().ok());
    let id = given
        .filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES)
        .map_or_else(|| Uuid::new_v4().to_string(), ToOwned::to_owned);
    let header = HeaderValue::from_str(&id).ok();
    let span = tracing::info_span!("request", request_id = %id);
    if let Some(header) = header.clone() {
        // A member that hands the request on hands on the id as well.
        request.headers_mut().insert(headers::REQUEST_ID, header);
    }
    request.extensions_mut().insert(RequestId(id));
    (header, span)
}

/// Gives the in-flight gauge back also when the client goes away in the middle.
struct InFlight(Arc<HttpMetrics>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.ended();
    }
}

async fn observe(layers: &Layers, request: Request, next: Next) -> Response {
    let metrics = &layers.metrics;
    metrics.started();
    let _in_flight = InFlight(Arc::clone(metrics));
    let begun = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    let span = span_of(&method, route, request.extensions().get());
    let response = catch_panic(layers, request, next).instrument(span.clone()).await;
    span.record("status", response.status().as_u16());
    metrics.answered(&method, route, response.status(), begun.elapsed());
    response
}

/// For the collector of traces; nothing without one.
fn span_of(method: &http::Method, route: &str, id: Option<&RequestId>) -> Span {
    tracing::info_span!(
        target: "spans::http",
        "request",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        %method,
        route,
        status = tracing::field::Empty,
        request_id = id.map(|id| id.0.as_str()),
    )
}

async fn catch_panic(layers: &Layers, request: Request, next: Next) -> Response {
    match AssertUnwindSafe(limit_time(layers.request_timeout, request, next)).catch_unwind().await {
        Ok(response) => response,
        Err(payload) => {
            layers.tasks.panicked("http");
            tracing::error!("a handler panicked: {}", panic_text(payload.as_ref()));
            ApiError::internal().into_response()
        }
    }
}

async fn limit_time(limit: Option<Duration>, request: Request, next: Next) -> Response {
    let Some(limit) = limit else { return next.run(request).await };
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let msg = format!("no answer within {} s; the request may have been executed", limit.as_secs());
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Timeout, msg).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::routing::{get, post};
    use pgfleet_api::ErrorBody;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;
    use crate::http::JsonBody;

    fn router() -> (Router, Layers) {
        let layers = Layers {
            metrics: Arc::new(HttpMetrics::with_routes(&["/ok", "/json"])),
            tasks: Arc::default(),
            body_limit_bytes: 64,
            request_timeout: Some(Duration::from_millis(200)),
        };
        let router = Router::new()
            .route("/ok", get(|| async { "ok" }))
            .route("/json", post(|JsonBody(_): JsonBody<Value>| async {}))
            .route("/panic", get(panics))
            .route("/never", get(std::future::pending::<()>));
        (finish(router, layers.clone()), layers)
    }

    async fn panics() -> &'static str {
        panic!("on purpose")
    }

    async fn call(method: &str, path: &str, body: Vec<u8>) -> (StatusCode, Option<ErrorBody>) {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("x-request-id", "mine")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(body))
            .unwrap();
        let response = router().0.oneshot(request).await.unwrap();
        assert_eq!(response.headers()["x-request-id"], "mine");
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).ok())
    }

    #[tokio::test]
    async fn every_error_has_our_body() {
        let rows: [(&str, &str, Vec<u8>, u16, ErrorCode); 6] = [
            ("GET", "/nowhere", vec![], 404, ErrorCode::UnknownRoute),
            ("DELETE", "/ok", vec![], 405, ErrorCode::MethodNotAllowed),
            ("GET", "/panic", vec![], 500, ErrorCode::Internal),
            ("GET", "/never", vec![], 504, ErrorCode::Timeout),
            ("POST", "/json", b"{".to_vec(), 400, ErrorCode::NotJson),
            ("POST", "/json", vec![b' '; 65], 413, ErrorCode::PayloadTooLarge),
        ];
        for (method, path, body, status, code) in rows {
            let (got, error) = call(method, path, body).await;
            assert_eq!(got.as_u16(), status, "{method} {path}");
            assert_eq!(error.unwrap().code, code, "{method} {path}");
        }
        assert_eq!(call("POST", "/json", b"{}".to_vec()).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn requests_are_counted_by_route() {
        let (router, layers) = router();
        for path in ["/ok", "/nowhere", "/panic"] {
            let request = http::Request::builder().uri(path).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert!(response.headers().contains_key("x-request-id"));
        }
        let text = String::from_utf8(crate::metrics::encode_text(&*layers.metrics).to_vec()).unwrap();
        for line in [
            "requests_total{method=\"GET\",route=\"/ok\",status=\"2xx\"} 1",
            "requests_total{method=\"GET\",route=\"other\",status=\"4xx\"} 1",
            "requests_total{method=\"GET\",route=\"other\",status=\"5xx\"} 1",
            "requests_in_flight 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!(layers.tasks.panics("http"), 1);
    }
}
