//! What the room tests share: a server, a database of their own, and members of a cluster on it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use pgfleet_api::agent::ComputeState;
use pgfleet_api::compute::Observed;
use pgfleet_api::controller::LeaderView;
use pgfleet_api::{BootId, ComputeId, InstanceId, SpecHash, Term};
use pgfleet_harness::postgres::{Cluster, Options, TestClient, bin_dir_or_skip};
use pgfleet_persistence::{
    Began, Change, Claim, ClaimOutcome, Database, DatabaseConfig, DbError, LeaderTerm, LeaseSession, MigrationOptions,
    NewSpec, Release, Seen, Writer, WriterHooks,
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// No wait of a test is longer; a server of two cores runs many tests at once.
pub const SOON: Duration = Duration::from_secs(20);

static CLUSTER: OnceCell<Option<Cluster>> = OnceCell::const_new();
static TEMPLATE: OnceCell<()> = OnceCell::const_new();

/// The server of this run; none (and a line that says so) without PostgreSQL.
pub async fn cluster(test: &str) -> Option<&'static Cluster> {
    bin_dir_or_skip(test)?;
    CLUSTER.get_or_init(|| async { Some(Cluster::start(Options::default()).await.unwrap()) }).await.as_ref()
}

/// A database with all tables and no leader.
pub struct Fleet {
    pub url: String,
}

impl Fleet {
    pub async fn new(test: &str) -> Option<Self> {
        let cluster = cluster(test).await?;
        TEMPLATE.get_or_init(|| async { make_template(cluster).await }).await;
        Some(Self { url: cluster.database_from_template("fleet_template").await.unwrap() })
    }

    /// A database without any table.
    pub async fn empty(test: &str) -> Option<Self> {
        let cluster = cluster(test).await?;
        Some(Self { url: cluster.database_from_template("template0").await.unwrap() })
    }

    pub async fn member(&self) -> Member {
        Member::connect(&self.url, Duration::from_secs(5)).await
    }

    /// A member of another build.
    pub async fn member_of(&self, release: Release) -> Member {
        Member::connect_as(&self.url, Duration::from_secs(5), release).await
    }

    /// The spec in the table.
    pub async fn stored_spec(&self, compute: &str) -> Value {
        let client = self.client().await;
        let row = client.query_one("SELECT spec FROM computes WHERE compute_id = $1", &[&compute]).await.unwrap();
        row.get(0)
    }

    /// A plain session beside the crate's.
    pub async fn client(&self) -> TestClient {
        pgfleet_harness::postgres::connect(&self.url).await.unwrap()
    }
}

async fn make_template(cluster: &Cluster) {
    let url = cluster.create_database("fleet_template").await.unwrap();
    prepare(&url).await;
}

/// Bootstraps, migrates under a term, and leaves no leader behind.
pub async fn prepare(url: &str) {
    let member = Member::connect(url, Duration::from_secs(5)).await;
    member.db.bootstrap().await.unwrap();
    let term = Arc::new(member.lead().await);
    member.db.migrate(term, MigrationOptions::default()).await.unwrap();
    let client = pgfleet_harness::postgres::connect(url).await.unwrap();
    client.batch_execute("DELETE FROM leader; DELETE FROM leader_history").await.unwrap();
}

/// One controller process, as far as the database sees it.
pub struct Member {
    pub db: Arc<Database>,
    pub me: InstanceId,
}

impl Member {
    pub async fn connect(url: &str, lease: Duration) -> Self {
        Self::connect_as(url, lease, Release::this()).await
    }

    /// A process of another build.
    pub async fn connect_as(url: &str, lease: Duration, release: Release) -> Self {
        let me = InstanceId::generate();
        let config = DatabaseConfig {
            url: url.to_owned(),
            instance_id: me,
            lease,
            connect_timeout: Duration::from_secs(5),
            pool_size: 2,
            release,
        };
        Self { db: Database::connect(config).await.unwrap(), me }
    }

    pub fn session(&self) -> LeaseSession {
        LeaseSession::new(Arc::clone(&self.db))
    }

    pub async fn claim(&self, seen: Option<Seen>, how: Began) -> Result<ClaimOutcome, DbError> {
        self.session().claim(&claim(seen, how)).await
    }

    /// Claims whatever there is, and wins.
    pub async fn lead(&self) -> LeaderTerm {
        let row = self.db.read_leader().await.unwrap();
        let how = if row.is_some() { Began::Crash } else { Began::First };
        won(self.claim(row.as_ref().map(seen), how).await.unwrap())
    }
}

pub fn claim(seen: Option<Seen>, how: Began) -> Claim {
    let address = "http://127.0.0.1:7000".to_owned();
    Claim { seen, floor: Term(0), address, lease_ms: 5000, how }
}

pub fn seen(row: &LeaderView) -> Seen {
    Seen { term: row.term, instance_id: row.instance_id, renewals: None }
}

pub fn won(outcome: ClaimOutcome) -> LeaderTerm {
    match outcome {
        ClaimOutcome::Won(term) => term,
        ClaimOutcome::Lost => panic!("the claim was lost"),
    }
}

/// A leader with its writer running.
pub struct Leader {
    pub member: Member,
    pub term: Arc<LeaderTerm>,
    pub writer: Writer,
    pub token: CancellationToken,
    pub task: JoinHandle<Result<(), DbError>>,
}

impl Leader {
    pub async fn new(member: Member, hooks: WriterHooks) -> Self {
        let term = Arc::new(member.lead().await);
        let start = member.db.load().await.unwrap().change_seq;
        let (writer, task) = Writer::channel(Arc::clone(&member.db), Arc::clone(&term), hooks, start);
        let token = CancellationToken::new();
        let task = spawn(task.run(token.clone()));
        Self { member, term, writer, token, task }
    }

    pub async fn register(&self, id: &str) {
        self.writer.submit(register(id, None)).await.unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "a test is its own supervisor: it awaits the handle or ends with it")]
pub fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work)
}

pub fn id(text: &str) -> ComputeId {
    text.parse().unwrap()
}

pub fn hash(fill: char) -> SpecHash {
    fill.to_string().repeat(64).parse().unwrap()
}

pub fn spec(fill: char) -> NewSpec {
    NewSpec::new(&json!({ "cluster": { "fill": fill } }), hash(fill))
}

pub fn register(compute: &str, spec: Option<NewSpec>) -> Change {
    Change::Register {
        compute_id: id(compute),
        agent_url: "http://127.0.0.1:3080".to_owned(),
        labels: BTreeMap::from([("tier".to_owned(), "gold".to_owned())]),
        spec,
    }
}

pub fn put(compute: &str, fill: char) -> Change {
    Change::PutSpec { compute_id: id(compute), spec: spec(fill), if_match: None }
}

pub fn observed(boot_id: BootId, status_seq: u64, state: ComputeState) -> Observed {
    Observed {
        state,
        boot_id,
        status_seq,
        term: Some(Term(1)),
        generation: None,
        applied_generation: None,
        rejected_generation: None,
        spec_hash: None,
        pending_restart: Vec::new(),
        ignored_fields: Vec::new(),
        error: None,
        error_detail: None,
        failures: Vec::new(),
        postgres: None,
    }
}

pub fn report(compute: &str, observed: &Observed) -> Change {
    Change::Observed { compute_id: id(compute), observed: Box::new(observed.clone()) }
}

/// Waits until a query answers true.
pub async fn until(client: &TestClient, what: &str, sql: &str) {
    let deadline = Instant::now() + SOON;
    while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until `count` sessions of this database wait for a lock.
pub async fn until_waiting(client: &TestClient, count: i64) {
    let sql = format!(
        "SELECT count(*) >= {count} FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    );
    until(client, "sessions wait for a lock", &sql).await;
}

pub async fn value(client: &TestClient, sql: &str) -> Value {
    client.query_one(&format!("SELECT coalesce(to_jsonb(({sql})), 'null')"), &[]).await.unwrap().get(0)
}
