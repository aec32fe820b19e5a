//! The smaller routes of the agent, with a real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

#[path = "../support/mod.rs"]
mod support;

mod catalog;
mod resources;
mod schema;
mod tokens;
mod writes;

use std::path::PathBuf;

use serde_json::{Value, json};
use support::{Compute, alice, setting, spec};

/// A running compute with a role and a database.
async fn running(program: PathBuf, flags: &[&str]) -> Compute {
    let compute = Compute::start(program, flags).await;
    let wanted = spec(
        json!([alice()]),
        json!([{"name": "orders", "owner": "alice"}]),
        json!([
            setting("shared_preload_libraries", "pg_stat_statements"),
            setting("fsync", "off"),
            setting("autovacuum", "off")
        ]),
    );
    let (code, status) = compute.post("/spec", wanted.to_string()).await;
    assert_eq!((code, &status["status"]), (200, &json!("running")), "{status}");
    compute
}

/// Sends to the port for programs on the same machine.
async fn internal(compute: &Compute, method: reqwest::Method, path: &str, body: Value) -> (u16, Value) {
    let request = reqwest::Client::new().request(method, format!("{}{path}", compute.internal_url));
    let response = request.body(body.to_string()).send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// A session of the superuser over the agent's socket.
async fn superuser(compute: &Compute, database: &str) -> tokio_postgres::Client {
    let mut config = tokio_postgres::Config::new();
    config.host_path(compute.dir.0.join("d.pgfleet/s")).port(compute.pgport).user("cloud_admin").dbname(database);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test's own session")]
    tokio::spawn(connection);
    client
}
