//! `pgfleet config` as processes meet it: writers at once, killed and interrupted ones, and the clusters that others reach.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pgfleet-config-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgfleet"));
        for name in ["ENDPOINTS", "TOKEN_FILE", "CA", "REQUEST_TIMEOUT", "CONTEXT", "CONFIG", "PAUSE_AT"] {
            command.env_remove(format!("PGFLEET_{name}"));
        }
        command.env("XDG_CONFIG_HOME", &self.0).env("PGFLEET_LOCAL_DIR", self.0.join("local")).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.0.join("pgfleet/config.toml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn is_tidy(&self) {
        let names: Vec<_> =
            fs::read_dir(self.0.join("pgfleet")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["config.toml"]);
    }

    /// A writer that stands still at this point.
    fn paused(&self, point: &str, args: &[&str]) -> Paused {
        let mut child = self
            .command(args)
            .arg("--dev")
            .env("PGFLEET_PAUSE_AT", point)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains(&format!("paused at {point}")), "{line}");
        Paused(child)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Paused(Child);

impl Paused {
    fn ends_by(mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn fails(output: &Output, code: i32, says: &str) {
    let line = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}");
    assert!(line.contains(says), "{says:?} is not in {line:?}");
    assert_eq!(line.trim_end().lines().count(), 1, "more than one line: {line}");
}

#[test]
fn fifty_writers_at_once_leave_fifty_keys() {
    let home = Home::new("fifty");
    let write = |number: usize| {
        let (key, value) = (format!("contexts.c{number}.endpoints"), format!("http://h{number}:1"));
        home.command(&["config", "set", &key, &value, "--lock-wait", "60s"]).stderr(Stdio::piped()).spawn().unwrap()
    };
    let writers: Vec<_> = (0..50).map(write).collect();
    for writer in writers {
        let output = writer.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let list = home.ok(&["config", "list"]);
    for number in 0..50 {
        let line = format!("contexts.c{number}.endpoints");
        assert_eq!(list.lines().filter(|found| found.starts_with(&format!("{line} "))).count(), 1, "{line} in {list}");
    }
    home.is_tidy();
}

#[test]
fn without_a_wait_the_losers_change_nothing() {
    let home = Home::new("losers");
    home.ok(&["config", "set", "contexts.a.endpoints", "http://a:1"]);
    let before = (home.text(), fs::metadata(home.file()).unwrap().ino());
    let holder = home.paused("config_locked", &["config", "set", "contexts.b.endpoints", "http://b:1"]);
    let began = Instant::now();
    for args in [
        &["config", "set", "contexts.c.endpoints", "http://c:1"][..],
        &["config", "unset", "contexts.a"],
        &["config", "use-context", "a"],
        &["config", "set-context", "a", "--endpoint", "http://d:1"],
        &["config", "rename-context", "a", "d"],
        &["config", "delete-context", "a"],
    ] {
        let output = home.run(args);
        fails(&output, 1, &format!("process {} on ", holder.0.id()));
        fails(&output, 1, "config set contexts.b.endpoints http://b:1");
        fails(&output, 1, "s old");
    }
    assert!(began.elapsed() < Duration::from_secs(30), "they did not wait");
    fails(&home.run(&["config", "use-context", "a", "--lock-wait", "300ms"]), 1, "waited for 0.3 s");
    assert_eq!(before, (home.text(), fs::metadata(home.file()).unwrap().ino()));
    // Reading goes on meanwhile, and needs no lock.
    assert!(home.ok(&["config", "get-contexts"]).contains("http://a:1"));
    assert_eq!(holder.ends_by(Signal::USR1), Some(0));
    assert!(home.ok(&["config", "get", "contexts.b.endpoints"]).contains("http://b:1"));
    home.is_tidy();
}

#[test]
fn who_waits_goes_on_when_the_holder_ends() {
    let home = Home::new("waits");
    let holder = home.paused("config_written", &["config", "set", "contexts.a.endpoints", "http://a:1"]);
    let waiter =
        home.command(&["config", "set", "contexts.b.endpoints", "http://b:1", "--lock-wait", "60s"]).spawn().unwrap();
    assert_eq!(holder.ends_by(Signal::USR1), Some(0));
    assert!(waiter.wait_with_output().unwrap().status.success());
    assert_eq!(home.ok(&["config", "list"]).lines().count(), 3);
    home.is_tidy();
}

#[test]
fn a_killed_holder_blocks_nobody() {
    let home = Home::new("killed");
    home.ok(&["config", "set", "contexts.a.endpoints", "http://a:1"]);
    for point in ["config_locked", "config_written"] {
        let before = home.text();
        let holder = home.paused(point, &["config", "set", "contexts.b.endpoints", "http://b:1"]);
        let pid = holder.0.id();
        assert_eq!(holder.ends_by(Signal::KILL), None);
        assert_eq!(home.text(), before, "what was read stays whole");
        assert!(home.file().with_extension("lock").exists());
        let output = home.run(&["config", "set", &format!("contexts.{point}.endpoints"), "http://c:1"]);
        assert_eq!(output.status.code(), Some(0));
        let notice = String::from_utf8_lossy(&output.stderr);
        assert!(notice.contains(&format!("took over the lock of process {pid}")), "{notice}");
        assert!(home.ok(&["config", "get", "contexts.a.endpoints"]).contains("http://a:1"));
        home.is_tidy();
    }
}

#[test]
fn a_signal_leaves_no_lock() {
    let home = Home::new("signal");
    home.ok(&["config", "set", "contexts.a.endpoints", "http://a:1"]);
    let before = home.text();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        for point in ["config_locked", "config_written"] {
            let holder = home.paused(point, &["config", "set", "contexts.b.endpoints", "http://b:1"]);
            assert_eq!(holder.ends_by(signal), Some(1));
            assert_eq!(home.text(), before);
            home.is_tidy();
        }
    }
    let holder = home.paused("config_locked", &["config", "set", "contexts.b.endpoints", "http://b:1"]);
    let waiter = home.command(&["config", "use-context", "a", "--lock-wait", "60s"]).stderr(Stdio::piped()).spawn();
    let waiter = Paused(waiter.unwrap());
    // It waits once it catches the signal.
    let status = format!("/proc/{}/status", waiter.0.id());
    let until = Instant::now() + Duration::from_secs(30);
    let catches = || {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).unwrap_or("0");
        u64::from_str_radix(mask, 16).unwrap_or(0) & 2 != 0
    };
    while !catches() {
        assert!(Instant::now() < until, "it never listened for SIGINT");
        std::thread::yield_now();
    }
    assert_eq!(waiter.ends_by(Signal::INT), Some(1));
    assert_eq!(holder.ends_by(Signal::INT), Some(1));
    home.is_tidy();
}

#[test]
fn what_is_wrong_is_refused_before_there_is_a_lock() {
    let home = Home::new("refused");
    for args in [
        &["config", "set", "contexts.a.endpoints", "nonsense"][..],
        &["config", "set", "contexts.a.request-timeout", "soon"],
        &["config", "set", "contexts.a.color", "red"],
        &["config", "set", "contexts.a", "x"],
        &["config", "set", "a"],
        &["config", "use-context", "a b"],
        &["config", "set-context", "a", "--lock-wait", "5"],
        &["config", "set-context", "a", "--endpoint", "nonsense"],
    ] {
        let output = home.run(args);
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert!(!home.0.join("pgfleet").exists(), "{args:?}");
    }
    for args in [&["config", "--help"][..], &["config", "set", "--help"], &["help", "config", "set-context"]] {
        assert!(home.ok(args).contains("Usage:"));
    }
    // Reading neither makes nor touches anything.
    for args in [&["config", "list"][..], &["config", "view"], &["config", "get-contexts"], &["config", "path"]] {
        home.ok(args);
    }
    fails(&home.run(&["config", "current-context"]), 1, "no current context");
    fails(&home.run(&["config", "get", "contexts.a.ca"]), 1, "no context \"a\"");
    assert!(!home.0.join("pgfleet").exists());
    // What only the file can tell is refused under the lock, which goes.
    fails(&home.run(&["config", "use-context", "a"]), 1, "there are none");
    fails(&home.run(&["config", "set-context", "a"]), 64, "--endpoint");
    assert_eq!(fs::read_dir(home.0.join("pgfleet")).unwrap().count(), 0);
}

#[test]
fn the_file_keeps_comments_and_its_mode() {
    let home = Home::new("kept");
    home.ok(&["config", "set-context", "prod", "--endpoint", "http://a:1,http://b:1", "--current"]);
    let mode = || fs::metadata(home.file()).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(), 0o600);
    let text = home.text().replace("[contexts.prod]", "# the shop\n[contexts.prod] # live");
    fs::write(home.file(), format!("# mine\n{text}# end\n")).unwrap();
    fs::set_permissions(home.file(), fs::Permissions::from_mode(0o644)).unwrap();
    home.ok(&["config", "set", "contexts.prod.request-timeout", "45s"]);
    for comment in ["# mine\n", "# the shop\n", "# live\n", "# end\n"] {
        assert!(home.text().contains(comment), "{comment} in {}", home.text());
    }
    assert_eq!(mode(), 0o600);
}

#[test]
fn a_broken_file_is_named_and_kept() {
    let home = Home::new("broken");
    fs::create_dir_all(home.file().parent().unwrap()).unwrap();
    for (text, says) in
        [("a = [1\n", "line 1 column 7"), ("\nx = 1\n", "line 2 column 1"), ("\u{0}", "line 1 column 2")]
    {
        fs::write(home.file(), text).unwrap();
        for args in [&["config", "list"][..], &["leader"], &["config", "set", "contexts.a.endpoints", "http://a:1"]] {
            fails(&home.run(args), 64, says);
        }
        assert_eq!(home.text(), text);
        home.is_tidy();
    }
    fs::write(home.file(), b"\xff\xfe").unwrap();
    fails(&home.run(&["config", "list"]), 64, "not UTF-8");
    fs::remove_file(home.file()).unwrap();
    fs::create_dir(home.file()).unwrap();
    fails(&home.run(&["config", "list"]), 64, "it is a directory");
    fails(&home.run(&["config", "set", "contexts.a.endpoints", "http://a:1"]), 64, "it is a directory");
    fails(&home.run(&["--config", "/nowhere/c.toml", "leader"]), 64, "no configuration /nowhere/c.toml");
}

/// Listens, answers nothing, and says what it was asked.
fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

fn asked(listener: &TcpListener) -> String {
    let (mut stream, _) = listener.accept().unwrap();
    let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let asked: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let body = r#"{"code":"not_found","msg":"nobody leads"}"#;
    let head = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    asked.join("\n")
}

#[test]
fn the_other_nouns_go_where_the_context_says() {
    let home = Home::new("context");
    let (prod, prod_url) = listener();
    let (test, test_url) = listener();
    let (env, env_url) = listener();
    let token = |name: &str| {
        let path = home.0.join(name);
        fs::write(&path, format!("{name}.b.c")).unwrap();
        path.display().to_string()
    };
    let (prod_token, test_token) = (token("prodtoken"), token("testtoken"));
    home.ok(&["config", "set-context", "prod", "--endpoint", &prod_url, "--token-file", &prod_token, "--current"]);
    home.ok(&["config", "set-context", "test", "--endpoint", &test_url, "--token-file", &test_token]);
    let goes = |args: &[&str], variables: &[(&str, &str)], to: &TcpListener| {
        let child = home
            .command(args)
            .args(["leader", "-o", "json"])
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let head = asked(to);
        let output = child.unwrap().wait_with_output().unwrap();
        fails(&output, 1, "nobody leads");
        head
    };
    let has = |head: &str, token: Option<&str>| match token {
        Some(token) => assert!(head.contains(&format!("Bearer {token}")), "{head}"),
        None => assert!(!head.to_lowercase().contains("authorization"), "{head}"),
    };
    has(&goes(&[], &[], &prod), Some("prodtoken"));
    has(&goes(&["--context", "test"], &[], &test), Some("testtoken"));
    has(&goes(&[], &[("PGFLEET_CONTEXT", "test")], &test), Some("testtoken"));
    has(&goes(&["--token-file", &test_token], &[], &prod), Some("testtoken"));
    has(&goes(&[], &[("PGFLEET_TOKEN_FILE", &test_token)], &prod), Some("testtoken"));
    // Endpoints of one's own get no token of a context.
    has(&goes(&["--endpoint", &env_url], &[], &env), None);
    has(&goes(&[], &[("PGFLEET_ENDPOINTS", &env_url)], &env), None);
    // What is typed goes before the environment.
    let variables = [("PGFLEET_ENDPOINTS", env_url.as_str()), ("PGFLEET_TOKEN_FILE", test_token.as_str())];
    has(&goes(&["--context", "prod"], &variables, &prod), Some("prodtoken"));
    fails(&home.run(&["--context", "nope", "leader"]), 64, "there are prod, test");
    home.ok(&["config", "delete-context", "prod"]);
    fails(&home.run(&["leader"]), 64, "no current context");
}

#[test]
fn the_environment_is_not_written_into_a_context() {
    let home = Home::new("environment");
    let output = home
        .command(&["config", "set-context", "a", "--endpoint", "http://a:1"])
        .env("PGFLEET_TOKEN_FILE", "/secret")
        .env("PGFLEET_ENDPOINTS", "http://b:1")
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(!home.text().contains("secret") && !home.text().contains("http://b:1"), "{}", home.text());
}

const CERTIFICATES: &str = "\
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical,CA:TRUE
[leaf]
basicConstraints = critical,CA:FALSE
subjectAltName = DNS:localhost
";

/// A server with a certificate of its own making, which answers with the file that is asked for.
fn tls_server(dir: &Path) -> Option<(Paused, String)> {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    fs::write(dir.join("conf"), CERTIFICATES).unwrap();
    let openssl = |args: &str| {
        let words = format!("req -x509 -newkey rsa:2048 -nodes -days 1 -config conf {args}");
        let made = Command::new("openssl").args(words.split(' ')).current_dir(dir).stderr(Stdio::null()).status();
        made.is_ok_and(|status| status.success())
    };
    let made = openssl("-extensions ca -subj /CN=ca -keyout ca.key -out ca.pem")
        && openssl("-extensions leaf -subj /CN=localhost -CA ca.pem -CAkey ca.key -keyout key.pem -out cert.pem");
    if !made {
        // Past the test runner's capture, which would swallow it.
        let _ = writeln!(std::io::stderr(), "SKIP: a_ca_is_trusted_alone: openssl is not installed");
        return None;
    }
    fs::create_dir_all(dir.join("control/v1")).unwrap();
    let answer = "HTTP/1.0 404 Not Found\r\n\r\n{\"code\":\"not_found\",\"msg\":\"nobody leads\"}";
    fs::write(dir.join("control/v1/leader"), answer).unwrap();
    let server = Command::new("openssl")
        .args([
            "s_server",
            "-quiet",
            "-HTTP",
            "-cert",
            "cert.pem",
            "-key",
            "key.pem",
            "-accept",
            &format!("127.0.0.1:{free}"),
        ])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let server = Paused(server.unwrap());
    let until = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(("127.0.0.1", free)).is_err() {
        assert!(Instant::now() < until, "openssl s_server does not listen");
        std::thread::yield_now();
    }
    Some((server, format!("https://localhost:{free}")))
}

#[test]
fn a_ca_is_trusted_alone() {
    let home = Home::new("ca");
    let Some((_server, url)) = tls_server(&home.0) else { return };
    let ca = home.0.join("ca.pem").display().to_string();
    home.ok(&[
        "config",
        "set-context",
        "tls",
        "--endpoint",
        &url,
        "--ca",
        &ca,
        "--request-timeout",
        "20s",
        "--current",
    ]);
    fails(&home.run(&["leader", "-o", "json"]), 1, "nobody leads");
    home.ok(&["config", "unset", "contexts.tls.ca"]);
    fails(&home.run(&["leader", "--request-timeout", "1s", "-o", "json"]), 69, "within 1.0 s");
    let key = home.0.join("key.pem").display().to_string();
    fails(&home.run(&["leader", "--ca", &key]), 64, "no certificate in the CA");
    fails(&home.run(&["--endpoint", &url, "--ca", "/nowhere", "leader"]), 64, "cannot read the CA /nowhere");
    fs::write(home.0.join("empty"), "x").unwrap();
    let empty = home.0.join("empty").display().to_string();
    fails(&home.run(&["--endpoint", &url, "--ca", &empty, "leader"]), 64, "no certificate in the CA");
}
