//! Rules for what a spec has in its lists: names, verifiers, options, settings, numbers.

use std::collections::BTreeSet;

use pgfleet_api::spec::{Cluster, ComputeSpec, Database, PgOption, Role};

use super::SpecError;

/// PostgreSQL's limit on a name (`NAMEDATALEN` - 1).
pub const MAX_NAME_BYTES: usize = 63;
/// PostgreSQL has no more connections than this (`MAX_BACKENDS`).
const MAX_CONCURRENCY: usize = 262_143;
/// PostgreSQL's program judges settings on its command line, of which each part and the whole have a limit; and its time
/// grows with the square of their number.
const MAX_SETTINGS: usize = 2000;
const MAX_SETTING_NAME_BYTES: usize = 128;
const MAX_SETTING_VALUE_BYTES: usize = 16 * 1024;
const MAX_SETTINGS_BYTES: usize = 1024 * 1024;
/// The longest time after which a compute may be suspended: 136 years, so that no clock overflows.
const MAX_SUSPEND_SECONDS: i64 = u32::MAX as i64;

pub(super) fn check_numbers(spec: &ComputeSpec) -> Result<(), SpecError> {
    if !(-1..=MAX_SUSPEND_SECONDS).contains(&spec.suspend_timeout_seconds) {
        let msg = format!("seconds are -1 (never), 0 (the default) or up to {MAX_SUSPEND_SECONDS}");
        return Err(SpecError::new("suspend_timeout_seconds", msg));
    }
    if !(1..=MAX_CONCURRENCY).contains(&spec.reconfigure_concurrency) {
        let msg = format!("it takes 1 to {MAX_CONCURRENCY} connections");
        return Err(SpecError::new("reconfigure_concurrency", msg));
    }
    Ok(())
}

pub(super) fn check_cluster(cluster: &Cluster) -> Result<(), SpecError> {
    for (i, role) in cluster.roles.iter().enumerate() {
        check_role(role, &format!("cluster.roles[{i}]"))?;
    }
    for (i, database) in cluster.databases.iter().enumerate() {
        check_database(database, &format!("cluster.databases[{i}]"))?;
    }
    check_settings(cluster)?;
    check_unique("cluster.roles", cluster.roles.iter().map(|role| role.name.as_str()))?;
    check_unique("cluster.databases", cluster.databases.iter().map(|database| database.name.as_str()))
}

fn check_unique<'a>(path: &str, names: impl Iterator<Item = &'a str>) -> Result<(), SpecError> {
    let mut seen = BTreeSet::new();
    for (i, name) in names.enumerate() {
        if !seen.insert(name) {
            return Err(SpecError::new(format!("{path}[{i}].name"), format!("{name:?} is listed twice")));
        }
    }
    Ok(())
}

pub(super) fn check_name(name: &str, path: &str) -> Result<(), SpecError> {
    match name.len() {
        0 => Err(SpecError::new(path, "a name must not be empty")),
        n if n > MAX_NAME_BYTES => {
            Err(SpecError::new(path, format!("a name has at most {MAX_NAME_BYTES} bytes, this one {n}")))
        }
        _ => Ok(()),
    }
}

fn check_role(role: &Role, path: &str) -> Result<(), SpecError> {
    check_name(&role.name, &format!("{path}.name"))?;
    if let Some(verifier) = &role.encrypted_password
        && !is_verifier(verifier)
    {
        let msg = "not a password verifier: give a SCRAM-SHA-256 verifier or an MD5 hash, never the password itself";
        return Err(SpecError::new(format!("{path}.encrypted_password"), msg));
    }
    check_options(role.options.as_deref(), &format!("{path}.options"))
}

fn check_database(database: &Database, path: &str) -> Result<(), SpecError> {
    check_name(&database.name, &format!("{path}.name"))?;
    check_name(&database.owner, &format!("{path}.owner"))?;
    check_options(database.options.as_deref(), &format!("{path}.options"))
}

/// `SCRAM-SHA-256$iterations:salt$stored:server`, or 32 hex digits with or without `md5` before them.
fn is_verifier(text: &str) -> bool {
    let base64 = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
    };
    if let Some(rest) = text.strip_prefix("SCRAM-SHA-256$") {
        let Some((iterations, rest)) = rest.split_once(':') else { return false };
        let Some((salt, keys)) = rest.split_once('$') else { return false };
        let Some((stored, server)) = keys.split_once(':') else { return false };
        return iterations.parse::<u32>().is_ok_and(|n| n > 0) && base64(salt) && base64(stored) && base64(server);
    }
    let md5 = text.strip_prefix("md5").unwrap_or(text);
    md5.len() == 32 && md5.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Options reach SQL as they stand, so their words are restricted to what such options are made of.
fn check_options(options: Option<&[PgOption]>, path: &str) -> Result<(), SpecError> {
    for (i, option) in options.unwrap_or_default().iter().enumerate() {
        let path = format!("{path}[{i}]");
        let words = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b' ' | b'_'));
        if option.name.trim().is_empty() || !words(&option.name) {
            return Err(SpecError::new(format!("{path}.name"), "an option is made of letters, digits, '_' and spaces"));
        }
        let raw = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.+-:".contains(&b));
        if option.vartype != "string" && !option.value.as_deref().is_none_or(raw) {
            let msg = "a value that is not quoted is made of letters, digits and _ . + - : (use vartype \"string\")";
            return Err(SpecError::new(format!("{path}.value"), msg));
        }
    }
    Ok(())
}

fn check_settings(cluster: &Cluster) -> Result<(), SpecError> {
    let mut bytes = 0;
    for (i, setting) in cluster.settings.iter().flatten().enumerate() {
        let path = format!("cluster.settings[{i}]");
        if i >= MAX_SETTINGS {
            return Err(SpecError::new(path, format!("a spec has at most {MAX_SETTINGS} settings")));
        }
        check_setting(setting, &path)?;
        bytes += setting.name.len() + setting.value.as_deref().map_or(0, str::len);
        if bytes > MAX_SETTINGS_BYTES {
            return Err(SpecError::new(path, format!("all settings together have at most {MAX_SETTINGS_BYTES} bytes")));
        }
    }
    let raw = cluster.postgresql_conf.as_deref().unwrap_or_default();
    let too_much = raw.len() > MAX_SETTINGS_BYTES / 2 || raw.lines().count() > MAX_SETTINGS;
    if too_much || raw.lines().any(|line| line.len() > MAX_SETTING_NAME_BYTES + MAX_SETTING_VALUE_BYTES) {
        let msg = format!(
            "it has at most {MAX_SETTINGS} lines of {MAX_SETTING_VALUE_BYTES} bytes, and {} bytes in all",
            MAX_SETTINGS_BYTES / 2
        );
        return Err(SpecError::new("cluster.postgresql_conf", msg));
    }
    Ok(())
}

fn check_setting(setting: &PgOption, path: &str) -> Result<(), SpecError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'$');
    let starts_well = setting.name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !starts_well || !setting.name.bytes().all(word) {
        let msg = "a setting's name begins with a letter and has letters, digits, '_' and '.'";
        return Err(SpecError::new(format!("{path}.name"), msg));
    }
    if setting.name.len() > MAX_SETTING_NAME_BYTES {
        let msg = format!("a setting's name has at most {MAX_SETTING_NAME_BYTES} bytes");
        return Err(SpecError::new(format!("{path}.name"), msg));
    }
    let Some(value) = setting.value.as_deref() else {
        return Err(SpecError::new(format!("{path}.value"), "a setting needs a value"));
    };
    if value.len() > MAX_SETTING_VALUE_BYTES {
        let msg = format!("a setting's value has at most {MAX_SETTING_VALUE_BYTES} bytes");
        return Err(SpecError::new(format!("{path}.value"), msg));
    }
    if value.contains(['\n', '\r']) {
        return Err(SpecError::new(format!("{path}.value"), "a setting's value is one line"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifiers() {
        for good in [
            "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy",
            "0123456789abcdef0123456789abcdef",
            "md50123456789abcdef0123456789abcdef",
        ] {
            assert!(is_verifier(good), "{good}");
        }
        for bad in ["", "md5", "password", "SCRAM-SHA-256$x:a$b:c", "SCRAM-SHA-256$4096:a$b", "SCRAM-SHA-256$1:a'$b:c"]
        {
            assert!(!is_verifier(bad), "{bad}");
        }
    }
}
