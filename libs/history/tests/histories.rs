//! Hand-made histories: the good ones pass, and each bad one is refused by the invariant that its file is named after.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::path::{Path, PathBuf};

use pgfleet_history::{Entry, Options, Outcome, Report, check, read};

fn files(folder: &str) -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), path)).collect()
}

fn history(path: &Path) -> Vec<Entry> {
    read(&*std::fs::read(path).unwrap()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// As chaos runs are judged; but a history that lacks load lacks writes after its faults, too.
fn judge(path: &Path) -> Report {
    let about_load = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("load--"));
    let options = if about_load { Options::recording() } else { Options::chaos() };
    check(&history(path), &options)
}

#[test]
fn good_histories_pass() {
    let files = files("good");
    assert!(files.len() >= 7, "{} files", files.len());
    for (name, path) in files {
        let report = judge(&path);
        assert!(report.passed(), "{name}\n{report}");
        let unused = report.named(Outcome::NotChecked);
        assert!(unused.iter().all(|one| ["journal", "writers"].contains(one)), "{name}: {unused:?}");
    }
}

#[test]
fn a_bad_history_is_refused_by_its_invariant_and_by_no_other() {
    let files = files("bad");
    for (name, path) in &files {
        let report = judge(path);
        let (invariant, _) = name.split_once("--").unwrap();
        assert_eq!(report.named(Outcome::Broken), [invariant], "{name}\n{report}");
        assert!(!report.passed());
        let broken = report.invariants.iter().find(|one| one.name == invariant).unwrap();
        assert_eq!(broken.violations.len(), 1, "{name}\n{report}");
    }
}

#[test]
fn every_invariant_has_a_bad_history() {
    let names: Vec<String> = files("bad").into_iter().map(|(name, _)| name).collect();
    for one in check(&[], &Options::chaos()).invariants {
        let prefix = format!("{}--", one.name);
        assert!(names.iter().any(|name| name.starts_with(&prefix)), "nothing in tests/bad breaks {:?}", one.name);
    }
}

#[test]
fn what_a_loss_explains_is_counted() {
    let (_, path) = files("good").into_iter().find(|(name, _)| name == "commits_lost_on_purpose").unwrap();
    let report = judge(&path);
    let exempted = |name: &str| report.invariants.iter().find(|one| one.name == name).unwrap().exempted;
    for name in ["terms", "one_leader", "acknowledged", "content", "provenance"] {
        assert!(exempted(name) > 0, "{name} exempted nothing\n{report}");
    }
    // The same history without the line that confesses the loss.
    let cut: Vec<Entry> = history(&path)
        .into_iter()
        .filter(|one| !matches!(one.event, pgfleet_history::Event::CommitsLost { .. }))
        .collect();
    let broken = check(&cut, &Options::chaos());
    for name in ["terms", "one_leader", "content"] {
        assert!(broken.named(Outcome::Broken).contains(&name), "{name}\n{broken}");
    }
}

#[test]
fn a_report_says_what_and_where() {
    let (_, path) = files("bad").into_iter().find(|(name, _)| name == "terms--owner_changes").unwrap();
    let text = judge(&path).to_string();
    assert!(text.contains("broken"), "{text}");
    assert!(text.contains("term 2 was bbbbbbbb-0000-4000-8000-000000000002's"), "{text}");
    assert!(text.contains("lines "), "{text}");
    let json = serde_json::to_string(&judge(&path)).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), judge(&path));
}

#[test]
fn a_look_at_a_live_cluster_asks_for_no_load_and_no_end() {
    let lines = "{\"at_us\":0,\"event\":\"begun\",\"seed\":null,\"cluster_id\":null}\n";
    let report = check(&read(lines.as_bytes()).unwrap(), &Options::live());
    assert!(report.passed(), "{report}");
    assert!(report.named(Outcome::NotChecked).contains(&"load"), "{report}");
}
