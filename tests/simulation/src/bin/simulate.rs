//! Runs schedules from a seed on for so many seconds, and writes down what they found.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use pgfleet_simulation::Options;
use pgfleet_simulation::campaign::{Tally, explain};
use serde_json::json;

/// A line about the progress this often.
const PROGRESS: Duration = Duration::from_secs(10);
/// Violations that are explained; the others are only counted.
const EXPLAINED: usize = 5;
/// Exit code of a command line that cannot be used.
const USAGE: u8 = 64;
const HELP: &str = "simulate [--seconds N] [--seed S] [--out DIR]

Runs seeded schedules of faults against pgfleet's own decisions, in virtual time.
  --seconds N   for how long (default 60); 0 runs the one schedule of the seed and shows it
  --seed S      first seed (default: from the clock, printed)
  --out DIR     write simulation.json and simulation.md there; without it results are only printed";

struct Wanted {
    seconds: u64,
    seed: u64,
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    let wanted = match wanted() {
        Ok(Some(wanted)) => wanted,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(line) => {
            eprintln!("{line}\n\n{HELP}");
            return ExitCode::from(USAGE);
        }
    };
    let options = Options::default();
    if wanted.seconds == 0 {
        let text = explain(wanted.seed, &options);
        println!("{text}");
        let mut tally = Tally::default();
        tally.run(wanted.seed, &options);
        return if tally.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let (tally, seconds) = campaign(&wanted, &options);
    for (seed, _) in tally.violations.iter().take(EXPLAINED) {
        println!("{}", explain(*seed, &options));
    }
    let written = wanted.out.as_ref().map_or(Ok(()), |out| write(out, &tally, seconds, wanted.seed));
    if let Err(error) = written {
        eprintln!("the results cannot be written: {error}");
        return ExitCode::FAILURE;
    }
    if tally.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn campaign(wanted: &Wanted, options: &Options) -> (Tally, f64) {
    let begun = Instant::now();
    let mut told = begun;
    let mut tally = Tally::default();
    println!("seeds from {}", wanted.seed);
    while begun.elapsed() < Duration::from_secs(wanted.seconds) {
        tally.run(wanted.seed.wrapping_add(tally.schedules), options);
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            println!("{}", line(&tally, begun.elapsed()));
        }
    }
    println!("{}", line(&tally, begun.elapsed()));
    (tally, begun.elapsed().as_secs_f64())
}

fn line(tally: &Tally, elapsed: Duration) -> String {
    let rate = tally.schedules as f64 / elapsed.as_secs_f64();
    format!(
        "{:>5.0} s: {} schedules ({rate:.0}/s), {} steps, {} terms, {} writes, {} violations",
        elapsed.as_secs_f64(),
        tally.schedules,
        tally.steps,
        tally.terms,
        tally.writes,
        tally.violations.len()
    )
}

fn wanted() -> Result<Option<Wanted>, String> {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut wanted = Wanted { seconds: 60, seed: clock * 1_000_000, out: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--help" || word == "-h" {
            return Ok(None);
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse().map_err(|_| format!("{word} needs a number, not {value:?}"));
        match word.as_str() {
            "--seconds" => wanted.seconds = number()?,
            "--seed" => wanted.seed = number()?,
            "--out" => wanted.out = Some(value.into()),
            _ => return Err(format!("{word} is not known")),
        }
    }
    Ok(Some(wanted))
}

fn write(out: &std::path::Path, tally: &Tally, seconds: f64, seed: u64) -> std::io::Result<()> {
    let commit = said("git", &["rev-parse", "--short", "HEAD"])?;
    let date = said("date", &["-u", "+%F"])?;
    let machine = machine()?;
    let results = json!({
        "scenario": "simulation",
        "commit": commit,
        "date": date,
        "machine": machine,
        "n": tally.schedules,
        "figures": {
            "seconds": seconds.round(),
            "seed": seed,
            "schedules": tally.schedules,
            "steps": tally.steps,
            "violations": tally.violations.len(),
            "faults": tally.faults,
            "terms": tally.terms,
            "writes": tally.writes,
            "longest_convergence_ms": tally.longest_convergence_ms,
        },
        "floors": {},
    });
    let mut table = format!(
        "# Schedules of faults against the decisions, in virtual time\n\n{} schedules (from seed {seed}) in {seconds:.0} s, {} \
         violations. {machine}, {date}, commit {commit}.\n\n| what | how often |\n| --- | ---: |\n",
        tally.schedules,
        tally.violations.len()
    );
    let violations = tally.violations.len() as u64;
    let rows = [("steps", tally.steps), ("terms", tally.terms), ("writes acknowledged", tally.writes)];
    let rows = rows.into_iter().chain([("violations", violations)]);
    for (name, value) in rows.chain([("longest convergence, ms of the world", tally.longest_convergence_ms)]) {
        table += &format!("| {name} | {value} |\n");
    }
    for (kind, count) in &tally.faults {
        table += &format!("| fault `{kind}` | {count} |\n");
    }
    std::fs::create_dir_all(out)?;
    std::fs::write(out.join("simulation.json"), serde_json::to_string_pretty(&results)? + "\n")?;
    std::fs::write(out.join("simulation.md"), table)
}

fn said(program: &str, words: &[&str]) -> std::io::Result<String> {
    let output = std::process::Command::new(program).args(words).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Cores, memory and kernel: what a rate of schedules depends on.
fn machine() -> std::io::Result<String> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    Ok(format!("{cores} cores, {} GiB, Linux {}", kib.div_ceil(1 << 20), said("uname", &["-r"])?))
}
