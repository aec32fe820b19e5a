//! The simulator as a child process, for benches and tests.

use std::path::Path;
use std::process::Command;

use pgfleet_harness::fleet::wait_port_file;
use pgfleet_harness::http::{Answer, Call};
use pgfleet_harness::process::{PATIENCE, Process};
use pgfleet_harness::programs::program;

use crate::address::address_of;
use crate::http::{AgentLine, Counters};
use crate::script::Script;

/// A running simulator; it ends with the value. Panics, as the harness does, where something cannot be had.
pub struct Sim {
    /// Its process.
    pub process: Process,
    agents: u32,
    port: u16,
    control: String,
}

impl Sim {
    /// Starts so many agents that play `script`, with further arguments; log and port file go to `dir`.
    pub async fn start(dir: &Path, agents: u32, script: &Script, args: &[&str]) -> Self {
        Self::start_program(&program("fleet_sim"), dir, agents, script, args).await
    }

    /// As [`Self::start`], of a program that was built before.
    pub async fn start_program(program: &Path, dir: &Path, agents: u32, script: &Script, args: &[&str]) -> Self {
        let (script_file, port_file) = (dir.join("fleet_sim.script.json"), dir.join("fleet_sim.ports.json"));
        let text = serde_json::to_vec(script).unwrap_or_default();
        std::fs::write(&script_file, text).unwrap_or_else(|error| panic!("{}: {error}", script_file.display()));
        // One of an earlier run would be taken for this one's.
        drop(std::fs::remove_file(&port_file));
        let mut command = Command::new(program);
        // A span for each request is no part of what is measured.
        command.env("RUST_LOG", "warn,pgfleet_fleet_sim=info");
        command.args(["--agents", &agents.to_string()]).args(args);
        command.arg("--script").arg(&script_file).arg("--port-file").arg(&port_file);
        let process = Process::start("fleet_sim", command, &dir.join("fleet_sim.log"));
        let ports = wait_port_file(&process, &port_file, PATIENCE).await.ports;
        let port = |name: &str| *ports.get(name).unwrap_or_else(|| panic!("no port `{name}` in {ports:?}"));
        let control = format!("http://127.0.0.1:{}", port("control"));
        Self { process, agents, port: port("agents"), control }
    }

    /// How many agents there are.
    #[must_use]
    pub fn agents(&self) -> u32 {
        self.agents
    }

    /// Base URL of the control address.
    #[must_use]
    pub fn control(&self) -> &str {
        &self.control
    }

    /// Base URL of agent `n`.
    #[must_use]
    pub fn url(&self, n: u32) -> String {
        format!("http://{}:{}", address_of(n), self.port)
    }

    /// What all agents were asked since the last reset.
    pub async fn counters(&self) -> Counters {
        self.counters_of(0, self.agents).await
    }

    /// What agents `from..to` were asked since the last reset.
    pub async fn counters_of(&self, from: u32, to: u32) -> Counters {
        self.ask("GET", &format!("/sim/counters?from={from}&to={to}"), None).await.json()
    }

    /// Where agents `from..to` stand.
    pub async fn lines(&self, from: u32, to: u32) -> Vec<AgentLine> {
        self.ask("GET", &format!("/sim/agents?from={from}&to={to}"), None).await.json()
    }

    /// Plays another script from now on.
    pub async fn script(&self, script: &Script) {
        self.ask("PUT", "/sim/script", Some(serde_json::to_vec(script).unwrap_or_default())).await;
    }

    /// Begins to count anew.
    pub async fn reset(&self) {
        self.ask("POST", "/sim/reset", None).await;
    }

    /// Makes all agents as they were before they were first asked, and begins to count anew.
    pub async fn forget(&self) {
        self.ask("POST", "/sim/reset?forget=true", None).await;
    }

    /// Begins the next life of agents `from..to`.
    pub async fn restart(&self, from: u32, to: u32) {
        self.ask("POST", &format!("/sim/restart?from={from}&to={to}"), None).await;
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> Answer {
        let call = Call::new(method, format!("{}{path}", self.control));
        let call = if let Some(body) = body { call.body(body) } else { call };
        let answer = call.send().await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
        answer
    }
}
