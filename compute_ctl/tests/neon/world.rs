//! A page server with a real base backup, three safekeepers, and specs that name them.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::server::{Server, TOKEN};
use crate::support::{Compute, alice, spec};

pub const TENANT: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90";
pub const TIMELINE: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// A base backup of a real PostgreSQL whose database `orders` has a table `kept` with one row, and where its WAL ends.
#[derive(Clone)]
pub struct Backup {
    pub archive: Arc<Vec<u8>>,
    pub end: String,
}

/// Made once per run.
pub async fn backup(program: &Path) -> Backup {
    static MADE: OnceCell<Backup> = OnceCell::const_new();
    MADE.get_or_init(|| make(program.to_owned())).await.clone()
}

async fn make(program: PathBuf) -> Backup {
    let mut compute = Compute::start(program.clone(), &[]).await;
    let wanted = spec(json!([alice()]), json!([{"name": "orders", "owner": "alice"}]), json!([]));
    assert_eq!(compute.post("/spec", wanted.to_string()).await.0, 200);
    let socket_dir = compute.dir.0.join("d.pgfleet/s");
    let tool = |name: &str| {
        let mut command = Command::new(program.with_file_name(name));
        command.arg("-h").arg(&socket_dir).args(["-U", "cloud_admin", "-p", &compute.pgport.to_string()]);
        command
    };
    let table = "CREATE TABLE kept AS SELECT 'from the backup' AS word; ALTER TABLE kept OWNER TO alice";
    assert!(tool("psql").args(["-q", "-d", "orders", "-c", table]).status().unwrap().success());
    let copied =
        tool("pg_basebackup").args(["-D", "-", "-Ft", "-X", "fetch", "-z", "-c", "fast", "-v"]).output().unwrap();
    let said = String::from_utf8_lossy(&copied.stderr);
    assert!(copied.status.success(), "{said}");
    let end = said.split("end point: ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    compute.signal_agent("TERM");
    assert_eq!(compute.agent_ended().await.code(), Some(0));
    Backup { archive: Arc::new(copied.stdout), end }
}

/// Storage that gives that backup; its safekeepers agree.
pub struct World {
    pub page_server: Server,
    pub safekeepers: Vec<Server>,
}

impl World {
    pub async fn start(backup: &Backup) -> Self {
        let page_server = Server::start().await;
        *page_server.state.archive.lock().unwrap() = Arc::clone(&backup.archive);
        let mut safekeepers = Vec::new();
        for _ in 0..3 {
            safekeepers.push(Server::start().await);
        }
        let world = Self { page_server, safekeepers };
        for i in 0..3 {
            world.safekeeper_says(i, Some(("0/ABCDEF0", "0/ABCDEF0")));
        }
        world
    }

    pub fn safekeeper_says(&self, i: usize, status: Option<(&str, &str)>) {
        let status = status.map(|(flush, commit)| (flush.to_owned(), commit.to_owned()));
        *self.safekeepers[i].state.status.lock().unwrap() = status;
    }

    /// A spec of a primary on this storage.
    pub fn spec(&self) -> Value {
        let mut spec = spec(json!([alice()]), json!([{"name": "orders", "owner": "alice"}]), json!([]));
        spec["tenant_id"] = json!(TENANT);
        spec["timeline_id"] = json!(TIMELINE);
        spec["pageserver_connstring"] = json!(self.page_server.url());
        let hosts: Vec<_> = self.safekeepers.iter().map(|one| format!("127.0.0.1:{}", one.port)).collect();
        spec["safekeeper_connstrings"] = json!(hosts);
        spec["storage_auth_token"] = json!(TOKEN);
        spec
    }

    /// Commands that the page server has seen, without what stands before them.
    pub fn commands(&self) -> Vec<String> {
        let commands = self.page_server.seen().into_iter();
        commands.filter_map(|line| line.split_once(" | ").map(|(_, query)| query.to_owned())).collect()
    }
}

/// Words of the table, as alice sees them.
pub async fn words(compute: &Compute) -> String {
    let asked = "SELECT string_agg(word, ',' ORDER BY word) FROM kept";
    compute.ask("alice", "pw1", "orders", asked).await.unwrap()
}

/// Adds a word to the table.
pub async fn add(compute: &Compute, word: &str) {
    let sql = format!("INSERT INTO kept VALUES ('{word}') RETURNING word");
    assert_eq!(compute.ask("alice", "pw1", "orders", &sql).await.unwrap(), word);
}

/// Programs of an installation whose server has the mode of Neon's: it notes how it was called, and prints `lsn`. Without
/// one it fails.
pub fn with_sync_mode(program: &Path, directory: &Path, lsn: Option<&str>) -> PathBuf {
    let (bin, notes) = (directory.join("bin"), directory.join("notes"));
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(&notes, "").unwrap();
    std::fs::set_permissions(&notes, Permissions::from_mode(0o666)).unwrap();
    let answer = lsn.map_or_else(|| "echo no majority >&2; exit 1".to_owned(), |lsn| format!("echo {lsn}; exit 0"));
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = --sync-safekeepers ]; then\n  echo \"sync $PGDATA $NEON_AUTH_TOKEN\" >> {notes}\n  \
         grep ^neon.timeline_id \"$PGDATA/postgresql.conf\" >> {notes}\n  {answer}\nfi\n\
         [ -z \"$NEON_AUTH_TOKEN\" ] || echo \"server $NEON_AUTH_TOKEN\" >> {notes}\nexec {real} \"$@\"\n",
        notes = notes.display(),
        real = program.display(),
    );
    let wrapper = bin.join("postgres");
    std::fs::write(&wrapper, script).unwrap();
    std::fs::set_permissions(&wrapper, Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(program.with_file_name("initdb"), bin.join("initdb")).unwrap();
    wrapper
}
