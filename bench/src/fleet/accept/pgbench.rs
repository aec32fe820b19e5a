//! PostgreSQL's own load: single-row upserts of the same body, at several numbers of clients.

use std::process::Stdio;

use tokio::process::Command;

use super::plain::TABLE;
use super::{CLIENTS, Course, EACH, Rates};
use crate::fleet::ground::Ground;
use crate::stats::rounded;

/// Numbers of clients, of which the best counts.
const TRIED: [usize; 6] = [1, 16, 32, 64, 128, 256];

/// Transactions per second at each number of clients.
pub(super) async fn measure(ground: &Ground, course: &Course) -> Rates {
    let database = ground.fleet.database().await;
    database.batch_execute(TABLE).await.unwrap_or_else(|error| panic!("no table: {error}"));
    let computes = CLIENTS[CLIENTS.len() - 1] * EACH;
    let script = ground.fleet.dir().join("upsert.sql");
    let text = format!(
        "\\set id random(1, {computes})\n\
         INSERT INTO bench_rows AS old VALUES ('c' || :id::text, 1, :spec::jsonb, now()) ON CONFLICT (compute_id) DO UPDATE \
         SET generation = old.generation + 1, spec = excluded.spec, updated_at = now();\n"
    );
    std::fs::write(&script, text).unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let mut body = Vec::new();
    course.body(&mut body);
    let body = String::from_utf8_lossy(&body).into_owned();
    let seconds = course.window.as_secs().max(1).to_string();
    let mut rates = Vec::new();
    for clients in TRIED {
        let run = Command::new(ground.fleet.cluster().bin_dir().join("pgbench"))
            .args(["-n", "-M", "prepared", "-j", "2", "-T", &seconds, "-c", &clients.to_string(), "-D"])
            .arg(format!("spec={body}"))
            .arg("-f")
            .arg(&script)
            .arg(ground.fleet.database_url())
            .stdin(Stdio::null())
            .output();
        let run = run.await.unwrap_or_else(|error| panic!("pgbench cannot be started: {error}"));
        let (said, wrong) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success(), "pgbench failed: {said}{wrong}");
        // A machine that stood still for the whole time has no rate to show.
        rates.push((clients, rounded(rate(&said).unwrap_or(0.0))));
    }
    rates
}

/// Transactions per second, without the time to connect.
fn rate(said: &str) -> Option<f64> {
    said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_rate_is_read() {
        let said = "latency average = 1.1 ms\ninitial connection time = 3.0 ms\ntps = 912.5 (without initial connection time)\n";
        assert_eq!(super::rate(said), Some(912.5));
    }
}
