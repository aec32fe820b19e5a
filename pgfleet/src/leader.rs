//! `pgfleet leader`: who leads, who led, and how another member comes to lead.

use std::time::Duration;

use pgfleet_api::controller::{Member, MemberList, Role, TakeOverRequest};
use pgfleet_clients::controller::ControllerClient;

use crate::cli::{LeaderVerb, Output, TransferArgs};
use crate::exit::CliError;
use crate::output::{listing, or_dash, print, print_json, print_table};

/// How often, and how long apart, the members are asked for while the wanted one has not come back from a hand-over.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

pub async fn run(verb: Option<LeaderVerb>, client: &ControllerClient, output: Output) -> Result<(), CliError> {
    match verb.unwrap_or(LeaderVerb::Show) {
        LeaderVerb::Show => show(client, output).await,
        LeaderVerb::Transfer(args) => transfer(&args, client, output).await,
        LeaderVerb::History { limit } => history(limit, client, output).await,
    }
}

async fn show(client: &ControllerClient, output: Output) -> Result<(), CliError> {
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
    let mut table = listing(&["MEMBER", "ROLE", "VERSION", "LAG", "LAST SEEN", "INSTANCE"]);
    for member in members.controllers {
        table.add_row(vec![
            member.address,
            member.role.as_str().to_owned(),
            member.version,
            or_dash(member.lag),
            format!("{} ms ago", member.last_seen_ms),
            member.instance_id.to_string(),
        ]);
    }
    print("")?;
    print_table(&table)
}

async fn transfer(args: &TransferArgs, client: &ControllerClient, output: Output) -> Result<(), CliError> {
    let chosen = choose(args.to.as_deref(), client).await?;
    let request = TakeOverRequest { force: args.force };
    let done = client.take_over(&chosen.address, &request, Duration::from_secs(args.timeout)).await?;
    if output == Output::Json {
        return print_json(&done);
    }
    let mut table = listing(&["TERM", "ADDRESS", "INSTANCE", "GAP"]);
    table.add_row(vec![
        done.leader.term.to_string(),
        done.leader.address,
        done.leader.instance_id.to_string(),
        format!("{:.1} ms", done.gap_ms),
    ]);
    print_table(&table)
}

/// The member that was named, or the candidate that lags least. A member that led a moment ago follows again a moment later.
async fn choose(wanted: Option<&str>, client: &ControllerClient) -> Result<Member, CliError> {
    let mut members = client.controllers().await?;
    for _ in 0..LOOKS {
        if let Some(found) = pick(wanted, &members) {
            return Ok(found.clone());
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
        members = client.controllers().await?;
    }
    let known: Vec<_> = members.controllers.iter().map(|member| member.address.as_str()).collect();
    let known = known.join(", ");
    Err(match wanted {
        Some(wanted) => CliError::Usage(format!("no member {wanted}; the leader knows of {known}")),
        None => CliError::Failed(format!("no other member follows the leader; it knows of {known}")),
    })
}

fn pick<'a>(wanted: Option<&str>, members: &'a MemberList) -> Option<&'a Member> {
    let mut members = members.controllers.iter();
    match wanted {
        Some(wanted) => members.find(|member| {
            member.address.trim_end_matches('/') == wanted.trim_end_matches('/')
                || member.instance_id.to_string() == wanted
        }),
        None => members
            .filter(|member| member.role == Role::Candidate)
            .min_by_key(|member| (member.lag.is_none(), member.lag, member.address.clone())),
    }
}

async fn history(limit: u32, client: &ControllerClient, output: Output) -> Result<(), CliError> {
    let list = client.leader_history(limit).await?;
    if output == Output::Json {
        return print_json(&list);
    }
    let mut table = listing(&["TERM", "ADDRESS", "BEGAN", "SINCE", "ENDED", "UNTIL", "SCHEMA", "INSTANCE", "NOTE"]);
    for term in list.terms {
        table.add_row(vec![
            term.term.to_string(),
            term.address,
            term.began,
            term.started_at.format("%F %T UTC").to_string(),
            or_dash(term.ended),
            or_dash(term.ended_at.map(|at| at.format("%F %T UTC"))),
            term.target_schema,
            term.instance_id.to_string(),
            or_dash(term.note),
        ]);
    }
    print_table(&table)
}

#[cfg(test)]
mod tests {
    use pgfleet_api::InstanceId;

    use super::*;

    fn member(address: &str, role: Role, lag: Option<i64>) -> Member {
        let (address, version) = (address.to_owned(), "v".to_owned());
        Member { instance_id: InstanceId::generate(), address, version, role, last_seen_ms: 0, lag }
    }

    #[test]
    fn the_member_that_lags_least_is_chosen_unless_one_is_named() {
        let leader = member("http://a:1", Role::Leader, None);
        let (cold, behind) =
            (member("http://b:1", Role::Candidate, None), member("http://c:1", Role::Candidate, Some(9)));
        let near = member("http://d:1", Role::Candidate, Some(2));
        let id = cold.instance_id.to_string();
        let list = |members: &[&Member]| MemberList { controllers: members.iter().map(|one| (*one).clone()).collect() };
        let all = list(&[&leader, &cold, &behind, &near]);
        assert_eq!(pick(None, &all), Some(&near));
        assert_eq!(pick(None, &list(&[&leader, &cold])), Some(&cold));
        assert_eq!(pick(None, &list(&[&leader])), None);
        assert_eq!(pick(Some("http://c:1/"), &all), Some(&behind));
        assert_eq!(pick(Some(&id), &all), Some(&cold));
        assert_eq!(pick(Some("http://a:1"), &all), Some(&leader), "it says that it leads already");
        assert_eq!(pick(Some("http://e:1"), &all), None);
    }
}
