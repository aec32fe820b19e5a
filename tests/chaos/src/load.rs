//! Clients that write marked specs and read them, and tell the record the truth about each try.
//!
//! Who calls it: [`crate::run`]. One call of the record is one HTTP request: nothing is sent again under the same call, so
//! "refused" always means that this request was not executed. A client asks one thing at a time; after a refusal or an
//! unknown outcome it goes on to the next member, as clients are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pgfleet_api::auth::Scope;
use pgfleet_api::compute::{SpecAccepted, SpecView};
use pgfleet_api::{ComputeId, ErrorBody, Generation, SpecHash, headers};
use pgfleet_domain::spec::spec_hash;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::specs::marked;
use pgfleet_history::{Answer, Call, Event};
use reqwest::{Client, Method};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::recorder::Recorder;

/// Clients of a run.
const CLIENTS: u32 = 5;

/// Distance of two requests of one client.
const PACE: Duration = Duration::from_millis(25);

/// Requests after which a client goes on to the next member although all is well: every member is asked all the time.
const ROUNDS_AT_ONE: u64 = 8;

/// How long a client waits for an answer. Longer than a member holds a request.
const LIMIT: Duration = Duration::from_millis(2600);

/// What the clients achieved so far.
#[derive(Debug, Default)]
pub struct Book {
    /// Requests sent.
    pub requests: AtomicU64,
    /// Writes acknowledged, by the member that was asked.
    pub written: Vec<AtomicU64>,
    end: AtomicBool,
    next_op: AtomicU64,
}

impl Book {
    /// Writes acknowledged through each member.
    #[must_use]
    pub fn written(&self) -> Vec<u64> {
        self.written.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

/// A load under way.
#[derive(Debug)]
pub struct Load {
    /// What it achieved.
    pub book: Arc<Book>,
    clients: JoinSet<()>,
}

/// Whom a load asks about what.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Base URLs of the members.
    pub members: Vec<String>,
    /// The computes.
    pub computes: Vec<ComputeId>,
    /// Makes the marks of one run its own.
    pub seed: u64,
}

impl Load {
    /// Starts the clients.
    #[must_use]
    pub fn start(fleet: &Arc<Fleet>, recorder: &Recorder, asked: &Asked) -> Self {
        let written = asked.members.iter().map(|_| AtomicU64::new(0)).collect();
        let book = Arc::new(Book { written, ..Book::default() });
        let mut clients = JoinSet::new();
        for number in 1..=CLIENTS {
            let one = One {
                fleet: fleet.clone(),
                recorder: recorder.clone(),
                asked: asked.clone(),
                book: book.clone(),
                http: http(LIMIT),
                number,
            };
            clients.spawn(one.run());
        }
        Self { book, clients }
    }

    /// Ends it: what is under way is waited for.
    pub async fn end(mut self) {
        self.book.end.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap_or_else(|error| panic!("a client of the load: {error}"));
        }
    }
}

/// A client without proxies from the environment.
#[must_use]
pub fn http(limit: Duration) -> Client {
    pgfleet_clients::install_crypto_provider();
    let client = Client::builder().no_proxy().timeout(limit).build();
    client.unwrap_or_else(|error| panic!("no HTTP client: {error}"))
}

/// One client.
struct One {
    fleet: Arc<Fleet>,
    recorder: Recorder,
    asked: Asked,
    book: Arc<Book>,
    http: Client,
    number: u32,
}

impl One {
    async fn run(self) {
        let mut member = self.number as usize % self.asked.members.len();
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for round in 0_u64.. {
            pace.tick().await;
            if self.book.end.load(Ordering::Relaxed) {
                return;
            }
            let turn = usize::try_from(round).unwrap_or(0) / 2 + self.number as usize;
            let id = self.asked.computes[turn % self.asked.computes.len()].clone();
            let answer = if (round + u64::from(self.number)).is_multiple_of(2) {
                self.write(member, &id, round).await
            } else {
                self.read(member, &id).await
            };
            match answer {
                Answer::Written { .. } => {
                    self.book.written[member].fetch_add(1, Ordering::Relaxed);
                }
                Answer::Read { .. } => {}
                Answer::Refused { .. } | Answer::Unknown { .. } => member = self.after(member),
            }
            if round % ROUNDS_AT_ONE == ROUNDS_AT_ONE - 1 {
                member = self.after(member);
            }
        }
    }

    fn after(&self, member: usize) -> usize {
        (member + 1) % self.asked.members.len()
    }

    async fn write(&self, member: usize, id: &ComputeId, round: u64) -> Answer {
        let spec = marked(&format!("{}-{}-{round}", self.asked.seed, self.number));
        let call = Call::Write { spec_hash: spec_hash(&spec) };
        self.ask(member, id, call, Some(&spec)).await
    }

    async fn read(&self, member: usize, id: &ComputeId) -> Answer {
        self.ask(member, id, Call::Read, None).await
    }

    async fn ask(&self, member: usize, id: &ComputeId, call: Call, spec: Option<&Value>) -> Answer {
        let op = self.book.next_op.fetch_add(1, Ordering::Relaxed) + 1;
        let url = format!("{}/control/v1/compute/{id}/spec", self.asked.members[member]);
        let (method, scope) = if spec.is_some() { (Method::PUT, Scope::Infra) } else { (Method::GET, Scope::Viewer) };
        let mut request = self.http.request(method, url).bearer_auth(self.fleet.keys().scope(scope));
        if let Some(spec) = spec {
            request = request.json(spec);
        }
        self.book.requests.fetch_add(1, Ordering::Relaxed);
        self.recorder.record(Event::Called { op, client: self.number, compute_id: id.clone(), call });
        let answer = match request.send().await {
            Ok(response) => judge(response, spec.is_some()).await,
            Err(error) if error.is_connect() => Answer::Refused { status: 0, code: None },
            Err(error) => Answer::Unknown { why: format!("{error:?}") },
        };
        self.recorder.record(Event::Answered { op, answer: answer.clone() });
        answer
    }
}

/// What an answer says about whether the request was executed.
async fn judge(response: reqwest::Response, is_write: bool) -> Answer {
    let status = response.status();
    let disclaimed = response.headers().get(headers::EXECUTED).is_some_and(|value| value == "no");
    let body = match response.bytes().await {
        Ok(body) => body,
        Err(error) => return Answer::Unknown { why: format!("{status}, and a body that ended early: {error:?}") },
    };
    if status.is_success() && is_write {
        return said::<SpecAccepted>(&body, |told| Answer::Written { generation: told.generation });
    }
    if status.is_success() {
        return said::<SpecView>(&body, |told| Answer::Read { generation: told.generation, spec_hash: told.spec_hash });
    }
    let code = serde_json::from_slice::<ErrorBody>(&body).ok().map(|error| error.code);
    let word = code.and_then(|code| serde_json::to_value(code).ok()?.as_str().map(str::to_owned));
    if !is_write && !disclaimed && status.is_client_error() && matches!(status.as_u16(), 404 | 409) {
        // Every compute had a spec before the first client began: this is an answer, and says that there is none.
        return Answer::Read { generation: Generation(0), spec_hash: nothing() };
    }
    if disclaimed || status.is_client_error() {
        return Answer::Refused { status: status.as_u16(), code: word };
    }
    Answer::Unknown { why: format!("{status} {}", word.unwrap_or_default()) }
}

fn said<T: DeserializeOwned>(body: &[u8], answer: impl FnOnce(T) -> Answer) -> Answer {
    match serde_json::from_slice(body) {
        Ok(told) => answer(told),
        Err(error) => Answer::Unknown { why: format!("a success with a body that is none: {error}") },
    }
}

/// Stands for the hash of a spec that is not there.
fn nothing() -> SpecHash {
    let zeros = "0".repeat(64);
    zeros.parse().unwrap_or_else(|error| panic!("{zeros}: {error}"))
}
