//! The three specs that the demo pushes, and what proves that they are in effect.

use pgfleet_api::ComputeId;
use serde_json::{Value, json};

use crate::exit::CliError;

/// The setting that the load keeps changing; PostgreSQL counts it in kB and applies it by reload.
pub const SETTING: &str = "work_mem";

/// One compute of the demo.
#[derive(Debug, Clone)]
pub struct Example {
    pub id: ComputeId,
    pub spec: Value,
    pub role: &'static str,
    /// In clear, as `examples/README.md` tells everybody.
    pub password: &'static str,
    pub database: &'static str,
}

/// The specs of `examples/`, as they were when this program was built.
pub fn all() -> Result<Vec<Example>, CliError> {
    let example = |id: &str, text: &str, role, password, database| -> Result<Example, CliError> {
        let damaged = |error: String| CliError::Failed(format!("the built-in example {id}: {error}"));
        let id_value = id.parse().map_err(|error: pgfleet_api::ids::InvalidId| damaged(error.to_string()))?;
        let spec = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        Ok(Example { id: id_value, spec, role, password, database })
    };
    Ok(vec![
        example("orders", include_str!("../../../../examples/orders.json"), "orders_app", "demo-orders-app", "orders")?,
        example(
            "inventory",
            include_str!("../../../../examples/inventory.json"),
            "inventory_owner",
            "demo-inventory-owner",
            "inventory_import",
        )?,
        example(
            "analytics",
            include_str!("../../../../examples/analytics.json"),
            "analyst",
            "demo-analyst",
            "reports",
        )?,
    ])
}

impl Example {
    /// The same spec with another value of [`SETTING`].
    pub fn with_setting(&self, kilobytes: u64) -> Value {
        let mut spec = self.spec.clone();
        if let Some(Value::Array(settings)) = spec.pointer_mut("/cluster/settings") {
            settings.retain(|setting| setting["name"] != SETTING);
            settings.push(json!({"name": SETTING, "value": format!("{kilobytes}kB"), "vartype": "string"}));
        }
        spec
    }

    /// How a client of this compute logs in.
    pub fn url(&self, port: u16) -> String {
        format!("postgresql://{}:{}@127.0.0.1:{port}/{}", self.role, self.password, self.database)
    }
}

/// What a spec says of [`SETTING`], in kB.
pub fn setting_of(spec: &Value) -> Option<u64> {
    let settings = spec.pointer("/cluster/settings")?.as_array()?;
    let text = settings.iter().rfind(|setting| setting["name"] == SETTING)?["value"].as_str()?;
    match text.strip_suffix("MB") {
        Some(megabytes) => megabytes.parse::<u64>().ok().map(|value| value * 1024),
        None => text.strip_suffix("kB")?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_names_the_role_database_and_setting_that_prove_it() {
        for example in all().unwrap() {
            let text = example.spec.to_string();
            assert!(text.contains(&format!("\"name\":\"{}\"", example.role)), "{}", example.id);
            assert!(text.contains(&format!("\"name\":\"{}\"", example.database)), "{}", example.id);
            assert!(setting_of(&example.spec).unwrap() >= 8 * 1024, "{}", example.id);
            assert_eq!(setting_of(&example.with_setting(12_345)), Some(12_345));
        }
    }

    #[test]
    fn the_readme_tells_every_password_used() {
        let readme = include_str!("../../../../examples/README.md");
        for example in all().unwrap() {
            assert!(readme.contains(&format!("`{}` (`{}`)", example.role, example.password)), "{}", example.id);
        }
    }
}
