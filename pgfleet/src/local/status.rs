//! `pgfleet local status`: each process of the cluster, whether it runs, and what it says it is.

use std::path::PathBuf;

use pgfleet_api::compute::ListQuery;
use pgfleet_clients::controller::{ControllerClient, Options};
use pgfleet_clients::token::Source;
use serde::Serialize;

use super::layout::Layout;
use super::process::Process;
use super::state::State;
use crate::cli::Output;
use crate::exit::CliError;
use crate::output::{listing, print_json, print_table};

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    kind: &'static str,
    pid: u32,
    running: bool,
    state: String,
    address: String,
    log: PathBuf,
}

pub async fn run(dir: Option<PathBuf>, output: Output) -> Result<(), CliError> {
    let layout = Layout::new(dir)?;
    let place = layout.root.display().to_string();
    let Some(state) = State::read(&layout)? else {
        return Err(CliError::Away(format!("no local cluster in {place}; pgfleet local up starts one")));
    };
    let lines = look(&layout, &state).await?;
    if output == Output::Json {
        print_json(&lines)?;
    } else {
        let mut table = listing(&["NAME", "KIND", "PID", "RUNS", "STATE", "ADDRESS", "LOG"]);
        for line in &lines {
            let runs = if line.running { "yes" } else { "no" };
            let (pid, log) = (line.pid.to_string(), line.log.display().to_string());
            table.add_row(vec![&line.name, line.kind, &pid, runs, &line.state, &line.address, &log]);
        }
        print_table(&table)?;
    }
    let ended: Vec<_> = lines.iter().filter(|line| !line.running).map(|line| line.name.as_str()).collect();
    if ended.is_empty() {
        return Ok(());
    }
    Err(CliError::Away(format!("not running: {}; their logs are in {place}/logs", ended.join(", "))))
}

async fn look(layout: &Layout, state: &State) -> Result<Vec<Line>, CliError> {
    let living = state.controllers.iter().filter(|controller| controller.process.is_alive());
    let endpoints: Vec<_> = living.map(|controller| controller.url.clone()).collect();
    let options = Options { deadline: std::time::Duration::from_secs(3), ..Options::default() };
    let client = ControllerClient::new(endpoints, Source::file(layout.operator_token())?, options)?;
    let line = |name: &str, kind, process: &Process, state: String, address: String, log: &PathBuf| Line {
        name: name.to_owned(),
        kind,
        pid: process.pid,
        running: process.is_alive(),
        state,
        address,
        log: log.clone(),
    };
    let mut lines = Vec::new();
    if let Some(database) = &state.database {
        let address = format!("127.0.0.1:{}", database.port);
        lines.push(line("database", "postgresql", &database.process, "-".to_owned(), address, &database.log));
    }
    for controller in &state.controllers {
        let status = client.status(&controller.url).await;
        let role = status.map_or_else(|_| "-".to_owned(), |status| status.role.as_str().to_owned());
        lines.push(line(
            &controller.name,
            "controller",
            &controller.process,
            role,
            controller.url.clone(),
            &controller.log,
        ));
    }
    let known = if client.endpoints().is_empty() {
        Vec::new()
    } else {
        client.list_all(&ListQuery { limit: Some(1000), ..ListQuery::default() }).await.unwrap_or_default()
    };
    for compute in &state.computes {
        let view = known.iter().find(|view| view.compute_id == compute.id);
        let observed = view.and_then(|view| view.observed.as_ref());
        let state = observed.map_or("-", |observed| observed.state.as_str()).to_owned();
        let address = format!("{}, PostgreSQL port {}", compute.agent_url, compute.postgres_port);
        lines.push(line(compute.id.as_str(), "compute", &compute.process, state, address, &compute.log));
    }
    Ok(lines)
}
