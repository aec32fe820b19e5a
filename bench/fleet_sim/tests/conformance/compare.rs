//! What is compared of two answers, and what must differ.

use reqwest::header::HeaderMap;
use serde_json::Value;

/// Fields that cannot be the same: who and when, the real PostgreSQL, and what only a real machine has.
pub const DIFFERS: [&str; 9] = [
    "/start_time",
    "/boot_id",
    "/last_active",
    "/activity",
    "/downtime",
    "/resources",
    "/postgres/pid",
    "/postgres/version",
    "/postgres/port",
];

/// Headers that belong to the contract.
const HEADERS: [&str; 6] = ["content-type", "allow", "retry-after", "connection", "x-pgfleet-executed", "x-request-id"];

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The code of an error.
    pub fn code(&self) -> Option<String> {
        let body: Value = serde_json::from_str(&self.body).ok()?;
        Some(body.get("code")?.as_str()?.to_owned())
    }
}

/// Every difference between two answers that is not named.
pub fn differences(real: &Answer, simulated: &Answer, further: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut tell = |what: &str, real: &dyn std::fmt::Debug, simulated: &dyn std::fmt::Debug| {
        found.push(format!("{what}: real {real:?}, simulated {simulated:?}"));
    };
    if real.status != simulated.status {
        tell("status", &real.status, &simulated.status);
    }
    for name in HEADERS {
        let (left, right) = (real.header(name), simulated.header(name));
        if left != right {
            tell(name, &left, &right);
        }
    }
    let parse = |answer: &Answer| serde_json::from_str::<Value>(&answer.body);
    match (parse(real), parse(simulated)) {
        (Ok(mut left), Ok(mut right)) => {
            for pointer in DIFFERS.iter().chain(further) {
                take_out(&mut left, pointer);
                take_out(&mut right, pointer);
            }
            if left != right {
                tell("body", &left.to_string(), &right.to_string());
            }
        }
        (Err(_), Err(_)) if further.contains(&"") || real.body == simulated.body => {}
        _ => tell("body", &real.body, &simulated.body),
    }
    found
}

fn take_out(document: &mut Value, pointer: &str) {
    let Some((parent, field)) = pointer.rsplit_once('/') else { return };
    if let Some(fields) = document.pointer_mut(parent).and_then(Value::as_object_mut) {
        fields.remove(field);
    }
}
