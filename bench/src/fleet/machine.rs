//! What the kernel says of a process and of this machine.

use std::fs;

/// Clock ticks of a second, which Linux shows to programs on every architecture.
const TICKS_PER_S: f64 = 100.0;

/// Processor time that a process has used, in seconds.
pub fn cpu_s(pid: i32) -> f64 {
    let text = read(&format!("/proc/{pid}/stat"));
    cpu_of(&text).unwrap_or_else(|| panic!("no processor time in {text}"))
}

/// User and system time of a line of `/proc/<pid>/stat`. The name in it may hold anything.
fn cpu_of(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_S)
}

/// Processor time that the children of a process have used, in seconds. One that ends takes its part away.
pub fn cpu_of_children_s(parent: i32) -> f64 {
    let entries = fs::read_dir("/proc").unwrap_or_else(|error| panic!("/proc: {error}"));
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // A process that has ended meanwhile has no line any more.
    let stats = pids.filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    stats.filter(|stat| parent_of(stat) == Some(parent)).filter_map(|stat| cpu_of(&stat)).sum()
}

fn parent_of(stat: &str) -> Option<i32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Resident memory of a process, in bytes.
pub fn rss(pid: i32) -> f64 {
    status(pid, "VmRSS:")
}

/// The most resident memory since [`forget_peak`], in bytes.
pub fn peak(pid: i32) -> f64 {
    status(pid, "VmHWM:")
}

/// Begins to look for the peak anew.
pub fn forget_peak(pid: i32) {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").unwrap_or_else(|error| panic!("{path}: {error}"));
}

fn status(pid: i32, field: &str) -> f64 {
    let text = read(&format!("/proc/{pid}/status"));
    let kb = text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse::<f64>().ok());
    kb.unwrap_or_else(|| panic!("no {field} in {text}")) * 1024.0
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Raises this process's limit of descriptors as far as it may.
pub fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // What is needed is seen when it is not there.
    let _ = setrlimit(Resource::Nofile, raised);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) b ) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 3 0 100 1 2";
        assert_eq!((cpu_of(stat), parent_of(stat)), (Some(2.0), Some(1)));
        assert!(cpu_s(std::process::id().cast_signed()) >= 0.0 && rss(std::process::id().cast_signed()) > 1e5);
    }
}
