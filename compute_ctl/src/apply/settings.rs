//! A spec's settings judged by the classes of a running server, before anything is written. Pure.

use std::collections::BTreeMap;

use pgfleet_domain::spec::{Setting, SettingError};

/// What it takes for a change to be in effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A reload.
    Reload,
    /// A restart of PostgreSQL, which this agent only reports.
    Restart,
    /// It cannot be set in a file.
    Internal,
    /// The server does not know it.
    Unknown,
}

/// Class of a setting by the `context` that `pg_settings` gives for it, or none where the server does not know it.
///
/// A name of two parts belongs to an extension that may be loaded later, so it is taken.
#[must_use]
pub fn classify(name: &str, context: Option<&str>) -> Class {
    match context {
        Some("internal") => Class::Internal,
        Some("postmaster") => Class::Restart,
        Some(_) => Class::Reload,
        None if name.contains('.') => Class::Reload,
        None => Class::Unknown,
    }
}

/// Judges all settings against the contexts of a running server.
///
/// # Errors
/// The first that is unknown or cannot be set.
pub fn classify_all(settings: &[Setting], contexts: &BTreeMap<String, String>) -> Result<(), SettingError> {
    refuse_all(settings, contexts).into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}

/// Every setting that is unknown or cannot be set, with the reason.
#[must_use]
pub fn refuse_all<'a>(
    settings: &'a [Setting],
    contexts: &BTreeMap<String, String>,
) -> Vec<(&'a Setting, SettingError)> {
    let judge = |setting: &'a Setting| {
        // Names are compared as PostgreSQL does, without case; a few of its own have capitals.
        let context = contexts
            .get(&setting.name)
            .or_else(|| contexts.iter().find(|(name, _)| name.eq_ignore_ascii_case(&setting.name)).map(|(_, c)| c));
        let msg = match classify(&setting.name, context.map(String::as_str)) {
            Class::Reload | Class::Restart => return None,
            Class::Internal => format!("{} cannot be set", setting.name),
            Class::Unknown => format!("PostgreSQL has no setting {}", setting.name),
        };
        Some((setting, SettingError { path: setting.path.clone(), msg }))
    };
    settings.iter().filter_map(judge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        let rows = [
            ("work_mem", Some("user"), Class::Reload),
            ("log_statement", Some("superuser"), Class::Reload),
            ("autovacuum", Some("sighup"), Class::Reload),
            ("log_connections", Some("superuser-backend"), Class::Reload),
            ("post_auth_delay", Some("backend"), Class::Reload),
            ("max_connections", Some("postmaster"), Class::Restart),
            ("block_size", Some("internal"), Class::Internal),
            ("wrok_mem", None, Class::Unknown),
            ("ext.setting", None, Class::Reload),
        ];
        for (name, context, class) in rows {
            assert_eq!(classify(name, context), class, "{name}");
        }
        let contexts = BTreeMap::from([("DateStyle".to_owned(), "user".to_owned())]);
        let known = Setting { name: "datestyle".into(), value: "ISO".into(), path: "p".into() };
        assert_eq!(classify_all(std::slice::from_ref(&known), &contexts), Ok(()));
        let unknown = Setting { name: "date_style".into(), ..known };
        assert_eq!(classify_all(&[unknown], &contexts).unwrap_err().path, "p");
    }
}
