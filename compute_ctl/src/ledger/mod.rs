//! The oath: the highest fence this agent has taken and the specs it acts on, durable before anything is done.
//!
//! Owned by `lifecycle`'s driver. One JSON file in the state directory, replaced by rename; file and directory are synced
//! before `keep` returns. A file that cannot be read is an error, never an empty ledger: an agent that forgot its promise
//! would obey a leader of the past. The file holds password verifiers, so it is readable by its owner only.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pgfleet_api::{Generation, SpecHash};
use pgfleet_domain::fence::LedgerRecord;
use pgfleet_runtime::pause::{PausePoint, Pauses};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const FILE: &str = "ledger.json";
/// Layout of the file; a number that is not known is refused.
const FORMAT: u32 = 1;

/// A spec under the counter it came with.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Absent where it came without a fence.
    pub generation: Option<Generation>,
    /// Hash of the content.
    pub spec_hash: SpecHash,
    /// The content.
    pub spec: Value,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { generation, spec_hash, spec: _ } = self;
        f.debug_struct("Kept").field("generation", generation).field("spec_hash", spec_hash).finish_non_exhaustive()
    }
}

/// What is written down.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Entry {
    /// The promise; absent until the first fenced request.
    pub record: Option<LedgerRecord>,
    /// The spec that was accepted last.
    pub accepted: Option<Kept>,
    /// The spec that was last fully in effect.
    pub good: Option<Kept>,
    /// Whether the accepted one was given up: nobody applies it again.
    #[serde(default)]
    pub rejected: bool,
    /// Generation that was given up last.
    #[serde(default)]
    pub rejected_generation: Option<Generation>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    #[serde(flatten)]
    entry: Entry,
}

/// The ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Reading failed.
    #[error("the ledger {path} cannot be read; restore it, or remove it to forget what this compute has promised")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It was written by another version.
    #[error("the ledger {path} has format {format}, this version knows {FORMAT}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says.
        format: u32,
    },
    /// Writing failed.
    #[error("the ledger {path} cannot be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The open ledger.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    entry: Entry,
    pauses: Pauses,
}

impl Ledger {
    /// Opens the ledger of a state directory; an absent file is a new one.
    ///
    /// # Errors
    /// There is a file and it cannot be read.
    pub fn open(state_dir: &Path, pauses: Pauses) -> Result<Self, LedgerError> {
        let path = state_dir.join(FILE);
        let entry = match std::fs::read(&path) {
            Ok(bytes) => {
                let document: Document = serde_json::from_slice(&bytes)
                    .map_err(|error| LedgerError::Read { path: path.clone(), source: error.into() })?;
                if document.format != FORMAT {
                    return Err(LedgerError::Format { path, format: document.format });
                }
                document.entry
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Entry::default(),
            Err(source) => return Err(LedgerError::Read { path, source }),
        };
        Ok(Self { path, entry, pauses })
    }

    /// A ledger that no disk holds.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Self {
        Self { path: PathBuf::new(), entry: Entry::default(), pauses: Pauses::none() }
    }

    /// What is written down.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Makes `entry` durable. Memory follows only when the disk has it.
    ///
    /// # Errors
    /// The file could not be written; memory is unchanged.
    pub async fn keep(&mut self, entry: Entry) -> Result<(), LedgerError> {
        if entry == self.entry {
            return Ok(());
        }
        self.pauses.at(PausePoint::AgentBeforeFsync).await;
        self.write(&entry).map_err(|source| LedgerError::Write { path: self.path.clone(), source })?;
        self.entry = entry;
        self.pauses.at(PausePoint::AgentAfterRename).await;
        Ok(())
    }

    fn write(&self, entry: &Entry) -> std::io::Result<()> {
        #[cfg(test)]
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        let document = Document { format: FORMAT, entry: entry.clone() };
        let beside = self.path.with_extension("tmp");
        let mut file = File::create(&beside)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&serde_json::to_vec(&document)?)?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)?;
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use pgfleet_api::{ClusterId, Term};
    use serde_json::json;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("pgfleet-ledger-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn entry() -> Entry {
        let spec_hash: SpecHash = "a".repeat(64).parse().unwrap();
        let kept = Kept { generation: Some(Generation(7)), spec_hash: spec_hash.clone(), spec: json!({"secret": 1}) };
        Entry {
            record: Some(LedgerRecord {
                cluster_id: ClusterId::generate(),
                compute_id: "orders".parse().unwrap(),
                term: Term(5),
                generation: Generation(7),
                spec_hash,
            }),
            accepted: Some(kept.clone()),
            good: Some(kept),
            rejected: false,
            rejected_generation: Some(Generation(6)),
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_read_back_and_closed_to_others() {
        let dir = scratch("kept");
        let mut ledger = Ledger::open(&dir, Pauses::none()).unwrap();
        assert_eq!(*ledger.entry(), Entry::default());
        ledger.keep(entry()).await.unwrap();
        let again = Ledger::open(&dir, Pauses::none()).unwrap();
        assert_eq!(again.entry().record, ledger.entry().record);
        assert_eq!(again.entry(), ledger.entry());
        let mode = std::fs::metadata(dir.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
        assert!(!format!("{ledger:?}").contains("secret"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_empty() {
        let dir = scratch("broken");
        for content in ["", "{", "{\"format\": 99}", "[]"] {
            std::fs::write(dir.join(FILE), content).unwrap();
            assert!(Ledger::open(&dir, Pauses::none()).is_err(), "{content:?}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn memory_follows_the_disk() {
        let dir = scratch("gone");
        let mut ledger = Ledger::open(&dir, Pauses::none()).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(ledger.keep(entry()).await.is_err());
        assert_eq!(*ledger.entry(), Entry::default());
    }
}
