//! Specs that tests push.

use serde_json::{Value, json};

use crate::programs::workspace;

/// Password of the role `orders_app` in `examples/orders.json`.
pub const ORDERS_PASSWORD: &str = "demo-orders-app";

/// The example of an order system: two roles, a database, three settings.
pub fn orders() -> Value {
    let path = workspace().join("examples/orders.json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The smallest spec with content of its own: one setting that PostgreSQL takes as it is.
pub fn marked(mark: &str) -> Value {
    json!({
        "format_version": 1.0,
        "suspend_timeout_seconds": 0,
        "cluster": {
            "roles": [],
            "databases": [],
            "settings": [{"name": "pgfleet_test.mark", "value": mark, "vartype": "string"}],
        },
    })
}

/// The mark of a spec made by [`marked`].
pub fn mark_of(spec: &Value) -> String {
    spec["cluster"]["settings"][0]["value"].as_str().unwrap_or_default().to_owned()
}
