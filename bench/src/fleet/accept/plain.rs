//! The handler that anybody would write first: each request takes a connection from the pool and writes its row.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, State};
use axum::routing::put;
use axum::{Json, Router};
use http::StatusCode;
use pgfleet_harness::postgres::TestClient;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_postgres::Statement;

use super::bare::serve;
use super::{Course, Rates};
use crate::fleet::ground::Ground;

/// Connections of the pool: more do not write more on two cores.
const POOL: usize = 16;

/// The table of both floors that write rows.
pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS bench_rows (compute_id text PRIMARY KEY, generation bigint NOT NULL, spec jsonb NOT NULL,
                                           updated_at timestamptz NOT NULL)";

const UPSERT: &str = "
    INSERT INTO bench_rows AS old VALUES ($1, 1, $2, now())
    ON CONFLICT (compute_id) DO UPDATE SET generation = old.generation + 1, spec = excluded.spec, updated_at = now()
    RETURNING generation";

struct Pool {
    places: Semaphore,
    idle: Mutex<Vec<(TestClient, Statement)>>,
}

/// Requests per second at each number of clients.
pub(super) async fn measure(ground: &Ground, course: &Course) -> Option<Rates> {
    let database = ground.fleet.database().await;
    database.batch_execute(TABLE).await.unwrap_or_else(|error| panic!("no table: {error}"));
    let mut idle = Vec::new();
    for _ in 0..POOL {
        let client = ground.fleet.database().await;
        let upsert = client.prepare(UPSERT).await.unwrap_or_else(|error| panic!("no statement: {error}"));
        idle.push((client, upsert));
    }
    let pool = Arc::new(Pool { places: Semaphore::new(POOL), idle: Mutex::new(idle) });
    let router = Router::new().route("/control/v1/compute/{compute_id}/spec", put(write)).with_state(pool);
    let (address, _server) = serve(router).await;
    Some(course.rates(address).await)
}

async fn write(
    State(pool): State<Arc<Pool>>,
    Path(compute): Path<String>,
    Json(spec): Json<Value>,
) -> Result<(StatusCode, Json<Value>), StatusCode> {
    let failed = |_| StatusCode::INTERNAL_SERVER_ERROR;
    let _place = pool.places.acquire().await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let taken = pool.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let (client, upsert) = taken.ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
    let written = client.query_one(&upsert, &[&compute, &spec]).await;
    pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push((client, upsert));
    let generation: i64 = written.map_err(failed)?.get(0);
    Ok((StatusCode::ACCEPTED, Json(json!({"generation": generation}))))
}
