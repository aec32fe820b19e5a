//! What is written into a configuration file is what is read from one, whatever the values hold.

use pgfleet_api::spec::ComputeSpec;
use proptest::prelude::*;
use serde_json::json;

use super::collect;
use crate::postgres::render;

fn spec_with(text: &str) -> ComputeSpec {
    serde_json::from_value(json!({"format_version": 1.0, "suspend_timeout_seconds": 0,
        "cluster": {"roles": [], "databases": [], "postgresql_conf": text}}))
    .unwrap()
}

fn read_back(text: &str) -> Result<Vec<(String, String)>, String> {
    let settings = collect(&spec_with(text), 5432).map_err(|error| error.to_string())?;
    Ok(settings.into_iter().map(|setting| (setting.name, setting.value)).collect())
}

/// Values as a spec may have them: anything on one line.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[^\n\r\0]{0,40}",
        r"['\\# =]{0,12}",
        prop::sample::select(vec![
            "",
            "'",
            "''",
            "\\",
            "\\\\'",
            "#",
            " x ",
            "a'#b",
            "\t",
            "\u{a0}",
            "\u{1f418}",
            "$x$",
            "%"
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(settings in prop::collection::btree_map("[a-z_]{1,10}\\.[a-z0-9_]{1,10}", value(), 0..8)) {
        let settings: Vec<_> = settings.into_iter().collect();
        prop_assert_eq!(read_back(&render(&settings)), Ok(settings));
    }

    /// Any text is read or refused, and what was read can be written and read again.
    #[test]
    fn any_text_is_judged(text in prop_oneof!["(?s).{0,200}", "([a-z.]{0,6}[ =]{0,2}'?[a-z'\\\\# ]{0,9}'?[\n\r]{0,2}){0,5}"]) {
        if let Ok(read) = read_back(&text) {
            prop_assert!(read.iter().all(|(_, value)| !value.contains('\n')));
            prop_assert_eq!(read_back(&render(&read)), Ok(read));
        }
    }
}
