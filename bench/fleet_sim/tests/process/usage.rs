//! What the program refuses, in one line and with the code of a usage error.

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fleet_sim")).args(args).stdin(std::process::Stdio::null()).output().unwrap()
}

#[test]
fn a_usage_error_is_one_line_and_64() {
    for (args, said) in [
        (&["--agents", "0"][..], "--agents"),
        (&["--agents", "99999999"], "--agents"),
        (&["--id-prefix", "a/b"], "--id-prefix"),
        (&["--script", "/nowhere/at/all"], "/nowhere/at/all"),
        (&["--script", "-"], "the script is not one"),
        (&["--jwks-file", "/nowhere/at/all"], "/nowhere/at/all"),
        (&["--typo"], "--typo"),
    ] {
        let output = run(args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{args:?}: {text}");
        let lines: Vec<_> = text.lines().filter(|line| line.contains("error:")).collect();
        assert_eq!(lines.len(), 1, "{args:?}: {text}");
        assert!(lines[0].contains(said), "{args:?}: {text}");
    }
}

#[test]
fn help_tells_of_the_script_and_the_control_address() {
    let text = String::from_utf8(run(&["--help"]).stdout).unwrap();
    for word in ["/sim/script", "/sim/counters", "/sim/agents", "/sim/reset", "/sim/restart", "flapping", "--port-file"]
    {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
}
