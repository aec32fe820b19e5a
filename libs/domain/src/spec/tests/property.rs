//! Any JSON at all, and good specs with something wrong in them.

use proptest::prelude::*;
use serde_json::{Map, Number, Value, json};

use super::{full, minimal, on_page_server};
use crate::spec::{MAX_DEPTH, parse, spec_hash};

/// Words that mean something here, and words that do not.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => any::<String>(),
        2 => "[a-z_]{0,70}",
        1 => prop::sample::select(vec![
            "Primary", "Replica", "Static", "Full", "rename_role", "delete_db", "template0", "pg_x", "string", "0/1", "0002",
            "postgresql://a@b:1", "postgresql://a:b@c", "a:1", "now", "md5", "neon.tenant_id", "'", "\\", "\0", "",
        ])
        .prop_map(str::to_owned),
    ]
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|n| Number::from_f64(n).map_or(Value::Null, Value::Number)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(text(), inner, 0..6).prop_map(|map| Value::Object(Map::from_iter(map))),
        ]
    })
}

/// Places of a document, by pointer.
fn places(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                places(inner, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(items) => {
            for (i, inner) in items.iter().enumerate() {
                places(inner, format!("{at}/{i}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    found.push(at);
}

/// What is done to a place of a good spec.
#[derive(Debug, Clone)]
enum Change {
    Replace(Value),
    Remove,
    Twice,
    Add(String, Value),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => json().prop_map(Change::Replace),
        1 => Just(Change::Remove),
        1 => Just(Change::Twice),
        1 => (text(), json()).prop_map(|(key, value)| Change::Add(key, value)),
    ]
}

fn make(spec: &mut Value, place: prop::sample::Index, change: Change) {
    let mut found = Vec::new();
    places(spec, String::new(), &mut found);
    let pointer = place.get(&found).clone();
    let Some(target) = spec.pointer_mut(&pointer) else { return };
    match (change, target) {
        (Change::Replace(value), target) => *target = value,
        (Change::Remove, target) => *target = Value::Null,
        (Change::Twice, Value::Array(items)) => items.extend(items.first().cloned()),
        (Change::Add(key, value), Value::Object(map)) => drop(map.insert(key, value)),
        (Change::Twice | Change::Add(..), _) => {}
    }
}

/// What holds of every document.
fn judge(document: &Value) -> Result<(), TestCaseError> {
    match parse(document) {
        Err(error) => {
            prop_assert!(!error.path.is_empty() && !error.msg.is_empty());
            prop_assert!(error.path.chars().count() <= 300 && error.msg.chars().count() <= 300);
            prop_assert!(!error.msg.contains('\n'), "{error}");
        }
        Ok(parsed) => {
            let text = document.to_string();
            prop_assert!(!text.contains("\\u0000"));
            let again: Value = serde_json::from_str(&text).map_err(|error| TestCaseError::fail(error.to_string()))?;
            // Kept inside other documents it must be read again as well.
            let around = json!({"a": {"b": {"c": [again]}}}).to_string();
            prop_assert!(serde_json::from_str::<Value>(&around).is_ok());
            let listed = &parsed.ignored_fields;
            prop_assert!(listed.iter().zip(listed.iter().skip(1)).all(|(a, b)| a <= b));
            prop_assert_eq!(parse(&again).map(|other| other.ignored_fields), Ok(parsed.ignored_fields));
            prop_assert_eq!(spec_hash(document).as_str().len(), 64);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_json_is_judged(document in json()) {
        judge(&document)?;
    }

    #[test]
    fn good_specs_with_changes_are_judged(
        from in 0..3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), change()), 1..4),
    ) {
        let mut spec = match from { 0 => minimal(), 1 => on_page_server(), _ => full() };
        for (place, change) in changes {
            make(&mut spec, place, change);
        }
        judge(&spec)?;
    }

    #[test]
    fn any_depth_is_judged(levels in 1usize..120, lists in any::<bool>()) {
        let mut spec = minimal();
        spec["deep"] = (0..levels).fold(json!(1), |inner, _| if lists { json!([inner]) } else { json!({"k": inner}) });
        prop_assert_eq!(parse(&spec).is_ok(), levels < MAX_DEPTH);
        judge(&spec)?;
    }
}
