//! Which extensions are installed, for the metrics page under the reference's name.
//!
//! A task of `app` asks while the compute runs: when it begins to run, and then every interval, one database after the
//! other. Nothing is asked of a compute that does not run, and the sessions carry the agent's name, so that they do not
//! count as activity. Labels are names of extensions and grow with what people install: their number has a limit.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use measured::MetricGroup;
use measured::label::{LabelGroup, LabelGroupVisitor, LabelName, NoLabels};
use measured::metric::MetricEncoding;
use measured::metric::gauge::{GaugeState, write_gauge};
use measured::metric::group::Encoding;
use measured::metric::name::MetricName;
use pgfleet_api::agent::ComputeState;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::Handle;
use crate::postgres::{InstalledExtension, ReadOnly};

/// Databases that are looked at.
const DATABASES: u32 = 500;
/// Series that are shown.
const SERIES: usize = 200;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    name: String,
    version: String,
    owned_by_superuser: bool,
}

impl LabelGroup for &Key {
    fn visit_values(&self, v: &mut impl LabelGroupVisitor) {
        const NAME: &LabelName = LabelName::from_str("extension_name");
        const VERSION: &LabelName = LabelName::from_str("version");
        const OWNED: &LabelName = LabelName::from_str("owned_by_superuser");
        v.write_value(NAME, &self.name.as_str());
        v.write_value(VERSION, &self.version.as_str());
        v.write_value(OWNED, &if self.owned_by_superuser { "1" } else { "0" });
    }
}

#[derive(Debug, Default)]
struct Found {
    /// In how many databases each is.
    databases: BTreeMap<Key, i64>,
    /// How many more there are.
    omitted: i64,
}

/// What was found last. Nest it under the namespace `compute`.
#[derive(Debug, Clone, Default)]
pub struct Inventory(Arc<Mutex<Found>>);

impl Inventory {
    fn show(&self, found: Found) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

fn count(all: Vec<InstalledExtension>) -> Found {
    let mut databases = BTreeMap::new();
    for InstalledExtension { name, version, owned_by_superuser } in all {
        *databases.entry(Key { name, version, owned_by_superuser }).or_default() += 1;
    }
    let omitted = i64::try_from(databases.len().saturating_sub(SERIES)).unwrap_or(i64::MAX);
    if let Some(key) = (omitted > 0).then(|| databases.keys().nth(SERIES)).flatten() {
        let bound = Key { name: key.name.clone(), version: key.version.clone(), ..*key };
        drop(databases.split_off(&bound));
    }
    Found { databases, omitted }
}

/// Asks until `stop` is cancelled.
///
/// # Errors
/// None: what PostgreSQL does not answer is asked again at the next turn.
pub async fn run(
    handle: Handle,
    read_only: ReadOnly,
    inventory: Inventory,
    interval: Duration,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let work = async {
        let mut status = handle.watch();
        // It ends with the driver, which is the end of the process.
        while status.wait_for(|status| status.status == ComputeState::Running).await.is_ok() {
            match look(&read_only).await {
                Ok(found) => inventory.show(found),
                Err(error) => tracing::warn!("extensions were not counted: {}", pgfleet_runtime::exit::chain(&error)),
            }
            tokio::time::sleep(interval).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
    Ok(())
}

async fn look(read_only: &ReadOnly) -> Result<Found, crate::postgres::AskError> {
    let mut all = Vec::new();
    for database in read_only.databases(DATABASES).await? {
        match read_only.extensions(&database).await {
            Ok(found) => all.extend(found),
            // Dropped or closed since it was listed.
            Err(error) => tracing::debug!(database, "{error}"),
        }
    }
    Ok(count(all))
}

impl<Enc: Encoding> MetricGroup<Enc> for Inventory
where
    GaugeState: MetricEncoding<Enc>,
{
    fn collect_group_into(&self, enc: &mut Enc) -> Result<(), Enc::Err> {
        const INSTALLED: &MetricName = MetricName::from_str("installed_extensions");
        const OMITTED: &MetricName = MetricName::from_str("installed_extensions_omitted");
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        enc.write_help(INSTALLED, "Databases that have the extension in the version.")?;
        GaugeState::write_type(INSTALLED, enc)?;
        for (key, databases) in &found.databases {
            write_gauge(enc, INSTALLED, key, *databases)?;
        }
        enc.write_help(OMITTED, "Series of installed extensions that are not shown, because there are too many.")?;
        GaugeState::write_type(OMITTED, enc)?;
        write_gauge(enc, OMITTED, NoLabels, found.omitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_counted_and_series_limited() {
        let one = |name: &str| InstalledExtension { name: name.into(), version: "1".into(), owned_by_superuser: true };
        let mut all: Vec<_> = (0..SERIES + 3).map(|i| one(&format!("e{i:03}"))).collect();
        all.push(one("e000"));
        let found = count(all);
        assert_eq!((found.databases.len(), found.omitted), (SERIES, 3));
        assert_eq!(found.databases.values().next(), Some(&2));
        assert_eq!(count(vec![one("a")]).omitted, 0);
    }
}
