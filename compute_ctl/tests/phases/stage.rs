//! A compute whose specs are applied one after the other, and a superuser beside it.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use compute_ctl::apply::preview;
use compute_ctl::postgres::{Options, Postgres, Programs};
use pgfleet_api::plan::PlannedChange;
use pgfleet_runtime::TaskGroup;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, NoTls};

use crate::support::{Compute, postgres_program, setting};

pub struct Stage {
    pub compute: Compute,
    program: PathBuf,
    generation: AtomicI64,
}

/// A session of the superuser, which ends with the value.
pub struct Admin {
    pub client: Client,
    _link: JoinSet<()>,
}

impl Admin {
    pub async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The answer as text; empty where there is no row or it is null.
    pub async fn ask(&self, sql: &str) -> String {
        let rows = self.client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let row = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        row.and_then(|row| row.get(0)).unwrap_or_default().to_owned()
    }
}

/// A spec with nothing that writes by itself in the background.
pub fn quiet_spec(roles: Value, databases: Value, deltas: Value) -> Value {
    let settings = json!([setting("autovacuum", "off")]);
    with_settings(
        &json!({"format_version": 1.0, "suspend_timeout_seconds": 0, "delta_operations": deltas,
        "cluster": {"roles": roles, "databases": databases, "settings": settings}}),
        json!([]),
    )
}

pub fn with_settings(spec: &Value, more: Value) -> Value {
    let mut spec = spec.clone();
    let settings = spec["cluster"]["settings"].as_array_mut().unwrap();
    settings.extend(more.as_array().unwrap().iter().cloned());
    spec
}

impl Stage {
    /// None: PostgreSQL is missing here.
    pub async fn new() -> Option<Self> {
        let program = postgres_program()?;
        let compute = Compute::start(program.clone(), &[]).await;
        Some(Self { compute, program, generation: AtomicI64::new(0) })
    }

    pub async fn admin(&self, database: &str) -> Admin {
        self.login("cloud_admin", database).await
    }

    /// Over the socket, where nobody needs a password.
    pub async fn login(&self, user: &str, database: &str) -> Admin {
        let mut config = Config::new();
        config.host_path(self.compute.dir.0.join("d.pgfleet/s")).port(self.compute.pgport);
        let (client, connection) = config.user(user).dbname(database).connect(NoTls).await.unwrap();
        let mut link = JoinSet::new();
        link.spawn(async move {
            let _ = connection.await;
        });
        Admin { client, _link: link }
    }

    pub async fn ask(&self, database: &str, sql: &str) -> String {
        self.admin(database).await.ask(sql).await
    }

    pub async fn run(&self, database: &str, sql: &str) {
        self.admin(database).await.run(sql).await;
    }

    /// Another program of the same installation.
    pub fn program_beside(&self, name: &str) -> PathBuf {
        self.program.with_file_name(name)
    }

    fn postgres(&self) -> Postgres {
        let state_dir = self.compute.dir.0.join("d.pgfleet");
        let options = Options {
            programs: Programs::find(&self.program).unwrap(),
            data_dir: self.compute.pgdata(),
            socket_dir: state_dir.join("s"),
            state_dir,
            run_as: None,
            superuser: "cloud_admin".into(),
            privileged_role: "neon_superuser".into(),
            database: "postgres".into(),
            port: self.compute.pgport,
            stop_limit: Duration::from_secs(60),
            log_limit_bytes: u64::MAX,
        };
        Postgres::new(options, TaskGroup::new("test"))
    }

    /// What the hands say that they would do.
    pub async fn preview(&self, spec: &Value) -> Vec<PlannedChange> {
        preview(&self.postgres(), &serde_json::from_value(spec.clone()).unwrap()).await.unwrap()
    }

    /// Applies the spec as the next generation.
    pub async fn apply(&self, spec: &Value) -> (u16, Value) {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let fence = json!({"cluster_id": "11111111-1111-4111-8111-111111111111", "compute_id": "no-compute", "term": 1,
            "generation": generation, "spec_hash": format!("{generation:064x}")});
        self.compute.configure(spec, Some(fence)).await
    }

    /// Applies it and wants it to work. Where PostgreSQL ran before, what was foretold is what is done.
    pub async fn applies(&self, spec: &Value) {
        if self.compute.postmaster().is_none() {
            let (code, body) = self.apply(spec).await;
            assert_eq!(code, 200, "{body}");
            return;
        }
        let foretold = self.preview(spec).await;
        let (before, log) = (self.objects().await, self.compute.agent_log().len());
        let (code, body) = self.apply(spec).await;
        assert_eq!(code, 200, "{body}");
        assert_eq!(self.objects().await - before, foretold.len() as u64, "{foretold:#?}");
        let log = self.compute.agent_log().split_off(log);
        for PlannedChange { phase, object, words } in &foretold {
            let line = format!("{phase} {object:?}: {words:?} is done");
            assert!(log.contains(&line), "it was foretold and not done: {line}\n{log}");
        }
    }

    /// Objects changed so far, well or not.
    async fn objects(&self) -> u64 {
        let (_, page) = self.compute.get("/metrics").await;
        let lines = page.as_str().unwrap().lines().filter(|line| line.starts_with("compute_ctl_apply_objects_total{"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Applies it and wants it to fail: phase and object to SQLSTATE and message, as the agent's log has them.
    pub async fn fails(&self, spec: &Value) -> BTreeMap<String, String> {
        let log = self.compute.agent_log().len();
        let (code, body) = self.apply(spec).await;
        assert_eq!((code, &body["code"]), (500, &json!("apply_failed")), "{body}");
        let log = self.compute.agent_log().split_off(log);
        let mut failures = BTreeMap::new();
        for line in log.lines().filter(|line| line.contains(" WARN compute_ctl::apply") && line.contains("sqlstate=")) {
            let field = |name: &str| {
                let rest = line.split(&format!(" {name}=\"")).nth(1).unwrap();
                rest.split('"').next().unwrap().to_owned()
            };
            failures.insert(format!("{} {}", field("phase"), field("object")), field("sqlstate"));
        }
        assert!(!failures.is_empty(), "{log}");
        failures
    }

    /// Applies the spec again and wants nothing to be foretold, done or written.
    pub async fn is_done(&self, spec: &Value) {
        assert_eq!(self.preview(spec).await, [], "there is still something to do");
        let admin = self.admin("postgres").await;
        let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())";
        let before = admin.ask(next).await;
        let (code, body) = self.apply(spec).await;
        assert_eq!(code, 200, "{body}");
        assert_eq!(admin.ask(next).await, before, "a second run writes");
    }

    /// Waits until a session of the agent waits for a lock, and says its process.
    pub async fn blocked(&self) -> String {
        let admin = self.admin("postgres").await;
        let sql = "SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, 'compute_ctl') AND wait_event_type = 'Lock'";
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let pid = admin.ask(sql).await;
            if !pid.is_empty() {
                return pid;
            }
            assert!(Instant::now() < deadline, "the agent never waits:\n{}", self.compute.agent_log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub fn failed(rows: &[(&str, &str)]) -> BTreeMap<String, String> {
    rows.iter().map(|(object, sqlstate)| ((*object).to_owned(), (*sqlstate).to_owned())).collect()
}

pub fn role(name: &str) -> Value {
    json!({"name": name, "encrypted_password": crate::support::SCRAM_PW1})
}

pub fn database(name: &str, owner: &str) -> Value {
    json!({"name": name, "owner": owner})
}

pub fn delta(action: &str, name: &str, new_name: Option<&str>) -> Value {
    json!({"action": action, "name": name, "new_name": new_name})
}
