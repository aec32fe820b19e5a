//! `GET /database_schema`.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{running, superuser};
use crate::support::{Compute, kill, postgres_program};

/// Processes called `pg_dump` that dump for this compute.
fn dumps(compute: &Compute) -> Vec<u32> {
    let output = Command::new("pgrep").args(["-f", &format!("pg_dump .*port='{}'", compute.pgport)]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(|pid| pid.parse().unwrap()).collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_schema_is_streamed_and_its_dump_ends_with_its_reader() {
    let Some(program) = postgres_program() else { return };
    let compute = running(program, &[]).await;
    let admin = superuser(&compute, "postgres").await;
    let odd = r#"dbname=x port=1 'q' \"#;
    admin.batch_execute(&format!("CREATE DATABASE \"{odd}\"")).await.unwrap();
    let inside = superuser(&compute, odd).await;
    inside.batch_execute("CREATE TABLE public.items (id bigint PRIMARY KEY, \"näme\" text)").await.unwrap();

    let request = compute.request(reqwest::Method::GET, "/database_schema").query(&[("database", odd)]);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    assert!(response.content_length().is_none(), "it is sent while it is made");
    let text = response.text().await.unwrap();
    assert!(text.contains("CREATE TABLE public.items (") && text.contains("\"näme\" text"), "{text}");
    assert!(text.contains("-- PostgreSQL database dump complete\n"), "{text}");

    let (code, said) = compute.get("/database_schema?database=nowhere").await;
    assert_eq!((code, &said["code"]), (404, &json!("unknown_object")), "{said}");
    let (code, said) = compute.get("/database_schema?database=template0").await;
    assert_eq!((code, &said["code"]), (422, &json!("refused")), "{said}");
    for query in ["", "?database=postgres&more=1"] {
        assert_eq!(compute.get(&format!("/database_schema{query}")).await.0, 400, "{query}");
    }

    // More text than all buffers on the way hold, so that a reader who stops holds it up.
    let many = "DO $$ BEGIN FOR i IN 1..3000 LOOP \
                EXECUTE format('COMMENT ON TABLE public.items IS %L', repeat('x', 3000)); \
                EXECUTE format('CREATE FUNCTION public.f%s() RETURNS text LANGUAGE sql AS %L', i, \
                'SELECT ' || quote_literal(repeat('y', 8000))); END LOOP; END $$";
    inside.batch_execute(many).await.unwrap();
    let open = || async {
        let request = compute.request(reqwest::Method::GET, "/database_schema").query(&[("database", odd)]);
        let mut response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.chunk().await.unwrap().is_some());
        response
    };
    let (left, killed) = (open().await, open().await);
    assert_eq!(dumps(&compute).len(), 2);
    let third = compute.request(reqwest::Method::GET, "/database_schema").query(&[("database", "orders")]);
    let third = third.send().await.unwrap();
    assert_eq!(third.status().as_u16(), 429, "two at a time");
    assert_eq!(third.json::<Value>().await.unwrap()["code"], "busy");

    // Who leaves ends his dump; who stays and loses it gets a broken body, never a short one that looks whole.
    drop(left);
    until("the dump without a reader ended", || dumps(&compute).len() == 1).await;
    kill(dumps(&compute)[0], "KILL");
    assert!(killed.bytes().await.is_err(), "a broken dump looks whole");
    until("its place is free again", || dumps(&compute).is_empty()).await;
    assert_eq!(compute.get("/database_schema?database=orders").await.0, 200);
}

#[tokio::test]
async fn a_locked_table_is_an_error_and_not_a_wait() {
    let Some(program) = postgres_program() else { return };
    let compute = running(program, &[]).await;
    let admin = superuser(&compute, "orders").await;
    admin.batch_execute("CREATE TABLE t (a int)").await.unwrap();
    admin.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let (code, said) = compute.get("/database_schema?database=orders").await;
    assert_eq!(code, 500, "{said}");
    assert!(said["error"].as_str().unwrap().contains("timeout"), "{said}");
}
