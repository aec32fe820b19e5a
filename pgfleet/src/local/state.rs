//! What a local cluster consists of, as `up` wrote it down: the only thing that `status` and `down` believe.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

use pgfleet_api::ComputeId;
use serde::{Deserialize, Serialize};

use super::layout::{Layout, failed};
use super::process::Process;
use crate::exit::CliError;

/// A running local cluster.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct State {
    /// Version of this file; 1.
    pub format: u32,
    /// The controllers' PostgreSQL.
    pub database: Option<DatabaseState>,
    /// In the order of their start.
    pub controllers: Vec<ControllerState>,
    /// In the order of their start.
    pub computes: Vec<ComputeState>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DatabaseState {
    pub process: Process,
    pub port: u16,
    pub log: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ControllerState {
    pub name: String,
    pub process: Process,
    /// Base URL of its API; empty until it said which port it got.
    pub url: String,
    pub log: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ComputeState {
    pub id: ComputeId,
    pub process: Process,
    /// Base URL of its agent; empty until it said which port it got.
    pub agent_url: String,
    pub postgres_port: u16,
    pub log: PathBuf,
}

impl State {
    pub fn new() -> Self {
        Self { format: 1, ..Self::default() }
    }

    /// The state of the cluster in this directory, if there is one.
    pub fn read(layout: &Layout) -> Result<Option<Self>, CliError> {
        if !layout.exists()? {
            return Ok(None);
        }
        let path = layout.state();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        let state: Self = serde_json::from_slice(&text)
            .map_err(|error| CliError::NotOurs(format!("{} is damaged: {error}", path.display())))?;
        if state.format != 1 {
            let format = state.format;
            return Err(CliError::NotOurs(format!("{} has format {format}, this program knows 1", path.display())));
        }
        Ok(Some(state))
    }

    /// Writes it by rename: a reader sees the old state or the new one.
    pub fn write(&self, layout: &Layout) -> Result<(), CliError> {
        let path = layout.state();
        let draft = path.with_extension("json.new");
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| CliError::Failed(format!("cannot write {}: {error}", path.display())))?;
        fs::File::create(&draft)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&draft, &path))
            .map_err(|error| failed("write", &path, &error))
    }
}
