//! A real agent and a simulated one of the same compute.

use std::sync::OnceLock;
use std::time::Duration;

use pgfleet_api::ComputeId;
use pgfleet_api::agent::AgentStatus;
use pgfleet_api::auth::Scope;
use pgfleet_clients::token::Grant;
use pgfleet_fleet_sim::handle::Sim;
use pgfleet_harness::agent::Agent;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::keys::Keys;

use crate::compare::{Answer, differences};
use crate::routes::LIMIT_BYTES;
use crate::row::{Row, Who};

/// The two, and what was found.
pub struct Pair<'f> {
    /// The compute that both own.
    pub own: ComputeId,
    /// The real one.
    pub real: Agent,
    /// Its number in the simulator.
    pub n: u32,
    /// Rows that were sent.
    pub rows: usize,
    /// Differences.
    pub told: Vec<String>,
    simulated: String,
    keys: &'f Keys,
}

impl<'f> Pair<'f> {
    /// Starts the real one of agent `n`.
    pub async fn start(fleet: &'f Fleet, sim: &Sim, n: u32) -> Self {
        let id = format!("sim-{n}");
        let real = fleet.agent(&id).start().await;
        let (own, told) = (id.parse().unwrap(), Vec::new());
        Self { own, real, n, rows: 0, told, simulated: sim.url(n), keys: fleet.keys() }
    }

    /// Sends rows, one after the other.
    pub async fn play(&mut self, rows: Vec<Row>) {
        for row in rows {
            self.send(&row).await;
        }
    }

    /// Sends one to both and looks how they stand; gives the real answer.
    pub async fn send(&mut self, row: &Row) -> Answer {
        let real = self.send_last(row).await;
        self.look(&row.name).await;
        real
    }

    /// As [`Self::send`], of a request after which nobody is there to be looked at.
    pub async fn send_last(&mut self, row: &Row) -> Answer {
        self.rows += 1;
        let real = self.ask(self.real.url(), row).await;
        let simulated = self.ask(&self.simulated, row).await;
        self.compare(&row.name, (&real, &simulated), row.differs);
        real
    }

    /// Compares how both stand.
    async fn look(&mut self, after: &str) {
        let status = Row::new("status", "GET", "/status");
        let real = self.ask(self.real.url(), &status).await;
        let simulated = self.ask(&self.simulated, &status).await;
        // An application takes its time at both; what they show in the meantime is not compared.
        let busy = |answer: &Answer| {
            serde_json::from_str::<AgentStatus>(&answer.body)
                .is_ok_and(|status| status.status.as_str() == "configuration")
        };
        if !busy(&real) && !busy(&simulated) {
            let differs: &[&str] = &["/error", "/error_detail", "/failures"];
            self.compare(&format!("the status after: {after}"), (&real, &simulated), differs);
        }
    }

    fn compare(&mut self, name: &str, (real, simulated): (&Answer, &Answer), further: &[&str]) {
        let found = differences(real, simulated, further);
        if !found.is_empty() {
            self.told.push(format!("{name} (agent {})\n    {}", self.n, found.join("\n    ")));
        }
    }

    /// Sends one to one of them.
    pub async fn ask(&self, base: &str, row: &Row) -> Answer {
        let method = row.method.parse().unwrap();
        let mut request = client().request(method, format!("{base}{}", row.path)).header("x-request-id", "conformance");
        if let Some(token) = self.token(row.who) {
            request = request.header("authorization", token);
        }
        for (name, value) in &row.headers {
            request = request.header(*name, value);
        }
        if !row.body.is_empty() {
            request = request.body(row.body.clone());
        }
        let response =
            Self::try_to_send(request, row).await.unwrap_or_else(|error| panic!("{}: {base}: {error:?}", row.name));
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, body: response.text().await.unwrap() }
    }

    /// Who refuses a body before it has come may close while it is still being written, and then its answer is lost with
    /// some luck: what it is, is learnt by another try.
    async fn try_to_send(request: reqwest::RequestBuilder, row: &Row) -> reqwest::Result<reqwest::Response> {
        let tries = if row.body.len() > LIMIT_BYTES { 10 } else { 1 };
        for _ in 1..tries {
            let again = request.try_clone().unwrap();
            match again.send().await {
                Err(error) if error.is_request() => {}
                answer => return answer,
            }
        }
        request.send().await
    }

    /// The simulated one's URL.
    pub fn simulated(&self) -> &str {
        &self.simulated
    }

    fn token(&self, who: Who) -> Option<String> {
        let admin = Grant::agent_admin();
        let token = match who {
            Who::Controller => self.keys.token(&admin),
            Who::Compute => self.keys.compute(self.own.as_str()),
            Who::OtherCompute => self.keys.compute("other"),
            Who::Viewer => self.keys.scope(Scope::Viewer),
            Who::WrongAudience => self.keys.token(&Grant { aud: vec!["others".to_owned()], ..admin }),
            Who::Foreign => self.keys.foreign(&admin),
            Who::Expired => self.keys.expired(&admin),
            Who::Garbage => "garbage".to_owned(),
            Who::Nobody => return None,
        };
        Some(format!("Bearer {token}"))
    }
}

/// One client for all: making one costs more than a request.
fn client() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        pgfleet_clients::install_crypto_provider();
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap()
    })
}
