//! The seal on the ledger's file: a digest of all that follows it, so that a flipped bit or a cut end is seen, and never
//! read as another promise.
//!
//! The file stays one JSON object: `{"format":2,"sha256":"<64 hex digits>",<everything else>}`.

use pgfleet_domain::spec::sha256_hex;

/// The number of this layout.
pub(super) const FORMAT: u32 = 2;
const HEAD: &[u8] = br#"{"format":2,"sha256":""#;
const MIDDLE: &[u8] = br#"","#;
const DIGEST_BYTES: usize = 64;

/// Seals an object, given as its JSON text.
pub(super) fn seal(object: &[u8]) -> Vec<u8> {
    let rest = object.strip_prefix(b"{").unwrap_or(object);
    let mut sealed = Vec::with_capacity(HEAD.len() + DIGEST_BYTES + MIDDLE.len() + rest.len());
    sealed.extend_from_slice(HEAD);
    sealed.extend_from_slice(sha256_hex(rest).as_bytes());
    sealed.extend_from_slice(MIDDLE);
    sealed.extend_from_slice(rest);
    sealed
}

/// Whether the file has this layout and is as it was sealed.
pub(super) fn is_whole(file: &[u8]) -> bool {
    file.strip_prefix(HEAD)
        .and_then(|rest| rest.split_at_checked(DIGEST_BYTES))
        .and_then(|(digest, rest)| Some((digest, rest.strip_prefix(MIDDLE)?)))
        .is_some_and(|(digest, rest)| digest == sha256_hex(rest).as_bytes())
}
