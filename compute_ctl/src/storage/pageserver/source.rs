//! What a spec says about storage at page servers: which timeline, where its servers are, and what the compute is to it.
//! Pure.
//!
//! A field of the spec goes before the setting of the same meaning (`neon.tenant_id`, `neon.timeline_id`,
//! `neon.pageserver_connstring`, `neon.stripe_size`, `neon.safekeepers`). A spec with none of them means stock PostgreSQL.

use std::collections::BTreeMap;

use pgfleet_api::Lsn;
use pgfleet_api::spec::{ComputeMode, ComputeSpec, PageserverConnectionInfo, Secret};

/// A part of the spec that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {msg}")]
pub struct SourceError {
    /// Path of the field.
    pub path: String,
    /// Why, in one line. Never a connection string, which may hold a password.
    pub msg: String,
}

/// What the compute is to its timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that writes it.
    Primary,
    /// It follows.
    Replica,
    /// It shows one moment of it.
    Static(Lsn),
}

impl Role {
    /// As storage calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Static(_) => "static",
        }
    }
}

/// Storage of one timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The tenant: 32 lower-case hex digits.
    pub tenant_id: String,
    /// The timeline: 32 lower-case hex digits.
    pub timeline_id: String,
    /// Connection strings of the page servers, best first, by shard number. May hold passwords, so `Secret`.
    pub shards: Vec<Vec<Secret>>,
    /// Whether the tenant is sharded at all: one shard of one is.
    pub sharded: bool,
    /// Pages per stripe.
    pub stripe_size: Option<u32>,
    /// `host:port` of each safekeeper.
    pub safekeepers: Vec<String>,
    /// Generation of that set.
    pub safekeepers_generation: Option<u32>,
    /// What the compute is.
    pub role: Role,
    /// Shown to both kinds of server.
    pub token: Option<Secret>,
    /// `neon.project_id`, `neon.branch_id`, `neon.endpoint_id`.
    pub labels: [Option<String>; 3],
    /// Whether subscriptions are to be dropped, so that none may begin before that.
    pub without_subscribers: bool,
}

impl Source {
    /// Reads it; none where the spec means stock PostgreSQL.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn of(spec: &ComputeSpec) -> Result<Option<Self>, SourceError> {
        let Some((tenant_id, timeline_id)) = ids(spec)? else { return Ok(None) };
        let (sharded, shards, stripe_size) = page_servers(spec)?;
        let role = match &spec.mode {
            ComputeMode::Primary => Role::Primary,
            ComputeMode::Replica => Role::Replica,
            ComputeMode::Static(lsn) => {
                let lsn: Lsn = lsn.parse().map_err(|_| refused("mode", "an LSN is two hex numbers, like 0/16ABCD8"))?;
                Role::Static(lsn)
            }
        };
        let (safekeepers_generation, safekeepers) = safekeepers(spec, role)?;
        Ok(Some(Self {
            tenant_id,
            timeline_id,
            shards,
            sharded,
            stripe_size,
            safekeepers,
            safekeepers_generation,
            role,
            token: spec.storage_auth_token.clone(),
            labels: [spec.project_id.clone(), spec.branch_id.clone(), spec.endpoint_id.clone()],
            without_subscribers: spec.drop_subscriptions_before_start,
        }))
    }

    /// `TENANT`, or with its shard behind it.
    #[must_use]
    pub fn tenant_shard(&self, number: usize) -> String {
        if self.sharded {
            format!("{}-{number:02x}{:02x}", self.tenant_id, self.shards.len())
        } else {
            self.tenant_id.clone()
        }
    }
}

fn refused(path: &str, msg: impl ToString) -> SourceError {
    SourceError { path: path.to_owned(), msg: msg.to_string() }
}

/// The value of a setting and its path; the last of a name wins, as in PostgreSQL's own files.
fn setting<'a>(spec: &'a ComputeSpec, name: &str) -> Option<(&'a str, String)> {
    let settings = spec.cluster.settings.as_deref().unwrap_or_default();
    let (i, setting) = settings.iter().enumerate().rfind(|(_, setting)| setting.name.eq_ignore_ascii_case(name))?;
    let value = setting.value.as_deref().filter(|value| !value.is_empty())?;
    Some((value, format!("cluster.settings[{i}]")))
}

fn ids(spec: &ComputeSpec) -> Result<Option<(String, String)>, SourceError> {
    let find = |field: &Option<String>, path: &str, name: &str| match field {
        Some(value) => Some((value.clone(), path.to_owned())),
        None => setting(spec, name).map(|(value, path)| (value.to_owned(), path)),
    };
    let tenant = find(&spec.tenant_id, "tenant_id", "neon.tenant_id");
    let timeline = find(&spec.timeline_id, "timeline_id", "neon.timeline_id");
    let located = spec.pageserver_connection_info.is_some()
        || spec.pageserver_connstring.is_some()
        || setting(spec, "neon.pageserver_connstring").is_some();
    match (tenant, timeline) {
        (None, None) if !located => Ok(None),
        (None, _) => Err(refused("tenant_id", "storage at page servers needs a tenant")),
        (_, None) => Err(refused("timeline_id", "storage at page servers needs a timeline")),
        (Some(tenant), Some(timeline)) => Ok(Some((hex_id(tenant)?, hex_id(timeline)?))),
    }
}

fn hex_id((value, path): (String, String)) -> Result<String, SourceError> {
    if value.len() == 32 && value.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(value.to_ascii_lowercase())
    } else {
        Err(refused(&path, "an id at the page server is 32 hex digits"))
    }
}

type PageServers = (bool, Vec<Vec<Secret>>, Option<u32>);

fn page_servers(spec: &ComputeSpec) -> Result<PageServers, SourceError> {
    if let Some(info) = &spec.pageserver_connection_info {
        return from_info(info);
    }
    let stripe_setting = || {
        let (value, path) = setting(spec, "neon.stripe_size")?;
        Some(value.parse().map_err(|_| refused(&path, "a stripe size is a number of pages")))
    };
    let (list, path, stripe_size) = match &spec.pageserver_connstring {
        Some(list) => (list.as_str(), "pageserver_connstring".to_owned(), spec.shard_stripe_size),
        None => {
            let (list, path) = setting(spec, "neon.pageserver_connstring").ok_or_else(|| {
                refused("pageserver_connection_info", "storage at page servers needs their addresses")
            })?;
            (list, path, stripe_setting().transpose()?)
        }
    };
    let shards: Vec<_> = list.split(',').map(|url| vec![Secret(url.trim().to_owned())]).collect();
    if shards.iter().flatten().any(|url| url.0.is_empty()) {
        return Err(refused(&path, "a connection string is empty"));
    }
    if shards.len() > usize::from(u8::MAX) {
        return Err(refused(&path, "there are at most 255 shards"));
    }
    if shards.len() > 1 && stripe_size.is_none() {
        return Err(refused(&path, "more than one page server needs a stripe size"));
    }
    Ok((shards.len() > 1, shards, stripe_size))
}

fn from_info(info: &PageserverConnectionInfo) -> Result<PageServers, SourceError> {
    let path = |key: &str| format!("pageserver_connection_info.shards.{key}");
    let count = info.shard_count;
    let mut by_number = BTreeMap::new();
    for (key, shard) in &info.shards {
        let urls: Vec<_> = shard.pageservers.iter().filter_map(|one| one.libpq_url.clone()).map(Secret).collect();
        if urls.is_empty() {
            return Err(refused(&path(key), "the agent speaks libpq to page servers: give a libpq_url"));
        }
        let number = shard_number(key, count)
            .ok_or_else(|| refused(&path(key), "a shard's key is its number and the count, two hex digits each"))?;
        by_number.insert(number, urls);
    }
    // An unsharded tenant has one shard, whose number and count are zero.
    if by_number.len() != usize::from(count.max(1)) {
        return Err(refused("pageserver_connection_info.shards", "there is not one entry for each shard"));
    }
    if by_number.len() > 1 && info.stripe_size.is_none() {
        return Err(refused("pageserver_connection_info.stripe_size", "more than one shard needs a stripe size"));
    }
    Ok((count > 0, by_number.into_values().collect(), info.stripe_size))
}

fn shard_number(key: &str, count: u8) -> Option<u8> {
    let digits = key.len() == 4 && key.bytes().all(|b| b.is_ascii_hexdigit());
    let number = u8::from_str_radix(digits.then(|| key.get(..2)).flatten()?, 16).ok()?;
    let of = u8::from_str_radix(key.get(2..)?, 16).ok()?;
    (of == count && number < count.max(1)).then_some(number)
}

type Safekeepers = (Option<u32>, Vec<String>);

/// The setting is written `host,host` or `g#N:host,host`.
fn safekeepers(spec: &ComputeSpec, role: Role) -> Result<Safekeepers, SourceError> {
    let mut path = "safekeeper_connstrings".to_owned();
    let (mut generation, mut list) = (spec.safekeepers_generation, spec.safekeeper_connstrings.clone());
    if list.is_empty()
        && let Some((value, at)) = setting(spec, "neon.safekeepers")
    {
        let (given, hosts) = match value.strip_prefix("g#").and_then(|rest| rest.split_once(':')) {
            Some((number, hosts)) => {
                let number = number.parse().map_err(|_| refused(&at, "the generation of safekeepers is a number"))?;
                (Some(number), hosts)
            }
            None => (None, value),
        };
        list = hosts.split(',').map(|host| host.trim().to_owned()).collect();
        (generation, path) = (given.or(generation), at);
    }
    for (i, host) in list.iter().enumerate() {
        let well = host.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !well || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b)) {
            return Err(refused(&path, format!("safekeeper {} is not host:port", i + 1)));
        }
        if list[..i].contains(host) {
            return Err(refused(&path, format!("safekeeper {} is listed twice", i + 1)));
        }
    }
    if role == Role::Primary && list.is_empty() {
        return Err(refused(&path, "a primary on page-server storage needs safekeepers"));
    }
    Ok((generation, list))
}

#[cfg(test)]
mod tests;
