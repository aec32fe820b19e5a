//! Words of the monitor socket, version 1: JSON in text frames.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Versions that the other end speaks.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Versions {
    pub(super) min: u32,
    pub(super) max: u32,
}

/// Answer to [`Versions`].
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Greeting {
    Version(u32),
    Error(String),
}

/// What a compute has.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Size {
    /// Bytes.
    pub(super) mem: u64,
}

/// What comes in.
#[derive(Debug)]
pub(super) enum Inbound {
    UpscaleNotification(Size),
    DownscaleRequest(Size),
    HealthCheck,
    InvalidMessage(String),
    InternalError(String),
}

/// A message that cannot be understood.
#[derive(Debug)]
pub(super) struct Misfit {
    /// Its id, 0 where it has none.
    pub(super) id: u64,
    pub(super) why: String,
}

#[derive(Deserialize)]
struct Envelope {
    r#type: String,
    #[serde(default)]
    content: Value,
    id: u64,
}

/// Reads a message and its id.
pub(super) fn read(text: &str) -> Result<(Inbound, u64), Misfit> {
    let document: Value = serde_json::from_str(text).map_err(|error| Misfit { id: 0, why: error.to_string() })?;
    let id = document.get("id").and_then(Value::as_u64).unwrap_or_default();
    let misfit = |error: serde_json::Error| Misfit { id, why: error.to_string() };
    let Envelope { r#type, content, id } = serde_json::from_value(document).map_err(misfit)?;
    let size = |name: &str| serde_json::from_value(content.get(name).cloned().unwrap_or_default()).map_err(misfit);
    let error = || content.get("error").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
    let message = match r#type.as_str() {
        "UpscaleNotification" => Inbound::UpscaleNotification(size("granted")?),
        "DownscaleRequest" => Inbound::DownscaleRequest(size("target")?),
        "HealthCheck" => Inbound::HealthCheck,
        "InvalidMessage" => Inbound::InvalidMessage(error()),
        "InternalError" => Inbound::InternalError(error()),
        other => return Err(Misfit { id, why: format!("there is no message {other:?}") }),
    };
    Ok((message, id))
}

/// What goes out.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type")]
pub(super) enum Outbound {
    UpscaleConfirmation {},
    UpscaleRequest {},
    DownscaleResult {
        #[serde(rename = "Ok")]
        ok: bool,
        #[serde(rename = "Status")]
        status: String,
    },
    HealthCheck {},
    InvalidMessage {
        error: String,
    },
    InternalError {
        error: String,
    },
}

#[derive(Serialize)]
struct Sent<'a> {
    #[serde(flatten)]
    message: &'a Outbound,
    id: u64,
}

/// Writes a message with its id.
pub(super) fn write(message: &Outbound, id: u64) -> String {
    // Plain structs of strings and numbers always serialise.
    serde_json::to_string(&Sent { message, id }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_beside_type_and_id() {
        let result = Outbound::DownscaleResult { ok: true, status: "s".into() };
        assert_eq!(write(&result, 8), r#"{"type":"DownscaleResult","Ok":true,"Status":"s","id":8}"#);
        assert_eq!(write(&Outbound::UpscaleRequest {}, 3), r#"{"type":"UpscaleRequest","id":3}"#);
    }

    #[test]
    fn what_cannot_be_understood_keeps_its_id() {
        assert!(matches!(read(r#"{"type":"HealthCheck","content":{},"id":4}"#), Ok((Inbound::HealthCheck, 4))));
        assert!(matches!(read(r#"{"type":"HealthCheck","id":4}"#), Ok((Inbound::HealthCheck, 4))));
        for (text, id) in [
            ("{", 0),
            ("{}", 0),
            (r#"{"type":"Dance","content":{},"id":6}"#, 6),
            (r#"{"type":"DownscaleRequest","content":{"target":{"cpu":1.0}},"id":8}"#, 8),
        ] {
            assert_eq!(read(text).unwrap_err().id, id, "{text}");
        }
    }
}
