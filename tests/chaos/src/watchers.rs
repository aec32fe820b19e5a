//! Who looks at members, agents and the database all the time, past every proxy, and records what changed.
//!
//! Who calls it: [`crate::run`]. The engine asks [`Seen`] who leads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgfleet_api::agent::AgentStatus;
use pgfleet_api::controller::{ControllerStatus, Role};
use pgfleet_api::{ComputeId, InstanceId, Term};
use pgfleet_clients::token::Grant;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::postgres::{TestClient, connect};
use pgfleet_history::Event;
use reqwest::RequestBuilder;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::load::http;
use crate::recorder::Recorder;

/// How often members and agents are asked.
const LOOK_EVERY: Duration = Duration::from_millis(30);

/// How often the database is.
const READ_EVERY: Duration = Duration::from_millis(150);

/// How long anybody may take to answer a watcher.
const LIMIT: Duration = Duration::from_millis(400);

/// What was seen last.
#[derive(Debug, Default)]
pub struct Seen {
    members: Mutex<Vec<Option<ControllerStatus>>>,
    agents: Mutex<BTreeMap<ComputeId, AgentStatus>>,
}

impl Seen {
    /// What a member said last; nothing when it did not answer.
    pub fn member(&self, index: usize) -> Option<ControllerStatus> {
        lock(&self.members).get(index).cloned().flatten()
    }

    /// The member that shows itself leader, of the highest term.
    pub fn leader(&self) -> Option<usize> {
        let members = lock(&self.members);
        let leads = |status: &ControllerStatus| (status.role == Role::Leader).then_some(status.term);
        let leaders = members.iter().enumerate().filter_map(|(index, seen)| Some((leads(seen.as_ref()?)?, index)));
        leaders.max().map(|(_, index)| index)
    }

    /// What an agent said last.
    pub fn agent(&self, id: &ComputeId) -> Option<AgentStatus> {
        lock(&self.agents).get(id).cloned()
    }
}

/// The watchers of a run.
#[derive(Debug)]
pub struct Watchers {
    /// What they saw.
    pub seen: Arc<Seen>,
    end: CancellationToken,
    tasks: JoinSet<()>,
}

impl Watchers {
    /// Watches these members.
    #[must_use]
    pub fn of_members(recorder: &Recorder, urls: &[String]) -> Self {
        let seen = Arc::new(Seen { members: Mutex::new(vec![None; urls.len()]), agents: Mutex::default() });
        let mut watchers = Self { seen, end: CancellationToken::new(), tasks: JoinSet::new() };
        for (index, url) in urls.iter().enumerate() {
            let (seen, recorder, end) = (watchers.seen.clone(), recorder.clone(), watchers.end.clone());
            watchers.tasks.spawn(watch_member(index, format!("{url}/status"), seen, recorder, end));
        }
        watchers
    }

    /// Watches an agent as well.
    pub fn add_agent(&mut self, fleet: &Arc<Fleet>, recorder: &Recorder, id: &ComputeId, url: &str) {
        let (seen, recorder, end) = (self.seen.clone(), recorder.clone(), self.end.clone());
        let asked = (fleet.clone(), format!("{url}/status"));
        self.tasks.spawn(watch_agent(id.clone(), asked, seen, recorder, end));
    }

    /// Watches the database as well.
    pub fn add_database(&mut self, recorder: &Recorder, url: &str) {
        self.tasks.spawn(watch_database(url.to_owned(), recorder.clone(), self.end.clone()));
    }

    /// Ends them, after one last look at the database.
    pub async fn end(mut self) {
        self.end.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap_or_else(|error| panic!("a watcher: {error}"));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ask<T: DeserializeOwned>(request: RequestBuilder) -> Option<T> {
    request.send().await.ok()?.json().await.ok()
}

async fn watch_member(index: usize, url: String, seen: Arc<Seen>, recorder: Recorder, end: CancellationToken) {
    let http = http(LIMIT);
    let mut last = None;
    while !end.is_cancelled() {
        let status: Option<ControllerStatus> = ask(http.get(&url)).await;
        if let Some(status) = &status {
            let now = Some((status.instance_id, status.role, status.term));
            if now != last {
                let (instance_id, role, term) = (status.instance_id, status.role, status.term);
                recorder.record(Event::MemberSeen { instance_id, role, term });
                last = now;
            }
        }
        lock(&seen.members)[index] = status;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn watch_agent(
    id: ComputeId,
    (fleet, url): (Arc<Fleet>, String),
    seen: Arc<Seen>,
    recorder: Recorder,
    end: CancellationToken,
) {
    let http = http(LIMIT);
    let mut last = None;
    while !end.is_cancelled() {
        let token = fleet.keys().token(&Grant::agent_admin());
        if let Some(status) = ask::<AgentStatus>(http.get(&url).bearer_auth(token)).await {
            let now = Some((status.boot_id, status.status_seq, status.term, status.generation));
            if now != last {
                recorder.record(agent_seen(&status));
                last = now;
            }
            lock(&seen.agents).insert(id.clone(), status);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn agent_seen(status: &AgentStatus) -> Event {
    Event::AgentSeen {
        compute_id: status.compute_id.clone(),
        boot_id: status.boot_id,
        status_seq: status.status_seq,
        state: status.status,
        term: status.term,
        generation: status.generation,
        applied_generation: status.applied_generation,
        rejected_generation: status.rejected_generation,
        spec_hash: status.spec_hash.clone(),
    }
}

/// Reads terms and the audit; a database that is away is asked again. The last look is after the end was asked for.
async fn watch_database(url: String, recorder: Recorder, end: CancellationToken) {
    let mut terms = Terms::default();
    let mut audit = Audit::default();
    let mut session: Option<TestClient> = None;
    loop {
        let is_last = end.is_cancelled();
        if session.is_none() {
            session = tokio::time::timeout(LIMIT, connect(&url)).await.ok().and_then(Result::ok);
        }
        if let Some(client) = &session {
            let read = async { terms.read(client, &recorder).await.and(audit.read(client, &recorder).await) };
            if !matches!(tokio::time::timeout(LIMIT * 5, read).await, Ok(Ok(()))) {
                session = None;
            }
        }
        if is_last {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(READ_EVERY) => {}
            () = end.cancelled() => {}
        }
    }
}

/// The history of terms, as far as it was told.
#[derive(Debug, Default)]
struct Terms(BTreeMap<i64, (uuid::Uuid, Option<String>)>);

impl Terms {
    async fn read(&mut self, client: &TestClient, recorder: &Recorder) -> Result<(), tokio_postgres::Error> {
        let sql = "SELECT term, instance_id, began, ended FROM leader_history ORDER BY term";
        for row in client.query(sql, &[]).await? {
            let (term, instance_id, ended): (i64, uuid::Uuid, Option<String>) = (row.get(0), row.get(1), row.get(3));
            let now = (instance_id, ended.clone());
            if self.0.get(&term) != Some(&now) {
                self.0.insert(term, now);
                let (term, instance_id) = (Term(term), InstanceId(instance_id));
                recorder.record(Event::TermSeen { term, instance_id, began: row.get(2), ended });
            }
        }
        Ok(())
    }
}
