//! The content hash of a spec.

use std::fmt::Write as _;

use pgfleet_api::SpecHash;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Content hash of a spec: SHA-256 over its JSON with sorted keys and no white space, before any field is dropped.
#[must_use]
pub fn spec_hash(document: &Value) -> SpecHash {
    let mut canonical = Vec::new();
    write_canonical(document, &mut canonical);
    match sha256_hex(&canonical).parse() {
        Ok(hash) => hash,
        Err(_) => unreachable!("64 hex digits are a spec hash"),
    }
}

/// SHA-256 as 64 lower-case hex digits.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// Sorts explicitly: whether `serde_json::Map` keeps an order of its own is decided by a feature any crate may switch on.
fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.iter().collect();
            keys.sort_by(|a, b| a.0.cmp(b.0));
            out.push(b'{');
            for (i, (key, inner)) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_json(key, out);
                out.push(b':');
                write_canonical(inner, out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (i, inner) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_canonical(inner, out);
            }
            out.push(b']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => write_json(value, out),
    }
}

/// A text, a number, a truth value or nothing, as JSON.
fn write_json(value: &impl Serialize, out: &mut Vec<u8>) {
    // Writing to memory cannot fail, and each of these has a form in JSON.
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hash_does_not_see_order_or_white_space_but_all_content() {
        let a: Value = serde_json::from_str(r#"{"b":[1,{"y":2,"x":1}],"a":"é\n"}"#).unwrap();
        let b: Value = serde_json::from_str(" {\"a\" : \"\\u00e9\\n\", \"b\": [1, {\"x\":1,\"y\":2}] }").unwrap();
        assert_eq!(spec_hash(&a), spec_hash(&b));
        for other in [
            json!({"b": [1, {"y": 2, "x": 2}], "a": "é\n"}),
            json!({"b": [{"y": 2, "x": 1}, 1], "a": "é\n"}),
            json!({}),
        ] {
            assert_ne!(spec_hash(&a), spec_hash(&other));
        }
        // sha256 of "{}"
        assert_eq!(spec_hash(&json!({})).as_str(), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    }
}
