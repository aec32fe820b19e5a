//! What PostgreSQL itself refuses of a spec's settings: names that it has not, what cannot be set, values that do not fit.
//!
//! The table is PostgreSQL 15's. Texts that only PostgreSQL can judge (a time zone, a list of libraries) are taken, and so is
//! the name of two parts that belongs to an extension.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use pgfleet_api::spec::ComputeSpec;
use pgfleet_domain::spec::{Setting, collect};

use crate::agent::Refusal;

/// The port that simulated servers claim; a spec that names another is refused.
pub const PORT: u16 = 5432;

/// What values a setting takes.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Internal,
    Bool,
    Number { whole: bool, unit: &'static str, from: f64, to: f64 },
    Words(Vec<&'static str>),
    Text,
}

/// Judges the settings of a spec, in the order of a real agent: its own names first, then what PostgreSQL knows.
///
/// # Errors
/// The first that is refused.
pub fn judge(spec: &ComputeSpec) -> Result<(), Refusal> {
    let refuse = |path: &str, msg: String| Refusal::Content { path: path.to_owned(), msg };
    let settings = collect(spec, PORT).map_err(|error| refuse(&error.path, error.msg))?;
    let table = table();
    let kind = |setting: &Setting| table.get(setting.name.as_str());
    for setting in &settings {
        match kind(setting) {
            Some(Kind::Internal) => return Err(refuse(&setting.path, format!("{} cannot be set", setting.name))),
            None if !setting.name.contains('.') => {
                return Err(refuse(&setting.path, format!("PostgreSQL has no setting {}", setting.name)));
            }
            Some(Kind::Bool | Kind::Number { .. } | Kind::Words(_) | Kind::Text) | None => {}
        }
    }
    for setting in &settings {
        if let Some(kind) = kind(setting)
            && !kind.takes(&setting.value)
        {
            let msg = format!("invalid value for parameter \"{}\": \"{}\"", setting.name, setting.value);
            return Err(refuse(&setting.path, msg));
        }
    }
    Ok(())
}

impl Kind {
    fn takes(&self, value: &str) -> bool {
        match self {
            Self::Internal => false,
            Self::Bool => is_bool(value),
            Self::Words(words) => {
                let is = |word: &&str| word.eq_ignore_ascii_case(value);
                words.iter().any(is) || (words.contains(&"on") && is_bool(value))
            }
            Self::Number { whole, unit, from, to } => in_range(value, *whole, unit, *from, *to),
            Self::Text => true,
        }
    }
}

/// PostgreSQL takes every beginning of a word that is clear.
fn is_bool(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    ["true", "false", "yes", "no"].into_iter().any(|word| begins(word, 1))
        || begins("on", 2)
        || begins("off", 2)
        || matches!(value.as_str(), "0" | "1")
}

/// A number with or without a unit. A whole one may be written as a fraction and is rounded.
fn in_range(value: &str, whole: bool, base: &str, from: f64, to: f64) -> bool {
    let value = value.trim();
    let end = value.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(value.len());
    let (mut number, mut unit) = value.split_at(end);
    // An exponent or a hexadecimal number; rare, so their range is not looked at.
    if unit.starts_with(['e', 'E']) || (number == "0" && unit.starts_with(['x', 'X'])) {
        return unit.chars().skip(1).all(|c| c.is_ascii_hexdigit() || matches!(c, '-' | '+'));
    }
    (number, unit) = (number.trim(), unit.trim());
    let Ok(number) = number.parse::<f64>() else { return false };
    let factor = if unit.is_empty() { Some(1.0) } else { factor(unit, base) };
    let Some(number) = factor.map(|factor| number * factor) else { return false };
    let number = if whole { number.round_ties_even() } else { number };
    (from..=to).contains(&number)
}

/// How many of `base` one `unit` is.
fn factor(unit: &str, base: &str) -> Option<f64> {
    let bytes = |unit: &str| match unit {
        "B" => Some(1.0),
        "kB" => Some(1024.0),
        "8kB" => Some(8192.0),
        "MB" => Some(1024.0 * 1024.0),
        "GB" => Some(1024.0 * 1024.0 * 1024.0),
        "TB" => Some(1024.0 * 1024.0 * 1024.0 * 1024.0),
        _ => None,
    };
    let seconds = |unit: &str| match unit {
        "us" => Some(0.000_001),
        "ms" => Some(0.001),
        "s" => Some(1.0),
        "min" => Some(60.0),
        "h" => Some(3600.0),
        "d" => Some(86_400.0),
        _ => None,
    };
    match (bytes(unit), bytes(base), seconds(unit), seconds(base)) {
        (Some(unit), Some(base), ..) | (.., Some(unit), Some(base)) => Some(unit / base),
        _ => None,
    }
}

/// By lower-case name.
fn table() -> &'static BTreeMap<String, Kind> {
    static TABLE: OnceLock<BTreeMap<String, Kind>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let lines = include_str!("postgres_15.tsv").lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| parse(line).unwrap_or_else(|| panic!("postgres_15.tsv: {line}"))).collect()
    })
}

fn parse(line: &'static str) -> Option<(String, Kind)> {
    let mut fields = line.split('\t');
    let (name, kind) = (fields.next()?, fields.next()?);
    let (unit, from, to) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""), fields.next().unwrap_or(""));
    let kind = match kind {
        "internal" => Kind::Internal,
        "bool" => Kind::Bool,
        "integer" | "real" => {
            Kind::Number { whole: kind == "integer", unit, from: from.parse().ok()?, to: to.parse().ok()? }
        }
        "enum" => Kind::Words(fields.next()?.split(',').collect()),
        "string" => Kind::Text,
        _ => return None,
    };
    Some((name.to_ascii_lowercase(), kind))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(name: &str, value: &str) -> Result<(), Refusal> {
        let spec = json!({
            "format_version": 1.0, "suspend_timeout_seconds": 0,
            "cluster": {"roles": [], "databases": [], "settings": [{"name": name, "value": value, "vartype": "string"}]}
        });
        judge(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn the_table_is_read() {
        assert!(table().len() > 340);
        let work_mem = Kind::Number { whole: true, unit: "kB", from: 64.0, to: 2_147_483_647.0 };
        assert_eq!(table()["work_mem"], work_mem);
        assert_eq!(table()["block_size"], Kind::Internal);
        assert_eq!(table()["datestyle"], Kind::Text);
    }

    #[test]
    fn what_postgresql_takes() {
        for (name, value) in [
            ("work_mem", "4MB"),
            ("work_mem", "64"),
            ("work_mem", " 1.5 GB "),
            ("WORK_MEM", "0x400"),
            ("statement_timeout", "1min"),
            ("statement_timeout", "0"),
            ("wal_buffers", "-1"),
            ("wal_buffers", "16MB"),
            ("autovacuum", "of"),
            ("autovacuum", "T"),
            ("synchronous_commit", "remote_apply"),
            ("synchronous_commit", "yes"),
            ("random_page_cost", "1.1"),
            ("random_page_cost", "1e3"),
            ("shared_preload_libraries", "anything"),
            ("ext.setting", "anything"),
            ("port", "5432"),
        ] {
            assert_eq!(judged(name, value), Ok(()), "{name} = {value}");
        }
    }

    #[test]
    fn what_postgresql_refuses() {
        for (name, value) in [
            ("wrok_mem", "4MB"),
            ("block_size", "8192"),
            ("work_mem", "4mb"),
            ("work_mem", "4 seconds"),
            ("work_mem", "63"),
            ("work_mem", ""),
            ("work_mem", "much"),
            ("max_connections", "0"),
            ("max_connections", "1000000"),
            ("autovacuum", "o"),
            ("autovacuum", "2"),
            ("wal_level", "on"),
            ("synchronous_commit", "maybe"),
            ("port", "5433"),
            ("data_directory", "/"),
        ] {
            let refusal = judged(name, value).unwrap_err();
            assert!(matches!(&refusal, Refusal::Content { path, .. } if path == "cluster.settings[0]"), "{refusal:?}");
        }
    }
}
