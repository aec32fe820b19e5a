//! The bounded part of the chaos suite: a few seeds that are run with all other tests. `make chaos` runs as many as wanted.

use std::path::PathBuf;

use pgfleet_chaos::report::line;
use pgfleet_chaos::run::run;

/// Between them: a steady cluster, a migration that fails, two pause points, three candidates at once.
const SEEDS: [u64; 5] = [1, 4, 5, 6, 7];

/// Where record and logs of a failed run stay.
fn keep() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("chaos")
}

/// Every promise holds in every run.
#[tokio::test(flavor = "multi_thread")]
async fn a_few_seeds_keep_every_promise() {
    let mut failed = Vec::new();
    for seed in SEEDS {
        let Some(outcome) = run(seed, &keep()).await else { return };
        eprintln!("{}", line(&outcome));
        if outcome.passed() {
            drop(std::fs::remove_dir_all(&outcome.dir));
        } else {
            let dir = outcome.dir.display().to_string();
            failed.push(format!("seed {seed}: {:#?}, files in {dir}", outcome.violations()));
        }
    }
    assert!(failed.is_empty(), "again: make chaos RUNS=1 SEED=...\n{}", failed.join("\n"));
}
