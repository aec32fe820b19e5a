//! `--watch`: how far it is, until nothing more happens by itself. A bar on a terminal, else a line per change.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use pgfleet_api::RolloutId;
use pgfleet_api::rollout::{RolloutPhase, RolloutView, TargetPhase};
use pgfleet_clients::controller::ControllerClient;

use super::{Goal, count, counts_of, phase_of, print_troubles, verdict, wave_of};
use crate::cli::Output;
use crate::exit::CliError;
use crate::output::{print, print_json};

const EVERY: Duration = Duration::from_millis(500);
const WIDTH: u32 = 30;

/// Shows a roll-out until it is over, or halted, or where whoever watches wants it.
pub(super) async fn until_over(
    id: &RolloutId,
    goal: Goal,
    client: &ControllerClient,
    output: Output,
) -> Result<(), CliError> {
    let mut pace = Pace::default();
    let mut screen =
        Screen { bar: std::io::stderr().is_terminal(), said: String::new(), quiet: output == Output::Json };
    loop {
        let view = client.rollout(id).await?;
        pace.take(&view, Instant::now());
        screen.show(&view, &pace)?;
        let stays = view.phase.is_over()
            || view.phase == RolloutPhase::Halted
            || (goal == Goal::Paused && view.phase == RolloutPhase::Paused);
        if stays {
            screen.end();
            if output == Output::Json {
                print_json(&view)?;
            } else if !view.troubles.is_empty() {
                print_troubles(&view.troubles)?;
            }
            return verdict(&view, goal);
        }
        tokio::time::sleep(EVERY).await;
    }
}

struct Screen {
    bar: bool,
    said: String,
    /// The answer is for a program: nothing but the end is said.
    quiet: bool,
}

impl Screen {
    fn show(&mut self, view: &RolloutView, pace: &Pace) -> Result<(), CliError> {
        let counts = counts_of(&view.counts);
        let line = format!("{}: {}, wave {}: {counts}", view.rollout_id, phase_of(view), wave_of(view));
        if self.quiet {
            return Ok(());
        }
        if self.bar {
            let drawn = format!("\r\x1b[2K{} {} {}", bar(view), phase_of(view), pace.left(view));
            // A terminal that is gone ends the program by itself.
            drop(std::io::stderr().write_all(drawn.as_bytes()));
            return Ok(());
        }
        if self.said == line {
            return Ok(());
        }
        self.said.clone_from(&line);
        print(&format!("{line}; {}", pace.left(view)))
    }

    fn end(&self) {
        if self.bar && !self.quiet {
            eprintln!();
        }
    }
}

/// Computes that are still to become healthy, on the way there or back.
fn remaining(view: &RolloutView) -> u32 {
    use TargetPhase as P;
    if goes_back(view) {
        count(view, &[P::InFlight, P::Healthy, P::Failed, P::GivenUp, P::Returning])
    } else {
        count(view, &[P::Waiting, P::InFlight])
    }
}

fn goes_back(view: &RolloutView) -> bool {
    let stage = view.resumes.unwrap_or(view.phase);
    matches!(stage, RolloutPhase::RollingBack | RolloutPhase::RolledBack)
}

/// On the way back the bar becomes shorter.
fn bar(view: &RolloutView) -> String {
    let total = view.plan.computes.max(1);
    let left = remaining(view).min(total);
    let full = if goes_back(view) { left } else { total - left };
    let filled = full * WIDTH / total;
    let (bar, rest) = ("#".repeat(filled as usize), "-".repeat((WIDTH - filled) as usize));
    let failed = count(view, &[TargetPhase::Failed, TargetPhase::GivenUp, TargetPhase::Refused]);
    let waits = count(view, &[TargetPhase::InFlight, TargetPhase::Returning]);
    format!("[{bar}{rest}] {full}/{total}, {waits} in flight, {failed} failed;")
}

/// How fast it went since somebody watches.
#[derive(Debug, Default)]
struct Pace {
    last: Option<(Instant, u32)>,
    /// In which computes were handed out.
    busy: Duration,
    settled: u32,
}

impl Pace {
    fn take(&mut self, view: &RolloutView, now: Instant) {
        let left = remaining(view);
        let busy = matches!(view.phase, RolloutPhase::Canary | RolloutPhase::Waving | RolloutPhase::RollingBack);
        if let Some((at, before)) = self.last.filter(|_| busy) {
            self.busy += now - at;
            self.settled += before.saturating_sub(left);
        }
        self.last = Some((now, left));
    }

    /// What is left at this pace, and the soaks that are still to come; said only once something was measured.
    fn estimate(&self, view: &RolloutView) -> Option<Duration> {
        let left = remaining(view);
        if left > 0 && self.settled == 0 {
            return None;
        }
        let each = self.busy / self.settled.max(1);
        let last = view.plan.waves.saturating_sub(u32::from(view.plan.canary > 0));
        let soaks = if goes_back(view) { 0 } else { last.saturating_sub(view.wave) + 1 };
        Some(each * left + Duration::from_secs(u64::from(view.plan.soak_s)) * soaks)
    }

    fn left(&self, view: &RolloutView) -> String {
        if view.phase.is_over() {
            return "over".to_owned();
        }
        match view.phase {
            RolloutPhase::Paused => return "waits for resume".to_owned(),
            RolloutPhase::Halted => return "waits for an operator".to_owned(),
            _ => {}
        }
        match self.estimate(view) {
            None => "no estimate yet".to_owned(),
            Some(left) if left < Duration::from_secs(90) => format!("about {} s left", left.as_secs() + 1),
            Some(left) => format!("about {} min left", left.as_secs().div_ceil(60)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view(phase: &str, wave: u32, counts: serde_json::Value) -> RolloutView {
        serde_json::from_value(json!({
            "rollout_id": "r", "phase": phase, "wave": wave, "counts": counts, "selected": 10,
            "plan": {"computes": 10, "canary": 1, "wave": 3, "waves": 4, "max_unavailable": 2, "error_budget": 0,
                     "soak_s": 10, "gate_timeout_s": 60},
            "selector": {"labels": {"a": "b"}}, "patch": {}, "strategy": {}, "started_by": "mia",
            "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}))
        .unwrap()
    }

    #[test]
    fn an_estimate_is_made_of_what_was_seen_and_of_the_soaks_to_come() {
        let begun = Instant::now();
        let mut pace = Pace::default();
        let first = view("waving", 1, json!({"waiting": 8, "in_flight": 1, "healthy": 1}));
        pace.take(&first, begun);
        assert_eq!(pace.left(&first), "no estimate yet");
        let second = view("waving", 1, json!({"waiting": 7, "healthy": 3}));
        pace.take(&second, begun + Duration::from_secs(4));
        // Two in four seconds: seven take fourteen; three waves soak.
        assert_eq!(pace.estimate(&second), Some(Duration::from_secs(14 + 30)));
        // Time in which nothing is handed out says nothing about the pace.
        let soaking = view("soaking", 1, json!({"waiting": 7, "healthy": 3}));
        pace.take(&soaking, begun + Duration::from_secs(60));
        assert_eq!(pace.estimate(&soaking), Some(Duration::from_secs(14 + 30)));
        assert_eq!(pace.left(&view("halted", 1, json!({}))), "waits for an operator");
    }

    #[test]
    fn the_bar_goes_up_and_on_the_way_back_down() {
        let up = bar(&view("waving", 1, json!({"waiting": 5, "healthy": 4, "failed": 1})));
        assert_eq!(up, format!("[{}{}] 5/10, 0 in flight, 1 failed;", "#".repeat(15), "-".repeat(15)));
        let down = bar(&view("rolling_back", 1, json!({"waiting": 5, "healthy": 1, "restored": 4})));
        assert!(down.contains("] 1/10"), "{down}");
    }

    #[test]
    fn the_exit_code_is_that_of_the_end() {
        let done = |counts| verdict(&view("done", 3, counts), Goal::Done);
        assert!(done(json!({"healthy": 10})).is_ok());
        assert!(matches!(done(json!({"healthy": 9, "skipped": 1})), Err(CliError::Partly(_))));
        assert!(matches!(verdict(&view("halted", 1, json!({})), Goal::Done), Err(CliError::Failed(_))));
        assert!(matches!(verdict(&view("rolled_back", 1, json!({})), Goal::Done), Err(CliError::Failed(_))));
        let back = |counts| verdict(&view("rolled_back", 1, counts), Goal::RolledBack);
        assert!(back(json!({"restored": 1, "skipped": 2})).is_ok());
        assert!(matches!(back(json!({"restored": 1, "overtaken": 2})), Err(CliError::Partly(_))));
    }
}
