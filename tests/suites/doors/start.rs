//! A start that cannot work: one clear line, and the documented exit code.

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use pgfleet_api::controller::Role;
use pgfleet_harness::fleet::Fleet;
use pgfleet_harness::programs::program;

fn run(name: &str, fleet: &Fleet, args: &[String], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program(name));
    command.env_remove("PGFLEET_DATABASE_URL").env_remove("PGFLEET_PAUSE_AT").env("RUST_LOG", "error");
    command.args(args).envs(env.iter().copied()).current_dir(fleet.dir()).stdin(Stdio::null());
    command.output().unwrap()
}

/// One line on stderr, beginning with the program's name, with the code and the word that says what is wrong.
fn refused(name: &str, fleet: &Fleet, args: &[String], env: &[(&str, &str)], code: i32, word: &str) {
    let output = run(name, fleet, args, env);
    let said = String::from_utf8_lossy(&output.stderr);
    let what = format!("{name} {}\n{said}", args.join(" "));
    assert_eq!(output.status.code(), Some(code), "{what}");
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with(&format!("{name}: error: "))).collect();
    assert_eq!(lines.len(), 1, "one line: {what}");
    assert!(lines[0].contains(word), "{word:?} is not in it: {what}");
    assert!(!said.contains("s3cret"), "a secret is shown: {what}");
    assert!(!said.contains("panicked"), "{what}");
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// From the bind on a member says what it is, also while the database keeps it waiting.
#[tokio::test(flavor = "multi_thread")]
async fn status_does_not_wait_for_the_database() {
    let Some(fleet) = Fleet::start("status_does_not_wait_for_the_database").await else { return };
    // Takes connections and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://u@{}/d?sslmode=disable", mute.local_addr().unwrap());
    let member = fleet.controller("waits").args(&["--database-url", &url, "--db-connect-timeout", "60s"]).start().await;
    let status = member.is(Role::Candidate, Duration::from_secs(5)).await;
    assert_eq!((status.instance_id, status.leader), (member.instance_id(), None));
    assert_eq!(member.call("GET", "/live").send().await.status, 200);
    assert_eq!(member.call("GET", "/ready").send().await.status, 503);
    member.process.terminate();
    assert_eq!(member.process.exit_code(Duration::from_secs(10)).await, 0, "nothing is held, so nothing is waited for");
}

/// The controller: flags, keys, port, database, advertised address, test doors.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_cannot_start() {
    let Some(fleet) = Fleet::start("a_controller_that_cannot_start").await else { return };
    let no = |extra: &[&str], env: &[(&str, &str)], code, word: &str| {
        let mut args = strings(extra);
        if !extra.contains(&"--listen") {
            args.extend(strings(&["--listen", "127.0.0.1:0"]));
        }
        refused("storage_controller", &fleet, &args, env, code, word);
    };
    let (jwks, key) = (fleet.keys().jwks.display().to_string(), fleet.keys().controller_key.display().to_string());
    let url = fleet.database_url();
    let keys = ["--jwks-file", &jwks, "--jwt-private-key", &key];
    let with_keys = |extra: &[&'static str]| [&keys[..], extra].concat();

    no(&[], &[], 64, "--database-url");
    no(&["--no-such-flag"], &[], 64, "--no-such-flag");
    no(&["--database-url", url], &[], 64, "--jwks-file");
    no(&["--database-url", url, "--jwks-file", &jwks], &[], 64, "--jwt-private-key");
    no(&["--database-url", url, "--jwks-file", "none.json", "--jwt-private-key", &key], &[], 64, "--jwks-file");
    no(&["--database-url", url, "--jwks-file", &jwks, "--jwt-private-key", &jwks], &[], 64, "--jwt-private-key");
    no(&with_keys(&["--database-url", "mysql://u:s3cret@h/d"]), &[], 64, "postgres://");
    no(
        &with_keys(&[
            "--database-url",
            "postgres://u:s3cret@127.0.0.1:1/d?sslmode=disable",
            "--db-connect-timeout",
            "1s",
        ]),
        &[],
        69,
        "database",
    );
    let env = [("PGFLEET_DATABASE_URL", url)];
    no(&with_keys(&["--migrations-dir", "m"]), &env, 64, "--migrations-dir");
    no(&with_keys(&[]), &[env[0], ("PGFLEET_PAUSE_AT", "before_push")], 64, "PGFLEET_PAUSE_AT");
    no(&with_keys(&["--dev"]), &[env[0], ("PGFLEET_PAUSE_AT", "nowhere")], 64, "nowhere");
    no(&with_keys(&[]), &[env[0], ("PGFLEET_PANIC_AT", "in_pass:c1")], 64, "PGFLEET_PANIC_AT");
    no(&with_keys(&["--dev"]), &[env[0], ("PGFLEET_PANIC_AT", "nowhere:c1")], 64, "nowhere:c1");
    no(&with_keys(&["--otlp-endpoint", "collector:4318"]), &env, 64, "--otlp-endpoint");
    no(&with_keys(&["--panic-window", "0s"]), &env, 64, "--panic-window");
    no(&with_keys(&["--lease", "10ms"]), &env, 64, "--lease");
    no(&with_keys(&["--listen", "0.0.0.0:0"]), &env, 64, "--advertise");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut args = strings(&keys);
    args.extend(["--listen".to_owned(), address.clone()]);
    refused("storage_controller", &fleet, &args, &env, 1, &address);
    let sql = "SELECT to_regclass('leader') IS NULL";
    assert!(fleet.database().await.query_one(sql, &[]).await.unwrap().get::<_, bool>(0), "nobody came that far");
}

/// An advertised address that leads to somebody else's listener.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_must_meet_itself() {
    let Some(fleet) = Fleet::start("a_controller_must_meet_itself").await else { return };
    let a = fleet.controller("a").start_leader().await;
    let (jwks, key) = (fleet.keys().jwks.display().to_string(), fleet.keys().controller_key.display().to_string());
    let args = ["--listen", "127.0.0.1:0", "--jwks-file", &jwks, "--jwt-private-key", &key, "--advertise", a.url()];
    let env = [("PGFLEET_DATABASE_URL", fleet.database_url())];
    refused("storage_controller", &fleet, &strings(&args), &env, 64, "--advertise");
    assert_eq!(a.leads(pgfleet_harness::process::PATIENCE).await.get(), 1);
}

/// The agent: flags, keys, port, program, data directory of somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_start() {
    let Some(fleet) = Fleet::start("an_agent_that_cannot_start").await else { return };
    let home = fleet.make_dir("home");
    let foreign = fleet.make_dir("foreign");
    std::fs::write(foreign.join("PG_VERSION"), "15\n").unwrap();
    let program = fleet.cluster().bin_dir().join("postgres").display().to_string();
    let (data, foreign) = (home.join("data").display().to_string(), foreign.display().to_string());
    let url = "postgresql://cloud_admin@127.0.0.1:6/postgres";
    let no = |data: &str, url: &str, program: &str, extra: &[&str], code, word: &str| {
        let mut args = strings(&["-i", "c1", "-D", data, "-C", url, "-b", program, "--http-port", "0"]);
        args.extend(strings(extra));
        refused("compute_ctl", &fleet, &args, &[], code, word);
    };
    no(&data, "host=localhost", &program, &[], 64, "-C");
    no(&data, url, "/bin/true", &[], 64, "-b");
    no(&data, url, "/nowhere/postgres", &[], 64, "-b");
    no(&data, url, &program, &["--no-such-flag"], 64, "--no-such-flag");
    no(&data, url, &program, &["--http-host", "0.0.0.0"], 64, "--jwks-file");
    no(&data, url, &program, &["--jwks-file", "none.json"], 64, "none.json");
    no(&data, url, &program, &["-S", "none.json"], 64, "none.json");
    for (name, content) in [("list.json", "[]"), ("text.json", r#"{"spec": null, "compute_ctl_config": "x"}"#)] {
        std::fs::write(fleet.dir().join(name), content).unwrap();
    }
    no(&data, url, &program, &["-c", "list.json"], 64, "list.json");
    // Keys that are no keys are none, and without keys only loopback is listened on.
    no(&data, url, &program, &["-c", "text.json", "--http-host", "0.0.0.0"], 64, "--jwks-file");
    no(&foreign, url, &program, &[], 78, "--adopt");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let args = ["-i", "c1", "-D", &data, "-C", url, "-b", &program, "--external-http-port", &port];
    let args = [&args[..], &["--internal-http-port", "0"]].concat();
    refused("compute_ctl", &fleet, &strings(&args), &[], 1, &port);
    refused("compute_ctl", &fleet, &strings(&["-i", "a/b", "-D", &data, "-C", url, "-b", &program]), &[], 64, "-i");
}
