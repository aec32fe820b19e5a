//! The links of a run, each through a proxy of its own: a member's to the database, what comes to a member from other
//! members, what comes to an agent.
//!
//! Who calls it: [`crate::cast`], which starts processes behind them, and [`crate::engine`], which strikes them. Clients and
//! watchers go past them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pgfleet_harness::fleet::Fleet;

use crate::faults::clock::Clock;
use crate::faults::proxy::{Mode, Proxy};
use crate::schedule::Kind;

/// Bytes of an answer that pass before a link is cut in the middle of it.
const PART_OF_AN_ANSWER: u64 = 60;

/// How late everything is on a slow link.
const LATE: Duration = Duration::from_millis(150);

/// What stands between a member and the others.
pub struct MemberLinks {
    /// What comes to it from other members.
    pub incoming: Proxy,
    /// What it sends to the database.
    pub database: Proxy,
    /// Its clock, where clocks can be moved.
    pub clock: Option<Clock>,
}

impl MemberLinks {
    /// For a member that listens on this port. Only a schedule that moves clocks gives it one of its own.
    pub async fn new(fleet: &Fleet, name: &str, port: u16, with_clock: bool) -> Self {
        let incoming = Proxy::start(here(port)).await;
        let database = Proxy::start(here(fleet.cluster().port())).await;
        let file = fleet.dir().join("run").join(format!("{name}.clock"));
        let clock = with_clock.then(|| clock(&file)).flatten();
        Self { incoming, database, clock }
    }

    /// Base URL under which the others reach it.
    #[must_use]
    pub fn advertised(&self) -> String {
        format!("http://{}", self.incoming.addr())
    }

    /// URL of the controllers' database for it.
    #[must_use]
    pub fn database_url(&self, fleet: &Fleet) -> String {
        let (port, mine) = (fleet.cluster().port(), self.database.addr().port());
        fleet.database_url().replace(&format!(":{port}/"), &format!(":{mine}/"))
    }

    /// Everything passes again, and its clock shows the time.
    pub fn heal(&self) {
        self.incoming.set(Mode::Pass);
        self.database.set(Mode::Pass);
        if let Some(clock) = &self.clock {
            clock.jump(0);
        }
    }
}

/// The proxy of an agent that listens at this URL.
pub async fn to_agent(url: &str) -> Proxy {
    let address = url.trim_start_matches("http://").parse();
    Proxy::start(address.unwrap_or_else(|error| panic!("{url}: {error}"))).await
}

/// What a fault does to a link.
#[must_use]
pub fn mode(kind: Kind) -> Mode {
    match kind {
        Kind::DatabaseLinkCut | Kind::MemberLinkCut | Kind::AgentLinkCut => Mode::Cut,
        Kind::DatabaseLinkDelay | Kind::MemberLinkDelay | Kind::AgentLinkDelay => Mode::Delay(LATE),
        Kind::DatabaseLinkHalfOpen | Kind::MemberLinkHalfOpen | Kind::AgentLinkHalfOpen => Mode::HalfOpen,
        Kind::MemberLinkMidBody | Kind::AgentLinkMidBody => Mode::CutMidBody { after_bytes: PART_OF_AN_ANSWER },
        Kind::MemberReset => Mode::Reset,
        _ => Mode::Pass,
    }
}

fn here(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn clock(file: &Path) -> Option<Clock> {
    let clock = Clock::new(file);
    if clock.is_none() {
        pgfleet_harness::skip("clock jumps", "libfaketime is not installed");
    }
    clock
}
