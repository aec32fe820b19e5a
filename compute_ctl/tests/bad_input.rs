//! Bad input from outside: bodies without end, JSON without bottom, clients that never finish, values that quote.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Compute, alice, postgres_program, setting, spec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What bounds an answer that must come at once; a slow machine has to keep it, a body that is waited for cannot.
const AT_ONCE: Duration = Duration::from_secs(10);

async fn connect(compute: &Compute) -> TcpStream {
    let address = compute.url().strip_prefix("http://").unwrap().to_owned();
    TcpStream::connect(address).await.unwrap()
}

/// Sends some bytes and reads until the agent closes the connection.
async fn until_closed(mut stream: TcpStream, sent: &[u8]) -> String {
    stream.write_all(sent).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(AT_ONCE, stream.read_to_end(&mut answer)).await;
    assert!(matches!(read, Ok(Ok(_))), "{read:?} after {} bytes", answer.len());
    String::from_utf8_lossy(&answer).to_ascii_lowercase()
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_at_once() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    for path in ["/spec", "/configure"] {
        // Not a byte of the body was sent.
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 4194305\r\n\r\n");
        let answer = until_closed(connect(&compute).await, head.as_bytes()).await;
        assert!(answer.starts_with("http/1.1 413") && answer.contains("payload_too_large"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");

        // In chunks nobody knows how long it will be: the limit is one byte behind us, and no end was sent.
        let mut endless = format!("POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes();
        endless.extend_from_slice(format!("{:x}\r\n", 4_194_305).as_bytes());
        endless.extend(std::iter::repeat_n(b' ', 4_194_305));
        let answer = until_closed(connect(&compute).await, &endless).await;
        assert!(answer.starts_with("http/1.1 413") && answer.contains("connection: close"), "{answer}");
    }
    // A client that is in the middle of sending gets to read why.
    for bytes in [4_194_305, 6_000_000, 20_000_000] {
        for _ in 0..20 {
            let (code, error) = compute.post("/spec", " ".repeat(bytes)).await;
            assert_eq!((code, &error["code"]), (413, &json!("payload_too_large")), "{error}");
        }
    }
    // What fits exactly is read, and only then found not to be JSON.
    assert_eq!(compute.post("/spec", " ".repeat(4 * 1024 * 1024)).await.0, 400);
    assert_eq!(compute.status().await["status"], "empty");
}

#[tokio::test]
async fn depth_is_bounded_at_every_door() {
    let Some(program) = postgres_program() else { return };
    let mut compute = Compute::start(program, &[]).await;
    let nest = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let minimal = spec(json!([]), json!([]), json!([])).to_string();
    let with = |levels: usize| minimal.replacen('{', &format!("{{\"deep\":{},", nest(levels)), 1);
    for body in [nest(150_000), with(150_000), with(130)] {
        let (code, error) = compute.post("/spec", body).await;
        assert_eq!((code, &error["code"]), (400, &json!("not_json")), "{error}");
    }
    let (code, error) = compute.post("/spec", with(64)).await;
    assert_eq!((code, &error["code"]), (422, &json!("invalid_body")), "{error}");

    // The deepest spec that is taken is kept in the ledger, and the next agent reads it from there.
    let (code, status) = compute.post("/spec", with(63)).await;
    assert_eq!((code, &status["ignored_fields"]), (200, &json!(["deep"])), "{status}");
    compute.signal_agent("TERM");
    assert_eq!(compute.agent_ended().await.code(), Some(0));
    compute.start_agent(&[]).await;
    compute.until("running from the ledger", |status| status["status"] == "running").await;
    compute.signal_agent("TERM");
    compute.agent_ended().await;

    std::fs::write(compute.dir.0.join("deep.json"), with(150_000)).unwrap();
    for flag in ["-S", "-c"] {
        let output = compute.command(&[flag, "deep.json"]).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{flag}");
    }
    let ledger = compute.dir.0.join("d.pgfleet/ledger.json");
    let mut bytes = std::fs::read(&ledger).unwrap();
    let damaged = [with(150_000).into_bytes(), bytes[..bytes.len() / 2].to_vec(), {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    }];
    for bytes in damaged {
        std::fs::write(&ledger, bytes).unwrap();
        let output = compute.command(&[]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains("ledger.json") && said.contains("restore it"), "{said}");
    }
}

#[tokio::test]
async fn slow_clients_do_not_stop_the_status() {
    const SLOW: usize = 1000;
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    let mut slow = Vec::with_capacity(SLOW);
    for n in 0..SLOW {
        let mut stream = connect(&compute).await;
        let begun: &[u8] = match n % 4 {
            0 => b"",
            1 => b"GET /status HTTP/1.1\r\nhost: x\r\n",
            2 => b"POST /configure HTTP/1.1\r\nhost: x\r\ncontent-length: 4000000\r\n\r\n{\"spec\": ",
            _ => b"POST /spec HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"clu",
        };
        stream.write_all(begun).await.unwrap();
        slow.push(stream);
    }
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(compute.status().await["status"], "empty");
    }
    assert!(begun.elapsed() < AT_ONCE, "{:?} for 20 answers", begun.elapsed());
    // Specs come in as well, past those that never end.
    let (code, error) = compute.post("/spec", "{}").await;
    assert_eq!((code, &error["code"]), (422, &json!("invalid_body")), "{error}");
    assert_eq!(slow.len(), SLOW);
}

/// Values that quote, escape or end something, as PostgreSQL itself reads them from the file.
#[tokio::test]
async fn every_value_reaches_postgresql_as_it_was_written() {
    let Some(program) = postgres_program() else { return };
    let compute = Compute::start(program, &[]).await;
    let values = [
        "",
        " ",
        "'",
        "''",
        "\\",
        "\\\\",
        "\\'",
        "'\\",
        "\\n",
        "\\000",
        "#",
        "a # b",
        "a=b",
        "include 'x'",
        "\t",
        "$x$",
        "%",
        "é",
        "\u{a0}",
        "\u{1f418}",
        "x'; DROP TABLE t; --",
        "\"quoted\"",
        "${HOME}",
        "line\u{2028}separator",
        "\u{1}\u{7f}",
    ];
    let settings: Vec<Value> = values.iter().enumerate().map(|(n, value)| setting(&format!("t.v{n}"), value)).collect();
    let mut wanted = spec(json!([alice()]), json!([]), json!(settings));
    // The same in the raw text, which is read by the agent and written anew.
    let quote = |value: &str| value.replace('\\', "\\\\").replace('\'', "''");
    let raw: String =
        values.iter().enumerate().map(|(n, value)| format!("r.v{n} = '{}' # c\n", quote(value))).collect();
    wanted["cluster"]["postgresql_conf"] = json!(raw);
    let (code, status) = compute.post("/spec", wanted.to_string()).await;
    assert_eq!(code, 200, "{status}");
    for (n, value) in values.iter().enumerate() {
        for class in ["t", "r"] {
            let asked = format!("SELECT current_setting('{class}.v{n}')");
            assert_eq!(&compute.ask("alice", "pw1", "postgres", &asked).await.unwrap(), value, "{class}.v{n}");
        }
    }
}
