//! `pgfleet config`: the clusters that this user works with, by name.
//!
//! A context is how one cluster is reached: its members, the token, the CA. All other nouns use the current one, see
//! [`crate::connect`]. Reading verbs look at the file; writing verbs go through [`store::update`], which locks. Invariant:
//! a command line that cannot be carried out is refused before there is a lock.

mod door;
mod edit;
mod lock;
pub mod place;
pub mod settings;
pub mod store;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use self::door::Door;
use self::place::Place;
use self::settings::{Context, Field, Key, Settings, context_name};
use self::store::{Writing, read, read_text, update};
use crate::cli::Output;
use crate::connect::Connection;
use crate::exit::CliError;
use crate::output::{listing, or_dash, print, print_json, print_table};

#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Show the file as it is. -o json: what it says.
    View,
    /// List every key that has a value.
    List,
    /// Show the value of a key. Exit code 1 if it has none.
    Get {
        /// current-context, contexts.NAME, or contexts.NAME.FIELD, where FIELD is endpoints, token-file, ca or
        /// request-timeout.
        key: Key,
    },
    /// Give a key a value.
    Set {
        /// current-context or contexts.NAME.FIELD, where FIELD is endpoints, token-file, ca or request-timeout. A context
        /// that does not exist is made.
        key: Key,
        /// Endpoints are separated by commas; a duration is written like 45s.
        value: String,
        #[command(flatten)]
        lock: LockArgs,
    },
    /// Take the value of a key away, or a whole context.
    Unset {
        /// current-context, contexts.NAME, or contexts.NAME.FIELD.
        key: Key,
        #[command(flatten)]
        lock: LockArgs,
    },
    /// Show the name of the current context. Exit code 1 if there is none.
    CurrentContext,
    /// List the contexts.
    GetContexts,
    /// Make a context the current one.
    UseContext {
        /// Name of the context.
        #[arg(value_parser = context_name)]
        name: String,
        #[command(flatten)]
        lock: LockArgs,
    },
    /// Make a context, or change what is given: --endpoint, --token-file, --ca, --request-timeout.
    SetContext {
        /// Name of the context.
        #[arg(value_parser = context_name)]
        name: String,
        /// Make it the current one as well.
        #[arg(long)]
        current: bool,
        #[command(flatten)]
        lock: LockArgs,
    },
    /// Give a context another name.
    RenameContext {
        /// Name of the context.
        #[arg(value_parser = context_name)]
        name: String,
        /// Its new name.
        #[arg(value_parser = context_name)]
        new_name: String,
        #[command(flatten)]
        lock: LockArgs,
    },
    /// Remove a context. The files that it names stay.
    DeleteContext {
        /// Name of the context.
        #[arg(value_parser = context_name)]
        name: String,
        #[command(flatten)]
        lock: LockArgs,
    },
    /// Show where the file is, or would be.
    Path,
}

#[derive(Debug, Args)]
pub struct LockArgs {
    /// How long to wait while another pgfleet changes the file, like 5s. Default: not at all.
    #[arg(long, value_name = "DURATION", default_value = "0s", hide_default_value = true, value_parser = wait)]
    lock_wait: Duration,
    /// Open the doors that tests need.
    #[arg(long, hide = true)]
    dev: bool,
}

impl LockArgs {
    fn writing(&self) -> Result<Writing, CliError> {
        Ok(Writing { wait: self.lock_wait, door: Door::from_env(self.dev)? })
    }
}

fn wait(text: &str) -> Result<Duration, String> {
    let wait = humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 5s"))?;
    if wait <= Duration::from_secs(3600) { Ok(wait) } else { Err("it must be at most 1h".to_owned()) }
}

pub async fn run(verb: ConfigVerb, connection: &Connection, output: Output) -> Result<(), CliError> {
    let place = Place::find(connection.config.as_deref())?;
    match verb {
        ConfigVerb::View if output == Output::Table => print(read_and_check(&place)?.trim_end()),
        ConfigVerb::View => print_json(&as_json(&read(&place)?)),
        ConfigVerb::List => list(&read(&place)?, output),
        ConfigVerb::Get { key } => get(&key, &read(&place)?, output),
        ConfigVerb::Set { key, value, lock } => set(&key, &value, &place, &lock.writing()?).await,
        ConfigVerb::Unset { key, lock } => unset(&key, &place, &lock.writing()?).await,
        ConfigVerb::CurrentContext => get(&Key::Current, &read(&place)?, output),
        ConfigVerb::GetContexts => contexts(&read(&place)?, output),
        ConfigVerb::UseContext { name, lock } => set(&Key::Current, &name, &place, &lock.writing()?).await,
        ConfigVerb::SetContext { name, current, lock } => {
            set_context(&name, current, connection, &place, &lock.writing()?).await
        }
        ConfigVerb::RenameContext { name, new_name, lock } => {
            rename_context(&name, &new_name, &place, &lock.writing()?).await
        }
        ConfigVerb::DeleteContext { name, lock } => unset(&Key::Context(name), &place, &lock.writing()?).await,
        ConfigVerb::Path if output == Output::Table => print(&place.path.display().to_string()),
        ConfigVerb::Path => print_json(&json!({ "path": place.path.display().to_string() })),
    }
}

/// A file that cannot be used is not shown as if it could.
fn read_and_check(place: &Place) -> Result<String, CliError> {
    read(place)?;
    read_text(place)
}

fn as_json(settings: &Settings) -> Json {
    let contexts: Map<_, _> = settings
        .contexts
        .iter()
        .map(|(name, context)| {
            let endpoints = ("endpoints".to_owned(), json!(context.endpoints));
            let texts = [Field::TokenFile, Field::Ca, Field::RequestTimeout];
            let texts = texts.into_iter().map(|field| (field.as_str().to_owned(), json!(context.get(field))));
            (name.clone(), Json::Object(std::iter::once(endpoints).chain(texts).collect()))
        })
        .collect();
    json!({ "current-context": settings.current, "contexts": contexts })
}

fn list(settings: &Settings, output: Output) -> Result<(), CliError> {
    let pairs = settings.list();
    if output == Output::Json {
        return print_json(&pairs.into_iter().map(|(key, value)| (key, Json::from(value))).collect::<Map<_, _>>());
    }
    let mut table = listing(&["KEY", "VALUE"]);
    for (key, value) in pairs {
        table.add_row([key, value]);
    }
    print_table(&table)
}

fn get(key: &Key, settings: &Settings, output: Output) -> Result<(), CliError> {
    let value = settings.get(key).ok_or_else(|| not_set(key, settings))?;
    if output == Output::Json { print_json(&value) } else { print(&value) }
}

fn not_set(key: &Key, settings: &Settings) -> CliError {
    match key {
        Key::Current => {
            CliError::Failed("there is no current context; choose one: pgfleet config use-context".to_owned())
        }
        Key::Context(name) => no_context(name, settings),
        Key::Field(name, _) if !settings.contexts.contains_key(name) => no_context(name, settings),
        Key::Field(..) => CliError::Failed(format!("{key} is not set")),
    }
}

fn no_context(name: &str, settings: &Settings) -> CliError {
    CliError::Failed(format!("there is no context {name:?}; {}", settings.names()))
}

fn contexts(settings: &Settings, output: Output) -> Result<(), CliError> {
    if output == Output::Json {
        return print_json(&as_json(settings));
    }
    let mut table = listing(&["CURRENT", "NAME", "ENDPOINTS", "TOKEN FILE", "CA", "REQUEST TIMEOUT"]);
    for (name, context) in &settings.contexts {
        let mark = if settings.current.as_ref() == Some(name) { "*" } else { "" };
        let fields = Field::ALL.map(|field| or_dash(context.get(field)));
        table.add_row([mark.to_owned(), name.clone()].into_iter().chain(fields));
    }
    print_table(&table)
}

async fn set(key: &Key, value: &str, place: &Place, writing: &Writing) -> Result<(), CliError> {
    let usage = |why: String| CliError::Usage(format!("{key}: {why}"));
    match key {
        Key::Context(_) => Err(usage("a context has fields; see pgfleet config set-context".to_owned())),
        Key::Current => {
            let name = context_name(value).map_err(usage)?;
            update(place, writing, |edit, before| {
                if before.contexts.contains_key(&name) {
                    edit.set_current(&name)
                } else {
                    Err(no_context(&name, before))
                }
            })
            .await?;
            print(&format!("current context: {name}"))
        }
        Key::Field(name, field) => {
            let value = field.value(value).map_err(usage)?;
            update(place, writing, |edit, _| edit.set_field(name, *field, value)).await
        }
    }
}

async fn unset(key: &Key, place: &Place, writing: &Writing) -> Result<(), CliError> {
    let was_current = update(place, writing, |edit, before| {
        if before.get(key).is_none() {
            return Err(not_set(key, before));
        }
        edit.remove(key)?;
        let was_current = matches!(key, Key::Context(name) if before.current.as_ref() == Some(name));
        if was_current {
            edit.remove(&Key::Current)?;
        }
        Ok(was_current)
    })
    .await?;
    if let Key::Context(name) = key {
        print(&format!("context {name} removed"))?;
    }
    if was_current { print("it was the current one; now there is none") } else { Ok(()) }
}

async fn set_context(
    name: &str,
    current: bool,
    connection: &Connection,
    place: &Place,
    writing: &Writing,
) -> Result<(), CliError> {
    let given = connection.given_by_flags();
    let texts = Field::ALL.into_iter().filter_map(|field| given.get(field).map(|text| (field, text)));
    let usage = |field: Field, why: String| CliError::Usage(format!("{}: {why}", field.as_str()));
    let values: Vec<_> = texts
        .map(|(field, text)| field.value(&text).map(|value| (field, value)).map_err(|why| usage(field, why)))
        .collect::<Result<_, _>>()?;
    let is_new = update(place, writing, |edit, before| {
        let is_new = !before.contexts.contains_key(name);
        if is_new && given.endpoints.is_empty() {
            return Err(CliError::Usage(format!("{name:?} is a new context: give it an --endpoint")));
        }
        edit.make_context(name)?;
        for (field, value) in values {
            edit.set_field(name, field, value)?;
        }
        if current {
            edit.set_current(name)?;
        }
        Ok(is_new)
    })
    .await?;
    print(&format!("context {name} {}", if is_new { "made" } else { "changed" }))
}

async fn rename_context(from: &str, to: &str, place: &Place, writing: &Writing) -> Result<(), CliError> {
    update(place, writing, |edit, before| {
        if !before.contexts.contains_key(from) {
            return Err(no_context(from, before));
        }
        if before.contexts.contains_key(to) {
            return Err(CliError::Failed(format!("there is a context {to:?} already")));
        }
        edit.rename(from, to)
    })
    .await?;
    print(&format!("context {from} is now {to}"))
}

/// The context that is meant: the one named, else the current one. None: no context is chosen.
pub fn chosen(config: Option<&Path>, named: Option<&str>) -> Result<Option<Context>, CliError> {
    let place = match Place::find(config) {
        Ok(place) => place,
        // Without a home directory there is no default file; somebody who named a context wants one.
        Err(_) if config.is_none() && named.is_none() => return Ok(None),
        Err(error) => return Err(error),
    };
    let settings = read(&place)?;
    let usage = |why: String| CliError::Usage(format!("{}: {why}", place.path.display()));
    let Some(name) = named.map(ToOwned::to_owned).or_else(|| settings.current.clone()) else { return Ok(None) };
    let context = settings.contexts.get(&name);
    let context = context.ok_or_else(|| usage(format!("there is no context {name:?}; {}", settings.names())))?;
    if context.endpoints.is_empty() {
        return Err(usage(format!(
            "the context {name:?} has no endpoints; pgfleet config set-context {name} --endpoint URL"
        )));
    }
    Ok(Some(context.clone()))
}
