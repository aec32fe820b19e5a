//! A `wait` that outlives the leader it was asked of: what is left of it is asked of the next one.

use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Query};
use http::Uri;
use http::request::Parts;
use http::uri::PathAndQuery;
use pgfleet_api::compute::WaitQuery;
use pgfleet_api::{ErrorBody, Generation};

use crate::service::WAIT_S;

/// Its template.
pub(super) const ROUTE: &str = "/control/v1/compute/{compute_id}/wait";

/// What it is about, and until when.
pub(super) struct Wait {
    generation: Option<Generation>,
    until: Instant,
}

impl Wait {
    /// Of a request to that route; nothing of another, or of one that will be refused.
    pub(super) fn of(parts: &Parts) -> Option<Self> {
        parts.extensions.get::<MatchedPath>().filter(|path| path.as_str() == ROUTE)?;
        let Query(query) = Query::<WaitQuery>::try_from_uri(&parts.uri).ok()?;
        let until = Instant::now().checked_add(Duration::from_secs(query.timeout_s.unwrap_or(WAIT_S)))?;
        Some(Self { generation: query.generation, until })
    }

    /// Notes that a leader had begun to wait and gave it back; it waited for this generation, also if none was asked for.
    pub(super) fn was_cut_short(&mut self, said: &ErrorBody) -> bool {
        self.generation = said.generation.or(self.generation);
        said.generation.is_some()
    }

    /// The question for the next leader.
    pub(super) fn rest(&self, path: &str) -> Option<Uri> {
        let left = self.until.saturating_duration_since(Instant::now()).as_millis().div_ceil(1000);
        let generation = self.generation.map(|generation| format!("&generation={generation}")).unwrap_or_default();
        let path: PathAndQuery = format!("{path}?timeout_s={left}{generation}").parse().ok()?;
        Some(Uri::from(path))
    }
}

#[cfg(test)]
mod tests {
    use pgfleet_api::ErrorCode;

    use super::*;

    #[test]
    fn the_rest_of_a_wait_keeps_its_generation_and_its_end() {
        let mut wait = Wait { generation: None, until: Instant::now() + Duration::from_millis(8500) };
        assert_eq!(wait.rest("/a/wait").unwrap(), "/a/wait?timeout_s=9");
        let mut said = ErrorBody::new(ErrorCode::SteppedDown, "m");
        assert!(!wait.was_cut_short(&said), "it was never taken");
        said.generation = Some(Generation(7));
        assert!(wait.was_cut_short(&said));
        said.generation = None;
        assert!(!wait.was_cut_short(&said), "and what is known stays");
        wait.until = Instant::now();
        assert_eq!(wait.rest("/a/wait").unwrap(), "/a/wait?timeout_s=0&generation=7");
    }
}
