//! Keys and tokens of a local cluster: authentication is on from its first second.
//!
//! Controllers trust the operator's key and their own; agents trust the controllers' key and the operator's. Both
//! private keys stay in the cluster's directory, readable by their owner only.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgfleet_api::auth::Scope;
use pgfleet_clients::token::{Grant, Minter, generate_key_pair};
use serde_json::json;

use super::layout::{Layout, failed};
use crate::exit::CliError;

/// A local cluster is played with for an afternoon, or forgotten for a year.
const OPERATOR_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

/// The files that servers are started with.
#[derive(Debug, Clone)]
pub struct Keys {
    /// What a controller signs with.
    pub controller_key: PathBuf,
    /// Whom controllers trust.
    pub controller_jwks: PathBuf,
    /// Whom agents trust.
    pub agent_jwks: PathBuf,
}

/// Makes all keys and the operator's two tokens: `operator.token` for controllers, `agent.token` for agents.
pub fn make(layout: &Layout) -> Result<Keys, CliError> {
    let dir = layout.keys();
    let (controller_pem, controller_jwk) = generate_key_pair()?;
    let (operator_pem, operator_jwk) = generate_key_pair()?;
    let keys = Keys {
        controller_key: dir.join("controller.pem"),
        controller_jwks: dir.join("controllers.jwks.json"),
        agent_jwks: dir.join("agents.jwks.json"),
    };
    let both = json!({ "keys": [controller_jwk, operator_jwk] }).to_string();
    write_private(&keys.controller_key, &controller_pem)?;
    write_private(&dir.join("operator.pem"), &operator_pem)?;
    write_private(&keys.controller_jwks, &both)?;
    write_private(&keys.agent_jwks, &both)?;
    let operator = Minter::open(dir.join("operator.pem"))?;
    for (path, grant) in
        [(layout.operator_token(), Grant::of(Scope::Admin)), (dir.join("agent.token"), Grant::agent_admin())]
    {
        let token = operator.mint_long_lived(&grant.held_by("local operator"), OPERATOR_TTL)?;
        write_private(&path, &format!("{token}\n"))?;
    }
    Ok(keys)
}

/// Writes a file that only its owner may read, from its first byte on.
pub fn write_private(path: &Path, text: &str) -> Result<(), CliError> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| failed("write", path, &error))
}
