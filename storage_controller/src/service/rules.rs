//! Rules for registrations; those for specs are `domain::spec`.

use pgfleet_api::compute::RegisterCompute;
use pgfleet_domain::spec::SpecError;

const MAX_LABELS: usize = 32;
const MAX_LABEL_BYTES: usize = 63;

/// Refuses a registration that could not work, with the field's path.
pub(super) fn check_registration(body: &RegisterCompute) -> Result<(), SpecError> {
    let refuse = |path: String, msg: &str| Err(SpecError { path, msg: msg.to_owned() });
    match url::Url::parse(&body.agent_url) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
                return refuse("agent_url".into(), "the agent's URL is a base URL: no query, fragment or credentials");
            }
        }
        _ => return refuse("agent_url".into(), "the agent's URL must look like http://10.0.0.7:3080"),
    }
    if body.labels.len() > MAX_LABELS {
        return refuse("labels".into(), "a compute has at most 32 labels");
    }
    for (key, value) in &body.labels {
        let bad = |text: &str| text.len() > MAX_LABEL_BYTES || text.chars().any(char::is_control);
        if key.is_empty() || key.contains('=') || bad(key) || bad(value) {
            let msg = "a label has 1 to 63 bytes before '=' and at most 63 after it, without control characters";
            return refuse(format!("labels.{}", key.escape_debug()), msg);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn body(url: &str, labels: &[(&str, &str)]) -> RegisterCompute {
        let labels: BTreeMap<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        RegisterCompute { agent_url: url.to_owned(), labels, spec: None }
    }

    #[test]
    fn registrations() {
        assert!(check_registration(&body("http://10.0.0.7:3080", &[("env", "prod")])).is_ok());
        for bad in ["", "10.0.0.7:3080", "ftp://x", "http://", "http://a/?x=1", "http://u:p@a"] {
            assert_eq!(check_registration(&body(bad, &[])).unwrap_err().path, "agent_url", "{bad}");
        }
        for (key, value) in [("", "x"), ("a=b", "x"), ("a\0", "x"), ("a", &*"x".repeat(64))] {
            assert!(check_registration(&body("http://a", &[(key, value)])).is_err(), "{key} {value}");
        }
    }
}
