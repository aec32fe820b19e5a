//! The arrows between the agent's rooms, read from its source.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;

/// The drawing: room, and the rooms it may import. `app` and `main` may import all.
const ARROWS: [(&str, &[&str]); 9] = [
    ("http", &["lifecycle", "postgres"]),
    ("lifecycle", &["ledger", "apply", "storage", "postgres"]),
    ("apply", &["postgres"]),
    ("storage", &["postgres"]),
    ("ledger", &[]),
    ("postgres", &[]),
    // The page nests the groups of the rooms.
    ("metrics", &["lifecycle", "apply", "storage", "postgres", "ledger"]),
    // The flag for a restart policy is the driver's own type.
    ("config", &["lifecycle"]),
    ("lib", &[]),
];

/// Paths of a file that begin with `crate::` or `super::`, in items, expressions, types and macros.
#[derive(Default)]
struct Paths(Vec<Vec<String>>);

impl Paths {
    fn tree(&mut self, tree: &syn::UseTree, mut so_far: Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                so_far.push(path.ident.to_string());
                self.tree(&path.tree, so_far);
            }
            syn::UseTree::Name(name) => {
                so_far.push(name.ident.to_string());
                self.0.push(so_far);
            }
            syn::UseTree::Rename(name) => {
                so_far.push(name.ident.to_string());
                self.0.push(so_far);
            }
            syn::UseTree::Glob(_) => self.0.push(so_far),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(tree, so_far.clone());
                }
            }
        }
    }

    /// Inside macros there are only tokens: `crate :: room` and `super :: …` are found by their shape.
    fn tokens(&mut self, tokens: TokenStream) {
        let trees: Vec<_> = tokens.into_iter().collect();
        for (i, tree) in trees.iter().enumerate() {
            match tree {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(ident) if ident == "crate" || ident == "super" => {
                    let mut path = vec![ident.to_string()];
                    let mut rest = trees[i + 1..].iter();
                    while let (Some(TokenTree::Punct(a)), Some(TokenTree::Punct(b)), Some(TokenTree::Ident(next))) =
                        (rest.next(), rest.next(), rest.next())
                    {
                        if a.as_char() != ':' || b.as_char() != ':' {
                            break;
                        }
                        path.push(next.to_string());
                    }
                    self.0.push(path);
                }
                TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        self.tokens(mac.tokens.clone());
        syn::visit::visit_macro(self, mac);
    }
}

/// Rooms that a file of `module` (its path below `src`, without `mod`) names.
fn rooms_named(source: &str, module: &[&str]) -> BTreeSet<String> {
    let mut paths = Paths::default();
    paths.visit_file(&syn::parse_file(source).unwrap());
    paths.0.into_iter().filter_map(|path| room_of(&path, module)).collect()
}

fn room_of(path: &[String], module: &[&str]) -> Option<String> {
    match path.first()?.as_str() {
        "crate" => path.get(1).cloned(),
        "super" => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            // `super` of a file at the top of the crate, or one up too many from a room, is the crate's root. Inside an
            // inline module it is one level less; that names the room itself, which is always allowed.
            (ups >= module.len()).then(|| path.get(ups).cloned()).flatten()
        }
        _ => None,
    }
}

fn forbidden(room: &str, named: &BTreeSet<String>) -> Vec<String> {
    if matches!(room, "app" | "main") {
        return Vec::new();
    }
    let (_, allowed) = ARROWS.iter().find(|(from, _)| *from == room).unwrap_or_else(|| panic!("{room} is not drawn"));
    let known = |to: &&String| ARROWS.iter().any(|(from, _)| from == to) || *to == "app";
    named.iter().filter(known).filter(|to| *to != room && !allowed.contains(&to.as_str())).cloned().collect()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_arrow_is_drawn() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 20, "only {} files were read", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let below = file.strip_prefix(&src).unwrap().with_extension("");
        let parts: Vec<_> = below.iter().map(|part| part.to_str().unwrap()).filter(|part| *part != "mod").collect();
        let named = rooms_named(&std::fs::read_to_string(&file).unwrap(), &parts);
        wrong.extend(
            forbidden(parts[0], &named).into_iter().map(|to| format!("{}: {} -> {to}", below.display(), parts[0])),
        );
    }
    assert!(wrong.is_empty(), "arrows that are not drawn:\n{}", wrong.join("\n"));
}

#[test]
fn a_forbidden_import_is_seen_in_every_disguise() {
    for source in [
        "use crate::lifecycle::Handle;",
        "use crate::{apply::plan, lifecycle};",
        "use super::super::lifecycle as other;",
        "fn f() { crate::lifecycle::begin(); }",
        "fn f(x: super::super::lifecycle::Handle) {}",
        "fn f() { println!(\"{}\", crate::lifecycle::NAME); }",
        "mod inner { use crate::lifecycle::*; }",
    ] {
        let named = rooms_named(source, &["postgres", "server"]);
        assert_eq!(forbidden("postgres", &named).last().map(String::as_str), Some("lifecycle"), "{source}");
    }
    let own = rooms_named("use super::conf; use crate::postgres::link; use std::fmt;", &["postgres", "server"]);
    assert!(forbidden("postgres", &own).is_empty(), "{own:?}");
}
