//! Requests by method, route and outcome. Filled by the layer in [`crate::http`].

use std::time::Duration;

use measured::metric::histogram::Thresholds;
use measured::{CounterVec, FixedCardinalityLabel, Gauge, HistogramVec, LabelGroup, MetricGroup};

use super::labels::FixedNames;

/// Method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
#[label(rename_all = "SHOUTY_SNAKE_CASE")]
pub enum Method {
    /// GET and HEAD.
    Get,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
    /// Any other.
    Other,
}

impl From<&http::Method> for Method {
    fn from(method: &http::Method) -> Self {
        match *method {
            http::Method::GET | http::Method::HEAD => Self::Get,
            http::Method::POST => Self::Post,
            http::Method::PUT => Self::Put,
            http::Method::DELETE => Self::Delete,
            _ => Self::Other,
        }
    }
}

/// First digit of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FixedCardinalityLabel)]
pub enum StatusClass {
    /// 1xx.
    #[label(rename = "1xx")]
    Informational,
    /// 2xx.
    #[label(rename = "2xx")]
    Success,
    /// 3xx.
    #[label(rename = "3xx")]
    Redirection,
    /// 4xx.
    #[label(rename = "4xx")]
    ClientError,
    /// 5xx.
    #[label(rename = "5xx")]
    ServerError,
}

impl From<http::StatusCode> for StatusClass {
    fn from(status: http::StatusCode) -> Self {
        match status.as_u16() {
            0..200 => Self::Informational,
            200..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

#[derive(LabelGroup)]
#[label(set = RequestSet)]
struct Request<'a> {
    method: Method,
    #[label(fixed_with = FixedNames)]
    route: &'a str,
    status: StatusClass,
}

#[derive(LabelGroup)]
#[label(set = RouteSet)]
struct Route<'a> {
    method: Method,
    #[label(fixed_with = FixedNames)]
    route: &'a str,
}

/// HTTP of one server.
#[derive(MetricGroup)]
pub struct HttpMetrics {
    /// Requests answered.
    requests_total: CounterVec<RequestSet>,
    /// Time from the head of a request to the head of its answer.
    request_duration_seconds: HistogramVec<RouteSet, 12>,
    /// Requests being worked on.
    requests_in_flight: Gauge,
}

impl HttpMetrics {
    /// Counts under these route templates; any other path is `other`.
    #[must_use]
    pub fn with_routes(routes: &[&'static str]) -> Self {
        let routes = FixedNames::new(routes);
        Self {
            requests_total: CounterVec::with_label_set(RequestSet::new(routes.clone())),
            request_duration_seconds: HistogramVec::with_label_set_and_metadata(
                RouteSet::new(routes),
                Thresholds::exponential_buckets(0.000_5, 2.5),
            ),
            requests_in_flight: Gauge::new(),
        }
    }

    /// A request begins.
    pub fn started(&self) {
        self.requests_in_flight.get_metric().inc();
    }

    /// A request that was [`HttpMetrics::started`] ends without an answer or with one that is [`HttpMetrics::answered`].
    pub fn ended(&self) {
        self.requests_in_flight.get_metric().dec();
    }

    /// A request was answered.
    pub fn answered(&self, method: &http::Method, route: &str, status: http::StatusCode, took: Duration) {
        let method = Method::from(method);
        self.requests_total.inc(Request { method, route, status: status.into() });
        self.request_duration_seconds.observe_duration(Route { method, route }, took);
    }
}
