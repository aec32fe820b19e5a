//! Reads the answer of a step-down piece by piece: its `computes` are as many as the fleet has, so they are taken out one
//! by one as they arrive, and the text of no more than one of them is in memory.

use std::collections::BTreeMap;

use pgfleet_api::ComputeId;
use pgfleet_api::compute::Observed;
use pgfleet_api::controller::StepDownResponse;

use crate::transport::Failure;

/// Everything but the computes.
const HEAD_LIMIT: usize = 64 << 10;
/// One compute's observed state.
const ENTRY_LIMIT: usize = 4 << 20;

/// A reader of one answer. It knows of JSON only where strings begin and end and how deep it is; what it cuts out is
/// parsed, so nothing that is no JSON gets through.
#[derive(Debug, Default)]
pub(super) struct SnapshotReader {
    /// The answer without what is between the braces of `computes`.
    head: Vec<u8>,
    /// `"id": {…}` as far as it has come.
    entry: Vec<u8>,
    depth: u32,
    in_string: bool,
    escaped: bool,
    in_computes: bool,
    computes: BTreeMap<ComputeId, Observed>,
}

impl SnapshotReader {
    /// Takes the next piece.
    pub(super) fn take_in(&mut self, piece: &[u8]) -> Result<(), Failure> {
        piece.iter().try_for_each(|byte| self.next(*byte))
    }

    /// The whole answer.
    pub(super) fn finish(self) -> Result<StepDownResponse, Failure> {
        let mut answer: StepDownResponse = serde_json::from_slice(&self.head).map_err(|_| Failure::Garbled)?;
        answer.computes = self.computes;
        Ok(answer)
    }

    fn next(&mut self, byte: u8) -> Result<(), Failure> {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return self.keep(byte);
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' if self.depth == 1 && self.names_computes() => {
                self.keep(byte)?;
                (self.in_computes, self.depth) = (true, 2);
                return Ok(());
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.checked_sub(1).ok_or(Failure::Garbled)?;
                if self.in_computes && self.depth == 1 {
                    self.entry_ends()?;
                    self.in_computes = false;
                }
            }
            b',' if self.in_computes && self.depth == 2 => return self.entry_ends(),
            _ => {}
        }
        self.keep(byte)
    }

    fn keep(&mut self, byte: u8) -> Result<(), Failure> {
        let (kept, limit) =
            if self.in_computes { (&mut self.entry, ENTRY_LIMIT) } else { (&mut self.head, HEAD_LIMIT) };
        kept.push(byte);
        if kept.len() > limit { Err(Failure::Garbled) } else { Ok(()) }
    }

    /// Whether the value that begins now is that of the field `computes`.
    fn names_computes(&self) -> bool {
        let named = self.head.trim_ascii_end().strip_suffix(b":").unwrap_or_default();
        named.trim_ascii_end().ends_with(b"\"computes\"")
    }

    fn entry_ends(&mut self) -> Result<(), Failure> {
        if self.entry.trim_ascii().is_empty() {
            return Ok(());
        }
        self.entry.insert(0, b'{');
        self.entry.push(b'}');
        let one: BTreeMap<ComputeId, Observed> = serde_json::from_slice(&self.entry).map_err(|_| Failure::Garbled)?;
        self.entry.clear();
        self.computes.extend(one);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(text: &str, piece: usize) -> Result<StepDownResponse, Failure> {
        let mut reader = SnapshotReader::default();
        for piece in text.as_bytes().chunks(piece) {
            reader.take_in(piece)?;
        }
        reader.finish()
    }

    fn observed(error: &str) -> Value {
        json!({"state": "running", "boot_id": uuid_of(1), "status_seq": 1, "term": 1, "error": error,
            "pending_restart": ["a", "b"], "ignored_fields": []})
    }

    fn uuid_of(n: u8) -> String {
        format!("00000000-0000-0000-0000-{n:012}")
    }

    #[test]
    fn any_cut_reads_the_same_as_the_whole() {
        let tricky = observed(r#"}],{["computes":{ \ " ü"#);
        let whole = json!({"format": 1, "term": 7, "complete": true,
            "computes": {"a": observed("plain"), "b": tricky, "c": observed("")}});
        let want: StepDownResponse = serde_json::from_value(whole.clone()).unwrap();
        assert_eq!(want.computes.len(), 3);
        for text in [whole.to_string(), serde_json::to_string_pretty(&whole).unwrap()] {
            for piece in [1, 2, 3, 7, 64, text.len()] {
                assert_eq!(read(&text, piece).as_ref(), Ok(&want), "pieces of {piece}");
            }
        }
        for empty in
            [r#"{"format":1,"term":7,"complete":true}"#, r#"{"format":1,"term":7,"complete":true,"computes":{ }}"#]
        {
            assert!(read(empty, 5).unwrap().computes.is_empty());
        }
    }

    #[test]
    fn what_is_cut_short_or_no_json_is_refused() {
        let whole = json!({"format": 1, "term": 7, "complete": true, "computes": {"a": observed("x")}}).to_string();
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end], 16), Err(Failure::Garbled), "cut at {end}");
        }
        for bad in ["}", r#"{"computes":{"a":{}}}"#, r#"{"format":1,"term":1,"complete":true,"computes":{"a" 1}}"#] {
            assert_eq!(read(bad, 4), Err(Failure::Garbled), "{bad}");
        }
        let endless = format!(r#"{{"computes":{{"a":"{}"#, "x".repeat(ENTRY_LIMIT + 1));
        assert_eq!(read(&endless, 4096), Err(Failure::Garbled));
    }
}
