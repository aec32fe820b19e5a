//! The settings that storage at page servers asks for. Pure.

use super::source::{Role, Source};

/// In this order, because the server reads a stripe size before the addresses that it belongs to.
#[must_use]
pub fn settings(source: &Source) -> Vec<(String, String)> {
    let mut found: Vec<(&str, String)> = Vec::new();
    if let Some(stripe_size) = source.stripe_size {
        found.push(("neon.stripe_size", stripe_size.to_string()));
    }
    let first = source.shards.iter().filter_map(|urls| urls.first()).map(|url| url.0.as_str());
    found.push(("neon.pageserver_connstring", first.collect::<Vec<_>>().join(",")));
    if !source.safekeepers.is_empty() {
        let generation = source.safekeepers_generation.map(|number| format!("g#{number}:")).unwrap_or_default();
        found.push(("neon.safekeepers", format!("{generation}{}", source.safekeepers.join(","))));
    }
    found.push(("neon.tenant_id", source.tenant_id.clone()));
    found.push(("neon.timeline_id", source.timeline_id.clone()));
    for (name, label) in ["neon.project_id", "neon.branch_id", "neon.endpoint_id"].into_iter().zip(&source.labels) {
        found.extend(label.clone().map(|label| (name, label)));
    }
    found.extend(["lc_messages", "lc_monetary", "lc_numeric", "lc_time"].map(|name| (name, "C.UTF-8".to_owned())));
    found.push(("neon.compute_mode", source.role.as_str().to_owned()));
    match source.role {
        Role::Primary => {}
        Role::Replica => found.push(("hot_standby", "on".to_owned())),
        Role::Static(lsn) => {
            found.push(("hot_standby", "on".to_owned()));
            found.push(("recovery_target_lsn", lsn.to_string()));
        }
    }
    found.push(("neon.disable_logical_replication_subscribers", source.without_subscribers.to_string()));
    found.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use pgfleet_api::spec::Secret;

    use super::*;
    use pgfleet_api::Lsn;

    #[test]
    fn in_the_order_that_the_server_needs() {
        let url = |text: &str| vec![Secret(text.to_owned()), Secret("second choice".to_owned())];
        let mut source = Source {
            tenant_id: "t".into(),
            timeline_id: "l".into(),
            shards: vec![url("a"), url("b")],
            sharded: true,
            stripe_size: Some(16),
            safekeepers: vec!["x:1".into(), "y:2".into()],
            safekeepers_generation: Some(3),
            role: Role::Primary,
            token: Some(Secret("secret".into())),
            labels: [Some("p".into()), None, Some("e".into())],
            without_subscribers: false,
        };
        let lines = |source: &Source| -> Vec<_> {
            settings(source).into_iter().map(|(name, value)| format!("{name}={value}")).collect()
        };
        let primary = lines(&source);
        assert_eq!(
            primary[..7],
            [
                "neon.stripe_size=16",
                "neon.pageserver_connstring=a,b",
                "neon.safekeepers=g#3:x:1,y:2",
                "neon.tenant_id=t",
                "neon.timeline_id=l",
                "neon.project_id=p",
                "neon.endpoint_id=e",
            ]
        );
        assert!(primary.contains(&"neon.compute_mode=primary".to_owned()));
        assert!(!primary.iter().any(|line| line.contains("secret") || line.starts_with("hot_standby")));
        source.role = Role::Static(Lsn(0x10));
        source.safekeepers.clear();
        let fixed = lines(&source);
        for line in ["neon.compute_mode=static", "hot_standby=on", "recovery_target_lsn=0/10"] {
            assert!(fixed.contains(&line.to_owned()), "{fixed:?}");
        }
    }
}
