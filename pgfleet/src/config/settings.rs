//! What may stand in the configuration file, and what it means.
//!
//! ```toml
//! current-context = "prod"
//!
//! [contexts.prod]
//! endpoints = ["https://a.example:7000", "https://b.example:7000"]
//! token-file = "/home/me/.config/pgfleet/prod.token"
//! ca = "/home/me/.config/pgfleet/prod-ca.pem"
//! request-timeout = "45s"
//! ```
//!
//! Invariant: what is not listed here is refused, with its line and column: a misspelt key would else be a missing one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml_edit::{Array, Document, Item, TableLike, Value};

use crate::connect::base_url;
use crate::exit::CliError;

/// The longest request timeout.
const LONGEST: Duration = Duration::from_secs(3600);
pub const CURRENT: &str = "current-context";
pub const CONTEXTS: &str = "contexts";

/// How one cluster is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    pub endpoints: Vec<String>,
    pub token_file: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    pub request_timeout: Option<Duration>,
}

impl Context {
    /// A field as it is typed on a command line.
    pub fn get(&self, field: Field) -> Option<String> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        match field {
            Field::Endpoints => (!self.endpoints.is_empty()).then(|| self.endpoints.join(",")),
            Field::TokenFile => path(&self.token_file),
            Field::Ca => path(&self.ca),
            Field::RequestTimeout => {
                self.request_timeout.map(|timeout| humantime::format_duration(timeout).to_string())
            }
        }
    }

    /// Takes a field away.
    pub fn clear(&mut self, field: Field) {
        match field {
            Field::Endpoints => self.endpoints.clear(),
            Field::TokenFile => self.token_file = None,
            Field::Ca => self.ca = None,
            Field::RequestTimeout => self.request_timeout = None,
        }
    }
}

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub current: Option<String>,
    pub contexts: BTreeMap<String, Context>,
}

/// A field of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Endpoints,
    TokenFile,
    Ca,
    RequestTimeout,
}

impl Field {
    pub const ALL: [Self; 4] = [Self::Endpoints, Self::TokenFile, Self::Ca, Self::RequestTimeout];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::TokenFile => "token-file",
            Self::Ca => "ca",
            Self::RequestTimeout => "request-timeout",
        }
    }

    fn named(name: &str) -> Option<Self> {
        let singular = if name == "endpoint" { "endpoints" } else { name };
        Self::ALL.into_iter().find(|field| field.as_str() == singular)
    }

    /// What is typed, as it is written into the file.
    pub fn value(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Endpoints => {
                let urls: Array = text.split(',').map(|url| base_url(url.trim())).collect::<Result<_, _>>()?;
                Ok(Value::from(urls))
            }
            Self::TokenFile | Self::Ca => {
                if text.is_empty() {
                    return Err("the path is empty".to_owned());
                }
                let path = std::path::absolute(text).map_err(|error| error.to_string())?;
                path.to_str().map(Value::from).ok_or_else(|| "the path is not UTF-8".to_owned())
            }
            Self::RequestTimeout => duration(text).map(|_| Value::from(text.trim())),
        }
    }
}

/// What `config get`, `set` and `unset` name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Current,
    Context(String),
    Field(String, Field),
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const KNOWN: &str = "the keys are current-context and contexts.NAME.{endpoints,token-file,ca,request-timeout}";
        if text == CURRENT {
            return Ok(Self::Current);
        }
        let Some(rest) = text.strip_prefix("contexts.") else { return Err(KNOWN.to_owned()) };
        match rest.rsplit_once('.') {
            // A name may have dots in it.
            Some((name, last)) => match Field::named(last) {
                Some(field) => Ok(Self::Field(context_name(name)?, field)),
                None => Ok(Self::Context(context_name(rest)?)),
            },
            None => Ok(Self::Context(context_name(rest)?)),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Current => f.write_str(CURRENT),
            Self::Context(name) => write!(f, "{CONTEXTS}.{name}"),
            Self::Field(name, field) => write!(f, "{CONTEXTS}.{name}.{}", field.as_str()),
        }
    }
}

/// Checks the name of a context.
pub fn context_name(text: &str) -> Result<String, String> {
    let fits = |char: char| char.is_ascii_alphanumeric() || "._-@".contains(char);
    let first = text.chars().next().is_some_and(|char| char.is_ascii_alphanumeric());
    if first && text.len() <= 128 && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no name of a context: letters, digits and . _ - @, and first a letter or a digit"))
    }
}

/// Reads a duration of a request.
pub fn duration(text: &str) -> Result<Duration, String> {
    let found = humantime::parse_duration(text.trim()).map_err(|error| format!("{error}; write it like 45s"))?;
    if found.is_zero() || found > LONGEST {
        return Err("it must be more than 0 and at most 1h".to_owned());
    }
    Ok(found)
}

/// A place in the file and what is wrong there.
struct Wrong(Option<Range<usize>>, String);

impl Settings {
    /// Reads the text of the file `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, CliError> {
        let report = |Wrong(span, what): Wrong| {
            let (place, what) = (path.display(), what.replace('\n', " "));
            let at = span.map_or_else(String::new, |span| position(text, span.start));
            CliError::Usage(format!("{place}:{at} {what}; nothing was changed"))
        };
        let document = Document::parse(text)
            .map_err(|error| report(Wrong(error.span().or(Some(0..0)), error.message().to_owned())))?;
        let base = path.parent().unwrap_or(Path::new("/"));
        read(document.as_table(), base).map_err(report)
    }

    /// The value of a key, as it is typed.
    pub fn get(&self, key: &Key) -> Option<String> {
        match key {
            Key::Current => self.current.clone(),
            Key::Context(name) => {
                let context = self.contexts.get(name)?;
                let fields = Field::ALL
                    .into_iter()
                    .filter_map(|field| context.get(field).map(|value| format!("{} = {value}", field.as_str())));
                Some(fields.collect::<Vec<_>>().join("\n"))
            }
            Key::Field(name, field) => self.contexts.get(name)?.get(*field),
        }
    }

    /// Every key that has a value, with it.
    pub fn list(&self) -> Vec<(String, String)> {
        let keys = self.contexts.keys().flat_map(|name| Field::ALL.map(|field| Key::Field(name.clone(), field)));
        let keys = std::iter::once(Key::Current).chain(keys);
        keys.filter_map(|key| self.get(&key).map(|value| (key.to_string(), value))).collect()
    }

    /// The names of the contexts, for a message.
    pub fn names(&self) -> String {
        match self.contexts.keys().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [] => "there are none".to_owned(),
            names => format!("there are {}", names.join(", ")),
        }
    }
}

fn read(root: &dyn TableLike, base: &Path) -> Result<Settings, Wrong> {
    let mut settings = Settings::default();
    for (key, item) in root.iter() {
        match key {
            CURRENT => settings.current = Some(string(item)?.to_owned()),
            CONTEXTS => {
                for (name, item) in table(item)?.iter() {
                    let name = context_name(name).map_err(|why| Wrong(span(root, key, item), why))?;
                    settings.contexts.insert(name, context(table(item)?, base)?);
                }
            }
            _ => return Err(Wrong(span(root, key, item), format!("there is no key {key:?}"))),
        }
    }
    Ok(settings)
}

fn context(fields: &dyn TableLike, base: &Path) -> Result<Context, Wrong> {
    let mut found = Context::default();
    let path = |item| Ok(Some(located(string(item)?, base)));
    for (key, item) in fields.iter() {
        let at = || span(fields, key, item);
        // In the file a field has one spelling.
        let field = Field::named(key).filter(|field| field.as_str() == key);
        match field.ok_or_else(|| Wrong(at(), format!("a context has no {key:?}")))? {
            Field::Endpoints => found.endpoints = endpoints(item)?,
            Field::TokenFile => found.token_file = path(item)?,
            Field::Ca => found.ca = path(item)?,
            Field::RequestTimeout => {
                found.request_timeout = Some(duration(string(item)?).map_err(|why| Wrong(item.span(), why))?);
            }
        }
    }
    Ok(found)
}

/// A path of the file: from the home directory, or from where the file lies.
fn located(text: &str, base: &Path) -> PathBuf {
    match (text.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => base.join(text),
    }
}

fn endpoints(item: &Item) -> Result<Vec<String>, Wrong> {
    let url = |text: &str, span| base_url(text).map_err(|why| Wrong(span, format!("{text:?}: {why}")));
    if let Some(text) = item.as_str() {
        return Ok(vec![url(text, item.span())?]);
    }
    let Some(array) = item.as_array() else {
        return Err(Wrong(item.span(), "endpoints are a list of URLs".to_owned()));
    };
    let one = |value: &Value| match value.as_str() {
        Some(text) => url(text, value.span()),
        None => Err(Wrong(value.span(), "an endpoint is a URL in quotes".to_owned())),
    };
    array.iter().map(one).collect()
}

fn string(item: &Item) -> Result<&str, Wrong> {
    item.as_str().ok_or_else(|| Wrong(item.span(), "it must be a text in quotes".to_owned()))
}

fn table(item: &Item) -> Result<&dyn TableLike, Wrong> {
    item.as_table_like().ok_or_else(|| Wrong(item.span(), "it must be a table".to_owned()))
}

fn span(table: &dyn TableLike, key: &str, item: &Item) -> Option<Range<usize>> {
    table.get_key_value(key).and_then(|(key, _)| key.span()).or_else(|| item.span())
}

/// Line and column as an editor counts them.
fn position(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(" line {line} column {column}:")
}
