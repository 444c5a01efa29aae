//! Who waits for changes, by the paths that they wait for, and when a wait is over.
//!
//! A change wakes those who wait for its path or one above. Someone who waits for that very key is due at once; for a
//! directory, changes often come together, so the wait goes on until it has been quiet for a while, or has been busy for
//! too long. The number of waits is bounded, of all and of each source.

use crate::path;
use crate::state::{Change, Table};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Paths that one request waits for. More are waited for together, at the root.
const MAX_PATHS: usize = 256;

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Topic {
    Data,
    Mapping,
    Rule,
    /// Pods, by uid and by address.
    Pod,
}

impl From<Table> for Topic {
    fn from(table: Table) -> Self {
        match table {
            Table::Data => Self::Data,
            Table::Mapping => Self::Mapping,
            Table::Rule => Self::Rule,
        }
    }
}

/// How long changes of a directory are waited for after the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quiet {
    /// Time without a change that ends the wait.
    pub(crate) min: Duration,
    /// Time after the first change that ends the wait, however busy it is.
    pub(crate) max: Duration,
}

/// How many may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) all: usize,
    pub(crate) of_source: usize,
}

/// There are too many waits already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Debug, Default)]
pub(crate) struct Hub {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_path: HashMap<(Topic, Box<[u8]>), HashMap<u64, Arc<Waiter>>>,
    by_source: HashMap<IpAddr, usize>,
    count: usize,
    next: u64,
}

#[derive(Debug, Default)]
struct Waiter {
    signal: Notify,
    events: AtomicU64,
    /// A key that was waited for by its own path has changed.
    is_due: AtomicBool,
}

impl Hub {
    /// Begins a wait. What is published from now on ends it.
    pub(crate) fn wait(
        self: &Arc<Self>,
        source: IpAddr,
        mut paths: Vec<(Topic, Vec<u8>)>,
        bounds: Bounds,
    ) -> Result<Wait, Full> {
        if paths.len() > MAX_PATHS {
            paths.retain(|(topic, _)| *topic != Topic::Data);
            paths.push((Topic::Data, b"/".to_vec()));
        }
        let mut inner = self.inner.lock();
        let of_source = inner.by_source.get(&source).copied().unwrap_or_default();
        if inner.count >= bounds.all || of_source >= bounds.of_source {
            return Err(Full);
        }
        inner.by_source.insert(source, of_source + 1);
        inner.count += 1;
        inner.next += 1;
        let id = inner.next;
        let mut wait = Wait { hub: Arc::clone(self), id, source, keys: Vec::new(), waiter: Arc::default() };
        inner.register(&mut wait, paths);
        Ok(wait)
    }

    /// Requests that wait.
    pub(crate) fn count(&self) -> usize {
        self.inner.lock().count
    }

    /// Wakes who waits for these.
    pub(crate) fn publish(&self, changes: &[Change]) {
        let inner = self.inner.lock();
        if inner.count == 0 {
            return;
        }
        for change in changes {
            for at in path::upwards(&change.path) {
                // What is not waited for needs no key made for it only because of its type.
                let Some(waiters) = inner.by_path.get(&(change.topic, Box::from(at))) else { continue };
                let is_due = at.len() == change.path.len() || change.topic != Topic::Data;
                for waiter in waiters.values() {
                    waiter.events.fetch_add(1, Ordering::Relaxed);
                    if is_due {
                        waiter.is_due.store(true, Ordering::Release);
                    }
                    waiter.signal.notify_one();
                }
            }
        }
    }
}

impl Inner {
    fn register(&mut self, wait: &mut Wait, paths: Vec<(Topic, Vec<u8>)>) {
        wait.keys = paths.into_iter().map(|(topic, path)| (topic, path.into_boxed_slice())).collect();
        for key in &wait.keys {
            self.by_path.entry(key.clone()).or_default().insert(wait.id, Arc::clone(&wait.waiter));
        }
    }

    fn forget(&mut self, wait: &Wait) {
        for key in &wait.keys {
            if let Some(waiters) = self.by_path.get_mut(key) {
                waiters.remove(&wait.id);
                if waiters.is_empty() {
                    self.by_path.remove(key);
                }
            }
        }
    }
}

/// A wait for changes. It counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Wait {
    hub: Arc<Hub>,
    id: u64,
    source: IpAddr,
    keys: Vec<(Topic, Box<[u8]>)>,
    waiter: Arc<Waiter>,
}

impl Wait {
    /// Returns when something has changed, and the changes that came with it have been waited for. Cancel safe.
    pub(crate) async fn changed(&self, quiet: Quiet) {
        self.waiter.signal.notified().await;
        let last = Instant::now() + quiet.max;
        loop {
            if self.waiter.is_due.swap(false, Ordering::AcqRel) {
                return;
            }
            let before = self.waiter.events.load(Ordering::Relaxed);
            let now = Instant::now();
            if now >= last {
                return;
            }
            let next = last.min(now + quiet.min);
            let is_quiet = timeout_at(next, self.waiter.signal.notified()).await.is_err();
            if is_quiet && self.waiter.events.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    /// Waits for other paths from now on.
    pub(crate) fn move_to(&mut self, paths: Vec<(Topic, Vec<u8>)>) {
        let hub = Arc::clone(&self.hub);
        let mut inner = hub.inner.lock();
        inner.forget(self);
        inner.register(self, paths);
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut inner = self.hub.inner.lock();
        inner.forget(self);
        inner.count -= 1;
        if let Some(count) = inner.by_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                inner.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;
    use tokio::time::{advance, sleep, timeout};

    const QUIET: Quiet = Quiet { min: Duration::from_millis(100), max: Duration::from_secs(1) };
    const BOUNDS: Bounds = Bounds { all: 3, of_source: 2 };

    fn source(text: &str) -> IpAddr {
        address::parse(text).unwrap()
    }

    fn paths(paths: &[&str]) -> Vec<(Topic, Vec<u8>)> {
        paths.iter().map(|path| (Topic::Data, path.as_bytes().to_vec())).collect()
    }

    fn change(hub: &Hub, topic: Topic, path: &str) {
        hub.publish(&[Change { topic, path: path.as_bytes().to_vec() }]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_due_at_once_and_a_directory_when_it_is_quiet() {
        let hub = Arc::new(Hub::default());
        let wait = hub.wait(source("::1"), paths(&["/a/b", "/c"]), BOUNDS).unwrap();
        let never = timeout(Duration::from_mins(1), wait.changed(QUIET)).await;
        assert!(never.is_err());
        for path in ["/a", "/", "/ab", "/a/bc"] {
            change(&hub, Topic::Data, path);
        }
        change(&hub, Topic::Mapping, "/a/b");
        assert!(timeout(Duration::from_mins(1), wait.changed(QUIET)).await.is_err());
        let begin = Instant::now();
        change(&hub, Topic::Data, "/a/b");
        wait.changed(QUIET).await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
        change(&hub, Topic::Data, "/a/b/x");
        change(&hub, Topic::Data, "/c/y/z");
        wait.changed(QUIET).await;
        assert_eq!(begin.elapsed(), QUIET.min);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_directory_is_not_waited_for_for_ever() {
        let hub = Arc::new(Hub::default());
        let wait = hub.wait(source("::1"), paths(&["/a"]), BOUNDS).unwrap();
        let begin = Instant::now();
        let busy = tokio::spawn({
            let hub = Arc::clone(&hub);
            async move {
                for _ in 0..100 {
                    change(&hub, Topic::Data, "/a/x");
                    sleep(Duration::from_millis(60)).await;
                }
            }
        });
        wait.changed(QUIET).await;
        assert_eq!(begin.elapsed(), QUIET.max);
        busy.abort();
        advance(Duration::from_millis(1)).await;
    }

    #[test]
    fn waits_are_bounded_and_forgotten() {
        let hub = Arc::new(Hub::default());
        let one = source("1.1.1.1");
        let wait = |source| hub.wait(source, paths(&["/a", "/b"]), BOUNDS);
        let (mut first, second) = (wait(one).unwrap(), wait(one).unwrap());
        assert_eq!(wait(one).err(), Some(Full));
        let third = wait(source("2.2.2.2")).unwrap();
        assert_eq!(wait(source("3.3.3.3")).err(), Some(Full));
        first.move_to(paths(&["/c"]));
        assert_eq!(hub.count(), 3);
        drop((first, second, third));
        let inner = hub.inner.lock();
        assert!(inner.by_path.is_empty() && inner.by_source.is_empty() && inner.count == 0);
    }
}
