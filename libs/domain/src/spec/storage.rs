//! Where the data of a compute come from: rules for page servers, safekeepers, modes and primaries.
//!
//! A spec that names no tenant, no timeline and no page server, neither in a field nor in a setting `neon.*`, means stock
//! PostgreSQL.

use std::collections::BTreeSet;

use pgfleet_api::spec::{ComputeMode, ComputeSpec, PageserverConnectionInfo};
use url::Url;

use super::SpecError;

/// Settings by which older specs say what fields say today.
const STORAGE_SETTINGS: [&str; 3] = ["neon.tenant_id", "neon.timeline_id", "neon.pageserver_connstring"];

/// What storage a spec means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageKind {
    /// A data directory of PostgreSQL's own.
    Stock,
    /// Page servers and safekeepers.
    PageServer,
}

impl StorageKind {
    /// What this spec means.
    #[must_use]
    pub fn of(spec: &ComputeSpec) -> Self {
        let fields = spec.tenant_id.is_some()
            || spec.timeline_id.is_some()
            || spec.pageserver_connection_info.is_some()
            || spec.pageserver_connstring.is_some();
        let named = fields || STORAGE_SETTINGS.iter().any(|name| setting(spec, name).is_some());
        if named { Self::PageServer } else { Self::Stock }
    }
}

/// Value of a setting of the spec and the path of it. The last of a name wins, names are compared without case.
#[must_use]
pub fn setting<'a>(spec: &'a ComputeSpec, name: &str) -> Option<(String, &'a str)> {
    let settings = spec.cluster.settings.as_deref().unwrap_or_default();
    let (i, found) = settings.iter().enumerate().rfind(|(_, option)| option.name.eq_ignore_ascii_case(name))?;
    Some((format!("cluster.settings[{i}].value"), found.value.as_deref()?))
}

/// What a field says, else what the setting says that stands for it; with the path of where it was said.
fn said<'a>(spec: &'a ComputeSpec, field: &str, value: Option<&'a str>, name: &str) -> Option<(String, &'a str)> {
    value.map(|value| (field.to_owned(), value)).or_else(|| setting(spec, name))
}

pub(super) fn check_storage(spec: &ComputeSpec, storage: StorageKind) -> Result<(), SpecError> {
    check_no_repeated_safekeeper(spec)?;
    check_primary(spec)?;
    match storage {
        StorageKind::Stock => check_stock_mode(spec),
        StorageKind::PageServer => check_page_server(spec),
    }
}

fn check_no_repeated_safekeeper(spec: &ComputeSpec) -> Result<(), SpecError> {
    let mut seen = BTreeSet::new();
    for (i, address) in spec.safekeeper_connstrings.iter().enumerate() {
        if !seen.insert(address.as_str()) {
            return Err(SpecError::new(format!("safekeeper_connstrings[{i}]"), "this safekeeper is listed twice"));
        }
    }
    Ok(())
}

fn check_stock_mode(spec: &ComputeSpec) -> Result<(), SpecError> {
    match &spec.mode {
        ComputeMode::Primary => Ok(()),
        ComputeMode::Replica if spec.primary_connstring.is_none() => {
            let msg = "a replica on stock PostgreSQL needs its primary, like postgresql://user@host:5432/postgres";
            Err(SpecError::new("primary_connstring", msg))
        }
        ComputeMode::Replica => Ok(()),
        ComputeMode::Static(_) => {
            Err(SpecError::new("mode", "Static needs page-server storage, and this spec names none"))
        }
    }
}

/// The way to a primary: a URL that can be shown, because its password lies elsewhere.
fn check_primary(spec: &ComputeSpec) -> Result<(), SpecError> {
    if let Some(text) = &spec.primary_connstring {
        let refuse = |msg: &str| Err(SpecError::new("primary_connstring", msg));
        let Ok(url) = Url::parse(text) else {
            return refuse("not a URL: give postgresql://user@host:5432/postgres");
        };
        if !matches!(url.scheme(), "postgresql" | "postgres") {
            return refuse("a primary's URL begins with postgresql://");
        }
        let secret = |(key, _): (std::borrow::Cow<'_, str>, _)| key == "password" || key == "sslpassword";
        if url.password().is_some() || url.query_pairs().any(secret) {
            return refuse("a password must not stand in the URL: give it as primary_password");
        }
        if url.username().is_empty() || url.host_str().is_none_or(str::is_empty) {
            return refuse("a primary's URL has a user and a host: postgresql://user@host:5432/postgres");
        }
    }
    if let Some(name) = &spec.primary_slot_name {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if name.is_empty() || name.len() > super::MAX_NAME_BYTES || !name.bytes().all(fits) {
            let msg = "a slot's name has 1 to 63 lower-case letters, digits and '_'";
            return Err(SpecError::new("primary_slot_name", msg));
        }
    }
    Ok(())
}

fn check_page_server(spec: &ComputeSpec) -> Result<(), SpecError> {
    check_id(spec, "tenant_id", spec.tenant_id.as_deref(), "neon.tenant_id")?;
    check_id(spec, "timeline_id", spec.timeline_id.as_deref(), "neon.timeline_id")?;
    match &spec.pageserver_connection_info {
        Some(info) => check_shards(info)?,
        None => check_connstring(spec)?,
    }
    match &spec.mode {
        ComputeMode::Primary => check_safekeepers(spec),
        ComputeMode::Replica => Ok(()),
        ComputeMode::Static(lsn) if is_lsn(lsn) => Ok(()),
        ComputeMode::Static(_) => Err(SpecError::new("mode", "an LSN is two hex numbers, like 0/16ABCD8")),
    }
}

fn check_id(spec: &ComputeSpec, field: &str, value: Option<&str>, name: &str) -> Result<(), SpecError> {
    match said(spec, field, value, name) {
        None => {
            Err(SpecError::new(field, format!("page-server storage needs it, as a field or as the setting {name}")))
        }
        Some((_, id)) if id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(()),
        Some((path, _)) => Err(SpecError::new(path, "an id has 32 hex digits")),
    }
}

fn check_shards(info: &PageserverConnectionInfo) -> Result<(), SpecError> {
    const SHARDS: &str = "pageserver_connection_info.shards";
    const STRIPE: &str = "pageserver_connection_info.stripe_size";
    if info.stripe_size == Some(0) {
        return Err(SpecError::new(STRIPE, "a stripe has at least one page"));
    }
    if info.shard_count > 1 && info.stripe_size.is_none() {
        return Err(SpecError::new(STRIPE, "more than one shard needs a stripe size"));
    }
    // Without shards there is one, under number and count 00.
    let count = usize::from(info.shard_count.max(1));
    if info.shards.len() != count {
        let msg = format!("{} shards are listed and shard_count says {}", info.shards.len(), info.shard_count);
        return Err(SpecError::new(SHARDS, msg));
    }
    for (key, shard) in &info.shards {
        let path = format!("{SHARDS}.{key}");
        if !is_shard_of(key, info.shard_count) {
            let msg =
                "a key is the shard's number and the count, two hex digits each, and 0000 where there are no shards";
            return Err(SpecError::new(path, msg));
        }
        if !shard.pageservers.iter().any(|server| server.libpq_url.is_some()) {
            return Err(SpecError::new(format!("{path}.pageservers"), "a shard needs a page server with a libpq_url"));
        }
        for (i, server) in shard.pageservers.iter().enumerate() {
            if server.libpq_url.as_deref().is_some_and(|url| !is_libpq_url(url)) {
                return Err(SpecError::new(format!("{path}.pageservers[{i}].libpq_url"), NOT_LIBPQ));
            }
        }
    }
    Ok(())
}

const NOT_LIBPQ: &str = "a page server's URL is postgresql://user@host:port";

fn is_libpq_url(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "postgresql" | "postgres") && url.host_str().is_some_and(|host| !host.is_empty())
    })
}

/// `NNCC`: number and count, two hex digits each.
fn is_shard_of(key: &str, count: u8) -> bool {
    if key.len() != 4 || !key.bytes().all(|b| b.is_ascii_hexdigit()) {
        return false;
    }
    let (number, of) = key.split_at(2);
    let byte = |hex| u8::from_str_radix(hex, 16).ok();
    byte(of) == Some(count) && byte(number).is_some_and(|number| number < count.max(1))
}

fn check_connstring(spec: &ComputeSpec) -> Result<(), SpecError> {
    let field = spec.pageserver_connstring.as_deref();
    let Some((path, text)) = said(spec, "pageserver_connstring", field, "neon.pageserver_connstring") else {
        let msg = "page-server storage needs its page servers";
        return Err(SpecError::new("pageserver_connection_info", msg));
    };
    if !text.split(',').all(|url| is_libpq_url(url.trim())) {
        return Err(SpecError::new(path, format!("{NOT_LIBPQ}; of several shards, with commas between them")));
    }
    let written = spec.shard_stripe_size.map(|size| ("shard_stripe_size".to_owned(), Some(size)));
    let stripe = written.or_else(|| {
        let (path, text) = setting(spec, "neon.stripe_size")?;
        Some((path, text.trim().parse().ok()))
    });
    match stripe {
        Some((_, Some(1..))) => Ok(()),
        Some((path, _)) => Err(SpecError::new(path, "a stripe size is a number of pages, at least 1")),
        None if !text.contains(',') => Ok(()),
        None => Err(SpecError::new("shard_stripe_size", "more than one shard needs a stripe size")),
    }
}

fn check_safekeepers(spec: &ComputeSpec) -> Result<(), SpecError> {
    if !spec.safekeeper_connstrings.is_empty() {
        for (i, address) in spec.safekeeper_connstrings.iter().enumerate() {
            if !is_address(address) {
                return Err(SpecError::new(format!("safekeeper_connstrings[{i}]"), NOT_ADDRESS));
            }
        }
        return Ok(());
    }
    let Some((path, text)) = setting(spec, "neon.safekeepers") else {
        return Err(SpecError::new("safekeeper_connstrings", "a primary on page-server storage needs its safekeepers"));
    };
    let list = match text.split_once(':') {
        Some((generation, list)) if generation.starts_with("g#") => list,
        Some(_) | None => text,
    };
    let addresses: Vec<_> = list.split(',').map(str::trim).collect();
    if addresses.iter().any(|address| !is_address(address)) {
        return Err(SpecError::new(path, NOT_ADDRESS));
    }
    if addresses.iter().collect::<BTreeSet<_>>().len() < addresses.len() {
        return Err(SpecError::new(path, "a safekeeper is listed twice"));
    }
    Ok(())
}

const NOT_ADDRESS: &str = "a safekeeper is host:port";

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !text.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// `HI/LO`, at most eight hex digits each.
fn is_lsn(text: &str) -> bool {
    let half = |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
    text.split_once('/').is_some_and(|(high, low)| half(high) && half(low))
}
