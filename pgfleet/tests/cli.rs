//! The program as a script meets it: one line on standard error and the documented exit code.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory of one test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("pgfleet-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover in the temporary directory harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn pgfleet(local_dir: &Path, args: &[&str]) -> std::io::Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgfleet"));
    command.env_remove("PGFLEET_ENDPOINTS").env_remove("PGFLEET_TOKEN_FILE").env("PGFLEET_LOCAL_DIR", local_dir);
    // The contexts of whoever runs the tests are no business of theirs.
    command.env_remove("PGFLEET_CONTEXT").env_remove("PGFLEET_CONFIG").env("XDG_CONFIG_HOME", local_dir.join("none"));
    command.args(args).output()
}

#[track_caller]
fn fails(output: &Output, code: i32, says: &str) {
    let line = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}");
    assert!(line.contains(says), "{says:?} is not in {line:?}");
    assert_eq!(line.trim_end().lines().count(), 1, "more than one line: {line}");
}

#[test]
fn help_is_a_success_and_documents_the_codes() {
    let scratch = Scratch::new("help").unwrap();
    let output = pgfleet(&scratch.0, &["--help"]).unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout);
    for code in ["0 ", "1 ", "2 ", "64", "69", "77", "78"] {
        assert!(text.contains(&format!("\n  {code}")), "{code} in {text}");
    }
}

#[test]
fn a_wrong_command_line_is_64() {
    let scratch = Scratch::new("usage").unwrap();
    for args in [
        &["compute", "put", "c1"][..],
        &["compute", "put", "c/1", "--spec", "-"],
        &["--endpoint", "nonsense", "leader"],
        &["local", "up", "--controllers", "0"],
        &["frobnicate"],
        &[],
    ] {
        let output = pgfleet(&scratch.0, args).unwrap();
        assert_eq!(output.status.code(), Some(64), "{args:?}");
    }
}

#[test]
fn nothing_to_connect_to_is_64_and_says_what_to_do() {
    let scratch = Scratch::new("none").unwrap();
    fails(&pgfleet(&scratch.0, &["leader"]).unwrap(), 64, "pgfleet local up");
}

#[test]
fn a_controller_that_is_away_is_69_and_named() {
    let scratch = Scratch::new("away").unwrap();
    // Bound and not accepting would be silence; bound and closed again is a refusal.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let output = pgfleet(&scratch.0, &["--endpoint", &endpoint, "leader"]).unwrap();
    fails(&output, 69, &format!("{endpoint}: connection refused"));
}

#[test]
fn a_recording_is_verified() {
    let scratch = Scratch::new("verify").unwrap();
    let histories = Path::new(env!("CARGO_MANIFEST_DIR")).join("../libs/history/tests");
    let [good, bad] = ["good/crash_under_load.ndjson", "bad/terms--owner_changes.ndjson"]
        .map(|file| histories.join(file).display().to_string());
    let output = pgfleet(&scratch.0, &["verify", &good, "--expect-faults"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("facts checked, nothing is broken"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("kept") && line.contains("linearizable")), "{text}");

    let output = pgfleet(&scratch.0, &["verify", &bad, "-o", "json"]).unwrap();
    fails(&output, 1, "1 violations in");
    fails(&output, 1, "broken: terms");
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"passed\": false"));
}

#[test]
fn what_is_no_recording_is_64() {
    let scratch = Scratch::new("no-recording").unwrap();
    let elsewhere = Scratch::new("recordings").unwrap();
    let file = elsewhere.0.join("run.ndjson");
    std::fs::write(&file, "{\"at_us\":0,\"event\":\"ended\"}\nnonsense\n").unwrap();
    let path = file.display().to_string();
    fails(&pgfleet(&scratch.0, &["verify", &path]).unwrap(), 64, "line 2 is not an entry of a history");
    fails(&pgfleet(&scratch.0, &["verify", "/nowhere"]).unwrap(), 64, "/nowhere");
    fails(&pgfleet(&scratch.0, &["verify", "--live"]).unwrap(), 64, "pgfleet local up");
    for args in [&["verify"][..], &["verify", &path, "--live"], &["verify", "--live", "--expect-faults"]] {
        assert_eq!(pgfleet(&scratch.0, args).unwrap().status.code(), Some(64), "{args:?}");
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    fails(&pgfleet(&scratch.0, &["--endpoint", &endpoint, "verify", "--live"]).unwrap(), 69, "connection refused");
}

#[test]
fn unusable_files_are_64_and_named() {
    let scratch = Scratch::new("files").unwrap();
    let bad = scratch.0.join("bad.json");
    std::fs::write(&bad, "{\"a\": }").unwrap();
    let [bad, missing] = [bad, scratch.0.join("missing")].map(|path| path.display().to_string());
    let base = ["--endpoint", "http://127.0.0.1:1"];
    let put = |file: &str| pgfleet(&scratch.0, &[&base[..], &["compute", "put", "c", "--spec", file]].concat());
    fails(&put(&bad).unwrap(), 64, "line 1 column 7");
    fails(&put(&missing).unwrap(), 64, &missing);
    let plan = |args: &[&str]| pgfleet(&scratch.0, &[&base[..], &["plan"], args].concat()).unwrap();
    fails(&plan(&[&missing]), 64, &missing);
    fails(&plan(&[&bad, "--compute", "c"]), 64, "line 1 column 7");
    fails(&plan(&[&bad]), 64, "give --compute");
    let token = pgfleet(&scratch.0, &[&base[..], &["--token-file", &missing, "leader"]].concat());
    fails(&token.unwrap(), 64, &missing);
}

#[test]
fn a_directory_of_somebody_else_is_78_and_kept() {
    let scratch = Scratch::new("foreign").unwrap();
    let file = scratch.0.join("precious");
    std::fs::write(&file, "x").unwrap();
    for verb in ["down", "status", "up"] {
        let output = pgfleet(&scratch.0, &["local", verb, "--dir", &scratch.0.display().to_string()]).unwrap();
        fails(&output, 78, "was not made by pgfleet local");
    }
    assert!(file.exists());
}

#[test]
fn no_local_cluster_is_69_for_status_and_nothing_to_do_for_down() {
    let scratch = Scratch::new("down").unwrap();
    let dir = scratch.0.join("none");
    fails(&pgfleet(&dir, &["local", "status"]).unwrap(), 69, "pgfleet local up");
    assert_eq!(pgfleet(&dir, &["local", "down"]).unwrap().status.code(), Some(0));
}
