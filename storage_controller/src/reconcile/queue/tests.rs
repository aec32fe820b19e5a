//! Order, fairness, and that nobody who waits at a gate is forgotten.

use super::*;

fn id(n: usize) -> ComputeId {
    format!("c{n}").parse().unwrap()
}

fn names(queue: &mut Queue, n: usize) -> Vec<String> {
    (0..n).filter_map(|_| queue.pop(false)).map(|taken| taken.id.to_string()).collect()
}

#[test]
fn changes_go_first_and_nobody_starves() {
    let mut queue = Queue::new(9);
    for n in 0..1000 {
        queue.push(id(n), Priority::Change);
        queue.push(id(10_000 + n), Priority::Repair);
        queue.push(id(20_000 + n), Priority::Drift);
    }
    assert_eq!(queue.counts(), [1000; 3]);
    let taken: Vec<_> = (0..80).filter_map(|_| queue.pop(false)).map(|taken| taken.priority).collect();
    let of = |priority| taken.iter().filter(|taken| **taken == priority).count();
    assert_eq!((of(Priority::Change), of(Priority::Repair), of(Priority::Drift)), (50, 20, 10));
    assert_eq!(queue.counts(), [950, 980, 990]);
}

#[test]
fn a_turn_that_is_not_needed_goes_to_the_most_urgent() {
    let mut queue = Queue::new(9);
    queue.push(id(1), Priority::Drift);
    queue.push(id(2), Priority::Drift);
    queue.push(id(3), Priority::Repair);
    assert_eq!(names(&mut queue, 9), ["c3", "c1", "c2"]);
    assert!(queue.pop(false).is_none() && queue.open() == 0);
}

#[test]
fn the_last_places_are_for_changes() {
    let mut queue = Queue::new(9);
    queue.push(id(1), Priority::Repair);
    assert!(queue.pop(true).is_none());
    queue.push(id(2), Priority::Change);
    assert_eq!(queue.pop(true).unwrap().id, id(2));
    assert_eq!(queue.pop(false).unwrap().id, id(1));
}

#[test]
fn one_is_queued_once_at_its_highest_priority() {
    let mut queue = Queue::new(9);
    queue.push(id(1), Priority::Drift);
    queue.push(id(2), Priority::Change);
    queue.push(id(1), Priority::Change);
    queue.push(id(1), Priority::Repair);
    assert_eq!(queue.counts(), [2, 0, 0]);
    assert_eq!(names(&mut queue, 9), ["c2", "c1"]);
    assert_eq!(queue.counts(), [0; 3]);
}

/// A full host parks its computes, the others go on; whoever waited longest goes in first.
#[test]
fn a_full_host_holds_up_nobody_else() {
    let mut queue = Queue::new(2);
    let (slow, fast): (Arc<str>, Arc<str>) = (Arc::from("slow"), Arc::from("fast"));
    for n in 0..6 {
        queue.push(id(n), Priority::Change);
    }
    queue.push(id(9), Priority::Change);
    let mut begun = Vec::new();
    while let Some(taken) = queue.pop(false) {
        let host = if taken.id == id(9) { &fast } else { &slow };
        if queue.enter(&taken, host, false) {
            begun.push(taken.id.to_string());
        } else {
            queue.park(taken, Gate::Host(host.clone()));
        }
    }
    assert_eq!(begun, ["c0", "c1", "c9"]);
    assert_eq!((queue.waiting_at_hosts(), queue.counts()), (4, [4, 0, 0]));
    queue.leave(&slow);
    let next = queue.pop(false).unwrap();
    assert_eq!(next.id, id(2));
    assert!(queue.enter(&next, &slow, false) && queue.pop(false).is_none());
    queue.leave(&fast);
    assert!(queue.pop(false).is_none(), "a place elsewhere lets nobody in here");
    assert_eq!(queue.waiting_at_hosts(), 3);
}

/// One that is let in and has nothing to do any more leaves its place to the next.
#[test]
fn nobody_is_forgotten_at_a_gate() {
    let mut queue = Queue::new(1);
    let host: Arc<str> = Arc::from("h");
    for n in 0..4 {
        queue.push(id(n), Priority::Repair);
    }
    let first = queue.pop(false).unwrap();
    assert!(queue.enter(&first, &host, false));
    while let Some(taken) = queue.pop(false) {
        assert!(!queue.enter(&taken, &host, false));
        queue.park(taken, Gate::Host(host.clone()));
    }
    queue.leave(&host);
    let second = queue.pop(false).unwrap();
    queue.drop_taken(&second);
    let third = queue.pop(false).unwrap();
    assert_eq!((second.id, &third.id), (id(1), &id(2)));
    // It moved to another host meanwhile.
    assert!(queue.enter(&third, &Arc::from("elsewhere"), false));
    let fourth = queue.pop(false).unwrap();
    queue.park(fourth, Gate::Budget);
    assert!(queue.waits_at(&Gate::Budget) && !queue.waits_at(&Gate::Host(host)));
    assert!(queue.let_in(&Gate::Budget) && !queue.let_in(&Gate::Budget));
    assert_eq!(queue.pop(false).unwrap().id, id(3));
}

/// Something new was asked for while it waits at a gate: it is looked at again, and nothing of it is left behind there.
#[test]
fn a_parked_one_that_is_woken_is_looked_at_again() {
    let mut queue = Queue::new(1);
    queue.push(id(1), Priority::Repair);
    let taken = queue.pop(false).unwrap();
    queue.park(taken, Gate::Budget);
    assert!(queue.pop(false).is_none());
    queue.push(id(1), Priority::Drift);
    let again = queue.pop(false).unwrap();
    assert_eq!((again.priority, queue.waits_at(&Gate::Budget)), (Priority::Repair, false));
    queue.park(again, Gate::Budget);
    queue.push(id(1), Priority::Change);
    assert_eq!(queue.pop(false).unwrap().priority, Priority::Change);
    assert_eq!((queue.counts(), queue.waits_at(&Gate::Budget)), ([0; 3], false));
}

#[test]
fn hosts_of_urls() {
    for (url, expected) in [
        ("http://10.0.0.7:3080", "10.0.0.7"),
        ("http://10.0.0.7:3081/base", "10.0.0.7"),
        ("https://agent.example", "agent.example"),
        ("http://user@h:1", "h"),
        ("http://[::1]:3080/", "::1"),
        ("h:1", "h"),
    ] {
        assert_eq!(&*host(url), expected, "{url}");
    }
}
