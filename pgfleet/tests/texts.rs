//! Completion scripts and manual pages: that shells and `man` take them, and that every command has its own.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn pgfleet(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_pgfleet")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// None: the program is not installed.
fn feed(program: &str, args: &[&str], text: &str) -> Option<Output> {
    let child = Command::new(program)
        .args(args)
        .env("MANWIDTH", "100")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.ok()?;
    let mut stdin = child.stdin.take().unwrap();
    // A program that is not interested closes its end.
    let _ = stdin.write_all(text.as_bytes());
    drop(stdin);
    Some(child.wait_with_output().unwrap())
}

/// Every command by its words, from the help texts.
fn commands(words: &[String], found: &mut Vec<Vec<String>>) {
    let args: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
    let help = pgfleet(&args);
    found.push(words.to_vec());
    let Some((_, list)) = help.split_once("Commands:\n") else { return };
    for line in list.lines().take_while(|line| !line.is_empty()) {
        // A longer indent is the rest of a description.
        let Some(name) = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')) else { continue };
        let name = name.split(' ').next().unwrap();
        if name != "help" {
            commands(&[words, &[name.to_owned()]].concat(), found);
        }
    }
}

fn all() -> Vec<Vec<String>> {
    let mut found = Vec::new();
    commands(&[], &mut found);
    assert!(found.len() > 25, "{found:?}");
    found
}

#[test]
fn shells_take_the_completions() {
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let script = pgfleet(&["completions", shell]);
        for word in ["leader", "compute", "config", "use-context", "--endpoint", "unquarantine"] {
            assert!(script.contains(word), "{word} for {shell}");
        }
        // bash is everywhere; the others are looked at where they are.
        let Some(output) = feed(shell, &[check], &script) else {
            assert_ne!(shell, "bash");
            continue;
        };
        assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn bash_completes_a_context_command() {
    let script = pgfleet(&["completions", "bash"]);
    let ask = "COMP_WORDS=(pgfleet config use); COMP_CWORD=2; _pgfleet pgfleet use config; echo \"${COMPREPLY[@]}\"";
    let output = feed("bash", &[], &format!("{script}\n{ask}\n")).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "use-context", "{output:?}");
}

#[test]
fn every_command_has_a_page_that_man_shows() {
    let dir = std::env::temp_dir().join(format!("pgfleet-man-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    pgfleet(&["man", "--dir", &dir.display().to_string()]);
    for words in all() {
        let args: Vec<&str> = std::iter::once("man").chain(words.iter().map(String::as_str)).collect();
        let page = pgfleet(&args);
        let name = std::iter::once("pgfleet").chain(words.iter().map(String::as_str)).collect::<Vec<_>>().join("-");
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}: {page}");
        let file: PathBuf = dir.join(format!("{name}.1"));
        assert!(file.is_file(), "{} is not written", file.display());
    }
    let pages = std::fs::read_dir(&dir).unwrap().count();
    assert_eq!(pages, all().len(), "one page each, and none of help");
    let _ = std::fs::remove_dir_all(&dir);
    let page = pgfleet(&["man", "config", "set"]);
    if let Some(output) = feed("man", &["--warnings", "-l", "-"], &page) {
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("--lock-wait"), "{text}");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_page_has_the_exit_codes() {
    let page = pgfleet(&["man"]);
    assert!(page.contains("Exit codes") && page.contains("78"), "{page}");
    let output = Command::new(env!("CARGO_BIN_EXE_pgfleet")).args(["man", "nope"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}
