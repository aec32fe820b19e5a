//! `pgfleet leader`: the leader row, and for people also the members that the leader knows.

use pgfleet_clients::controller::ControllerClient;

use crate::cli::Output;
use crate::exit::CliError;
use crate::output::{listing, print, print_json, print_table};

pub async fn show(client: &ControllerClient, output: Output) -> Result<(), CliError> {
    if output == Output::Json {
        return print_json(&client.leader().await?);
    }
    // Who is there only the leader knows. Where there is none this waits for one, so the row is read afterwards.
    let members = client.controllers().await;
    let leader = client.leader().await?;
    let mut table = listing(&["TERM", "ADDRESS", "INSTANCE", "SINCE", "RENEWALS", "LEASE", "RELEASED"]);
    table.add_row(vec![
        leader.term.to_string(),
        leader.address.clone(),
        leader.instance_id.to_string(),
        leader.started_at.format("%F %T UTC").to_string(),
        leader.renewals.to_string(),
        format!("{} ms", leader.lease_ms),
        if leader.released_at.is_some() { "yes" } else { "no" }.to_owned(),
    ]);
    print_table(&table)?;
    let Ok(members) = members else { return Ok(()) };
    let mut table = listing(&["MEMBER", "ROLE", "VERSION", "LAST SEEN", "INSTANCE"]);
    for member in members.controllers {
        table.add_row(vec![
            member.address,
            member.role.as_str().to_owned(),
            member.version,
            format!("{} ms ago", member.last_seen_ms),
            member.instance_id.to_string(),
        ]);
    }
    print("")?;
    print_table(&table)
}
