//! A spec as the text of a JSON object, which nobody takes apart on the way from the database to an agent.
//!
//! Called by: whoever stores, keeps, compares or sends a spec. Why text: as a tree of values the same spec takes five to
//! ten times the memory, and every push would make the tree and the text again. Invariants: the text is JSON that was
//! parsed once, at the door or by PostgreSQL; a clone shares it; `Debug` shows none of it, for it may hold verifiers.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// The text of a spec. Two are equal if they say the same, whatever the order of their keys and their white space.
#[derive(Clone)]
pub struct SpecText(Arc<str>);

impl SpecText {
    /// Takes a text that PostgreSQL or a parser has accepted as JSON.
    #[must_use]
    pub fn from_json(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// The JSON.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no JSON is empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The tree of its values, for whoever has to look into it.
    ///
    /// # Errors
    /// The text is no JSON, which only a defect can make it.
    pub fn value(&self) -> Result<Value, serde_json::Error> {
        serde_json::from_str(&self.0)
    }
}

impl From<&Value> for SpecText {
    fn from(value: &Value) -> Self {
        Self(Arc::from(value.to_string()))
    }
}

impl From<Value> for SpecText {
    fn from(value: Value) -> Self {
        Self::from(&value)
    }
}

impl PartialEq for SpecText {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || matches!((self.value(), other.value()), (Ok(one), Ok(two)) if one == two)
    }
}

impl fmt::Debug for SpecText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpecText({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_same_content_is_equal_in_any_shape() {
        let (one, two) = (SpecText::from_json(r#"{"a": 1,  "b":[2]}"#), SpecText::from(json!({"b": [2], "a": 1})));
        assert_eq!(one, two);
        assert_ne!(one, SpecText::from(json!({"a": 1, "b": [3]})));
        assert_eq!(one.value().unwrap(), json!({"a": 1, "b": [2]}));
    }

    #[test]
    fn debug_shows_no_content() {
        let text = SpecText::from(json!({"encrypted_password": "s3cret"}));
        assert!(!format!("{text:?}").contains("s3cret"));
    }
}
