//! Statements for one role: what a new one gets, and what an existing one lacks. Pure.
//!
//! A new role may what the owner of a fleet's database expects to be able to do: it makes roles and databases, replicates,
//! passes row security, and is a member of the privileged role. An option of the spec has the last word on each of these.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use pgfleet_api::spec::{PgOption, Role};

use super::facts::KnownRole;
use super::quote::{identifier, literal};
use super::step::Statement;

/// What a new role gets, unless an option of the spec says otherwise.
const GIVEN: [&str; 5] = ["INHERIT", "CREATEROLE", "CREATEDB", "BYPASSRLS", "REPLICATION"];
/// Attributes that are on or off.
pub(super) const FLAGS: [&str; 6] = ["SUPERUSER", "INHERIT", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS"];
/// Options that `ALTER ROLE` does not have: they count when the role is made.
const ONLY_AT_CREATION: [&str; 4] = ["ROLE", "USER", "ADMIN", "SYSID"];

/// What is to be done to a role.
pub(super) struct RoleWork {
    pub(super) words: String,
    pub(super) statements: Vec<Statement>,
}

/// A spec's options for a role, told apart.
#[derive(Default)]
struct Wanted<'a> {
    /// On or off, in the spec's order.
    flags: Vec<String>,
    no_login: bool,
    member_of: Vec<String>,
    others: Vec<(String, &'a PgOption)>,
}

/// Why the options cannot be carried out at all.
pub(super) fn objection(role: &Role) -> Option<&'static str> {
    let words = |option: &PgOption| option.name.to_ascii_uppercase().split_whitespace().any(|word| word == "PASSWORD");
    let secret = role.options.iter().flatten().any(words);
    secret.then_some("a password is given as encrypted_password, not as an option")
}

/// The verifier as PostgreSQL stores it: an MD5 hash has a prefix and small letters.
fn stored(verifier: &str) -> String {
    if verifier.starts_with("SCRAM-SHA-256$") {
        return verifier.to_owned();
    }
    let hash = verifier.to_ascii_lowercase();
    if hash.starts_with("md5") { hash } else { format!("md5{hash}") }
}

fn sort_out(role: &Role) -> Wanted<'_> {
    let mut wanted = Wanted::default();
    let is_flag = |word: &str| FLAGS.contains(&word) || FLAGS.contains(&word.trim_start_matches("NO"));
    for option in role.options.iter().flatten() {
        let words: Vec<String> = option.name.to_ascii_uppercase().split_whitespace().map(ToOwned::to_owned).collect();
        let name = words.join(" ");
        match (name.as_str(), &option.value) {
            ("LOGIN", None) => {}
            ("NOLOGIN", None) => wanted.no_login = true,
            ("IN ROLE" | "IN GROUP", Some(group)) => {
                // As PostgreSQL reads it: a name without quotes is in small letters.
                let quoted = option.vartype == "string";
                wanted.member_of.push(if quoted { group.clone() } else { group.to_ascii_lowercase() });
            }
            (_, None) if words.iter().all(|word| is_flag(word)) => wanted.flags.extend(words),
            _ => wanted.others.push((name, option)),
        }
    }
    wanted
}

/// The statement that makes a role. `plain`: it gets nothing but what the spec says.
pub(super) fn create(role: &Role, privileged: &str, plain: bool) -> RoleWork {
    let wanted = sort_out(role);
    let spoken_of =
        |given: &str| wanted.flags.iter().any(|flag| flag == given || flag.trim_start_matches("NO") == given);
    let given = GIVEN.into_iter().filter(|given| !plain && !spoken_of(given)).map(ToOwned::to_owned);
    let mut parts: Vec<String> = given.chain(wanted.flags.iter().cloned()).collect();
    let privileged = (!plain).then(|| privileged.to_owned());
    let groups: BTreeSet<String> = privileged.into_iter().chain(wanted.member_of.iter().cloned()).collect();
    let mut words = "create role".to_owned();
    if !groups.is_empty() {
        let quoted: Vec<String> = groups.iter().map(|group| identifier(group)).collect();
        parts.push(format!("IN ROLE {}", quoted.join(", ")));
        words = format!("{words}, member of {}", groups.into_iter().collect::<Vec<_>>().join(", "));
    }
    parts.extend(wanted.others.iter().map(|(name, option)| render(name, option)));
    parts.push(if wanted.no_login { "NOLOGIN" } else { "LOGIN" }.to_owned());
    let verifier = role.encrypted_password.as_deref().map(stored);
    let begin = format!("CREATE ROLE {} WITH {}", identifier(&role.name), parts.join(" "));
    RoleWork { words, statements: vec![with_password(&begin, verifier.as_deref())] }
}

/// The statements that give an existing role what it lacks; none if it lacks nothing. What the spec is silent about is
/// left as it is.
pub(super) fn alter(role: &Role, known: &KnownRole) -> Option<RoleWork> {
    let wanted = sort_out(role);
    let (mut parts, mut words): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for flag in wanted.flags.iter().filter(|flag| known.attributes.get(*flag).is_none_or(|set| set != "true")) {
        parts.push(flag.clone());
        words.push(flag.to_ascii_lowercase());
    }
    for (name, option) in &wanted.others {
        if !ONLY_AT_CREATION.contains(&name.as_str()) && !in_effect(name, option, known) {
            parts.push(render(name, option));
            words.push(name.to_ascii_lowercase());
        }
    }
    if known.login == wanted.no_login {
        parts.push(if wanted.no_login { "NOLOGIN" } else { "LOGIN" }.to_owned());
        words.push(if wanted.no_login { "no login" } else { "login" }.to_owned());
    }
    let verifier = role.encrypted_password.as_deref().map(stored);
    let same_password = known.password == verifier;
    if !same_password {
        words.push(if verifier.is_some() { "password" } else { "no password" }.to_owned());
    }
    let mut statements = Vec::new();
    let begin = format!("ALTER ROLE {} WITH {}", identifier(&role.name), parts.join(" "));
    if !same_password {
        statements.push(with_password(begin.trim_end(), verifier.as_deref()));
    } else if !parts.is_empty() {
        statements.push(Statement::Run(begin));
    }
    for group in wanted.member_of.iter().filter(|group| !known.member_of.contains(*group)) {
        statements.push(Statement::Run(format!("GRANT {} TO {}", identifier(group), identifier(&role.name))));
        words.push(format!("member of {group}"));
    }
    (!words.is_empty()).then(|| RoleWork { words: format!("alter role: {}", words.join(", ")), statements })
}

fn with_password(begin: &str, verifier: Option<&str>) -> Statement {
    match verifier {
        Some(verifier) => {
            Statement::RunWithSecret(format!("{begin} PASSWORD {}", literal(verifier)), verifier.to_owned())
        }
        None => Statement::Run(format!("{begin} PASSWORD NULL")),
    }
}

/// Whether an option needs no change. One that cannot be compared is set at each run, which PostgreSQL takes calmly.
fn in_effect(name: &str, option: &PgOption, known: &KnownRole) -> bool {
    let is = known.attributes.get(name);
    match (name, option.value.as_deref()) {
        ("VALID UNTIL", Some(value)) => moment(value).is_some_and(|wanted| is == Some(&wanted)),
        (_, Some(value)) => is.is_some_and(|is| is == value.trim()),
        (_, None) => is.is_some_and(|is| is == "true"),
    }
}

/// A time as the catalog's reader gives it: seconds since 1970, or the word. Without a zone it is UTC, as in the agent's
/// sessions. None: in a form that only PostgreSQL can read.
fn moment(text: &str) -> Option<String> {
    let text = text.trim();
    if matches!(text, "infinity" | "-infinity") {
        return Some(text.to_owned());
    }
    let zoned = DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%#z"));
    let seconds = zoned.map(|time| time.timestamp()).ok().or_else(|| {
        let plain = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"];
        let time = plain.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
        let day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
        time.or_else(day).map(|time| time.and_utc().timestamp())
    })?;
    Some(seconds.to_string())
}

/// `NAME value`, the value quoted where the spec calls it a string.
fn render(name: &str, option: &PgOption) -> String {
    match option.value.as_deref() {
        None => name.to_owned(),
        Some(value) if option.vartype == "string" => format!("{name} {}", literal(value)),
        Some(value) => format!("{name} {value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_compared_whatever_their_form() {
        for text in ["2026-01-02T00:00:00Z", "2026-01-02", "2026-01-02 00:00:00", "2026-01-02 01:00:00+01"] {
            assert_eq!(moment(text).as_deref(), Some("1767312000"), "{text}");
        }
        assert_eq!(moment("infinity").as_deref(), Some("infinity"));
        assert_eq!(moment("next Tuesday"), None);
    }
}
