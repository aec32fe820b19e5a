//! Holds a crate to its drawing: which room may import which.
//!
//! Called by the layering test of each binary's crate, which holds the drawing as a table. It parses the sources with
//! `syn` and looks at every path that begins with `crate::`, `super::` or the crate's own name: in `use`, inline in code,
//! and among the tokens of macros. A room is a folder or file directly below `src`.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;

/// The drawing: a room, and the rooms it may import. A room may always import itself.
pub type Drawing<'a> = &'a [(&'a str, &'a [&'a str])];

/// An import of one room by another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrow {
    /// Where it stands.
    pub file: PathBuf,
    /// Who imports.
    pub from: String,
    /// Who is imported.
    pub to: String,
}

impl fmt::Display for Arrow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} in {}", self.from, self.to, self.file.display())
    }
}

/// Every arrow between two rooms of the crate `name` whose sources lie in `src`.
///
/// # Panics
/// A source file cannot be read or parsed: there is nothing to hold to the drawing then.
#[must_use]
pub fn arrows(src: &Path, name: &str) -> BTreeSet<Arrow> {
    let mut found = BTreeSet::new();
    for file in rust_files(src) {
        let relative = file.strip_prefix(src).unwrap_or(&file);
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        found.extend(arrows_of(&text, relative, name));
    }
    found
}

/// The arrows that the drawing does not have.
#[must_use]
pub fn forbidden(arrows: &BTreeSet<Arrow>, drawing: Drawing<'_>) -> Vec<String> {
    let allowed =
        |arrow: &Arrow| drawing.iter().any(|(from, to)| *from == arrow.from && to.contains(&arrow.to.as_str()));
    arrows.iter().filter(|arrow| !allowed(arrow)).map(ToString::to_string).collect()
}

/// The rooms of `src` that the drawing does not name.
#[must_use]
pub fn undrawn(src: &Path, drawing: Drawing<'_>) -> Vec<String> {
    let rooms: BTreeSet<_> =
        rust_files(src).iter().filter_map(|file| module_of(file.strip_prefix(src).ok()?).first().cloned()).collect();
    rooms.into_iter().filter(|room| !drawing.iter().any(|(drawn, _)| drawn == room)).collect()
}

/// The arrows of one file's text; `relative` is its path below `src`.
fn arrows_of(text: &str, relative: &Path, name: &str) -> BTreeSet<Arrow> {
    let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{}: {error}", relative.display()));
    let module = module_of(relative);
    let from = module.first().cloned().unwrap_or_else(|| "main".to_owned());
    let mut finder = Finder { name, module, rooms: BTreeSet::new() };
    finder.visit_file(&parsed);
    let arrow = |to| Arrow { file: relative.to_owned(), from: from.clone(), to };
    finder.rooms.into_iter().filter(|to| *to != from).map(arrow).collect()
}

/// `leadership/room.rs` is the module `leadership::room`; `main.rs` and `lib.rs` are the root.
fn module_of(relative: &Path) -> Vec<String> {
    let mut module: Vec<_> =
        relative.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod")
        || matches!(module.as_slice(), [one] if one == "main" || one == "lib")
    {
        module.pop();
    }
    module
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

struct Finder<'a> {
    name: &'a str,
    module: Vec<String>,
    rooms: BTreeSet<String>,
}

impl Finder<'_> {
    /// Notes the room that a path leads to, if it leads out of this module by `crate`, `super` or the crate's name.
    fn note(&mut self, path: &[String]) {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let absolute = match path.first().map(String::as_str) {
            Some("crate") => path.get(1).cloned(),
            Some(first) if first == self.name => path.get(1).cloned(),
            Some("super") => {
                let kept = self.module.len().saturating_sub(supers);
                self.module.get(..kept).and_then(|kept| kept.first()).or_else(|| path.get(supers)).cloned()
            }
            _ => None,
        };
        self.rooms.extend(absolute.filter(|room| room.chars().next().is_some_and(char::is_lowercase)));
    }

    fn use_tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.use_tree(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(name) => self.note(&with(&name.ident)),
            syn::UseTree::Rename(name) => self.note(&with(&name.ident)),
            syn::UseTree::Glob(_) => self.note(before),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.use_tree(item, before)),
        }
    }

    /// A macro's tokens are no syntax tree: look for `a :: b :: c` in them.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.note(&path);
                        path.clear();
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => colons += 1,
                TokenTree::Group(group) => {
                    self.note(&path);
                    path.clear();
                    self.tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.note(&path);
                    path.clear();
                    colons = 0;
                }
            }
        }
        self.note(&path);
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note(&parts);
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        self.tokens(mac.tokens.clone());
        syn::visit::visit_macro(self, mac);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.content.is_some() {
            self.module.push(item.ident.to_string());
            syn::visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> Vec<String> {
        arrows_of(text, Path::new(file), "product").into_iter().map(|arrow| arrow.to).collect()
    }

    #[test]
    fn every_way_to_name_another_room_is_seen() {
        for text in [
            "use crate::observe::Snapshot;",
            "use crate::{observe::Snapshot, http};",
            "use crate::observe as window;",
            "use super::super::observe::Snapshot;",
            "fn f() { crate::observe::f() }",
            "fn f(x: super::super::observe::Snapshot) {}",
            "fn f() { println!(\"{}\", crate::observe::f()) }",
            "impl crate::observe::Trait for () {}",
            "mod inner { use super::super::super::observe::X; }",
            "use product::observe::X;",
        ] {
            assert!(found("http/compute.rs", text).contains(&"observe".to_owned()), "{text}");
        }
    }

    #[test]
    fn what_stays_in_the_room_is_no_arrow() {
        for text in [
            "use super::error::into_api;",
            "use crate::http::Door;",
            "use std::observe::X;",
            "mod inner { use super::error; }",
            "fn f() { println!(\"a: {}\", self::g()) }",
        ] {
            assert!(found("http/compute.rs", text).is_empty(), "{text}");
        }
    }

    #[test]
    fn an_arrow_that_is_not_drawn_is_refused() {
        let arrows = arrows_of("use crate::agents::Agents;", Path::new("http/mod.rs"), "product");
        assert_eq!(forbidden(&arrows, &[("http", &["service"])]), ["http -> agents in http/mod.rs"]);
        assert!(forbidden(&arrows, &[("http", &["agents"])]).is_empty());
    }
}
