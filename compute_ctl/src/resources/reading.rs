//! Reads memory and pressure: from a version-2 control group, or from `/proc` where there is none with memory accounts.
//!
//! The files are those of `Documentation/admin-guide/cgroup-v2.rst` and `Documentation/accounting/psi.rst` of Linux. A
//! file that is absent is a reading that is absent; only without any reading of memory there is nothing.

use std::path::{Path, PathBuf};

use pgfleet_api::resources::{Pressure, ResourceSource};

/// Where to look.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// Mount point of control groups.
    pub(super) root: PathBuf,
    /// The group below it.
    pub(super) group: PathBuf,
    /// `/proc`.
    pub(super) proc: PathBuf,
}

/// What the kernel says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reading {
    pub(super) source: ResourceSource,
    pub(super) memory_bytes: u64,
    pub(super) limit_bytes: u64,
    pub(super) high_bytes: Option<u64>,
    pub(super) anon_bytes: u64,
    pub(super) oom_kills: u64,
    pub(super) memory_pressure: Option<Pressure>,
    pub(super) cpu_pressure: Option<Pressure>,
}

impl Places {
    /// The group named, or the one this process is in.
    pub(super) fn find(root: &Path, named: Option<&Path>) -> Self {
        let proc = PathBuf::from("/proc");
        let own = || own_group(&std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
        let group = named.map_or_else(own, below_root);
        Self { root: root.to_owned(), group, proc }
    }

    fn group_dir(&self) -> PathBuf {
        self.root.join(&self.group)
    }

    /// A fresh reading; none where the kernel gives neither.
    pub(super) fn read(&self) -> Option<Reading> {
        self.of_group().or_else(|| self.of_host())
    }

    /// What cannot be given back: the one number that is read often.
    pub(super) fn anon_bytes(&self) -> Option<u64> {
        stat_anon(&text(&self.group_dir().join("memory.stat"))?)
            .or_else(|| host_anon(&text(&self.proc.join("meminfo"))?))
    }

    fn of_group(&self) -> Option<Reading> {
        let dir = self.group_dir();
        let memory_bytes = number(&dir.join("memory.current"))?;
        let anon_bytes = stat_anon(&text(&dir.join("memory.stat"))?)?;
        let machine = text(&self.proc.join("meminfo")).and_then(|text| kib(&text, "MemTotal"));
        let events = text(&dir.join("memory.events")).unwrap_or_default();
        Some(Reading {
            source: ResourceSource::Cgroup,
            memory_bytes,
            limit_bytes: self.limits("memory.max").chain(machine).min()?,
            high_bytes: self.limits("memory.high").min(),
            anon_bytes,
            oom_kills: field(&events, "oom_kill").unwrap_or_default(),
            memory_pressure: pressure(&dir.join("memory.pressure")),
            cpu_pressure: pressure(&dir.join("cpu.pressure")),
        })
    }

    /// A limit holds for all groups below the one that has it. "max" is none.
    fn limits<'a>(&'a self, file: &'a str) -> impl Iterator<Item = u64> + 'a {
        self.group.ancestors().filter_map(move |group| number(&self.root.join(group).join(file)))
    }

    fn of_host(&self) -> Option<Reading> {
        let meminfo = text(&self.proc.join("meminfo"))?;
        let total = kib(&meminfo, "MemTotal")?;
        let vmstat = text(&self.proc.join("vmstat")).unwrap_or_default();
        Some(Reading {
            source: ResourceSource::Host,
            memory_bytes: total.saturating_sub(kib(&meminfo, "MemAvailable")?),
            limit_bytes: total,
            high_bytes: None,
            anon_bytes: host_anon(&meminfo)?,
            oom_kills: field(&vmstat, "oom_kill").unwrap_or_default(),
            memory_pressure: pressure(&self.proc.join("pressure/memory")),
            cpu_pressure: pressure(&self.proc.join("pressure/cpu")),
        })
    }
}

/// The line of the one hierarchy that version 2 has.
fn own_group(text: &str) -> PathBuf {
    below_root(Path::new(text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default()))
}

/// A name always lies below the root, with or without a slash before it.
fn below_root(name: &Path) -> PathBuf {
    name.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect()
}

fn text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.trim().parse().ok()
}

/// `name value` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// `Name:  123 kB` lines, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn stat_anon(stat: &str) -> Option<u64> {
    Some(field(stat, "active_anon")? + field(stat, "inactive_anon")?)
}

fn host_anon(meminfo: &str) -> Option<u64> {
    Some(kib(meminfo, "Active(anon)")? + kib(meminfo, "Inactive(anon)")?)
}

/// `some avg10=0.00 avg60=0.00 …` and `full …`, in percent.
fn pressure(path: &Path) -> Option<Pressure> {
    let text = text(path)?;
    let value = |line: &str, key: &str| {
        let line = text.lines().find_map(|found| found.strip_prefix(line))?;
        let percent = line.split_whitespace().find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))?;
        // Percent with two digits: rounded, so that no 0.9498000000000001 comes out.
        percent.parse::<f64>().ok().map(|percent| (percent * 100.0).round() / 10_000.0)
    };
    Some(Pressure {
        some_avg10: value("some ", "avg10")?,
        some_avg60: value("some ", "avg60")?,
        // Older kernels have no such line for the processor.
        full_avg10: value("full ", "avg10").unwrap_or_default(),
        full_avg60: value("full ", "avg60").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes the files and gives the directory, which is removed by the caller.
    fn tree(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("pgfleet-tree-{}-{name}", std::process::id()));
        for (path, content) in files {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        dir
    }

    const MEMINFO: &str = "MemTotal:       8388608 kB\nMemAvailable:   6291456 kB\nActive(anon):    524288 kB\nInactive(anon):  524288 kB\n";
    const PSI: &str =
        "some avg10=12.50 avg60=3.00 avg300=0.10 total=1\nfull avg10=2.00 avg60=1.00 avg300=0.06 total=2\n";

    #[test]
    fn a_group_and_the_limits_around_it() {
        let dir = tree(
            "group",
            &[
                ("proc/meminfo", MEMINFO),
                ("cg/pods/memory.max", "2147483648\n"),
                ("cg/pods/pg/memory.max", "max\n"),
                ("cg/pods/pg/memory.high", "1610612736\n"),
                ("cg/pods/pg/memory.current", "1000000\n"),
                ("cg/pods/pg/memory.stat", "anon 5\nfile 7\ninactive_anon 300\nactive_anon 400\n"),
                ("cg/pods/pg/memory.events", "low 0\nhigh 3\nmax 0\noom 2\noom_kill 1\noom_group_kill 0\n"),
                ("cg/pods/pg/memory.pressure", PSI),
                ("cg/pods/pg/cpu.pressure", "some avg10=1.00 avg60=2.00 avg300=0.00 total=9\n"),
            ],
        );
        let places = Places { root: dir.join("cg"), group: "pods/pg".into(), proc: dir.join("proc") };
        let reading = places.read().unwrap();
        assert_eq!(reading.source, ResourceSource::Cgroup);
        assert_eq!((reading.memory_bytes, reading.anon_bytes, reading.oom_kills), (1_000_000, 700, 1));
        assert_eq!(
            (reading.limit_bytes, reading.high_bytes),
            (2 << 30, Some(1_610_612_736)),
            "the parent's limit holds"
        );
        let psi = Pressure { some_avg10: 0.125, some_avg60: 0.03, full_avg10: 0.02, full_avg60: 0.01 };
        assert_eq!(reading.memory_pressure, Some(psi));
        assert_eq!(reading.cpu_pressure.unwrap().full_avg60, 0.0);
        assert_eq!(places.anon_bytes(), Some(700));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_machine_where_no_group_has_accounts() {
        let dir =
            tree("host", &[("proc/meminfo", MEMINFO), ("proc/pressure/memory", PSI), ("proc/vmstat", "oom_kill 4\n")]);
        let places = Places { root: dir.join("cg"), group: "pg".into(), proc: dir.join("proc") };
        let reading = places.read().unwrap();
        assert_eq!((reading.source, reading.limit_bytes), (ResourceSource::Host, 8 << 30));
        assert_eq!((reading.memory_bytes, reading.anon_bytes, reading.oom_kills), (2 << 30, 1 << 30, 4));
        assert!(reading.memory_pressure.is_some() && reading.cpu_pressure.is_none());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn names_of_groups_stay_below_the_root() {
        assert_eq!(own_group("9:name=systemd:/x\n0::/system.slice/pg.service\n"), Path::new("system.slice/pg.service"));
        assert_eq!(own_group(""), Path::new(""));
        assert_eq!(below_root(Path::new("/../../etc")), Path::new("etc"));
    }
}
