//! Keys and tokens of a test fleet: authentication is on, as in production.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use pgfleet_api::ComputeId;
use pgfleet_api::auth::{Claims, Scope};
use pgfleet_clients::token::{Grant, Minter, Source, generate_key_pair};
use serde_json::json;

/// The key files of a fleet and the minters that go with them.
#[derive(Debug)]
pub struct Keys {
    /// What the controllers sign with.
    pub controller_key: PathBuf,
    /// Whom controllers and agents trust: the controllers' key and the operator's.
    pub jwks: PathBuf,
    operator_key: PathBuf,
    operator: Arc<Minter>,
    foreign: Arc<Minter>,
    foreign_key: PathBuf,
}

impl Keys {
    /// Makes them in a directory.
    pub fn make(dir: &Path) -> Self {
        let (controller_key, jwks) = (dir.join("controller.pem"), dir.join("jwks.json"));
        let (operator_key, foreign_key) = (dir.join("operator.pem"), dir.join("foreign.pem"));
        let controllers = write_key(&controller_key);
        let operators = write_key(&operator_key);
        write_key(&foreign_key);
        write(&jwks, &json!({ "keys": [controllers, operators] }).to_string());
        let (operator, foreign) = (open(&operator_key), open(&foreign_key));
        Self { controller_key, jwks, operator_key, operator, foreign, foreign_key }
    }

    /// Tokens of the operator, for clients.
    pub fn source(&self) -> Source {
        Source::Minter(self.operator.clone())
    }

    /// The private key that nobody trusts.
    pub fn foreign_key(&self) -> &Path {
        &self.foreign_key
    }

    /// A good token.
    pub fn token(&self, grant: &Grant) -> String {
        self.operator.mint(grant).unwrap_or_else(|error| panic!("no token: {error}"))
    }

    /// A good token of a scope.
    pub fn scope(&self, scope: Scope) -> String {
        self.token(&Grant::of(scope))
    }

    /// A good token for one compute.
    pub fn compute(&self, id: &str) -> String {
        let id: ComputeId = id.parse().unwrap_or_else(|error| panic!("{id}: {error}"));
        self.token(&Grant { compute_id: Some(id), ..Grant::of(Scope::Compute) })
    }

    /// A token that nobody trusts.
    pub fn foreign(&self, grant: &Grant) -> String {
        self.foreign.mint(grant).unwrap_or_else(|error| panic!("no token: {error}"))
    }

    /// A token of a trusted key that was good an hour ago.
    pub fn expired(&self, grant: &Grant) -> String {
        let pem = std::fs::read(&self.operator_key).unwrap_or_default();
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let exp = hour_ago.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
        let Grant { scope, aud, compute_id, sub } = grant.clone();
        let claims = Claims { scope: Some(scope), exp, aud, compute_id, sub };
        let key = EncodingKey::from_ed_pem(&pem);
        let token = key.and_then(|key| jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &key));
        token.unwrap_or_else(|error| panic!("no token: {error}"))
    }
}

fn write_key(path: &Path) -> serde_json::Value {
    let (pem, jwk) = generate_key_pair().unwrap_or_else(|error| panic!("no key: {error}"));
    write(path, &pem);
    jwk
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{} cannot be written: {error}", path.display()));
}

fn open(path: &Path) -> Arc<Minter> {
    Arc::new(Minter::open(path).unwrap_or_else(|error| panic!("no minter: {error}")))
}
