//! `model`: explores every scene, or shows what is found when a rule is switched off.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pgfleet_bench::results::{conclude, not_taken};
use pgfleet_model::explore::{Explored, explore};
use pgfleet_model::report::{Report, describe, judge};
use pgfleet_model::scene::{Mutant, Scene};

/// Explores every state that a few controllers, their database and an agent can reach, and looks for one that must not be.
#[derive(Debug, Parser)]
struct Asked {
    /// Only this scene; its results are shown and not written.
    #[arg(long)]
    scene: Option<String>,
    /// Switch this rule off, and show how the model finds it: fence, renewals, ledger, revert, end_sessions, cluster_id, raise.
    #[arg(long, conflicts_with = "scene")]
    mutant: Option<String>,
    /// Give up after so many states of a scene; about 200 bytes of memory each.
    #[arg(long, default_value_t = 30_000_000)]
    limit: usize,
    /// Where the results are written.
    #[arg(long, default_value = "bench/results")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let asked = match Asked::try_parse() {
        Ok(asked) => asked,
        Err(error) => return not_taken(&error),
    };
    if let Some(name) = &asked.mutant {
        return show_mutant(name, asked.limit);
    }
    let scenes = Scene::DEEP.iter().filter(|scene| asked.scene.as_ref().is_none_or(|name| scene.name == name));
    let mut report = Report::here();
    let mut broken = Vec::new();
    for scene in scenes {
        let found = explored(scene, asked.limit);
        broken.extend(judge(&found));
        report.scene(&found);
    }
    if asked.scene.is_none() {
        for mutant in Mutant::ALL {
            let found = explored(&mutant.scene(), asked.limit);
            if !report.mutant(mutant, &found) {
                broken.push(format!("the model does not notice that `{}` is switched off", mutant.as_str()));
            }
        }
    }
    conclude("model", &asked.out, &report, &report.markdown(), &broken, asked.scene.is_none())
}

fn explored(scene: &Scene, limit: usize) -> Explored {
    eprintln!("{}: exploring", scene.name);
    explore(scene, limit, |states, waiting| {
        if states.is_multiple_of(1_000_000) {
            eprintln!("{}: {states} states, {waiting} to be expanded", scene.name);
        }
    })
}

/// Succeeds if the rule that is off is missed.
fn show_mutant(name: &str, limit: usize) -> ExitCode {
    let Some(mutant) = Mutant::ALL.into_iter().find(|mutant| mutant.as_str() == name) else {
        eprintln!("there is no rule `{name}`: {}", Mutant::ALL.map(Mutant::as_str).join(", "));
        return ExitCode::from(64);
    };
    let found = explored(&mutant.scene(), limit);
    let text = mutant.finds().iter().find_map(|finding| describe(&found, *finding));
    match text {
        Some(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("the model does not notice that `{name}` is switched off");
            ExitCode::FAILURE
        }
    }
}
