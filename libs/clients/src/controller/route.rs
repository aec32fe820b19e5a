//! Where a request goes next: pure, so that the order of members is a table of tests and not of luck.

use std::time::Duration;

use crate::retry::Backoff;

/// The way of one request over the members.
#[derive(Debug)]
pub(super) struct Route<'a> {
    endpoints: &'a [String],
    current: String,
    /// Asked in this round.
    asked: Vec<String>,
    pauses: u32,
    backoff: Backoff,
}

impl<'a> Route<'a> {
    pub(super) fn new(endpoints: &'a [String], first: Option<String>, max_pause: Duration) -> Option<Self> {
        let current = first.or_else(|| endpoints.first().cloned())?;
        let backoff = Backoff::new(Duration::from_millis(2), max_pause);
        Some(Self { endpoints, asked: vec![current.clone()], current, pauses: 0, backoff })
    }

    pub(super) fn current(&self) -> &str {
        &self.current
    }

    pub(super) const fn pauses(&self) -> u32 {
        self.pauses
    }

    /// Goes on after the current member did not execute the request; `leader` is the address it named. Says how long
    /// to pause before.
    pub(super) fn advance(&mut self, leader: Option<String>) -> Duration {
        let named = leader.clone().filter(|address| !self.asked.contains(address));
        let next = named.or_else(|| self.endpoints.iter().find(|url| !self.asked.contains(url)).cloned());
        if let Some(next) = next {
            self.asked.push(next.clone());
            self.current = next;
            return Duration::ZERO;
        }
        // Everybody was asked. A named leader is asked first in the next round, else whoever follows in the list.
        self.pauses += 1;
        self.current = leader.unwrap_or_else(|| self.following());
        self.asked = vec![self.current.clone()];
        self.backoff.next_pause()
    }

    fn following(&self) -> String {
        let here = self.endpoints.iter().position(|url| *url == self.current);
        let next = here.map_or(0, |index| (index + 1) % self.endpoints.len().max(1));
        self.endpoints.get(next).unwrap_or(&self.current).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_named_leader_goes_before_the_list_and_everybody_is_asked_once_a_round() {
        let endpoints = names(&["a", "b"]);
        let mut route = Route::new(&endpoints, None, Duration::from_millis(50)).unwrap();
        assert_eq!(route.current(), "a");
        assert_eq!(route.advance(Some("c".to_owned())), Duration::ZERO);
        assert_eq!(route.current(), "c");
        assert_eq!(route.advance(None), Duration::ZERO);
        assert_eq!(route.current(), "b");
        assert!(route.advance(Some("c".to_owned())) > Duration::ZERO);
        assert_eq!((route.current(), route.pauses()), ("c", 1));
    }

    #[test]
    fn a_round_without_a_leader_goes_through_the_list() {
        let endpoints = names(&["a", "b"]);
        let mut route = Route::new(&endpoints, Some("b".to_owned()), Duration::from_millis(50)).unwrap();
        assert_eq!(route.advance(None), Duration::ZERO);
        assert_eq!(route.current(), "a");
        assert!(route.advance(None) > Duration::ZERO);
        assert_eq!(route.current(), "b");
    }

    #[test]
    fn no_member_known_is_no_route() {
        assert!(Route::new(&[], None, Duration::ZERO).is_none());
    }
}
