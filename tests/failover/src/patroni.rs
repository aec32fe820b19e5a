//! A PostgreSQL that fails over: Patroni's nodes around one etcd, all in the directory of a fleet.
//!
//! Who calls it: the rounds. What it calls: the programs of this machine. The fleet's reaper ends whatever names its
//! directory on its command line, which all of these do: a run that is killed leaves nothing behind. They run as the user
//! who owns that directory, because PostgreSQL refuses root. Times are the shortest that Patroni takes (`ttl` 20 s).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgfleet_harness::fleet::{Fleet, free_port};
use pgfleet_harness::http::Call;
use pgfleet_harness::postgres::{TestClient, connect};
use pgfleet_harness::process::Process;
use pgfleet_harness::wait::{wait_for, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How long the nodes may take to agree: the time to live of a dead leader's key, and what follows.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Where `scripts/ensure-patroni.sh` puts Patroni of this version for root; another user's cache, and this variable, count
/// as well.
const VERSION: &str = "patroni-4.1.5";
const NAMED: &str = "PGFLEET_PATRONI";

/// Whether a commit waits for a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// Yes: a failover loses nothing that was acknowledged.
    Synchronous,
    /// No: it may.
    Asynchronous,
}

/// How a primary dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// SIGKILL of the postmaster. Its Patroni sees it and gives the key away.
    Server,
    /// SIGKILL of Patroni and the postmaster, as when the machine starts anew. The key has to run out.
    Node,
    /// SIGSTOP of Patroni and every process of the server, as when the machine stands still: connections stay open and new
    /// ones are taken, and nobody answers. It goes on where it stood once another node is the primary.
    Frozen,
}

/// One node.
#[derive(Debug)]
struct Node {
    name: String,
    port: u16,
    rest: u16,
    config: PathBuf,
    dir: PathBuf,
    patroni: Option<Process>,
    /// Processes of the server that stand still.
    frozen: Vec<Pid>,
}

/// The nodes and their etcd.
pub struct Patroni {
    program: PathBuf,
    logs: PathBuf,
    owner: (u32, u32),
    nodes: Vec<Node>,
    /// The host that stands first in the URL: the first primary, so that its death is the worst one for who asks in turn.
    first: usize,
    _etcd: Process,
}

/// Patroni's program, if it is installed where the script puts it, and etcd is.
#[must_use]
pub fn found() -> Option<PathBuf> {
    let etcd = std::env::var_os("PATH")?;
    std::env::split_paths(&etcd).find(|dir| dir.join("etcd").is_file())?;
    let caches = [
        Some(PathBuf::from("/var/cache")),
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from),
        std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")),
    ];
    let usual = caches.into_iter().flatten().map(|cache| cache.join("pgfleet").join(VERSION).join("bin/patroni"));
    std::env::var_os(NAMED).map(PathBuf::from).into_iter().chain(usual).find(|path| path.is_file())
}

impl Patroni {
    /// So many nodes, of which one is the primary and the others follow it.
    pub async fn start(fleet: &Fleet, program: PathBuf, count: usize, replication: Replication) -> Self {
        let like = fs::metadata(fleet.dir()).unwrap_or_else(|error| panic!("the fleet's directory: {error}"));
        let owner = (like.uid(), like.gid());
        let logs = fleet.dir().join("logs");
        let (client, peer) = (free_port(), free_port());
        let etcd = start_etcd(fleet, owner, client, peer);
        let nodes = (1..=count).map(|n| node(fleet, n, client, replication)).collect();
        let mut patroni = Self { program, logs, owner, nodes, first: 0, _etcd: etcd };
        for index in 0..count {
            patroni.revive(index);
        }
        patroni.whole(replication).await;
        patroni.first = patroni.leader().await;
        patroni
    }

    /// URL of a database for clients who want the primary, wherever it is.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let nodes = self.nodes.iter().cycle().skip(self.first).take(self.nodes.len());
        let hosts = nodes.map(|node| format!("127.0.0.1:{}", node.port)).collect::<Vec<_>>().join(",");
        format!("postgres://postgres@{hosts}/{database}?sslmode=disable&target_session_attrs=read-write")
    }

    /// A session at the primary.
    pub async fn primary(&self, database: &str) -> TestClient {
        wait_for("a session at the primary", PATIENCE, async || self.try_primary(database).await).await
    }

    /// The same, if there is one. A node that stands still is passed over: the driver would wait for it.
    pub async fn try_primary(&self, database: &str) -> Option<TestClient> {
        for node in self.nodes.iter().filter(|node| node.frozen.is_empty()) {
            let url = format!("postgres://postgres@127.0.0.1:{}/{database}", node.port);
            let writes = format!("{url}?sslmode=disable&target_session_attrs=read-write");
            if let Ok(session) = connect(&writes).await {
                return Some(session);
            }
        }
        None
    }

    /// Which node is the primary, as all of them say.
    pub async fn leader(&self) -> usize {
        wait_for("Patroni has a leader", PATIENCE, async || {
            let members = self.members().await?;
            let name = members.iter().find(|one| one["role"] == "leader" && one["state"] == "running")?["name"].clone();
            self.nodes.iter().position(|node| name == node.name.as_str())
        })
        .await
    }

    /// Waits until this node is the primary.
    pub async fn leads(&self, index: usize) {
        wait_until("the standby has taken over", PATIENCE, async || self.leader().await == index).await;
    }

    /// Waits until a standby has replayed all that the primary had written when this was asked.
    pub async fn has_all(&self, index: usize) {
        let failed = |error| panic!("no position: {error:?}");
        let row = self.primary("postgres").await.query_one("SELECT pg_current_wal_lsn()::text", &[]).await;
        let written: String = row.unwrap_or_else(failed).get(0);
        let url = self.own_url(index);
        wait_until("the standby has all", PATIENCE, async || {
            let sql = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
            let Ok(session) = connect(&url).await else { return false };
            session.query_one(sql, &[&written]).await.is_ok_and(|row| row.get(0))
        })
        .await;
    }

    /// URL of one node's server, whatever it is.
    fn own_url(&self, index: usize) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.nodes[index].port)
    }

    /// Waits until one node leads, all others follow it, and, where commits wait for a standby, one of them is that.
    pub async fn whole(&self, replication: Replication) {
        let standbys = if replication == Replication::Synchronous { 1 } else { 0 };
        wait_until("one node leads and all others follow it", PATIENCE, async || {
            let Some(members) = self.members().await else { return false };
            let count = |key: &str, value: &str| members.iter().filter(|one| one[key] == value).count();
            count("role", "leader") == 1
                && count("state", "streaming") + 1 == self.nodes.len()
                && count("role", "sync_standby") == standbys
        })
        .await;
    }

    /// Kills a node's server, or all of the node.
    pub async fn kill(&mut self, index: usize, death: Death) {
        let node = &mut self.nodes[index];
        let postmaster = node.postmaster().unwrap_or_else(|| panic!("{} has no postmaster", node.name));
        if death == Death::Frozen {
            return node.freeze(postmaster);
        }
        let dead = if death == Death::Node { node.patroni.take() } else { None };
        if let Some(patroni) = &dead {
            patroni.signal(Signal::KILL);
        }
        kill_process(postmaster, Signal::KILL).unwrap_or_else(|error| panic!("no signal to a postmaster: {error}"));
        if let Some(patroni) = dead {
            patroni.kill().await;
        }
    }

    /// Starts a node's Patroni where it does not run, and lets go on what stands still.
    pub fn revive(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        for pid in node.frozen.drain(..) {
            // The server's other children may have ended one of its children by now.
            let _ = kill_process(pid, Signal::CONT);
        }
        if let Some(patroni) = &node.patroni {
            patroni.thaw();
        }
        if node.patroni.is_none() {
            let mut command = command(&self.program, &node.dir, self.owner);
            command.arg(&node.config);
            node.patroni = Some(Process::start(&node.name, command, &self.logs.join(format!("{}.log", node.name))));
        }
    }

    /// The process of a standby that takes what the primary sends.
    pub async fn receiver(&self, index: usize) -> Pid {
        let url = self.own_url(index);
        let sql = "SELECT pid FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        wait_for("a standby receives", PATIENCE, async || {
            let row = connect(&url).await.ok()?.query_opt(sql, &[]).await.ok()??;
            Pid::from_raw(row.get(0))
        })
        .await
    }

    /// What a node that lives says of all nodes.
    async fn members(&self) -> Option<Vec<Value>> {
        for node in self.nodes.iter().filter(|node| node.patroni.is_some() && node.frozen.is_empty()) {
            let url = format!("http://127.0.0.1:{}/cluster", node.rest);
            let Ok(answer) = Call::new("GET", url).limit(Duration::from_secs(2)).try_send().await else { continue };
            let view: Option<Value> = serde_json::from_str(&answer.body).ok();
            if let Some(Value::Array(members)) = view.map(|mut view| view["members"].take()) {
                return Some(members);
            }
        }
        None
    }
}

impl Node {
    fn postmaster(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.dir.join("data/postmaster.pid")).ok()?;
        Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
    }

    /// Stops Patroni first, which would not look on, then the postmaster, which makes no more children then, then these.
    fn freeze(&mut self, postmaster: Pid) {
        if let Some(patroni) = &self.patroni {
            patroni.signal(Signal::STOP);
        }
        let stop = |pid: &Pid| kill_process(*pid, Signal::STOP).is_ok();
        assert!(stop(&postmaster), "no signal to the postmaster of {}", self.name);
        self.frozen.extend(children(postmaster).into_iter().filter(stop));
        self.frozen.push(postmaster);
    }
}

/// The processes that this one has started and that have not ended.
fn children(parent: Pid) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").unwrap_or_else(|error| panic!("/proc: {error}"));
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let own = |pid: &i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may hold anything: state, parent.
        text.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok()
    };
    pids.filter(|pid| own(pid) == Some(parent.as_raw_nonzero().get())).filter_map(Pid::from_raw).collect()
}

fn start_etcd(fleet: &Fleet, owner: (u32, u32), client: u16, peer: u16) -> Process {
    let dir = fleet.make_dir("etcd");
    let mut command = command(Path::new("etcd"), &dir, owner);
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    command.arg("--data-dir").arg(dir.join("data")).arg("--unsafe-no-fsync");
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client, "--listen-peer-urls", &peer]);
    Process::start("etcd", command, &fleet.dir().join("logs/etcd.log"))
}

fn node(fleet: &Fleet, n: usize, etcd: u16, replication: Replication) -> Node {
    let name = format!("p{n}");
    let dir = fleet.make_dir(&name);
    let (port, rest) = (free_port(), free_port());
    let config = dir.join("patroni.json");
    // JSON is YAML, which is what Patroni reads.
    let text = settings(fleet, &name, &dir, (port, rest, etcd), replication).to_string();
    fs::write(&config, text).unwrap_or_else(|error| panic!("{}: {error}", config.display()));
    Node { name, port, rest, config, dir, patroni: None, frozen: Vec::new() }
}

fn settings(fleet: &Fleet, name: &str, dir: &Path, ports: (u16, u16, u16), replication: Replication) -> Value {
    let (port, rest, etcd) = ports;
    let (postgres, rest) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{rest}"));
    json!({
        "scope": "pgfleet",
        "name": name,
        "restapi": {"listen": rest, "connect_address": rest},
        "etcd3": {"host": format!("127.0.0.1:{etcd}")},
        "bootstrap": {
            "dcs": {
                "ttl": 20,
                "loop_wait": 1,
                "retry_timeout": 3,
                // A primary that crashed is not started again while another node can take over.
                "primary_start_timeout": 0,
                // A standby that is told to lag behind may still be promoted.
                "maximum_lag_on_failover": 1_u64 << 30,
                "synchronous_mode": replication == Replication::Synchronous,
                "postgresql": {
                    "use_pg_rewind": true,
                    "remove_data_directory_on_rewind_failure": true,
                    "remove_data_directory_on_diverged_timelines": true,
                    "parameters": {
                        "wal_log_hints": "on", "max_connections": 150, "shared_buffers": "64MB", "wal_keep_size": "256MB",
                    },
                },
            },
            "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, {"auth": "trust"}],
        },
        "postgresql": {
            "listen": postgres,
            "connect_address": postgres,
            "data_dir": dir.join("data"),
            "bin_dir": fleet.cluster().bin_dir(),
            "authentication": {
                "superuser": {"username": "postgres"},
                "replication": {"username": "replicator"},
                "rewind": {"username": "postgres"},
            },
            "parameters": {"unix_socket_directories": dir},
            "pg_hba": ["local all all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
        },
    })
}

/// A program as the user who runs PostgreSQL, with nothing of the caller's environment but where programs are.
fn command(program: &Path, dir: &Path, (uid, gid): (u32, u32)) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir(dir).env("LC_ALL", "C").env("HOME", dir);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    if rustix::process::getuid().is_root() {
        command.uid(uid).gid(gid);
    }
    command
}
