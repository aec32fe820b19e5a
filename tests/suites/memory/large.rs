//! A hand-over costs the same whatever the size of the fleet.

use std::time::{Duration, Instant};

use pgfleet_harness::controller::{Controller, ControllerOptions};
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::postgres::{Options, TestClient};
use pgfleet_harness::specs::marked;
use pgfleet_harness::wait::wait_until;

use super::{NOBODY, hand_over, registration};

/// Loading so many in an unoptimised build, beside other tests.
const LOAD: Duration = Duration::from_secs(120);

/// Converged computes: what was asked for is what was observed, so nothing has to be done about any of them.
const FILL: &str = "
    WITH spec AS (SELECT jsonb_build_object('format_version', 1.0, 'suspend_timeout_seconds', 0, 'cluster',
                             jsonb_build_object('roles', '[]'::jsonb, 'databases', '[]'::jsonb)) AS body),
         made AS (
        INSERT INTO computes (compute_id, agent_url, labels, generation, spec, spec_hash, change_seq, created_at, updated_at)
        SELECT 'c' || lpad(n::text, 6, '0'), $2, '{}', 1, body, repeat('a', 64), 1 + 2 * n, now(), now()
        FROM generate_series(1, $1::bigint) n, spec
        RETURNING compute_id, change_seq, spec_hash
    ), seen AS (
        INSERT INTO observed (compute_id, state, observed, change_seq, updated_at)
        SELECT compute_id, 'running', jsonb_build_object('state', 'running', 'boot_id', gen_random_uuid(), 'status_seq', 5,
               'term', 1, 'generation', 1, 'applied_generation', 1, 'rejected_generation', null, 'spec_hash', spec_hash),
               change_seq + 1, now()
        FROM made
    )
    UPDATE change_cursor SET last_change = 2 + 2 * $1::bigint";

/// Rows that statements of the controllers have given or changed since the statistics were reset.
async fn rows(database: &TestClient) -> i64 {
    let sql = "SELECT coalesce(sum(s.rows), 0)::bigint FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
               WHERE d.datname = current_database() AND s.query NOT LIKE '%pg_stat_statements%'";
    database.query_one(sql, &[]).await.unwrap().get(0)
}

fn quiet<'f>(fleet: &'f Fleet, name: &str) -> ControllerOptions<'f> {
    // Nobody answers for these computes, and nobody asks them during the test.
    fleet.controller(name).lease("20s", "500ms").memory_door().probe_interval("1h")
}

async fn remembers(member: &Controller, change_seq: i64) {
    let what = format!("{} remembers change {change_seq}", member.process.name());
    wait_until(&what, LOAD, async || {
        member.process.still_runs();
        super::metric(member, "storage_controller_follower_change_seq").await >= change_seq as f64
    })
    .await;
    super::is_warm(member).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_hand_over_reads_only_the_tail() {
    let settings = vec![
        ("shared_preload_libraries".to_owned(), "pg_stat_statements".to_owned()),
        ("max_connections".to_owned(), "50".to_owned()),
    ];
    let Some(fleet) = Fleet::with_server("a_warm_hand_over_reads_only_the_tail", Options { settings }).await else {
        return;
    };
    let count: i64 = 100_000;
    let first = quiet(&fleet, "first").start_leader().await;
    first.process.terminate();
    assert_eq!(first.process.exit_code(LOAD).await, 0);
    let database = fleet.database().await;
    database.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
    database.execute(FILL, &[&count, &NOBODY]).await.unwrap();

    let begun = Instant::now();
    let a = quiet(&fleet, "a").start().await;
    a.leads(LOAD).await;
    println!("{count} computes loaded and led after {:?}", begun.elapsed());
    let b = quiet(&fleet, "b").start().await;
    remembers(&b, 2 + 2 * count).await;
    fleet.client(&[&a]).register(&"new".parse().unwrap(), &registration(None)).await.unwrap();

    for (from, to) in [(&a, &b), (&b, &a), (&a, &b)] {
        remembers(to, 3 + 2 * count).await;
        database.batch_execute("SELECT pg_stat_statements_reset()").await.unwrap();
        hand_over(&fleet, from, to).await;
        let spec = marked(to.process.name());
        fleet.client(&[to]).put_spec(&"new".parse().unwrap(), &spec, None).await.unwrap();
        let read = rows(&database).await;
        let gap = super::metric(to, "storage_controller_handover_gap_seconds").await;
        let load = super::metric(to, "storage_controller_handover_phase_seconds{phase=\"load\"}").await;
        let start = super::metric(to, "storage_controller_handover_phase_seconds{phase=\"start\"}").await;
        println!("{count} computes: {read} rows, gap {gap} s, load {load} s, start {start} s");
        assert!(read < 1000, "{read} rows were read in a hand-over of {count} computes");
    }
}
