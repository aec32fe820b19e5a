//! The simulator as a process: a fleet in seconds, scripts that change while it runs, descriptors that become scarce.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod away;
mod bare;
mod controller;
mod scale;
mod usage;

use std::path::Path;

use pgfleet_fleet_sim::handle::Sim;
use pgfleet_fleet_sim::script::Script;

/// A directory of a test, removed with the value.
struct Dir(std::path::PathBuf);

impl Dir {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("pgfs_{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    async fn sim(&self, agents: u32, script: &Script, args: &[&str]) -> Sim {
        Sim::start_program(Path::new(env!("CARGO_BIN_EXE_fleet_sim")), &self.0, agents, script, args).await
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
