//! The descriptors of this process: how many it may have, and how many it has.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// No process of ours needs more; some systems give a billion, and nobody wants to be told of that one.
const MOST: u64 = 1 << 20;

/// Raises the soft limit to the hard one, and says what it is now. To be called once, early.
#[must_use]
pub fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most = maximum.unwrap_or(MOST).min(MOST);
    let wanted = current.map_or(MOST, |current| current.max(most));
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        tracing::warn!(%error, wanted, "the limit of open files stays as it is");
    }
    limit()
}

/// How many there may be now.
#[must_use]
pub fn limit() -> usize {
    let current = getrlimit(Resource::Nofile).current.unwrap_or(MOST);
    usize::try_from(current.min(MOST)).unwrap_or(usize::MAX)
}

/// How many are open. The kernel says so from Linux 6.2 on; before, they are counted one by one.
#[must_use]
pub fn open() -> Option<i64> {
    let path = "/proc/self/fd";
    let told = std::fs::metadata(path).ok().and_then(|there| i64::try_from(there.len()).ok());
    if let Some(count) = told.filter(|count| *count > 0) {
        return Some(count);
    }
    let entries = std::fs::read_dir(path).ok()?.count();
    // The directory that is being read is itself one of them.
    i64::try_from(entries).ok().map(|count| count - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_hard_one_and_what_is_open_is_counted() {
        let raised = raise_limit() as u64;
        assert_eq!(raised, getrlimit(Resource::Nofile).maximum.map_or(MOST, |hard| hard.min(MOST)).max(raised));
        assert_eq!(raise_limit() as u64, raised);
        let before = open().unwrap();
        let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        // Tests run side by side and open files of their own.
        assert!(open().unwrap() >= before + 40, "{before}, then {:?}", open());
        drop(files);
    }
}
