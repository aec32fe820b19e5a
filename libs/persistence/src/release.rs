//! What a build knows of the schema: the number it reads and writes, and the migrations it carries.
//!
//! Called by: `main` of a controller, which hands its release in. Invariants: the migrations are in the order in which
//! they run; a build carries all those of the builds before it.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::SCHEMA_NUMBER;
use crate::migrate::MigrationError;

/// Made by `build.rs` from the folders of `migrations/`.
const EMBEDDED: &[Migration] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// One change of the schema.
#[derive(Clone, PartialEq, Eq)]
pub struct Migration {
    name: Cow<'static, str>,
    up: Cow<'static, str>,
}

impl fmt::Debug for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Migration").field(&self.name).finish()
    }
}

impl Migration {
    /// One whose SQL lies in the program. `name` is its folder's, `<YYYYMMDDhhmmss>_<verb_object>`.
    #[must_use]
    pub const fn embedded(name: &'static str, up: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), up: Cow::Borrowed(up) }
    }

    /// Its folder.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The part of its name that the table of versions holds.
    pub(crate) fn version(&self) -> &str {
        self.name.split('_').next().unwrap_or_default()
    }

    pub(crate) fn up(&self) -> &str {
        &self.up
    }
}

/// A build, as far as the schema is concerned.
#[derive(Debug, Clone)]
pub struct Release {
    number: i32,
    migrations: Arc<[Migration]>,
}

impl Release {
    /// This build.
    #[must_use]
    pub fn this() -> Self {
        Self { number: SCHEMA_NUMBER, migrations: EMBEDDED.into() }
    }

    /// A later build: a higher number, and more migrations after the embedded ones.
    #[must_use]
    pub fn later(number: i32, more: &[Migration]) -> Self {
        Self { number, migrations: EMBEDDED.iter().chain(more).cloned().collect() }
    }

    /// With the migrations of a directory after its own, in the order of their names. Read now, and not again.
    ///
    /// # Errors
    /// [`MigrationError::Directory`] if the directory or an `up.sql` cannot be read.
    pub fn with_dir(self, dir: &Path) -> Result<Self, MigrationError> {
        let unusable =
            |error: std::io::Error| MigrationError::Directory { dir: dir.to_path_buf(), reason: error.to_string() };
        let mut more = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(unusable)? {
            let path = entry.map_err(unusable)?.path();
            if !path.is_dir() {
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let up = std::fs::read_to_string(path.join("up.sql")).map_err(unusable)?;
            more.push(Migration { name: name.into(), up: up.into() });
        }
        more.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { number: self.number, migrations: self.migrations.iter().cloned().chain(more).collect() })
    }

    /// Number of the schema that it reads and writes; compared with [`crate::Compat`].
    #[must_use]
    pub const fn number(&self) -> i32 {
        self.number
    }

    /// What it carries, in order.
    #[must_use]
    pub fn migrations(&self) -> &[Migration] {
        &self.migrations
    }

    /// Folder name of the newest migration that it carries: the schema that its leadership aims at.
    #[must_use]
    pub fn newest(&self) -> &str {
        self.migrations.last().map_or("", Migration::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migrations_are_in_order_and_in_the_programs_own_schema() {
        let names: Vec<&str> = EMBEDDED.iter().map(Migration::name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(names, sorted);
        assert_eq!(names.first(), Some(&"20261121000000_create_leader"));
        for migration in EMBEDDED {
            assert_eq!(migration.version().len(), 14, "{migration:?}");
            // A rehearsal runs them in another schema; a name with its schema would reach the real tables.
            let sql = migration.up().to_lowercase();
            for word in ["public", "search_path", "pg_temp", "concurrently"] {
                assert!(!sql.contains(word), "{} names {word}", migration.name());
            }
        }
    }

    #[test]
    fn a_later_build_has_more_after_the_same() {
        let next = Release::later(2, &[Migration::embedded("20990101000000_add_probe", "SELECT 1")]);
        assert_eq!(next.number(), 2);
        assert_eq!(next.newest(), "20990101000000_add_probe");
        assert_eq!(next.migrations.len(), EMBEDDED.len() + 1);
        let error = next.with_dir(Path::new("/no/such/dir")).unwrap_err();
        assert!(matches!(error, MigrationError::Directory { .. }), "{error:?}");
    }
}
