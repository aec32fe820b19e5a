//! A spec's settings: gathered from both places of a spec. What an agent refuses of them before it asks PostgreSQL.
//!
//! Called by the agent, which then has PostgreSQL judge the rest, and by its simulator.

use std::collections::BTreeMap;

use pgfleet_api::spec::ComputeSpec;

/// One setting and where the spec has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Lower-case name.
    pub name: String,
    /// Value without quotes.
    pub value: String,
    /// Path of the field that gives it.
    pub path: String,
}

/// A setting that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {msg}")]
pub struct SettingError {
    /// Path of the field.
    pub path: String,
    /// Why, in one line.
    pub msg: String,
}

/// Names that belong to the agent: with another value PostgreSQL would be out of its reach.
const OWN: [&str; 6] =
    ["unix_socket_directories", "data_directory", "config_file", "hba_file", "ident_file", "external_pid_file"];

/// Given on the server's command line, so a file has no say; accepted because specs in the wild carry it.
const WITHOUT_EFFECT: [&str; 1] = ["logging_collector"];

/// The effective settings of a spec, the last of a name winning; `postgresql_conf` comes before `settings`.
///
/// # Errors
/// A line that cannot be read, or a setting that is the agent's own.
pub fn collect(spec: &ComputeSpec, port: u16) -> Result<Vec<Setting>, SettingError> {
    let mut all = Vec::new();
    if let Some(text) = &spec.cluster.postgresql_conf {
        all.extend(read_conf(text)?);
    }
    for (i, option) in spec.cluster.settings.iter().flatten().enumerate() {
        let path = format!("cluster.settings[{i}]");
        let value = option.value.clone().unwrap_or_default();
        all.push(Setting { name: option.name.to_ascii_lowercase(), value, path });
    }
    let mut effective = BTreeMap::new();
    for setting in all {
        judge_own(&setting, port)?;
        if setting.name != "port" && !WITHOUT_EFFECT.contains(&setting.name.as_str()) {
            effective.insert(setting.name.clone(), setting);
        }
    }
    Ok(effective.into_values().collect())
}

fn judge_own(setting: &Setting, port: u16) -> Result<(), SettingError> {
    let refuse = |msg: String| Err(SettingError { path: setting.path.clone(), msg });
    if setting.name == "port" && setting.value.trim() != port.to_string() {
        return refuse(format!("PostgreSQL's port is {port}, given to the agent with -C; a spec cannot change it"));
    }
    if OWN.contains(&setting.name.as_str()) {
        return refuse(format!("{} is the agent's own and cannot be set", setting.name));
    }
    Ok(())
}

/// Reads `name = value` lines. Includes are refused: what they bring could not be judged.
///
/// # Errors
/// The first line that cannot be read.
pub fn read_conf(text: &str) -> Result<Vec<Setting>, SettingError> {
    let mut found = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let refuse = |msg: &str| SettingError {
            path: "cluster.postgresql_conf".to_owned(),
            msg: format!("line {}: {msg}", i + 1),
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
        let name = line[..end].to_ascii_lowercase();
        let named = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'$'));
        if name.is_empty() || !named {
            return Err(refuse("a line is: name = value"));
        }
        if name.starts_with("include") {
            return Err(refuse("includes are not possible in a spec"));
        }
        let rest = line[end..].trim_start();
        let rest = rest.strip_prefix('=').unwrap_or(rest).trim();
        let value = read_value(rest).ok_or_else(|| refuse("the value has an open quote or text after it"))?;
        found.push(Setting { name, value, path: "cluster.postgresql_conf".to_owned() });
    }
    Ok(found)
}

/// A bare word or a quoted string, and perhaps a comment.
fn read_value(text: &str) -> Option<String> {
    let Some(quoted) = text.strip_prefix('\'') else {
        let word = text.split('#').next().unwrap_or_default().trim();
        return (!word.is_empty() && !word.contains(char::is_whitespace)).then(|| word.to_owned());
    };
    let mut value = String::new();
    let mut chars = quoted.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.peek() == Some(&'\'') => value.extend(chars.next()),
            '\'' => {
                let rest: String = chars.collect();
                let rest = rest.trim();
                return (rest.is_empty() || rest.starts_with('#')).then_some(value);
            }
            // Of PostgreSQL's escapes only those that stand for themselves; the others are not worth a second reader.
            '\\' => match chars.next()? {
                same @ ('\\' | '\'') => value.push(same),
                _ => return None,
            },
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(conf: Value, settings: Value) -> ComputeSpec {
        serde_json::from_value(json!({
            "format_version": 1.0, "suspend_timeout_seconds": 0,
            "cluster": {"roles": [], "databases": [], "postgresql_conf": conf, "settings": settings}
        }))
        .unwrap()
    }

    fn option(name: &str, value: &str) -> Value {
        json!({"name": name, "value": value, "vartype": "string"})
    }

    #[test]
    fn the_last_of_a_name_wins() {
        let spec = spec(
            json!(
                "listen_addresses = '*'\nport = 5432\n# work_mem = 1\nwork_mem 4MB # small\n\nlogging_collector=on\n"
            ),
            json!([option("Work_Mem", "8MB"), option("x.y", "a"), option("x.y", "it's")]),
        );
        let got: Vec<_> = collect(&spec, 5432).unwrap().into_iter().map(|s| (s.name, s.value, s.path)).collect();
        let want = [
            ("listen_addresses", "*", "cluster.postgresql_conf"),
            ("work_mem", "8MB", "cluster.settings[0]"),
            ("x.y", "it's", "cluster.settings[2]"),
        ];
        assert_eq!(got, want.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
    }

    #[test]
    fn what_is_the_agents_own_is_refused_with_its_path() {
        let rows = [
            (spec(Value::Null, json!([option("a.b", "1"), option("port", "5433")])), "cluster.settings[1]"),
            (spec(Value::Null, json!([option("PORT", "5433")])), "cluster.settings[0]"),
            (spec(json!("port=1"), json!([])), "cluster.postgresql_conf"),
            (spec(json!("include 'x'"), json!([])), "cluster.postgresql_conf"),
            (spec(json!("a = 'open"), json!([])), "cluster.postgresql_conf"),
            (spec(json!("a = b c"), json!([])), "cluster.postgresql_conf"),
            (spec(json!("= b"), json!([])), "cluster.postgresql_conf"),
            (spec(Value::Null, json!([option("data_directory", "/")])), "cluster.settings[0]"),
        ];
        for (spec, path) in rows {
            assert_eq!(collect(&spec, 5432).unwrap_err().path, path);
        }
    }
}
