//! A client as programs are that know nothing of leaders: kept connections, one try per request. It goes to its next
//! endpoint only when the connection is refused.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::http::Answer;
use reqwest::Client;

/// The client. Its endpoints are asked in turn, beginning where the last request ended.
pub struct Plain {
    http: Client,
    token: String,
    endpoints: Vec<String>,
    at: AtomicUsize,
}

impl Plain {
    /// A client of these endpoints.
    pub fn new(fleet: &Fleet, endpoints: &[&str]) -> Self {
        pgfleet_clients::install_crypto_provider();
        let http = Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
        let token = fleet.keys().scope(pgfleet_api::auth::Scope::Admin);
        let endpoints = endpoints.iter().map(|url| (*url).to_owned()).collect();
        Self { http, token, endpoints, at: AtomicUsize::new(0) }
    }

    /// One request. An error says what a program would see.
    pub async fn ask(&self, method: &str, path: &str, body: Option<String>) -> Result<Answer, String> {
        let mut refused = 0;
        loop {
            let endpoint = &self.endpoints[self.at.load(Ordering::SeqCst) % self.endpoints.len()];
            let method = method.parse().unwrap();
            let mut request = self.http.request(method, format!("{endpoint}{path}")).bearer_auth(&self.token);
            if let Some(body) = &body {
                request = request.body(body.clone());
            }
            match request.send().await {
                Ok(response) => {
                    let (status, headers) = (response.status().as_u16(), response.headers().clone());
                    let body = response.text().await.map_err(|error| format!("in the body: {error:?}"))?;
                    return Ok(Answer { status, headers, body });
                }
                Err(error) if is_refused(&error) && refused < self.endpoints.len() => {
                    refused += 1;
                    self.at.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => return Err(format!("{error:?}")),
            }
        }
    }
}

fn is_refused(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            return io.kind() == io::ErrorKind::ConnectionRefused;
        }
        cause = current.source();
    }
    false
}
