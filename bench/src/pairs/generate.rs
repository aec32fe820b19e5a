//! Random specs from a seed: settings of every context and type, in more than one spelling; roles and databases with
//! names that want quoting. Pure.

use serde_json::{Value, json};

/// SplitMix64: small, and the same everywhere.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).unwrap_or(1);
        usize::try_from(self.next() % limit).unwrap_or(0)
    }

    pub(super) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Settings with texts that PostgreSQL takes. Neighbours often mean the same.
const SETTINGS: [(&str, &[&str]); 34] = [
    ("work_mem", &["4MB", "4096", "4096kB", "0x1000", "5MB", "1.5MB", "1536kB"]),
    ("maintenance_work_mem", &["64MB", "65536", "32MB"]),
    ("jit", &["on", "true", "yes", "1", "off", "no", "f"]),
    ("autovacuum", &["on", "y", "off", "0"]),
    ("synchronous_commit", &["on", "true", "local", "off", "no"]),
    ("backslash_quote", &["safe_encoding", "on", "yes", "off"]),
    ("log_min_messages", &["warning", "error"]),
    ("log_statement", &["none", "ddl"]),
    ("constraint_exclusion", &["partition", "on", "true"]),
    ("checkpoint_completion_target", &["0.9", "9e-1", "0.5", ".5"]),
    ("random_page_cost", &["4", "4.0", "1.1"]),
    ("checkpoint_timeout", &["5min", "300s", "300", "10min"]),
    ("statement_timeout", &["0", "1h", "60min", "3600000"]),
    ("log_min_duration_statement", &["-1", "10s", "10000", "10000ms"]),
    ("deadlock_timeout", &["1s", "1000", "2s"]),
    ("max_wal_size", &["1GB", "1024MB", "1024", "2GB"]),
    ("DateStyle", &["ISO, MDY", "iso, mdy", "ISO, DMY", "SQL, DMY"]),
    ("TimeZone", &["UTC", "Europe/Berlin", "Etc/UTC"]),
    ("log_line_prefix", &["%m [%p] ", "%t ", "it's %m "]),
    ("search_path", &["\"$user\", public", "public"]),
    ("log_connections", &["on", "1", "off", "no"]),
    ("log_disconnections", &["off", "false", "on"]),
    ("my.text", &["a", "it's \\ \"b\"", ""]),
    ("max_connections", &["100", "0x64", "90"]),
    ("shared_buffers", &["128MB", "16384", "131072kB", "64MB"]),
    ("max_wal_senders", &["10", "12"]),
    ("max_worker_processes", &["8", "9"]),
    ("wal_level", &["replica", "hot_standby", "archive", "logical"]),
    ("wal_buffers", &["-1", "4MB", "512", "1MB"]),
    ("huge_pages", &["off", "try", "no"]),
    ("unix_socket_permissions", &["0777", "511", "0770"]),
    ("track_commit_timestamp", &["off", "on", "true"]),
    ("cluster_name", &["", "a b"]),
    ("max_prepared_transactions", &["0", "5"]),
];

/// From here on they need a restart.
const NEED_A_RESTART: usize = 23;

/// Settings that are refused, by the agent or by PostgreSQL.
const REFUSED: [(&str, &str); 12] = [
    ("work_mem", "lots"),
    ("work_mem", "-7"),
    ("max_connections", "0"),
    ("wrok_mem", "1"),
    ("block_size", "1"),
    ("jit", "maybe"),
    ("port", "1"),
    ("data_directory", "/tmp"),
    ("wal_level", "none"),
    ("checkpoint_timeout", "1ms"),
    ("DateStyle", "lunar"),
    ("a b", "1"),
];

const ROLES: [&str; 8] =
    ["alice", "bob \"x\"", "$x$ carol", "d\u{e4}\u{1f600}", "100%s", "tab\there", "PASSWORD", "back\\slash 'q'"];
/// Roles that own nothing, so that they can be dropped.
const GUESTS: [&str; 2] = ["guest", "in\"tern %"];
const DATABASES: [&str; 4] = ["orders", "it's \"d\"", "$1 %s", "line\nbreak"];
const VERIFIERS: [&str; 3] = [
    "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$pzBAVl7hCY10alzuuUQO8AQlQkbwXBn+U7FBUKkx/80=:9JPns5hb7cAFjvET+ITWgjXUJ/1UOOghMYzE1uVl20A=",
    "0123456789abcdef0123456789abcdef",
    "md5fedcba9876543210fedcba9876543210",
];

/// A spec that is taken.
pub(super) fn spec(dice: &mut Dice) -> Value {
    let mut settings = Vec::new();
    for (i, (name, texts)) in SETTINGS.iter().enumerate() {
        if dice.once_in(if i < NEED_A_RESTART { 3 } else { 9 }) {
            settings.push(setting(name, dice.pick::<&str>(texts)));
        }
    }
    let mut roles = Vec::new();
    for name in ROLES {
        if dice.once_in(3) {
            roles.push(role(dice, name));
        }
    }
    let owners: Vec<_> = roles.iter().filter_map(|role| role["name"].as_str()).collect();
    let mut databases = Vec::new();
    for name in DATABASES {
        if !owners.is_empty() && dice.once_in(4) {
            databases.push(json!({"name": name, "owner": dice.pick(&owners)}));
        }
    }
    for name in GUESTS {
        if dice.once_in(3) {
            roles.push(role(dice, name));
        }
    }
    let conf = dice.once_in(6).then_some("# by hand\nwork_mem = '6MB' # small\njit off\n");
    json!({"format_version": 1.0, "suspend_timeout_seconds": 0, "skip_pg_catalog_updates": dice.once_in(12),
        "cluster": {"roles": roles, "databases": databases, "postgresql_conf": conf, "settings": settings}})
}

/// A spec to follow `first`: the same, or a little different, or another one; now and then one that is refused.
pub(super) fn after(dice: &mut Dice, first: &Value) -> Value {
    let mut next = if dice.once_in(4) { spec(dice) } else { first.clone() };
    let list = |next: &mut Value| next["cluster"]["settings"].as_array_mut().cloned().unwrap_or_default();
    for _ in 0..dice.below(4) {
        let mut settings = list(&mut next);
        let restart = dice.once_in(4);
        let (name, texts) = dice.pick(if restart { &SETTINGS[NEED_A_RESTART..] } else { &SETTINGS[..NEED_A_RESTART] });
        settings.retain(|setting| setting["name"] != *name);
        if !dice.once_in(4) {
            settings.push(setting(name, dice.pick::<&str>(texts)));
        }
        next["cluster"]["settings"] = Value::Array(settings);
    }
    if dice.once_in(3)
        && let Some(roles) = next["cluster"]["roles"].as_array_mut()
    {
        let name = dice.pick(&ROLES);
        let changed = role(dice, name);
        match roles.iter_mut().find(|role| role["name"] == *name) {
            Some(known) => *known = changed,
            None => roles.push(changed),
        }
    }
    if dice.once_in(3) {
        next["delta_operations"] = Value::Array(deltas(dice, &mut next));
    }
    if dice.once_in(6) {
        let (name, text) = dice.pick(&REFUSED);
        let mut settings = list(&mut next);
        settings.push(setting(name, text));
        next["cluster"]["settings"] = Value::Array(settings);
    }
    next
}

/// Renames and deletions, also of what is not there; what they take away is not listed any more.
fn deltas(dice: &mut Dice, next: &mut Value) -> Vec<Value> {
    let mut unlist = |list: &str, name: &str| {
        if let Some(items) = next["cluster"][list].as_array_mut() {
            items.retain(|item| item["name"] != name);
        }
    };
    let mut deltas = Vec::new();
    let guest = dice.pick(&GUESTS);
    unlist("roles", guest);
    deltas.push(if dice.once_in(2) {
        json!({"action": "delete_role", "name": guest})
    } else {
        json!({"action": "rename_role", "name": guest, "new_name": format!("{guest} {}", dice.next())})
    });
    let database = dice.pick(&DATABASES);
    unlist("databases", database);
    deltas.push(if dice.once_in(2) {
        json!({"action": "delete_db", "name": database})
    } else {
        json!({"action": "rename_db", "name": database, "new_name": format!("{database} {}", dice.next())})
    });
    deltas
}

fn setting(name: &str, text: &str) -> Value {
    json!({"name": name, "value": text, "vartype": "string"})
}

fn role(dice: &mut Dice, name: &str) -> Value {
    let verifier = if dice.once_in(4) { None } else { Some(*dice.pick(&VERIFIERS)) };
    let flag = |name: &str| json!({"name": name, "vartype": "bool"});
    let choices = [flag("CREATEDB"), flag("NOCREATEDB"), flag("BYPASSRLS"), flag("NOINHERIT")];
    let mut options = Vec::new();
    if dice.once_in(2) {
        options.push(dice.pick(&choices).clone());
    }
    if dice.once_in(2) {
        options.push(json!({"name": "CONNECTION LIMIT", "value": dice.below(5).to_string(), "vartype": "integer"}));
    }
    json!({"name": name, "encrypted_password": verifier, "options": options})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_specs() {
        let made = |seed| {
            let mut dice = Dice::new(seed);
            let first = spec(&mut dice);
            (after(&mut dice, &first), first)
        };
        assert_eq!(made(7), made(7));
        assert_ne!(made(7), made(8));
    }
}
