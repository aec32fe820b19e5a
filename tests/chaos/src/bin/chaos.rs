//! `chaos`: runs seeds one after the other and says what came of each.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use pgfleet_bench::results::{conclude, not_taken};
use pgfleet_chaos::report::{Figures, Results, WHOLE, line, markdown};
use pgfleet_chaos::run::{Outcome, run};

/// Real processes and a real PostgreSQL under seeded faults and load; every run is judged by its history. The same seed
/// gives the same schedule. With 200 runs or more the results are written.
#[derive(Parser)]
#[command(name = "chaos", term_width = 100)]
struct Asked {
    /// How many runs; their seeds follow each other.
    #[arg(long, default_value_t = 20)]
    runs: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Keep history and logs of every run in this directory; without it those of failed runs are in target/chaos.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Directory of the result files.
    #[arg(long, default_value = "bench/results")]
    out: PathBuf,
}

/// What the runs share.
#[derive(Default)]
struct Shared {
    waiting: VecDeque<u64>,
    figures: Figures,
    broken: Vec<String>,
}

fn main() -> ExitCode {
    let asked = match Asked::try_parse() {
        Ok(asked) => asked,
        Err(error) => return not_taken(&error),
    };
    let waiting = (asked.seed..asked.seed.saturating_add(asked.runs)).collect();
    let shared = Mutex::new(Shared { waiting, ..Shared::default() });
    // A thread and a runtime for each: what one run waits for holds up no other's faults.
    std::thread::scope(|scope| {
        for _ in 0..asked.jobs.max(1) {
            scope.spawn(|| work(&asked, &shared));
        }
    });
    let Shared { figures, broken, .. } = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    let whole = figures.runs >= WHOLE;
    let results = Results {
        scenario: "chaos",
        commit: pgfleet_bench::commit(),
        date: pgfleet_bench::today(),
        machine: pgfleet_bench::machine(),
        n: figures.runs,
        seed: asked.seed,
        figures,
        floors: BTreeMap::new(),
    };
    conclude("chaos", &asked.out, &results, &markdown(&results), &broken, whole)
}

/// Runs seeds until none is left.
fn work(asked: &Asked, shared: &Mutex<Shared>) {
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    let dir = asked.keep.clone().unwrap_or_else(|| "target/chaos".into());
    loop {
        let Some(seed) = lock().waiting.pop_front() else { return };
        match runtime.block_on(run(seed, &dir)) {
            Some(outcome) => {
                let mut shared = lock();
                shared.figures.add(&outcome);
                conclude_one(&outcome, asked.keep.is_some(), &mut shared.broken);
            }
            None => {
                lock().broken.push("there is no PostgreSQL".to_owned());
                return;
            }
        }
    }
}

/// Says what came of a run; a failed one with all that is needed to look at it and to run it again.
fn conclude_one(outcome: &Outcome, keep: bool, broken: &mut Vec<String>) {
    println!("{}", line(outcome));
    if outcome.passed() {
        if !keep {
            drop(std::fs::remove_dir_all(&outcome.dir));
        }
        return;
    }
    let seed = outcome.seed;
    let violations = outcome.violations();
    for violation in violations.iter().take(8) {
        println!("    {violation}");
    }
    println!(
        "    {} violations; files in {}; again: make chaos RUNS=1 SEED={seed}",
        violations.len(),
        outcome.dir.display()
    );
    broken.push(format!("seed {seed}: {} violations", violations.len()));
}
