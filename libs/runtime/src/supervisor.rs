//! Named tasks: who runs, what happens when one ends, fails or panics, and how all of them are stopped and joined.
//!
//! Called by every room that works in the background. This is the only home of `tokio::spawn`.
//!
//! Invariants: every task belongs to a group; a group's token is a child of its parent's; `stop` returns only when every
//! task of the group and of its children has ended; a [`Kind::Vital`] task that ends before it was asked to cancels the
//! root, or the alarm that stands for it, and the root remembers the first reason.

use std::collections::BTreeMap;
use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::exit::chain;
use crate::metrics::TaskMetrics;

/// What the end of a task means for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The process cannot do without it: an early end of any sort cancels the root group, or its alarm.
    Vital,
    /// The process waits for its result: it may end well at any time, but its error or panic does the same.
    Step,
    /// Its error or panic is logged and counted; the others go on.
    Worker,
}

/// A named set of tasks that are stopped together. Clones are the same group.
#[derive(Clone)]
pub struct TaskGroup {
    inner: Arc<Inner>,
}

struct Inner {
    name: &'static str,
    token: CancellationToken,
    tracker: TaskTracker,
    running: Mutex<Running>,
    children: Mutex<Vec<TaskGroup>>,
    root: Arc<Root>,
}

#[derive(Default)]
struct Running {
    next: u64,
    names: BTreeMap<u64, &'static str>,
    panicked: Vec<String>,
}

struct Root {
    /// Cancelled when a vital task ends early; the root's own token, unless somebody asked for another.
    alarm: CancellationToken,
    failure: Mutex<Option<String>>,
    metrics: Arc<TaskMetrics>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TaskGroup {
    /// The root of a tree of groups, usually one per process.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        let token = CancellationToken::new();
        Self::rooted(name, token.clone(), token)
    }

    /// As [`Self::new`], but a vital task that ends early cancels `alarm` instead of the root: whoever watches it ends the
    /// tree in an order of its own.
    #[must_use]
    pub fn with_alarm(name: &'static str, alarm: CancellationToken) -> Self {
        Self::rooted(name, CancellationToken::new(), alarm)
    }

    fn rooted(name: &'static str, token: CancellationToken, alarm: CancellationToken) -> Self {
        let root = Root { alarm, failure: Mutex::default(), metrics: Arc::new(TaskMetrics::default()) };
        Self::build(name, token, Arc::new(root))
    }

    fn build(name: &'static str, token: CancellationToken, root: Arc<Root>) -> Self {
        root.metrics.register(name);
        let tracker = TaskTracker::new();
        tracker.close();
        let (running, children) = (Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { name, token, tracker, running, children, root }) }
    }

    /// A group that ends with this one and can be stopped alone.
    #[must_use]
    pub fn child(&self, name: &'static str) -> Self {
        let child = Self::build(name, self.inner.token.child_token(), Arc::clone(&self.inner.root));
        let mut children = lock(&self.inner.children);
        // A leader's groups come and go with its terms; what has been stopped is let go here.
        children.retain(|known| !(known.inner.token.is_cancelled() && known.inner.tracker.is_empty()));
        children.push(child.clone());
        child
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// Cancelled when the group is to end.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.inner.token.clone()
    }

    /// Which vital task ended early, if one did: the first.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        lock(&self.inner.root.failure).clone()
    }

    /// Counters of all groups of this tree.
    #[must_use]
    pub fn metrics(&self) -> Arc<TaskMetrics> {
        Arc::clone(&self.inner.root.metrics)
    }

    /// Runs `fut` as a task. It is not aborted on cancel: a task watches its group's token and ends by itself.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one home of spawn: every task here is named, tracked and judged"
    )]
    pub fn spawn<E>(&self, name: &'static str, kind: Kind, fut: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Error + Send + Sync + 'static,
    {
        let id = {
            let mut running = lock(&self.inner.running);
            running.next += 1;
            let id = running.next;
            running.names.insert(id, name);
            id
        };
        let group = self.clone();
        tokio::spawn(self.inner.tracker.track_future(async move {
            let outcome = AssertUnwindSafe(fut).catch_unwind().await;
            group.judge(name, kind, outcome);
            lock(&group.inner.running).names.remove(&id);
        }));
    }

    fn judge<E: Error>(&self, name: &'static str, kind: Kind, outcome: std::thread::Result<Result<(), E>>) {
        let group = self.inner.name;
        let ended = match outcome {
            Ok(Ok(())) => "ended".to_owned(),
            Ok(Err(error)) => format!("failed: {}", chain(&error)),
            Err(payload) => {
                self.inner.root.metrics.panicked(group);
                lock(&self.inner.running).panicked.push(name.to_owned());
                format!("panicked: {}", panic_text(payload.as_ref()))
            }
        };
        let asked_to = self.inner.token.is_cancelled();
        match kind {
            Kind::Vital | Kind::Step if !asked_to && (kind == Kind::Vital || ended != "ended") => {
                let reason = format!("task {group}/{name} {ended}");
                tracing::error!(group, task = name, "{reason}; the process ends in order");
                lock(&self.inner.root.failure).get_or_insert(reason);
                self.inner.root.alarm.cancel();
            }
            Kind::Vital | Kind::Step | Kind::Worker if ended != "ended" => {
                tracing::warn!(group, task = name, "task {group}/{name} {ended}");
            }
            Kind::Vital | Kind::Step | Kind::Worker => {}
        }
    }

    /// Cancels the group and waits for its tasks and those of its children. Answers the names of all that panicked.
    pub async fn stop(&self) -> Vec<String> {
        self.inner.token.cancel();
        // A task may make a child while we wait, so look again until there is none left.
        loop {
            let children = std::mem::take(&mut *lock(&self.inner.children));
            if children.is_empty() && self.inner.tracker.is_empty() {
                break;
            }
            for child in children {
                let panicked = Box::pin(child.stop()).await;
                lock(&self.inner.running).panicked.extend(panicked);
            }
            self.inner.tracker.wait().await;
        }
        std::mem::take(&mut lock(&self.inner.running).panicked)
    }

    /// As [`TaskGroup::stop`], but waits at most `limit`.
    ///
    /// # Errors
    /// The names of the tasks that still run.
    pub async fn stop_within(&self, limit: Duration) -> Result<(), Vec<&'static str>> {
        // Kept outside: `stop` takes the children out of the group before it waits for them.
        let children = lock(&self.inner.children).clone();
        if tokio::time::timeout(limit, self.stop()).await.is_ok() {
            return Ok(());
        }
        let mut names: Vec<_> = lock(&self.inner.running).names.values().copied().collect();
        names.extend(children.iter().flat_map(TaskGroup::running_names));
        Err(names)
    }

    fn running_names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = lock(&self.inner.running).names.values().copied().collect();
        let children = lock(&self.inner.children).clone();
        names.extend(children.iter().flat_map(TaskGroup::running_names));
        names
    }
}

impl std::fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskGroup").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

/// What a panic said, for whoever catches one in work that is no task.
pub fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// A task that outlives every group: it watches for the signal that ends the process at once.
#[expect(
    clippy::disallowed_methods,
    reason = "the signal watcher must not be joined by the shutdown that it may cut short"
)]
pub(crate) fn detached(fut: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(fut);
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    async fn until_cancelled(token: CancellationToken) -> Result<(), io::Error> {
        token.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn stop_joins_children_and_names_who_panicked() {
        let root = TaskGroup::new("root");
        let child = root.child("child");
        child.spawn("waits", Kind::Vital, until_cancelled(child.token()));
        let token = child.token();
        child.spawn::<io::Error>("breaks", Kind::Worker, async move {
            token.cancelled().await;
            panic!("on purpose");
        });
        assert_eq!(root.stop().await, ["breaks"]);
        assert_eq!(root.failure(), None);
        assert_eq!(root.metrics().panics("child"), 1);
    }

    #[tokio::test]
    async fn a_worker_that_panics_leaves_the_others_alone() {
        let root = TaskGroup::new("root");
        root.spawn::<io::Error>("breaks", Kind::Worker, async { panic!("on purpose") });
        root.spawn("fails", Kind::Worker, async { Err(io::Error::other("x")) });
        let (done, seen) = tokio::sync::oneshot::channel();
        root.spawn::<io::Error>("works", Kind::Worker, async move {
            tokio::task::yield_now().await;
            let _ = done.send(());
            Ok(())
        });
        seen.await.unwrap();
        assert!(!root.token().is_cancelled());
        root.stop().await;
    }

    #[tokio::test]
    async fn a_step_may_end_well_and_not_otherwise() {
        let root = TaskGroup::new("root");
        root.spawn::<io::Error>("good", Kind::Step, async { Ok(()) });
        root.spawn("waits", Kind::Vital, until_cancelled(root.token()));
        while root.running_names() != ["waits"] {
            tokio::task::yield_now().await;
        }
        assert_eq!((root.token().is_cancelled(), root.failure()), (false, None));
        root.spawn::<io::Error>("bad", Kind::Step, async { panic!("on purpose") });
        tokio::time::timeout(Duration::from_secs(5), root.token().cancelled()).await.unwrap();
        assert!(root.failure().unwrap().starts_with("task root/bad panicked"));
        root.stop().await;
    }

    #[tokio::test]
    async fn a_vital_task_that_ends_early_cancels_the_root() {
        for case in ["ok", "err", "panic"] {
            let root = TaskGroup::new("root");
            let child = root.child("child");
            child.spawn("heart", Kind::Vital, async move {
                match case {
                    "ok" => Ok(()),
                    "err" => Err(io::Error::other("no more")),
                    _ => panic!("on purpose"),
                }
            });
            tokio::time::timeout(Duration::from_secs(5), root.token().cancelled()).await.unwrap();
            let reason = root.failure().unwrap();
            assert!(reason.starts_with("task child/heart "), "{reason}");
            root.stop().await;
        }
    }

    #[tokio::test]
    async fn an_alarm_leaves_the_others_running() {
        let alarm = CancellationToken::new();
        let root = TaskGroup::with_alarm("root", alarm.clone());
        let child = root.child("child");
        root.spawn("waits", Kind::Vital, until_cancelled(root.token()));
        child.spawn::<io::Error>("heart", Kind::Vital, async { panic!("on purpose") });
        tokio::time::timeout(Duration::from_secs(5), alarm.cancelled()).await.unwrap();
        assert!(root.failure().unwrap().starts_with("task child/heart panicked"));
        assert_eq!((root.token().is_cancelled(), root.running_names()), (false, vec!["waits"]));
        root.stop().await;
    }

    #[tokio::test]
    async fn stop_within_names_what_hangs() {
        let root = TaskGroup::new("root");
        let child = root.child("child");
        let (_keep, forever) = tokio::sync::oneshot::channel::<()>();
        child.spawn::<io::Error>("hangs", Kind::Worker, async move {
            let _ = forever.await;
            Ok(())
        });
        assert_eq!(root.stop_within(Duration::from_millis(50)).await, Err(vec!["hangs"]));
        let quick = TaskGroup::new("quick");
        quick.spawn("waits", Kind::Vital, until_cancelled(quick.token()));
        assert_eq!(quick.stop_within(Duration::from_secs(5)).await, Ok(()));
    }
}
