//! Changes of the configuration's text that leave the rest of it as it was: comments, order, blank lines.
//!
//! A value is set through `toml_edit`. What is removed is cut out of the text by its lines, because comments belong to the
//! item below them there and would go with it. Invariant: a change that did more or less than was asked for is an error.

use std::ops::Range;
use std::path::Path;

use toml_edit::{Array, Document, DocumentMut, Item, Key as TomlKey, Table, TableLike, Value};

use super::settings::{CONTEXTS, CURRENT, Field, Key, Settings};
use crate::exit::CliError;

/// The text under change.
#[derive(Debug)]
pub struct Edit<'a> {
    pub text: String,
    path: &'a Path,
}

impl<'a> Edit<'a> {
    /// Begins with the text of the file `path`, which only names it in errors.
    pub fn new(text: String, path: &'a Path) -> Self {
        Self { text, path }
    }

    /// What the text says now.
    pub fn settings(&self) -> Result<Settings, CliError> {
        Settings::parse(&self.text, self.path)
    }

    /// Gives the file a current context.
    pub fn set_current(&mut self, name: &str) -> Result<(), CliError> {
        let mut document = self.document()?;
        if !document.contains_key(CURRENT) {
            // A new key stands above the tables; a blank line between them is for people.
            set_apart(document.as_table_mut());
        }
        set_value(document.as_table_mut(), CURRENT, Value::from(name));
        self.text = document.to_string();
        Ok(())
    }

    /// Gives a context a field, and makes the context if there is none.
    pub fn set_field(&mut self, name: &str, field: Field, value: Value) -> Result<(), CliError> {
        self.in_context(name, |context| set_value(context, field.as_str(), value))
    }

    /// Makes an empty context if there is none.
    pub fn make_context(&mut self, name: &str) -> Result<(), CliError> {
        self.in_context(name, |_| {})
    }

    fn in_context(&mut self, name: &str, change: impl FnOnce(&mut dyn TableLike)) -> Result<(), CliError> {
        let mut document = self.document()?;
        let implicit = || {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        };
        let contexts = document.entry(CONTEXTS).or_insert_with(implicit);
        let contexts = contexts.as_table_like_mut().ok_or_else(|| self.failed())?;
        if !contexts.contains_key(name) {
            contexts.insert(name, Item::Table(Table::new()));
        }
        let context = contexts.get_mut(name).and_then(Item::as_table_like_mut);
        change(context.ok_or_else(|| self.failed())?);
        self.text = document.to_string();
        Ok(())
    }

    /// Removes a key, which has a value.
    pub fn remove(&mut self, key: &Key) -> Result<(), CliError> {
        let mut expected = self.settings()?;
        match key {
            Key::Current => expected.current = None,
            Key::Context(name) => drop(expected.contexts.remove(name)),
            Key::Field(name, field) => {
                if let Some(context) = expected.contexts.get_mut(name) {
                    context.clear(*field);
                }
            }
        }
        let parsed = Document::parse(self.text.as_str()).map_err(|_| self.failed())?;
        self.text = match lines_of(parsed.as_table(), &self.text, key) {
            Some(lines) => without(&self.text, lines),
            None => {
                let mut document = self.document()?;
                cut(document.as_table_mut(), key);
                document.to_string()
            }
        };
        self.expect(&expected)
    }

    /// Gives a context another name.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), CliError> {
        let mut expected = self.settings()?;
        if let Some(context) = expected.contexts.remove(from) {
            expected.contexts.insert(to.to_owned(), context);
        }
        let parsed = Document::parse(self.text.as_str()).map_err(|_| self.failed())?;
        let contexts = parsed.get(CONTEXTS).and_then(Item::as_table_like);
        let span = contexts.and_then(|contexts| contexts.get_key_value(from)).and_then(|(key, _)| key.span());
        let span = span.ok_or_else(|| self.failed())?;
        self.text.replace_range(span, &TomlKey::new(to).display_repr());
        if expected.current.as_deref() == Some(from) {
            expected.current = Some(to.to_owned());
            self.set_current(to)?;
        }
        self.expect(&expected)
    }

    fn document(&self) -> Result<DocumentMut, CliError> {
        self.text.parse().map_err(|_| self.failed())
    }

    fn expect(&self, expected: &Settings) -> Result<(), CliError> {
        match self.settings() {
            Ok(found) if found == *expected => Ok(()),
            Ok(_) | Err(_) => Err(self.failed()),
        }
    }

    fn failed(&self) -> CliError {
        let place = self.path.display();
        CliError::Failed(format!("{place} is written in a way that this command cannot change; change it by hand"))
    }
}

fn set_apart(root: &mut Table) {
    let contexts = root.get_mut(CONTEXTS).and_then(Item::as_table_mut);
    let tables = contexts.into_iter().flat_map(|contexts| contexts.iter_mut());
    let first = tables.filter_map(|(_, item)| item.as_table_mut()).min_by_key(|table| table.position());
    if let Some(first) = first {
        let prefix = first.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default();
        if !prefix.starts_with('\n') {
            let prefix = format!("\n{prefix}");
            first.decor_mut().set_prefix(prefix);
        }
    }
}

/// Sets a value and keeps the comment behind the old one, and those inside a list.
fn set_value(table: &mut dyn TableLike, key: &str, mut new: Value) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(Value::Array(old)) if new.is_array() => {
            if let Some(new) = new.as_array() {
                set_elements(old, new);
            }
        }
        // A text that stays the same keeps the quotes it has.
        Some(old) if old.as_str().is_some() && old.as_str() == new.as_str() => {}
        Some(old) => {
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        None => drop(table.insert(key, Item::Value(new))),
    }
}

fn set_elements(old: &mut Array, new: &Array) {
    for (i, value) in new.iter().enumerate() {
        match old.get(i) {
            Some(there) if there.as_str() == value.as_str() => {}
            Some(_) => drop(old.replace(i, value.clone())),
            None => old.push(value.clone()),
        }
    }
    while old.len() > new.len() {
        old.remove(old.len() - 1);
    }
}

fn cut(root: &mut dyn TableLike, key: &Key) {
    let contexts = |root: &mut dyn TableLike, name: &str, field: Option<Field>| {
        let Some(contexts) = root.get_mut(CONTEXTS).and_then(Item::as_table_like_mut) else { return };
        match field {
            None => drop(contexts.remove(name)),
            Some(field) => {
                if let Some(context) = contexts.get_mut(name).and_then(Item::as_table_like_mut) {
                    context.remove(field.as_str());
                }
            }
        }
    };
    match key {
        Key::Current => drop(root.remove(CURRENT)),
        Key::Context(name) => contexts(root, name, None),
        Key::Field(name, field) => contexts(root, name, Some(*field)),
    }
}

/// The lines that a key takes, without comments; None where it does not have lines of its own (an inline table).
fn lines_of(root: &Table, text: &str, key: &Key) -> Option<Vec<Range<usize>>> {
    let context = |name: &str| root.get(CONTEXTS).and_then(Item::as_table).and_then(|contexts| contexts.get(name));
    let entry = |table: &Table, key: &str| {
        let (key, item) = table.get_key_value(key)?;
        Some(whole_lines(text, key.span()?.start..item.span()?.end))
    };
    match key {
        Key::Current => Some(vec![entry(root, CURRENT)?]),
        Key::Field(name, field) => Some(vec![entry(context(name)?.as_table()?, field.as_str())?]),
        Key::Context(name) => {
            let table = context(name)?.as_table()?;
            let mut lines: Vec<_> = table.iter().map(|(key, _)| entry(table, key)).collect::<Option<_>>()?;
            let start = table.span().map(|span| line_start(text, span.start));
            lines.extend(
                start.filter(|at| text[*at..].trim_start().starts_with('[')).map(|at| whole_lines(text, at..at)),
            );
            Some(lines)
        }
    }
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

fn whole_lines(text: &str, part: Range<usize>) -> Range<usize> {
    let end = text[part.end..].find('\n').map_or(text.len(), |newline| part.end + newline + 1);
    line_start(text, part.start)..end
}

fn without(text: &str, mut lines: Vec<Range<usize>>) -> String {
    lines.sort_by_key(|range| range.start);
    let mut text = text.to_owned();
    for range in lines.into_iter().rev() {
        text.replace_range(range, "");
    }
    text
}
