//! Who follows this member: an open stream is the registration, and probes keep it fresh.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pgfleet_api::InstanceId;
use pgfleet_api::controller::{Member, Role};

use super::metrics::LeadershipMetrics;

/// A member that speaks to this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The process.
    pub instance_id: InstanceId,
    /// Base URL of its API.
    pub address: String,
    /// Program version.
    pub version: String,
    /// The last change its memory has reached; `None` if it keeps none.
    pub change_seq: Option<i64>,
}

struct Known {
    peer: Peer,
    streams: u32,
    at: Instant,
}

/// The register. Clones are the same one.
#[derive(Clone)]
pub(super) struct Members {
    known: Arc<Mutex<BTreeMap<InstanceId, Known>>>,
    metrics: Arc<LeadershipMetrics>,
}

impl Members {
    pub(super) fn new(metrics: Arc<LeadershipMetrics>) -> Self {
        Self { known: Arc::default(), metrics }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream of this peer is open for as long as the answer lives.
    pub(super) fn register(&self, peer: Peer) -> Registration {
        let id = peer.instance_id;
        let mut known = self.lock();
        let streams = known.get(&id).map_or(0, |known| known.streams) + 1;
        known.insert(id, Known { peer, streams, at: Instant::now() });
        self.metrics.streams(known.len());
        drop(known);
        Registration { id, members: self.clone() }
    }

    /// A registered peer asked for something.
    pub(super) fn heard_of(&self, peer: Peer) {
        if let Some(known) = self.lock().get_mut(&peer.instance_id) {
            (known.peer, known.at) = (peer, Instant::now());
        }
    }

    /// The registered ones, by address; `reached` is the last change of this member.
    pub(super) fn list(&self, reached: i64) -> Vec<Member> {
        let known = self.lock();
        let mut list: Vec<_> = known
            .values()
            .map(|known| Member {
                instance_id: known.peer.instance_id,
                address: known.peer.address.clone(),
                version: known.peer.version.clone(),
                role: Role::Candidate,
                last_seen_ms: u64::try_from(known.at.elapsed().as_millis()).unwrap_or(u64::MAX),
                // A peer that is ahead has read what this member has not noted yet.
                lag: known.peer.change_seq.map(|theirs| (reached - theirs).max(0)),
            })
            .collect();
        list.sort_by(|a, b| a.address.cmp(&b.address));
        list
    }
}

/// One open stream; dropping it forgets the member that has no other.
pub(super) struct Registration {
    id: InstanceId,
    members: Members,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut known = self.members.lock();
        let last = known.get_mut(&self.id).is_some_and(|known| {
            known.streams -= 1;
            known.streams == 0
        });
        if last {
            known.remove(&self.id);
        }
        self.members.metrics.streams(known.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: InstanceId, address: &str, change_seq: Option<i64>) -> Peer {
        Peer { instance_id: id, address: address.to_owned(), version: "v".to_owned(), change_seq }
    }

    #[test]
    fn a_member_is_listed_while_a_stream_of_it_is_open() {
        let members = Members::new(Arc::new(LeadershipMetrics::new()));
        let (a, b) = (InstanceId::generate(), InstanceId::generate());
        members.heard_of(peer(a, "http://a", Some(1)));
        assert!(members.list(9).is_empty(), "a probe alone registers nobody");
        let second = members.register(peer(b, "http://b", None));
        let first = members.register(peer(a, "http://a", Some(4)));
        let again = members.register(peer(a, "http://a", Some(4)));
        members.heard_of(peer(a, "http://a", Some(7)));
        let told: Vec<_> = members.list(9).into_iter().map(|member| (member.instance_id, member.lag)).collect();
        assert_eq!(told, [(a, Some(2)), (b, None)]);
        drop((first, second));
        assert_eq!(members.list(9).len(), 1, "its other stream is open");
        drop(again);
        assert!(members.list(9).is_empty());
    }
}
