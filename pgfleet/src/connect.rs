//! Which cluster is meant: flags, then the environment, then a context of the configuration, then the local cluster.
//!
//! Endpoints, token and CA go together: a token of a context is sent to no endpoint but that context's, unless the
//! context was named with `--context` beside `--endpoint`.

use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use pgfleet_clients::controller::{ControllerClient, Options};
use pgfleet_clients::token::Source;
use pgfleet_clients::transport::Roots;

use crate::config::settings::{Context, duration};
use crate::exit::CliError;
use crate::local::layout::Layout;
use crate::local::state::State;

#[derive(Debug, Args)]
#[command(next_help_heading = "Which cluster")]
pub struct Connection {
    /// Base URL of a controller, any member; repeat it or separate several by commas. Default: the context's, else the
    /// local cluster's.
    #[arg(
        long = "endpoint",
        value_name = "URL",
        env = "PGFLEET_ENDPOINTS", hide_env_values = true,
        value_delimiter = ',',
        global = true,
        value_parser = base_url
    )]
    pub endpoints: Vec<String>,
    /// File with the bearer token. Default: that of the context, or of the local cluster, whose endpoints are used.
    #[arg(long, value_name = "FILE", env = "PGFLEET_TOKEN_FILE", hide_env_values = true, global = true)]
    pub token_file: Option<PathBuf>,
    /// File with the certificates (PEM) that alone are trusted for https. Default: the context's, else the system's.
    #[arg(long, value_name = "FILE", env = "PGFLEET_CA", hide_env_values = true, global = true)]
    pub ca: Option<PathBuf>,
    /// How long a request is tried, all members and attempts together, like 45s. Default: the context's, else 15s.
    #[arg(long, value_name = "DURATION", env = "PGFLEET_REQUEST_TIMEOUT", hide_env_values = true, global = true, value_parser = duration)]
    pub request_timeout: Option<Duration>,
    /// The context to use. Default: the current one; see pgfleet config.
    #[arg(long, value_name = "NAME", env = "PGFLEET_CONTEXT", hide_env_values = true, global = true)]
    pub context: Option<String>,
    /// The file with the contexts. Default: pgfleet/config.toml in $XDG_CONFIG_HOME, else in ~/.config.
    #[arg(long, value_name = "FILE", env = "PGFLEET_CONFIG", hide_env_values = true, global = true)]
    pub config: Option<PathBuf>,
    #[arg(skip)]
    sources: Sources,
}

/// Which of the values stood on the command line, and not in the environment.
#[derive(Debug, Clone, Copy, Default)]
struct Sources {
    endpoints: bool,
    token_file: bool,
    ca: bool,
    request_timeout: bool,
    context: bool,
}

impl Connection {
    /// Notes what stood on the command line.
    pub fn note_sources(&mut self, matches: &ArgMatches) {
        let typed = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        self.sources = Sources {
            endpoints: typed("endpoints"),
            token_file: typed("token_file"),
            ca: typed("ca"),
            request_timeout: typed("request_timeout"),
            context: typed("context"),
        };
    }

    /// What stood on the command line.
    pub fn given_by_flags(&self) -> Context {
        let Sources { endpoints, token_file, ca, request_timeout, context: _ } = self.sources;
        Context {
            endpoints: if endpoints { self.endpoints.clone() } else { Vec::new() },
            token_file: self.token_file.clone().filter(|_| token_file),
            ca: self.ca.clone().filter(|_| ca),
            request_timeout: self.request_timeout.filter(|_| request_timeout),
        }
    }

    /// A client of the cluster that is meant.
    pub fn client(&self) -> Result<ControllerClient, CliError> {
        let target = self.target()?;
        let tokens = match target.token_file {
            Some(path) => Source::file(path)?,
            None => Source::Anonymous,
        };
        let roots = target.ca.as_deref().map(Roots::file).transpose()?;
        let mut options = Options { roots, ..Options::default() };
        if let Some(timeout) = target.request_timeout {
            options.deadline = timeout;
            options.refused_deadline = options.refused_deadline.min(timeout);
            options.attempt = options.attempt.min(timeout);
        }
        Ok(ControllerClient::new(target.endpoints, tokens, options)?)
    }

    fn target(&self) -> Result<Context, CliError> {
        let config = self.config.as_deref();
        // A context that is typed goes before an environment, which was meant for another cluster.
        let given = if self.sources.context { self.given_by_flags() } else { self.given() };
        let base = if self.sources.context || given.endpoints.is_empty() {
            crate::config::chosen(config, self.context.as_deref())?
        } else {
            Some(Context::default())
        };
        let base = match base {
            Some(context) => context,
            None => local_cluster()?,
        };
        Ok(Context {
            endpoints: if given.endpoints.is_empty() { base.endpoints } else { given.endpoints },
            token_file: given.token_file.or(base.token_file),
            ca: given.ca.or(base.ca),
            request_timeout: given.request_timeout.or(base.request_timeout),
        })
    }

    /// What stood on the command line or in the environment.
    fn given(&self) -> Context {
        Context {
            endpoints: self.endpoints.clone(),
            token_file: self.token_file.clone(),
            ca: self.ca.clone(),
            request_timeout: self.request_timeout,
        }
    }
}

fn local_cluster() -> Result<Context, CliError> {
    let layout = Layout::new(None)?;
    let state = State::read(&layout)?.ok_or_else(|| {
        let place = layout.root.display();
        CliError::Usage(format!(
            "no --endpoint, no current context and no local cluster in {place}; see pgfleet config and pgfleet local up"
        ))
    })?;
    let endpoints = state.controllers.iter().map(|controller| controller.url.clone()).collect();
    Ok(Context { endpoints, token_file: Some(layout.operator_token()), ..Context::default() })
}

/// Checks the base URL of a controller.
pub fn base_url(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).map_err(|error| format!("{error}; it must look like http://host:port"))?;
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
