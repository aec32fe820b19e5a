//! What a scenario stands on: a durable database of its own, one leader, computes put in by SQL.
//!
//! Who calls it: the scenarios. Computes are put in while nobody leads, and are written out, so that no checkpoint of it falls
//! into a measurement. Every compute has a spec of its own, as in a real fleet: what is shared by content is not shared here.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use pgfleet_api::agent::ComputeState;
use pgfleet_api::auth::Scope;
use pgfleet_api::compute::Observed;
use pgfleet_api::{BootId, Generation, Term};
use pgfleet_harness::controller::Controller;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::postgres::{Options, bin_dir};
use pgfleet_harness::specs::orders;
use serde_json::Value;
use tokio_postgres::types::ToSql;

use crate::bed::on_a_disk;

/// How long a member may take over a large fleet.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// So long that no agent is asked during a scenario.
pub const NEVER: &str = "1000000h";

/// Sessions of the database: one for each client of the floors, and the members'.
const SESSIONS: &str = "400";

/// Where nobody listens.
pub const NOBODY: &str = "http://127.0.0.1:9";

const COMPUTES: &str = "
    INSERT INTO computes (compute_id, agent_url, labels, generation, spec, spec_hash, change_seq, created_at, updated_at)
    SELECT id, $1, '{\"tier\": \"bench\"}', 1, jsonb_set($2::jsonb, '{cluster,settings,0,value}', to_jsonb(id)),
           encode(sha256(id::bytea), 'hex'), n, now(), now()
    FROM (SELECT n, 'c' || lpad(n::text, 6, '0') AS id FROM generate_series(1, $3::bigint) AS n) AS t";

const OBSERVED: &str = "
    INSERT INTO observed (compute_id, state, observed, change_seq, updated_at)
    SELECT id, $1, $2::jsonb || jsonb_build_object('spec_hash', encode(sha256(id::bytea), 'hex'),
                                                   'boot_id', gen_random_uuid()), $3::bigint + n, now()
    FROM (SELECT n, 'c' || lpad(n::text, 6, '0') AS id FROM generate_series(1, $3::bigint) AS n) AS t";

/// A database, and a leader while there is one.
pub struct Ground {
    /// Processes, keys and database.
    pub fleet: Fleet,
    leader: Option<Controller>,
    started: usize,
}

impl Ground {
    /// A database with the schema and no compute; nobody leads. None, with a line that says so, where there is no PostgreSQL.
    pub async fn make(name: &str) -> Option<Self> {
        Self::with(name, Options::durable()).await
    }

    /// The same, whose server counts statements where the extension for it is installed.
    pub async fn counting_statements(name: &str) -> Option<Self> {
        let mut options = Options::durable();
        let library = "pg_stat_statements";
        let installed = bin_dir()?.join(format!("../lib/{library}.so")).is_file();
        if installed {
            options.settings.push(("shared_preload_libraries".to_owned(), library.to_owned()));
        }
        let ground = Self::with(name, options).await?;
        if installed {
            let made = ground.fleet.database().await.batch_execute("CREATE EXTENSION pg_stat_statements").await;
            // Its control file is in another package on some systems; then transactions are counted.
            drop(made);
        }
        Some(ground)
    }

    async fn with(name: &str, mut options: Options) -> Option<Self> {
        options.settings.push(("max_connections".to_owned(), SESSIONS.to_owned()));
        let fleet = Fleet::with_server(name, options).await?;
        on_a_disk(&fleet);
        let mut ground = Self { fleet, leader: None, started: 0 };
        ground.lead(Probes::Never).await;
        ground.rest().await;
        Some(ground)
    }

    /// Starts a member and waits until it leads.
    pub async fn lead(&mut self, probes: Probes) -> &Controller {
        let member = self.launch(probes, false).await;
        member.leads(PATIENCE).await;
        self.leader.insert(member)
    }

    /// Starts a member that nobody waits for; as a candidate it asks the leader to step down.
    pub async fn launch(&mut self, probes: Probes, candidate: bool) -> Controller {
        self.started += 1;
        let name = format!("m{:03}", self.started);
        let member = self.fleet.controller(&name);
        let member = match probes {
            Probes::Never => member.lease("5s", "500ms").probe_interval(NEVER),
            Probes::AsShipped => member.as_shipped(),
        };
        let member = if candidate { member.as_candidate() } else { member };
        member.start().await
    }

    /// The leader.
    pub fn leader(&self) -> &Controller {
        self.leader.as_ref().unwrap_or_else(|| panic!("nobody leads"))
    }

    /// Another member leads from now on; the one before ends.
    pub async fn replace(&mut self, member: Controller) {
        self.rest().await;
        self.leader = Some(member);
    }

    /// Ends the leader in order, if there is one.
    pub async fn rest(&mut self) {
        if let Some(leader) = self.leader.take() {
            leader.process.terminate();
            leader.process.exit_code(PATIENCE).await;
        }
    }

    /// Address of the leader.
    pub fn address(&self) -> SocketAddr {
        let url = self.leader().url();
        url.trim_start_matches("http://").parse().unwrap_or_else(|error| stop(url, error))
    }

    /// A token that may change computes.
    pub fn token(&self) -> String {
        self.fleet.keys().scope(Scope::Infra)
    }

    /// Puts so many converged computes in, all with this agent. Nobody must lead.
    pub async fn plant(&self, computes: usize, agent_url: &str) {
        let count = i64::try_from(computes).unwrap_or(i64::MAX);
        let (seen, spec) = (seen(), marked_orders("mark"));
        let state = ComputeState::Running.as_str();
        self.put(count, &[(COMPUTES, &[&agent_url, &spec, &count]), (OBSERVED, &[&state, &seen, &count])]).await;
    }

    /// Runs these for so many computes and writes everything out.
    async fn put(&self, count: i64, rows: &[Rows<'_>]) {
        let mut database = self.fleet.database().await;
        let transaction = database.transaction().await.unwrap_or_else(|error| stop("planting does not begin", error));
        for (sql, parameters) in rows {
            let put = transaction.execute(*sql, parameters).await;
            put.unwrap_or_else(|error| stop(sql, format!("{error:?}")));
        }
        let put = transaction.execute("UPDATE change_cursor SET last_change = $1", &[&(2 * count)]).await;
        put.unwrap_or_else(|error| stop("change_cursor", error));
        transaction.commit().await.unwrap_or_else(|error| stop("planting does not end", error));
        for statement in ["VACUUM ANALYZE", "CHECKPOINT"] {
            database.batch_execute(statement).await.unwrap_or_else(|error| stop(statement, error));
        }
    }
}

/// A statement with its parameters.
type Rows<'a> = (&'a str, &'a [&'a (dyn ToSql + Sync)]);

/// How often a member asks agents by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probes {
    /// Not at all: the scenario is about something else.
    Never,
    /// All as the product is shipped: no option that is not needed to start it here.
    AsShipped,
}

/// Name of the how many-th planted compute, from 0.
#[must_use]
pub fn planted(index: usize) -> String {
    format!("c{:06}", index + 1)
}

/// The example of an order system with a first setting that carries a mark: a spec of an ordinary size.
#[must_use]
pub fn marked_orders(mark: &str) -> Value {
    let mut spec = orders();
    let setting = serde_json::json!({"name": "pgfleet_test.mark", "value": mark, "vartype": "string"});
    if let Some(settings) = spec.pointer_mut("/cluster/settings").and_then(Value::as_array_mut) {
        settings.insert(0, setting);
    }
    spec
}

/// What was observed of an agent that has the first generation in effect.
fn seen() -> Value {
    let observed = Observed {
        state: ComputeState::Running,
        boot_id: BootId::generate(),
        status_seq: 1,
        term: Some(Term(1)),
        generation: Some(Generation(1)),
        applied_generation: Some(Generation(1)),
        rejected_generation: None,
        spec_hash: None,
        pending_restart: Vec::new(),
        ignored_fields: Vec::new(),
        error: None,
        error_detail: None,
        failures: Vec::new(),
        postgres: None,
    };
    serde_json::to_value(observed).unwrap_or_else(|error| stop("an observation is no JSON", error))
}

fn stop(what: &str, error: impl Display) -> ! {
    panic!("{what}: {error}");
}
