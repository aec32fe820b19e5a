//! Which cluster is meant: flags, then the environment, then the local cluster if one is up.

use std::path::PathBuf;

use clap::Args;
use pgfleet_clients::controller::{ControllerClient, Options};
use pgfleet_clients::token::Source;

use crate::exit::CliError;
use crate::local::layout::Layout;
use crate::local::state::State;

#[derive(Debug, Args)]
pub struct Connection {
    /// Base URL of a controller, any member; repeat it or separate several by commas. Default: the local cluster's.
    #[arg(
        long = "endpoint",
        value_name = "URL",
        env = "PGFLEET_ENDPOINTS",
        value_delimiter = ',',
        global = true,
        value_parser = base_url
    )]
    pub endpoints: Vec<String>,
    /// File with the bearer token. Default: the local cluster's, when its endpoints are used.
    #[arg(long, value_name = "FILE", env = "PGFLEET_TOKEN_FILE", global = true)]
    pub token_file: Option<PathBuf>,
}

impl Connection {
    /// A client of the cluster that is meant.
    pub fn client(&self) -> Result<ControllerClient, CliError> {
        let mut endpoints = self.endpoints.clone();
        let mut token_file = self.token_file.clone();
        if endpoints.is_empty() {
            let layout = Layout::new(None)?;
            let state = State::read(&layout)?.ok_or_else(|| {
                let place = layout.root.display();
                CliError::Usage(format!("no --endpoint given and no local cluster in {place}; see pgfleet local up"))
            })?;
            endpoints = state.controllers.iter().map(|controller| controller.url.clone()).collect();
            token_file = token_file.or_else(|| Some(layout.operator_token()));
        }
        let tokens = match token_file {
            Some(path) => Source::file(path)?,
            None => Source::Anonymous,
        };
        Ok(ControllerClient::new(endpoints, tokens, Options::default())?)
    }
}

fn base_url(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("it must look like http://host:port".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("a base URL has no user, password or query; tokens go into --token-file".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_base_urls_are_endpoints() {
        assert_eq!(base_url("http://a:1/").as_deref(), Ok("http://a:1"));
        for bad in ["a:1", "ftp://a", "http://u:p@a", "http://a?x=1", ""] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }
}
