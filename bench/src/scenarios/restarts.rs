//! Rolling restarts of the processes: a member at one of two addresses is replaced by a new process at the other one.
//!
//! In turn the new process asks the leader to step down (`--start-as-candidate`) before the old process gets SIGTERM, and
//! the leader gets SIGTERM while the new process only waits. The clients know both addresses and move on only when a
//! connection is refused. Half of them keep their connections, half make one for each request.

use std::time::{Duration, Instant};

use pgfleet_api::Term;
use pgfleet_harness::fleet::free_port;
use serde::Serialize;

use super::{Measured, failed, failures};
use crate::bed::{Bed, PATIENCE};
use crate::journal::Journal;
use crate::load::{Kind, Lane, Load, Pace};

/// Distance of the requests of one client.
const PACE: Duration = Duration::from_millis(10);
/// Clients of each kind.
const WIDTH: u32 = 4;
/// Requests of each kind between two restarts.
const BETWEEN: usize = 100;

/// Rolling restarts.
#[derive(Debug, Clone, Serialize)]
pub struct Restarts {
    /// Processes that were replaced.
    pub restarts: usize,
    /// Requests.
    pub requests: usize,
    /// Those that failed.
    pub failed: usize,
}

/// Replaces so many processes of a fleet of so many computes. None where there is no PostgreSQL.
pub async fn measure(computes: usize, restarts: usize) -> Option<Measured<Restarts>> {
    let mut bed = Bed::make("restarts", 1, computes).await?;
    let ports = [free_port(), free_port()];
    replace(&mut bed, ports[0], true).await;
    let endpoints: Vec<String> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    let lanes = |keep_alive| lanes(&endpoints, keep_alive);
    let kept = Load::start(lanes(true), &bed.computes, &bed.tokens());
    let made = Load::start(lanes(false), &bed.computes, &bed.tokens());
    for restart in 0..restarts {
        between(&kept, &made).await;
        replace(&mut bed, ports[(restart + 1) % 2], restart % 2 == 0).await;
    }
    between(&kept, &made).await;
    let (kept, made) = (kept.finish().await, made.finish().await);
    let journal = Journal::since(&bed.fleet, Term(1)).await;
    let lost = journal.lost(&kept) + journal.lost(&made);
    let figures = Restarts { restarts, requests: kept.len() + made.len(), failed: failed(&kept) + failed(&made) };
    let told = |kinds: String| if kinds.is_empty() { "nothing".to_owned() } else { kinds };
    let notes = vec![format!(
        "Restarts at {computes} computes: {lost} acknowledged writes are not in the journal; what failed on {} requests over \
         connections that are kept: {}; on {} requests with a connection each: {}.",
        kept.len(),
        told(failures(&kept)),
        made.len(),
        told(failures(&made))
    )];
    Some(Measured { figures, notes })
}

fn lanes(endpoints: &[String], keep_alive: bool) -> Vec<Lane> {
    let lane = |kind, index: u32| Lane {
        kind,
        endpoints: endpoints.to_vec(),
        pace: Pace::Every { first: PACE / WIDTH * index, period: PACE },
        keep_alive,
    };
    (0..WIDTH).flat_map(|index| [lane(Kind::Write, index), lane(Kind::Read, index)]).collect()
}

async fn between(kept: &Load, made: &Load) {
    let from = Instant::now();
    for load in [kept, made] {
        load.executed(Kind::Write, from, BETWEEN).await;
        load.executed(Kind::Read, from, BETWEEN).await;
    }
}

/// A new process at this port in the place of the only member.
async fn replace(bed: &mut Bed, port: u16, asks: bool) {
    let options = bed.member().port(port);
    let new = if asks { options.as_candidate().start().await } else { options.start().await };
    bed.members.push(new);
    if asks {
        bed.members[1].leads(PATIENCE).await;
    } else {
        bed.warm().await;
    }
    let old = bed.members.remove(0);
    old.process.terminate();
    assert_eq!(old.process.exit_code(PATIENCE).await, 0, "a member that is asked to end ends well");
    bed.members[0].leads(PATIENCE).await;
}
