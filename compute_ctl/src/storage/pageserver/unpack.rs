//! Unpacks the stream of a base backup: a gzip'ed tar, taken in pieces while it arrives.
//!
//! Runs on a thread that may block, fed through a bounded channel. Nothing is written outside of the target: an entry is
//! a directory or a file with a plain relative name, and anything else fails the whole.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use bytes::{Buf, Bytes};
use flate2::read::GzDecoder;
use rustix::fs::OFlags;
use tokio::sync::mpsc;

use crate::postgres::RunAs;

/// Longest name of an entry, far beyond any of PostgreSQL's.
const NAME_LIMIT_BYTES: usize = 1024;

/// The archive is not usable.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It cannot be read.
    #[error("the archive is damaged")]
    Archive(#[source] io::Error),
    /// An entry that does not belong into a data directory.
    #[error("the archive has an entry {path:?}, which is {what}")]
    Entry {
        /// Its name.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It cannot be written.
    #[error("cannot unpack {path:?}")]
    File {
        /// Its name.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something is missing.
    #[error("the archive has no {0}: it is no data directory")]
    Missing(&'static str),
}

/// The far end of a channel, read like a file.
pub(super) struct Pipe {
    chunks: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Pipe {
    pub(super) fn new(chunks: mpsc::Receiver<Bytes>) -> Self {
        Self { chunks, current: Bytes::new() }
    }
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let n = self.current.len().min(buf.len());
        self.current.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

/// Unpacks all of it below `target`, for `owner`. The stream is read to its very end, so that its sender can say that it
/// is whole; the tar itself needs no end marks.
pub(super) fn unpack(mut source: impl Read, target: &Path, owner: Option<RunAs>) -> Result<(), UnpackError> {
    let mut archive = tar::Archive::new(GzDecoder::new(&mut source));
    archive.set_ignore_zeros(true);
    for entry in archive.entries().map_err(UnpackError::Archive)? {
        let mut entry = entry.map_err(UnpackError::Archive)?;
        let name = entry.path().map_err(UnpackError::Archive)?.into_owned();
        let place = target.join(plain(&name)?);
        let kind = entry.header().entry_type();
        let file_error = |source| UnpackError::File { path: name.clone(), source };
        if kind.is_dir() {
            make_directory(&place, target, owner).map_err(file_error)?;
        } else if kind.is_file() {
            if let Some(parent) = place.parent() {
                make_directory(parent, target, owner).map_err(file_error)?;
            }
            write_file(&mut entry, &place, owner).map_err(file_error)?;
        } else {
            return Err(UnpackError::Entry { path: name, what: "neither a file nor a directory" });
        }
    }
    // The checksum of the compression stands at its end.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(UnpackError::Archive)?;
    io::copy(&mut source, &mut io::sink()).map_err(UnpackError::Archive)?;
    for needed in ["PG_VERSION", "global/pg_control"] {
        if !target.join(needed).is_file() {
            return Err(UnpackError::Missing(needed));
        }
    }
    Ok(())
}

/// The name, if it stays below where it is put.
fn plain(name: &Path) -> Result<PathBuf, UnpackError> {
    let refuse = |what| Err(UnpackError::Entry { path: name.to_owned(), what });
    if name.as_os_str().len() > NAME_LIMIT_BYTES {
        return refuse("too long a name");
    }
    let mut plain = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => plain.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return refuse("a name that leads out of the data directory");
            }
        }
    }
    Ok(plain)
}

/// Makes the directories from `target` (which is there) down to `place`.
fn make_directory(place: &Path, target: &Path, owner: Option<RunAs>) -> io::Result<()> {
    if place == target || place.is_dir() {
        return Ok(());
    }
    if let Some(parent) = place.parent() {
        make_directory(parent, target, owner)?;
    }
    DirBuilder::new().mode(0o700).create(place)?;
    owner.map_or(Ok(()), |user| user.own(place))
}

fn write_file(content: &mut impl Read, place: &Path, owner: Option<RunAs>) -> io::Result<()> {
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let mut file: File =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).custom_flags(no_follow).open(place)?;
    io::copy(content, &mut file)?;
    owner.map_or(Ok(()), |user| user.own(place))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{EntryType, Header};

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("pgfleet-unpack-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Entries as they are, without the care that a tar builder takes.
    fn tar(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, kind, content) in entries {
            let mut header = Header::new_ustar();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o777);
            header.set_size(content.len() as u64);
            if *kind == EntryType::Symlink {
                header.set_link_name("/etc").unwrap();
            }
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    const WHOLE: [(&str, EntryType, &[u8]); 3] = [
        ("PG_VERSION", EntryType::Regular, b"15\n"),
        ("global", EntryType::Directory, b""),
        ("global/pg_control", EntryType::Regular, b"control"),
    ];

    #[test]
    fn a_tar_without_an_end_is_whole() {
        let dir = scratch("whole");
        let mut entries = WHOLE.to_vec();
        entries.push(("./pg_wal/deep/1", EntryType::Regular, b"x"));
        let mut bytes = tar(&entries);
        unpack(gzip(&bytes).as_slice(), &dir, None).unwrap();
        assert_eq!(std::fs::read(dir.join("pg_wal/deep/1")).unwrap(), b"x");
        let mode = |name: &str| std::fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("pg_wal"), mode("PG_VERSION")), (0o700, 0o600));
        // Zeros in the middle and at the end are passed over, and a name that comes twice has its last content.
        bytes.resize(bytes.len() + 2048, 0);
        bytes.extend(tar(&[("PG_VERSION", EntryType::Regular, b"16\n")]));
        bytes.resize(bytes.len() + 512, 0);
        unpack(gzip(&bytes).as_slice(), &dir, None).unwrap();
        assert_eq!(std::fs::read(dir.join("PG_VERSION")).unwrap(), b"16\n");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn nothing_leads_out() {
        let dir = scratch("out");
        let inside = dir.join("a/b");
        std::fs::create_dir_all(&inside).unwrap();
        let absolute = format!("{}/absolute", dir.display());
        for name in ["../escaped", "global/../../escaped", &absolute] {
            let mut entries = WHOLE.to_vec();
            entries.push((name, EntryType::Regular, b"x"));
            let refused = unpack(gzip(&tar(&entries)).as_slice(), &inside, None);
            assert!(matches!(refused, Err(UnpackError::Entry { .. })), "{name}: {refused:?}");
        }
        for kind in [EntryType::Symlink, EntryType::Link, EntryType::Char, EntryType::Block, EntryType::Fifo] {
            let mut entries = WHOLE.to_vec();
            entries.push(("odd", kind, b""));
            let refused = unpack(gzip(&tar(&entries)).as_slice(), &inside, None);
            assert!(matches!(refused, Err(UnpackError::Entry { .. })), "{kind:?}: {refused:?}");
        }
        // A link that somebody put there meanwhile is not followed.
        std::fs::remove_file(inside.join("PG_VERSION")).unwrap();
        std::os::unix::fs::symlink(dir.join("escaped"), inside.join("PG_VERSION")).unwrap();
        let refused = unpack(gzip(&tar(&WHOLE)).as_slice(), &inside, None);
        assert!(matches!(refused, Err(UnpackError::File { .. })), "{refused:?}");
        assert!(!dir.join("escaped").exists() && !dir.join("a/escaped").exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_damaged_or_not_whole_is_refused() {
        let dir = scratch("damaged");
        let good = gzip(&tar(&WHOLE));
        let mut flipped = good.clone();
        let checksum = flipped.len() - 8;
        flipped[checksum] ^= 1;
        for bytes in [&good[..good.len() / 2], &good[..good.len() - 4], &flipped, b"no gzip at all, but some text", b""]
        {
            let refused = unpack(bytes, &dir, None);
            assert!(matches!(refused, Err(UnpackError::Archive(_) | UnpackError::File { .. })), "{refused:?}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
        let dir = scratch("damaged");
        for entries in [&WHOLE[..2], &WHOLE[1..], &[]] {
            let refused = unpack(gzip(&tar(entries)).as_slice(), &dir, None);
            assert!(matches!(refused, Err(UnpackError::Missing(_))), "{refused:?}");
            std::fs::remove_dir_all(&dir).unwrap();
            std::fs::create_dir_all(&dir).unwrap();
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
