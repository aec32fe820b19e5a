//! What the demo found, for people as tables and for programs as `target/demo/report.json`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgfleet_api::{ComputeId, Generation};
use serde::Serialize;

use crate::exit::CliError;
use crate::local::layout::failed;
use crate::output::{framed, print, print_table};

/// Where the report goes, from the directory that the demo was started in.
const PLACE: &str = "target/demo/report.json";

/// One compute at the end of the demo.
#[derive(Debug, Clone, Serialize)]
pub struct ComputeResult {
    pub compute_id: ComputeId,
    pub state: String,
    pub generation: Generation,
    pub applied_generation: Option<Generation>,
    /// As whom psql logged in.
    pub role: String,
    /// The setting that was read there.
    pub setting: String,
    /// Why it does not count as applied.
    pub problem: Option<String>,
}

/// One thing that the demo promises.
#[derive(Debug, Clone, Serialize)]
pub struct Promise {
    pub promise: String,
    pub measured: String,
    pub kept: bool,
}

/// All of it. The first six fields are what programs rely on.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub handover_gap_ms: f64,
    pub takeover_ms: f64,
    pub requests_total: usize,
    pub requests_failed: usize,
    pub computes_applied: usize,
    pub terms: Vec<i64>,
    /// Requests that had to pause because no member could execute them.
    pub requests_held: usize,
    /// Requests that were sent more than once.
    pub requests_redirected: usize,
    /// Requests within the second around the hand-over and the takeover.
    pub requests_around_handover: usize,
    pub requests_around_takeover: usize,
    /// The median distance between two acknowledged writes, which is not in `handover_gap_ms`.
    pub write_distance_median_ms: f64,
    /// The controllers' own figure.
    pub controllers_handover_gap_ms: Option<f64>,
    pub latency_median_ms: f64,
    pub write_latency_median_ms: f64,
    pub latency_max_ms: f64,
    pub latency_max_handover_ms: f64,
    pub latency_max_takeover_ms: f64,
    pub duration_s: f64,
    pub computes: Vec<ComputeResult>,
    pub failures: Vec<String>,
    pub promises: Vec<Promise>,
}

impl Report {
    /// Checks everything that was promised.
    pub fn judge(&mut self, left_running: Option<&CliError>) {
        let mut promises = Vec::new();
        let mut add = |promise: &str, measured: String, kept: bool| {
            promises.push(Promise { promise: promise.to_owned(), measured, kept });
        };
        let growing = self.terms.len() == 3 && self.terms.is_sorted_by(|a, b| a < b);
        let terms = self.terms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let around = self.requests_around_handover.min(self.requests_around_takeover);
        add(
            "3 computes applied, and their roles can log in",
            self.computes_applied.to_string(),
            self.computes_applied == 3,
        );
        add("no request failed", format!("{} failed", self.requests_failed), self.requests_failed == 0);
        add("at least 500 requests", self.requests_total.to_string(), self.requests_total >= 500);
        add("at least 100 within the second around each change", around.to_string(), around >= 100);
        add("every leader has a higher term", terms, growing);
        add("hand-over gap below 100 ms", format!("{:.1} ms", self.handover_gap_ms), self.handover_gap_ms < 100.0);
        add("takeover after SIGKILL below 2 s", format!("{:.0} ms", self.takeover_ms), self.takeover_ms < 2000.0);
        add("done within 60 s", format!("{:.1} s", self.duration_s), self.duration_s < 60.0);
        let left = left_running.map_or_else(|| "nothing".to_owned(), ToString::to_string);
        add("nothing is left running", left, left_running.is_none());
        self.promises = promises;
    }

    /// Whether all promises were kept.
    pub fn is_kept(&self) -> bool {
        self.promises.iter().all(|promise| promise.kept)
    }

    /// Writes the JSON and says where.
    pub fn write(&self) -> Result<PathBuf, CliError> {
        let path = Path::new(PLACE);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| CliError::Failed(format!("cannot write {PLACE}: {error}")))?;
        path.parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(path, text))
            .map_err(|error| failed("write", path, &error))?;
        Ok(path.to_owned())
    }

    /// Prints it for people.
    pub fn print(&self) -> Result<(), CliError> {
        let mut computes =
            framed(&["compute", "state", "generation", "applied", "psql logged in as", "work_mem read there"]);
        for compute in &self.computes {
            computes.add_row(vec![
                compute.compute_id.to_string(),
                compute.state.clone(),
                compute.generation.to_string(),
                compute.applied_generation.map_or_else(|| "-".to_owned(), |applied| applied.to_string()),
                compute.role.clone(),
                compute.problem.clone().unwrap_or_else(|| compute.setting.clone()),
            ]);
        }
        print("")?;
        print_table(&computes)?;
        let ms = |value: f64| format!("{value:.1} ms");
        let own = self.controllers_handover_gap_ms.map_or_else(|| "not reported".to_owned(), ms);
        let mut figures = framed(&[
            "change of leader",
            "writes stood still",
            "controllers say",
            "slowest request",
            "requests around it",
        ]);
        figures.add_row(vec![
            "hand-over (rolling restart)".to_owned(),
            ms(self.handover_gap_ms),
            own,
            ms(self.latency_max_handover_ms),
            self.requests_around_handover.to_string(),
        ]);
        figures.add_row(vec![
            "takeover (SIGKILL)".to_owned(),
            ms(self.takeover_ms),
            "-".to_owned(),
            ms(self.latency_max_takeover_ms),
            self.requests_around_takeover.to_string(),
        ]);
        print_table(&figures)?;
        print(&format!(
            "requests: {} sent, {} failed, {} held, {} sent on to another member; latency median {} (writes {}), maximum {}",
            self.requests_total,
            self.requests_failed,
            self.requests_held,
            self.requests_redirected,
            ms(self.latency_median_ms),
            ms(self.write_latency_median_ms),
            ms(self.latency_max_ms),
        ))?;
        for failure in self.failures.iter().take(10) {
            print(&format!("  failed: {failure}"))?;
        }
        print("")?;
        for promise in &self.promises {
            let mark = if promise.kept { "kept  " } else { "BROKEN" };
            print(&format!("  {mark}  {} ({})", promise.promise, promise.measured))?;
        }
        print("")
    }
}

/// Milliseconds with their fraction.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        Report {
            handover_gap_ms: 10.0,
            takeover_ms: 100.0,
            requests_total: 500,
            requests_failed: 0,
            computes_applied: 3,
            terms: vec![1, 2, 3],
            requests_held: 0,
            requests_redirected: 0,
            requests_around_handover: 100,
            requests_around_takeover: 100,
            write_distance_median_ms: 1.0,
            controllers_handover_gap_ms: None,
            latency_median_ms: 1.0,
            write_latency_median_ms: 1.0,
            latency_max_ms: 1.0,
            latency_max_handover_ms: 1.0,
            latency_max_takeover_ms: 1.0,
            duration_s: 30.0,
            computes: vec![],
            failures: vec![],
            promises: vec![],
        }
    }

    #[test]
    fn each_broken_promise_is_found() {
        let mut report = good();
        report.judge(None);
        assert!(report.is_kept());
        let breaks: [fn(&mut Report); 9] = [
            |r| r.computes_applied = 2,
            |r| r.requests_failed = 1,
            |r| r.requests_total = 499,
            |r| r.requests_around_takeover = 99,
            |r| r.terms = vec![1, 2, 2],
            |r| r.terms = vec![1, 2],
            |r| r.handover_gap_ms = 100.0,
            |r| r.takeover_ms = 2000.0,
            |r| r.duration_s = 60.0,
        ];
        for (index, break_it) in breaks.iter().enumerate() {
            let mut report = good();
            break_it(&mut report);
            report.judge(None);
            assert_eq!(report.promises.iter().filter(|promise| !promise.kept).count(), 1, "{index}");
        }
        report.judge(Some(&CliError::Failed("pid 7".to_owned())));
        assert!(!report.is_kept());
    }
}
