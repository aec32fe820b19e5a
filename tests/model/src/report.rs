//! What was found, for machines and for readers.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::explore::Explored;
use crate::mind::{Mind, Stand};
use crate::scene::{Breach, Finding, Mutant};
use crate::world::World;

/// `bench/results/model.json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Always `model`.
    pub scenario: &'static str,
    /// The commit that was explored.
    pub commit: String,
    /// The day, in UTC.
    pub date: String,
    /// Cores, memory, kernel.
    pub machine: String,
    /// How many scenes.
    pub n: usize,
    /// What was found.
    pub figures: Figures,
    /// Nothing is measured.
    pub floors: BTreeMap<String, f64>,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Whether every state of every scene was seen.
    pub complete: bool,
    /// Members of the largest scene.
    pub members: u8,
    /// States of all scenes.
    pub states: usize,
    /// States that break a rule of safety.
    pub violations: usize,
    /// States from which a member cannot govern by itself.
    pub headless_states: usize,
    /// What came of each rule that was switched off.
    pub mutants: BTreeMap<&'static str, &'static str>,
    /// Each scene.
    pub scenes: BTreeMap<&'static str, SceneFigures>,
}

/// One scene.
#[derive(Debug, Serialize)]
pub struct SceneFigures {
    complete: bool,
    members: u8,
    states: usize,
    steps: usize,
    violations: usize,
    headless_states: usize,
    parts: Vec<&'static str>,
}

impl Report {
    /// An empty one of this commit, this day, this machine.
    #[must_use]
    pub fn here() -> Self {
        Self {
            scenario: "model",
            commit: pgfleet_bench::commit(),
            date: pgfleet_bench::today(),
            machine: pgfleet_bench::machine(),
            n: 0,
            figures: Figures {
                complete: true,
                members: 0,
                states: 0,
                violations: 0,
                headless_states: 0,
                mutants: BTreeMap::new(),
                scenes: BTreeMap::new(),
            },
            floors: BTreeMap::new(),
        }
    }

    /// Adds what a scene showed.
    pub fn scene(&mut self, found: &Explored) {
        let (scene, figures) = (found.scene(), &mut self.figures);
        self.n += 1;
        figures.complete &= found.complete;
        figures.members = figures.members.max(scene.members);
        figures.states += found.states;
        figures.violations += found.violations();
        figures.headless_states += found.headless.0;
        let one = SceneFigures {
            complete: found.complete,
            members: scene.members,
            states: found.states,
            steps: found.steps,
            violations: found.violations(),
            headless_states: found.headless.0,
            parts: scene.parts(),
        };
        figures.scenes.insert(scene.name, one);
    }

    /// Adds what came of a rule that was switched off: whether that was noticed.
    pub fn mutant(&mut self, mutant: Mutant, found: &Explored) -> bool {
        let caught = mutant.finds().iter().any(|finding| found.has(*finding));
        self.figures.mutants.insert(mutant.as_str(), if caught { "caught" } else { "missed" });
        caught
    }

    /// For readers.
    #[must_use]
    pub fn markdown(&self) -> String {
        let figures = &self.figures;
        let mut text = format!(
            "# The model of leadership\n\n{} states, {} violations, {} headless states; every state was seen: {}. {}, {}, commit {}.\n\n\
             | scene | members | states | steps | violations | headless | parts |\n|---|---|---|---|---|---|---|\n",
            figures.states,
            figures.violations,
            figures.headless_states,
            if figures.complete { "yes" } else { "no" },
            self.machine,
            self.date,
            self.commit,
        );
        for (name, one) in &figures.scenes {
            let _ = writeln!(
                text,
                "| {name} | {} | {}{} | {} | {} | {} | {} |",
                one.members,
                one.states,
                if one.complete { "" } else { " (not all)" },
                one.steps,
                one.violations,
                one.headless_states,
                one.parts.join(", "),
            );
        }
        text.push_str("\n| rule switched off | |\n|---|---|\n");
        for (name, outcome) in &figures.mutants {
            let _ = writeln!(text, "| {name} | {outcome} |");
        }
        text
    }
}

/// What is wrong with a scene, one line each.
#[must_use]
pub fn judge(found: &Explored) -> Vec<String> {
    let name = found.scene().name;
    let mut wrong = Vec::new();
    if !found.complete {
        wrong.push(format!("{name}: not every state was seen within the limit"));
    }
    let breaches = Breach::ALL.into_iter().map(Finding::Breach);
    for finding in breaches.chain([Finding::Headless]) {
        wrong.extend(describe(found, finding).map(|text| format!("{name}: {text}")));
    }
    wrong
}

/// How a finding comes about, step by step.
#[must_use]
pub fn describe(found: &Explored, finding: Finding) -> Option<String> {
    let (state, mut text) = match finding {
        Finding::Breach(breach) => {
            let (_, state, count) = found.breaches.iter().find(|(known, ..)| *known == breach)?;
            (*state, format!("broken: {} ({count} states). How:\n", breach.property()))
        }
        Finding::Headless => {
            let (state, member) = found.headless.1?;
            let count = found.headless.0;
            (
                state,
                format!(
                    "headless: {count} states; in the first one, member {member} can never govern by itself. How:\n"
                ),
            )
        }
    };
    for (step, world) in found.path(state) {
        if let Some(step) = step {
            let _ = writeln!(text, "- member {}: {:?}", step.by, step.what);
        }
        let _ = writeln!(text, "    {}", line(&world));
    }
    Some(text)
}

/// A world in one line. Members change places, terms and lives are ranks.
fn line(world: &World) -> String {
    let mut text = match world.row {
        None => "no row".to_owned(),
        Some(row) => format!(
            "row: term {} of {}.{}{}",
            row.term,
            row.owner.slot,
            row.owner.life,
            if row.released { ", released" } else { "" }
        ),
    };
    for (slot, member) in (0..).zip(&world.members) {
        let what = member.mind.as_ref().map_or("down".to_owned(), told);
        let _ = write!(text, " | {slot}.{}: {what}", member.last.life);
        if let Some(bid) = &member.bid {
            let consent = if bid.consent { "with" } else { "without" };
            let _ = write!(
                text,
                ", claim {consent} consent {:?}{}",
                bid.stage,
                if bid.renewed { ", renewed since" } else { "" }
            );
        }
        if let Some(write) = &member.write {
            let _ = write!(text, ", write open by {}.{} in term {}", write.by.slot, write.by.life, write.term);
        }
    }
    let (term, generation, _) = world.agents.ledger;
    let _ = write!(text, " | spec {}, agent at ({term}, {generation})", world.agents.spec.generation);
    text
}

fn told(mind: &Mind) -> String {
    match mind.stand {
        Stand::Idle | Stand::Asking | Stand::Claiming | Stand::Gone => format!("{:?}", mind.stand),
        Stand::TakingOver { term, .. } => format!("TakingOver {term}"),
        Stand::Leader { term, .. } => format!("Leader {term}"),
        Stand::Suspended { term, .. } => format!("Suspended {term}"),
        Stand::SteppingDown { term, why } => format!("SteppingDown {term} {why:?}"),
        Stand::SteppedDown { term, successor, .. } => format!("SteppedDown {term} for {successor:?}"),
    }
}
