//! The oath: the highest fence this agent has taken and the specs it acts on, durable before anything is done.
//!
//! Owned by `lifecycle`'s driver. One JSON file in the state directory, replaced by rename; file and directory are synced
//! before `keep` returns. A file that cannot be read is an error, never an empty ledger: an agent that forgot its promise
//! would obey a leader of the past. `seal` makes damage visible. The file holds password verifiers, so it is readable by its
//! owner only.

mod seal;

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
/// The layout before there was a seal; still read. A number that is not known is refused.
const UNSEALED: u32 = 1;

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

/// The file as it is read; `seal` writes the first two fields.
#[derive(Deserialize)]
struct Document {
    format: u32,
    sha256: Option<String>,
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
    #[error("the ledger {path} has format {format}, this version knows {}", seal::FORMAT)]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says.
        format: u32,
    },
    /// It is not as it was written.
    #[error("the ledger {path} is damaged; restore it, or remove it to forget what this compute has promised")]
    Damaged {
        /// The file.
        path: PathBuf,
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
            Ok(bytes) => read(&path, &bytes)?,
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
        let beside = self.path.with_extension("tmp");
        let mut file = File::create(&beside)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&seal::seal(&serde_json::to_vec(entry)?))?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)?;
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// The file's content, if it is whole and says something: an entry that promises nothing is never written.
fn read(path: &Path, bytes: &[u8]) -> Result<Entry, LedgerError> {
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|error| LedgerError::Read { path: path.to_owned(), source: error.into() })?;
    let whole = match document.format {
        seal::FORMAT => seal::is_whole(bytes),
        UNSEALED => document.sha256.is_none(),
        format => return Err(LedgerError::Format { path: path.to_owned(), format }),
    };
    if !whole || document.entry == Entry::default() {
        return Err(LedgerError::Damaged { path: path.to_owned() });
    }
    Ok(document.entry)
}

#[cfg(test)]
mod tests {
    use pgfleet_api::{ClusterId, Term};
    use proptest::prelude::*;
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
        let deep = format!("{{\"format\":1,\"accepted\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        for content in ["", "{", "null", "[]", "{}", "{\"format\": 99}", "{\"format\":1}", "{\"format\":2}", &deep] {
            std::fs::write(dir.join(FILE), content).unwrap();
            assert!(Ledger::open(&dir, Pauses::none()).is_err(), "{content:?}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    fn text_of(entry: &Entry) -> Vec<u8> {
        seal::seal(&serde_json::to_vec(entry).unwrap())
    }

    fn read_back(bytes: &[u8]) -> Result<Entry, LedgerError> {
        read(Path::new("ledger.json"), bytes)
    }

    #[test]
    fn the_layout_before_the_seal_is_read() {
        let entry = entry();
        let text = String::from_utf8(serde_json::to_vec(&entry).unwrap()).unwrap();
        let unsealed = text.replacen('{', "{\"format\":1,", 1);
        assert_eq!(read_back(unsealed.as_bytes()).unwrap(), entry);
        let sealed = String::from_utf8(text_of(&entry)).unwrap();
        let disguised = sealed.replacen("\"format\":2", "\"format\":1", 1).replacen("\"term\":5", "\"term\":4", 1);
        assert!(read_back(disguised.as_bytes()).is_err());
    }

    #[test]
    fn no_cut_and_no_flipped_bit_is_read() {
        let entry = entry();
        let good = text_of(&entry);
        assert_eq!(read_back(&good).unwrap(), entry);
        assert!((0..good.len()).all(|length| read_back(&good[..length]).is_err()));
        for place in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[place / 8] ^= 1 << (place % 8);
            assert!(read_back(&bad).is_err(), "bit {} of byte {}", place % 8, place / 8);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_no_ledger(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(read_back(&bytes).is_err());
        }

        #[test]
        fn no_damage_is_read_as_a_promise(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let good = text_of(&entry());
            let mut bad = good.clone();
            for (place, byte) in damage {
                let place = place.index(bad.len());
                bad[place] = byte;
            }
            bad.truncate(good.len() - cut.index(3));
            prop_assert!(bad == good || read_back(&bad).is_err());
        }

        #[test]
        fn what_is_written_is_read(text in any::<String>(), number in any::<f64>(), generation in 1i64..) {
            let mut entry = entry();
            let spec = json!({text.clone(): [text, number]});
            entry.good = Some(Kept { generation: Some(Generation(generation)), spec, spec_hash: entry.good.unwrap().spec_hash });
            let again = read_back(&text_of(&entry)).unwrap();
            prop_assert_eq!(again.record, entry.record);
            prop_assert_eq!(again.good.unwrap().generation, Some(Generation(generation)));
        }
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
