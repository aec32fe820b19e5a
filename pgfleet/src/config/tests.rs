//! The configuration without processes: what may stand in it, changes that keep the rest, the lock, writers at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::door::Door;
use super::edit::Edit;
use super::lock::{Lock, Owner, acquire};
use super::place::{Place, lock_of, new_of};
use super::settings::{Field, Key, Settings};
use super::store::{Writing, read, update};
use crate::exit::CliError;

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pgfleet-config-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn place(&self) -> Place {
        Place { path: self.0.join("config.toml"), is_explicit: false }
    }

    fn lock(&self) -> PathBuf {
        self.0.join("config.lock")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn writing(wait: Duration) -> Writing {
    Writing { wait, door: Door::closed() }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn take(path: &Path) -> Result<Lock, CliError> {
    block_on(acquire(path, &Owner::this("a test".to_owned()), Duration::ZERO))
}

fn parse(text: &str) -> Result<Settings, CliError> {
    Settings::parse(text, Path::new("/etc/pgfleet/config.toml"))
}

const WHOLE: &str = r#"# the fleets of the shop

current-context = "prod"   # not at night

# behind the balancer
[contexts.prod]
endpoints = [
  "https://a:1", # Berlin
  "https://b:2", # Paris
]
token-file = '/t' # rotated

# to try things
[contexts.test]
endpoints = "http://t:1"
ca = "ca.pem"
request-timeout = "1m 30s"
# the end
"#;

#[test]
fn a_file_means_what_it_says() {
    let settings = parse(WHOLE).unwrap();
    assert_eq!(settings.current.as_deref(), Some("prod"));
    assert_eq!(settings.contexts["prod"].endpoints, ["https://a:1", "https://b:2"]);
    let test = &settings.contexts["test"];
    assert_eq!(test.ca.as_deref(), Some(Path::new("/etc/pgfleet/ca.pem")), "from where the file is");
    assert_eq!(test.request_timeout, Some(Duration::from_secs(90)));
    assert_eq!(settings.list().len(), 6);
}

#[test]
fn a_mistake_is_named_with_its_line_and_column() {
    for (text, says) in [
        ("a = 1\n", "line 1 column 1: there is no key \"a\""),
        ("\n  context = 'x'\n", "line 2 column 3"),
        ("[contexts.a]\nendpoint = 'http://a'\n", "line 2 column 1: a context has no \"endpoint\""),
        ("[contexts.a]\nendpoints = ['http://a', 'b']\n", "line 2 column 26"),
        ("[contexts.a]\nrequest-timeout = 'soon'\n", "line 2 column 19"),
        ("[contexts.a]\nrequest-timeout = '0s'\n", "more than 0"),
        ("[contexts.a]\nrequest-timeout = 3\n", "line 2 column 19"),
        ("[contexts.'a b']\n", "no name of a context"),
        ("[contexts.a]\n[contexts.a]\n", "line 2"),
        ("current-context = \"x\n", "line 1"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(matches!(error, CliError::Usage(_)));
        assert!(error.to_string().contains(says), "{text:?}: {error}");
    }
}

#[test]
fn keys_are_checked() {
    assert_eq!("contexts.a.b.ca".parse(), Ok(Key::Field("a.b".to_owned(), Field::Ca)));
    assert_eq!("contexts.a.b".parse(), Ok(Key::Context("a.b".to_owned())));
    assert_eq!("contexts.a.endpoint".parse(), Ok(Key::Field("a".to_owned(), Field::Endpoints)));
    for bad in ["", "context", "contexts.", "contexts..ca", "contexts.-a.ca", "contexts.a/b.ca", "other.a.ca"] {
        assert!(bad.parse::<Key>().is_err(), "{bad}");
    }
    for (field, bad) in [
        (Field::Endpoints, "a:1"),
        (Field::Endpoints, "http://a,"),
        (Field::Endpoints, "http://u:p@a"),
        (Field::RequestTimeout, "5"),
        (Field::RequestTimeout, "2h"),
        (Field::Ca, ""),
    ] {
        assert!(field.value(bad).is_err(), "{bad}");
    }
}

fn edited(text: &str, change: impl FnOnce(&mut Edit<'_>) -> Result<(), CliError>) -> Result<String, CliError> {
    let mut edit = Edit::new(text.to_owned(), Path::new("/c.toml"));
    change(&mut edit)?;
    Ok(edit.text)
}

fn set(text: &str, key: &str, value: &str) -> String {
    edited(text, |edit| match key.parse().unwrap() {
        Key::Current => edit.set_current(value),
        Key::Field(name, field) => edit.set_field(&name, field, field.value(value).unwrap()),
        Key::Context(name) => edit.make_context(&name),
    })
    .unwrap()
}

/// Every line of `text` with a comment of its own is in `after`, in this order.
fn keeps_comments(text: &str, after: &str) {
    let mut rest = after;
    for comment in text.lines().filter_map(|line| line.find('#').map(|at| &line[at..])) {
        let at = rest.find(comment).unwrap_or_else(|| panic!("{comment:?} is gone or moved:\n{after}"));
        rest = &rest[at..];
    }
}

#[test]
fn changes_keep_comments() {
    for (key, value) in [
        ("current-context", "test"),
        ("contexts.prod.token-file", "/other"),
        ("contexts.prod.endpoints", "https://c:1,https://b:2"),
        ("contexts.prod.request-timeout", "5s"),
        ("contexts.new.endpoints", "http://n:1"),
    ] {
        let after = set(WHOLE, key, value);
        keeps_comments(WHOLE, &after);
        assert_eq!(parse(&after).unwrap().get(&key.parse().unwrap()).as_deref(), Some(value));
    }
    let renamed = edited(WHOLE, |edit| edit.rename("prod", "live")).unwrap();
    keeps_comments(WHOLE, &renamed);
    assert_eq!(parse(&renamed).unwrap().current.as_deref(), Some("live"));
    let gone = edited(WHOLE, |edit| edit.remove(&"contexts.prod".parse().unwrap())).unwrap();
    for comment in ["# the fleets of the shop", "# behind the balancer", "# to try things", "# the end"] {
        assert!(gone.contains(comment), "{gone}");
    }
    assert!(!gone.contains("https://") && !gone.contains("[contexts.prod]"), "{gone}");
}

#[test]
fn what_is_there_already_changes_nothing() {
    assert_eq!(set(WHOLE, "contexts.prod.token-file", "/t"), WHOLE);
    assert_eq!(set(WHOLE, "contexts.prod.endpoints", "https://a:1,https://b:2"), WHOLE);
    assert_eq!(set(WHOLE, "current-context", "prod"), WHOLE);
}

#[test]
fn other_ways_to_write_tables_are_understood() {
    for text in [
        "contexts = { a = { endpoints = ['http://a'], ca = '/c' } }\n",
        "contexts.a.endpoints = ['http://a']\ncontexts.a.ca = '/c'\n",
        "[contexts]\na = { endpoints = ['http://a'], ca = '/c' }\n",
        "[contexts]\na.endpoints = ['http://a']\na.ca = '/c'\n",
    ] {
        let after = set(text, "contexts.a.ca", "/d");
        assert_eq!(parse(&after).unwrap().contexts["a"].ca.as_deref(), Some(Path::new("/d")), "{after}");
        let after = set(text, "contexts.b.ca", "/d");
        assert_eq!(parse(&after).unwrap().contexts.len(), 2, "{after}");
        for key in ["contexts.a.ca", "contexts.a"] {
            let after = edited(text, |edit| edit.remove(&key.parse().unwrap())).unwrap();
            assert_eq!(parse(&after).unwrap().get(&key.parse().unwrap()), None, "{after}");
        }
        // Where the name stands more than once this is refused, and never done by half.
        if let Ok(after) = edited(text, |edit| edit.rename("a", "b")) {
            assert!(parse(&after).unwrap().contexts.contains_key("b"), "{after}");
        }
    }
}

#[test]
fn a_lock_names_its_holder_and_leaves_nothing() {
    let scratch = Scratch::new();
    let path = scratch.lock();
    let lock = take(&path).unwrap();
    assert!(lock.taken_over.is_none() && lock.is_in_place());
    let refusal = take(&path).unwrap_err().to_string();
    for part in [format!("process {}", std::process::id()), "a test".to_owned(), "--lock-wait 5s".to_owned()] {
        assert!(refusal.contains(&part), "{refusal}");
    }
    drop(lock);
    assert!(!path.exists());
    assert!(take(&path).is_ok());
}

#[test]
fn what_nobody_holds_is_taken_over_with_a_notice() {
    let scratch = Scratch::new();
    let path = scratch.lock();
    let dead = Owner { pid: 4_000_000, ..Owner::this("config set".to_owned()) };
    fs::write(&path, serde_json::to_string(&dead).unwrap()).unwrap();
    let lock = take(&path).unwrap();
    assert!(lock.taken_over.as_ref().unwrap().contains("process 4000000"));
    let there: Owner = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(there.pid, std::process::id());
    drop(lock);
    // Somebody died between making the file and writing into it.
    fs::write(&path, "").unwrap();
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(60);
    fs::File::open(&path).unwrap().set_modified(long_ago).unwrap();
    assert!(take(&path).unwrap().taken_over.is_some());
}

#[test]
fn what_is_no_lock_is_kept() {
    let scratch = Scratch::new();
    let path = scratch.lock();
    fs::write(&path, "version = 4\n").unwrap();
    assert!(matches!(take(&path), Err(CliError::NotOurs(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "version = 4\n");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(scratch.0.join("elsewhere"), &path).unwrap();
    assert!(matches!(take(&path), Err(CliError::NotOurs(_))));
    assert!(!scratch.0.join("elsewhere").exists());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(take(&path), Err(CliError::NotOurs(_))));
}

#[test]
fn a_holder_whose_lock_was_removed_does_not_remove_the_next_one() {
    let scratch = Scratch::new();
    let path = scratch.lock();
    let first = take(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let second = take(&path).unwrap();
    assert!(!first.is_in_place() && second.is_in_place());
    drop(first);
    assert!(path.exists(), "it is the second one's");
}

#[test]
fn links_share_a_lock_and_stay() {
    let scratch = Scratch::new();
    let place = scratch.place();
    let link = Place { path: scratch.0.join("link.toml"), is_explicit: true };
    std::os::unix::fs::symlink("config.toml", &link.path).unwrap();
    assert_eq!(lock_of(&link.target().unwrap()), scratch.lock());
    block_on(update(&link, &writing(Duration::ZERO), |edit, _| edit.make_context("a"))).unwrap();
    assert!(fs::symlink_metadata(&link.path).unwrap().is_symlink());
    assert!(read(&place).unwrap().contexts.contains_key("a"));
    let ring = Place { path: scratch.0.join("ring"), is_explicit: true };
    std::os::unix::fs::symlink("ring", &ring.path).unwrap();
    assert!(matches!(ring.target(), Err(CliError::Usage(_))));
}

#[test]
fn a_change_that_fails_changes_nothing() {
    let scratch = Scratch::new();
    let place = scratch.place();
    fs::write(&place.path, WHOLE).unwrap();
    fs::write(new_of(&place.path), "left by a killed writer").unwrap();
    let refuse = |_: &mut Edit<'_>, _: &Settings| Err::<(), _>(CliError::Failed("no".to_owned()));
    assert!(block_on(update(&place, &writing(Duration::ZERO), refuse)).is_err());
    let meddle = |edit: &mut Edit<'_>, _: &Settings| {
        fs::write(&place.path, "# by an editor\n").unwrap();
        edit.set_current("test")
    };
    assert!(block_on(update(&place, &writing(Duration::ZERO), meddle)).is_err());
    assert_eq!(fs::read_to_string(&place.path).unwrap(), "# by an editor\n");
    let unlock = |edit: &mut Edit<'_>, _: &Settings| {
        fs::remove_file(scratch.lock()).unwrap();
        edit.make_context("a")
    };
    assert!(block_on(update(&place, &writing(Duration::ZERO), unlock)).is_err());
    assert_eq!(fs::read_to_string(&place.path).unwrap(), "# by an editor\n");
    assert!(!scratch.lock().exists() && !new_of(&place.path).exists());
}

/// What one writer does: names of contexts of its own to make, and whether it waits.
fn writers() -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((1..4_usize, any::<bool>()), 2..7)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// However many write at once, and whatever a dead one left: what was said to be written is there, all of it, and
    /// nothing else.
    #[test]
    fn no_writer_loses_what_another_wrote(writers in writers(), stale in any::<bool>()) {
        let scratch = Scratch::new();
        let place = scratch.place();
        if stale {
            fs::write(scratch.lock(), serde_json::to_string(&Owner::this("dead".to_owned())).unwrap()).unwrap();
        }
        let one = |writer: usize, count: usize, waits: bool| {
            let wait = if waits { Duration::from_secs(60) } else { Duration::ZERO };
            let names = (0..count).map(move |i| format!("w{writer}-{i}"));
            let place = scratch.place();
            names.filter(move |name| {
                let done = block_on(update(&place, &writing(wait), |edit, _| edit.make_context(name)));
                assert!(done.is_ok() || !waits, "{done:?}");
                done.is_ok()
            }).collect::<Vec<_>>()
        };
        let mut written: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = writers.iter().enumerate()
                .map(|(writer, (count, waits))| scope.spawn(move || one(writer, *count, *waits)))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        written.sort();
        let there: Vec<String> = read(&place).unwrap().contexts.into_keys().collect();
        prop_assert_eq!(there, written);
        prop_assert!(!scratch.lock().exists() && !new_of(&place.path).exists());
    }
}
