//! `pgfleet local up`: starts a cluster, leaves it running, and says what to do with it.

use std::path::PathBuf;

use pgfleet_api::ComputeId;
use pgfleet_api::controller::Role;
use pgfleet_clients::controller::Options;

use super::cluster::{Cluster, Made, Programs};
use super::layout::Layout;
use super::postgres::Postgres;
use super::state::State;
use super::{down, interrupted};
use crate::exit::CliError;
use crate::output::{print, to_stderr};

pub async fn run(
    controllers: u32,
    computes: u32,
    dir: Option<PathBuf>,
    pg_bin: Option<PathBuf>,
) -> Result<(), CliError> {
    let is_default_place = dir.is_none();
    let layout = Layout::new(dir)?;
    layout.exists()?;
    let postgres = Postgres::find(pg_bin).await?;
    let programs = Programs::find()?;
    // From here on the directory is ours, and a failure ends what runs in it.
    let made = Made { lock: layout.create()?, layout: layout.clone() };
    let built = tokio::select! {
        built = Box::pin(build(made, postgres, programs, controllers, computes)) => built,
        error = interrupted() => Err(error),
    };
    match built {
        Ok(cluster) => print(&next_steps(&cluster, is_default_place)),
        Err(error) => Err(undo(&layout, error).await),
    }
}

async fn build(
    made: Made,
    postgres: Postgres,
    programs: Programs,
    controllers: u32,
    computes: u32,
) -> Result<Cluster, CliError> {
    to_stderr(&format!("starting a private PostgreSQL for the controllers in {}", made.layout.root.display()));
    let mut cluster = Cluster::create(made, postgres, programs).await?;
    for number in 1..=controllers {
        let name = format!("controller-{number}");
        to_stderr(&format!("starting {name}"));
        let url = cluster.start_controller(&name).await?;
        let role = if number == 1 { Role::Leader } else { Role::Candidate };
        cluster.wait_role(&url, role).await?;
    }
    for number in 1..=computes {
        let id: ComputeId = format!("compute-{number}")
            .parse()
            .map_err(|error| CliError::Failed(format!("a compute's name: {error}")))?;
        to_stderr(&format!("starting the agent of {id}"));
        let agent_url = cluster.start_compute(&id).await?;
        cluster.register(&id, agent_url).await?;
    }
    // The cluster answers through every member before it is called up.
    cluster.client(Options::default())?.leader().await?;
    Ok(cluster)
}

/// Ends what was started and keeps the directory, for its logs.
async fn undo(layout: &Layout, error: CliError) -> CliError {
    let state = State::read(layout).ok().flatten().unwrap_or_default();
    match down::stop(layout, &state).await {
        Ok(()) => error,
        Err(second) => CliError::Failed(format!("{error}; and {second}")),
    }
}

fn next_steps(cluster: &Cluster, is_default_place: bool) -> String {
    let state = &cluster.state;
    let dir = &cluster.layout.root;
    let mut lines = vec![format!("a local cluster is up in {}", dir.display()), String::new()];
    for controller in &state.controllers {
        lines.push(format!("  {:<14} {}", controller.name, controller.url));
    }
    for compute in &state.computes {
        lines.push(format!(
            "  {:<14} {}  (PostgreSQL will listen on port {})",
            compute.id.as_str(),
            compute.agent_url,
            compute.postgres_port
        ));
    }
    let token = cluster.layout.operator_token();
    lines.extend([String::new(), "try:".to_owned()]);
    if !is_default_place {
        lines.push(format!("  export PGFLEET_LOCAL_DIR={}", dir.display()));
    }
    lines.push("  pgfleet leader".to_owned());
    lines.push("  pgfleet compute list".to_owned());
    if let Some(compute) = state.computes.first() {
        let port = compute.postgres_port;
        lines.push(format!("  pgfleet compute put {} --spec examples/orders.json --wait", compute.id));
        lines.push(format!(
            "  PGPASSWORD=demo-orders-app psql -h 127.0.0.1 -p {port} -U orders_app -d orders -c 'SHOW work_mem'"
        ));
    }
    if let Some(controller) = state.controllers.first() {
        let url = &controller.url;
        lines.push(format!("  curl -H \"Authorization: Bearer $(cat {})\" {url}/control/v1/leader", token.display()));
    }
    lines.push("  pgfleet local down".to_owned());
    lines.join("\n")
}
