//! One request, told without saying to whom.

use pgfleet_api::{ClusterId, ComputeId, Fence, Generation, Term};
use serde_json::{Value, json};
use uuid::Uuid;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A controller.
    Controller,
    /// The compute itself.
    Compute,
    /// Another compute.
    OtherCompute,
    /// Somebody whose token has a scope that does not do.
    Viewer,
    /// A controller whose token was made for other servers.
    WrongAudience,
    /// Somebody whose key nobody trusts.
    Foreign,
    /// Somebody who comes too late.
    Expired,
    /// Somebody with words that are no token.
    Garbage,
    /// Nobody.
    Nobody,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Row {
    /// What it is about; for the one who reads a failure.
    pub name: String,
    /// Who asks.
    pub who: Who,
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: Vec<u8>,
    /// Further fields of the answer that must differ.
    pub differs: &'static [&'static str],
}

impl Row {
    /// A request of a controller without a body.
    pub fn new(name: impl Into<String>, method: &str, path: &str) -> Self {
        Self {
            name: name.into(),
            who: Who::Controller,
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            differs: &[],
        }
    }

    /// Asked by somebody else.
    pub fn by(self, who: Who) -> Self {
        Self { who, ..self }
    }

    /// With a body as it stands.
    pub fn raw(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// With a JSON body.
    pub fn json(self, body: &Value) -> Self {
        self.raw(body.to_string())
    }

    /// With a header.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// With fields of the answer that must differ.
    pub fn differs(self, differs: &'static [&'static str]) -> Self {
        Self { differs, ..self }
    }
}

/// A fence for a compute of the fleet 1.
pub fn fence(own: &ComputeId, term: i64, generation: i64, content: char) -> Fence {
    Fence {
        cluster_id: ClusterId(Uuid::from_u128(1)),
        compute_id: own.clone(),
        term: Term(term),
        generation: Generation(generation),
        spec_hash: content.to_string().repeat(64).parse().unwrap(),
    }
}

/// The smallest spec with a content of its own.
pub fn spec(mark: &str) -> Value {
    pgfleet_harness::specs::marked(mark)
}

/// `POST /configure` with a fence; returns when the spec is in effect.
pub fn push(name: impl Into<String>, fence: &Fence, spec: &Value) -> Row {
    Row::new(name, "POST", "/configure").json(&json!({"spec": spec, "fence": fence}))
}
