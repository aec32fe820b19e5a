//! A plain HTTP client that hides nothing: status, headers and body as they came.

use std::time::Duration;

use pgfleet_api::{ErrorBody, ErrorCode};
use reqwest::header::HeaderMap;
use serde::de::DeserializeOwned;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// A header's text, or nothing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.body).unwrap_or_else(|error| {
            panic!("{} with a body that is not as expected ({error}): {}", self.status, self.body)
        })
    }

    /// The error body.
    pub fn error(&self) -> ErrorBody {
        self.json()
    }

    /// Status and code of an error.
    pub fn refusal(&self) -> (u16, ErrorCode) {
        (self.status, self.error().code)
    }
}

/// A request to be sent once.
#[derive(Debug, Clone)]
pub struct Call {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    limit: Duration,
}

impl Call {
    /// A request without token or body.
    pub fn new(method: &str, url: impl Into<String>) -> Self {
        let limit = Duration::from_secs(30);
        Self { method: method.to_owned(), url: url.into(), headers: Vec::new(), body: None, limit }
    }

    /// With a bearer token.
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a body, as it stands.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// With another limit than 30 s.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sends it and reads no body, for a stream that does not end. Panics if there is no answer.
    pub async fn status(&self) -> u16 {
        let answer = self.begin().await;
        answer.unwrap_or_else(|error| panic!("{} {}: {error:?}", self.method, self.url)).status().as_u16()
    }

    /// Sends it; an error says why there was no answer.
    pub async fn try_send(&self) -> Result<Answer, reqwest::Error> {
        let response = self.begin().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.text().await? })
    }

    async fn begin(&self) -> Result<reqwest::Response, reqwest::Error> {
        pgfleet_clients::install_crypto_provider();
        let client = reqwest::Client::builder().no_proxy().timeout(self.limit).pool_max_idle_per_host(0).build()?;
        let method = self.method.parse().unwrap_or_else(|_| panic!("{} is no method", self.method));
        let mut request = client.request(method, &self.url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(body) = &self.body {
            request = request.body(body.clone());
        }
        request.send().await
    }

    /// Sends it; panics if there is no answer.
    pub async fn send(&self) -> Answer {
        let answer = self.try_send().await;
        answer.unwrap_or_else(|error| panic!("{} {}: {error:?}", self.method, self.url))
    }
}
