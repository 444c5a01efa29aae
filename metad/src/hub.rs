//! Who waits for changes, by the paths that they wait for, and when a wait is over.
//!
//! A change wakes those who wait for its path or one above. Someone who waits for that very key is due at once; for a
//! directory, changes often come together, so the wait goes on until it has been quiet for a while, or has been busy for
//! too long. The number of waits is bounded, of all and of each source.

use crate::address::Source;
use crate::path;
use crate::state::{Change, Table};
use parking_lot::Mutex;
use slab::Slab;
use std::collections::{BTreeMap, HashMap};
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
    /// Mappings and rules, by client.
    Client,
    /// Pods, by uid and by address.
    Pod,
}

/// How many there are.
const TOPICS: usize = 3;

impl From<Table> for Topic {
    fn from(table: Table) -> Self {
        match table {
            Table::Data => Self::Data,
            Table::Mapping | Table::Rule => Self::Client,
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

impl Bounds {
    /// No more than leave an eighth of the connections to those who do not wait.
    pub(crate) fn beside(self, connections: usize) -> Self {
        Self { all: self.all.min(connections - connections.div_ceil(8)), ..self }
    }
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
    /// Paths that are waited for. Waits have their keys, since thousands end at once, and each would look its paths up.
    spots: Slab<Spot>,
    /// The keys by topic and path.
    by_path: [HashMap<Arc<[u8]>, usize>; TOPICS],
    by_source: HashMap<Source, usize>,
    count: usize,
    next: u64,
    is_closed: bool,
}

/// A path that is waited for.
#[derive(Debug)]
struct Spot {
    topic: Topic,
    path: Arc<[u8]>,
    /// By id: thousands may wait here, those who came first at the front.
    waiters: BTreeMap<u64, Arc<Waiter>>,
}

#[derive(Debug, Default)]
struct Waiter {
    signal: Notify,
    events: AtomicU64,
    /// A key that was waited for by its own path has changed.
    is_due: AtomicBool,
    /// Not only data has changed, so there may be other paths to wait for.
    may_move: AtomicBool,
}

/// What a publication tells one waiter.
struct Wake {
    id: u64,
    waiter: Arc<Waiter>,
    is_due: bool,
    may_move: bool,
}

impl Hub {
    /// Begins a wait. What is published from now on ends it.
    pub(crate) fn wait(
        self: &Arc<Self>,
        source: Source,
        paths: Vec<(Topic, Vec<u8>)>,
        bounds: Bounds,
    ) -> Result<Wait, Full> {
        let mut inner = self.inner.lock();
        let of_source = inner.by_source.get(&source).copied().unwrap_or_default();
        if inner.count >= bounds.all || of_source >= bounds.of_source {
            return Err(Full);
        }
        inner.by_source.insert(source, of_source + 1);
        inner.count += 1;
        inner.next += 1;
        let id = inner.next;
        let mut wait = Wait { hub: Arc::clone(self), id, source, spots: Box::default(), waiter: Arc::default() };
        inner.register(&mut wait, &bounded(paths));
        if inner.is_closed {
            wait.waiter.end();
        }
        Ok(wait)
    }

    /// Requests that wait.
    pub(crate) fn count(&self) -> usize {
        self.inner.lock().count
    }

    /// Wakes who waits for these, once each.
    pub(crate) fn publish(&self, changes: &[Change]) {
        // Who begins to wait from now on sees what has changed.
        if self.count() == 0 {
            return;
        }
        // Changes that come together are often below the same directories.
        let mut paths: HashMap<(Topic, &[u8]), bool> = HashMap::new();
        for change in changes {
            for at in path::upwards(&change.path) {
                let is_due = at.len() == change.path.len() || change.topic != Topic::Data;
                *paths.entry((change.topic, at)).or_default() |= is_due;
            }
        }
        let mut woken = Vec::new();
        {
            let inner = self.inner.lock();
            for ((topic, at), is_due) in paths {
                let Some(spot) = inner.by_path[topic as usize].get(at).map(|spot| &inner.spots[*spot]) else {
                    continue;
                };
                let may_move = topic != Topic::Data;
                let wake =
                    |(id, waiter): (&u64, &Arc<Waiter>)| Wake { id: *id, waiter: Arc::clone(waiter), is_due, may_move };
                woken.extend(spot.waiters.iter().map(wake));
                // One waiter may be at hundreds of these paths.
                if woken.len() > 2 * inner.count {
                    Wake::merge(&mut woken);
                }
            }
        }
        Wake::merge(&mut woken);
        // Who is awake ends its wait, which it cannot do while all waits are held.
        woken.into_iter().for_each(Wake::tell);
    }

    /// Ends all waits, also those that begin from now on.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.is_closed = true;
        for (_, spot) in &inner.spots {
            spot.waiters.values().for_each(|waiter| waiter.end());
        }
    }
}

impl Wake {
    /// One for each waiter, those who came first at the front.
    fn merge(woken: &mut Vec<Self>) {
        woken.sort_unstable_by_key(|wake| wake.id);
        woken.dedup_by(|other, wake| {
            let is_same = other.id == wake.id;
            wake.is_due |= is_same && other.is_due;
            wake.may_move |= is_same && other.may_move;
            is_same
        });
    }

    fn tell(self) {
        let Self { waiter, is_due, may_move, .. } = self;
        waiter.events.fetch_add(1, Ordering::Relaxed);
        if may_move {
            waiter.may_move.store(true, Ordering::Release);
        }
        if is_due {
            waiter.is_due.store(true, Ordering::Release);
        }
        waiter.signal.notify_one();
    }
}

impl Waiter {
    fn end(&self) {
        self.is_due.store(true, Ordering::Release);
        self.signal.notify_one();
    }
}

/// Paths as they are waited for.
fn bounded(mut paths: Vec<(Topic, Vec<u8>)>) -> Vec<(Topic, Vec<u8>)> {
    if paths.len() > MAX_PATHS {
        paths.retain(|(topic, _)| *topic != Topic::Data);
        paths.push((Topic::Data, b"/".to_vec()));
    }
    paths
}

impl Inner {
    fn register(&mut self, wait: &mut Wait, paths: &[(Topic, Vec<u8>)]) {
        let register = |(topic, path): &(Topic, Vec<u8>)| {
            let by_path = &mut self.by_path[*topic as usize];
            let at = by_path.get(path.as_slice()).copied().unwrap_or_else(|| {
                let path: Arc<[u8]> = Arc::from(path.as_slice());
                let spot = Spot { topic: *topic, path: Arc::clone(&path), waiters: BTreeMap::new() };
                let at = self.spots.insert(spot);
                by_path.insert(path, at);
                at
            });
            self.spots[at].waiters.insert(wait.id, Arc::clone(&wait.waiter));
            at
        };
        wait.spots = paths.iter().map(register).collect();
    }

    /// A wait may have the same path twice.
    fn forget(&mut self, wait: &Wait) {
        for at in &wait.spots {
            let Some(spot) = self.spots.get_mut(*at) else { continue };
            if spot.waiters.remove(&wait.id).is_some() && spot.waiters.is_empty() {
                let Spot { topic, path, .. } = self.spots.remove(*at);
                self.by_path[topic as usize].remove(&path);
            }
        }
    }

    fn is_for(&self, wait: &Wait, paths: &[(Topic, Vec<u8>)]) -> bool {
        let is_same = |(at, (topic, path)): (&usize, &(Topic, Vec<u8>))| {
            let spot = &self.spots[*at];
            spot.topic == *topic && *spot.path == **path
        };
        wait.spots.len() == paths.len() && wait.spots.iter().zip(paths).all(is_same)
    }
}

/// A wait for changes. It counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Wait {
    hub: Arc<Hub>,
    id: u64,
    source: Source,
    /// Keys of what it waits for.
    spots: Box<[usize]>,
    waiter: Arc<Waiter>,
}

impl Wait {
    /// Returns when something has changed, and the changes that came with it have been waited for, or when all waits are
    /// to end. Cancel safe.
    pub(crate) async fn changed(&self, quiet: Quiet) {
        self.waiter.signal.notified().await;
        let mut last = None;
        loop {
            if self.waiter.is_due.swap(false, Ordering::AcqRel) {
                return;
            }
            let before = self.waiter.events.load(Ordering::Relaxed);
            let now = Instant::now();
            let last = *last.get_or_insert(now + quiet.max);
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

    /// True if the client's mapping, rules or pod have changed since this was asked last.
    pub(crate) fn may_move(&self) -> bool {
        self.waiter.may_move.swap(false, Ordering::AcqRel)
    }

    /// Waits for these paths from now on. False if it did already.
    pub(crate) fn move_to(&mut self, paths: Vec<(Topic, Vec<u8>)>) -> bool {
        let paths = bounded(paths);
        let hub = Arc::clone(&self.hub);
        let mut inner = hub.inner.lock();
        if inner.is_for(self, &paths) {
            return false;
        }
        inner.forget(self);
        inner.register(self, &paths);
        true
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

    fn source(text: &str) -> Source {
        Source::new(address::parse(text).unwrap(), false)
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
        change(&hub, Topic::Client, "/a/b");
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

    #[tokio::test(start_paused = true)]
    async fn changes_that_come_together_wake_once() {
        let hub = Arc::new(Hub::default());
        let wait = hub.wait(source("::1"), paths(&["/a", "/a/5"]), BOUNDS).unwrap();
        let changes: Vec<Change> =
            (0..100).map(|n| Change { topic: Topic::Data, path: format!("/a/{n}").into_bytes() }).collect();
        hub.publish(&changes);
        assert_eq!(wait.waiter.events.load(Ordering::Relaxed), 1);
        let begin = Instant::now();
        wait.changed(QUIET).await;
        // One of them was waited for by itself.
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[test]
    fn more_paths_than_are_kept_are_waited_for_at_the_root() {
        let hub = Arc::new(Hub::default());
        let many: Vec<_> = (0..=MAX_PATHS).map(|n| (Topic::Data, format!("/a/{n}").into_bytes())).collect();
        let mut wait = hub.wait(source("::1"), paths(&["/b"]), BOUNDS).unwrap();
        assert!(wait.move_to(many.clone()) && !wait.move_to(many));
        assert!(hub.inner.lock().is_for(&wait, &paths(&["/"])));
    }

    #[tokio::test(start_paused = true)]
    async fn other_paths_are_told_from_other_data() {
        let hub = Arc::new(Hub::default());
        let paths = vec![(Topic::Data, b"/a".to_vec()), (Topic::Client, b"/::1".to_vec())];
        let wait = hub.wait(source("::1"), paths, BOUNDS).unwrap();
        change(&hub, Topic::Data, "/a");
        wait.changed(QUIET).await;
        assert!(!wait.may_move());
        let both = [(Topic::Client, "/::1"), (Topic::Data, "/a/x")];
        hub.publish(&both.map(|(topic, path)| Change { topic, path: path.as_bytes().to_vec() }));
        wait.changed(QUIET).await;
        assert!(wait.may_move() && !wait.may_move());
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_hub_ends_waits_at_once() {
        let hub = Arc::new(Hub::default());
        let begin = Instant::now();
        let wait = hub.wait(source("::1"), paths(&["/a"]), BOUNDS).unwrap();
        // It is waited for quiet meanwhile.
        change(&hub, Topic::Data, "/a/x");
        let closing = async { hub.close() };
        tokio::join!(wait.changed(QUIET), closing);
        hub.wait(source("::2"), paths(&["/b"]), BOUNDS).unwrap().changed(QUIET).await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[test]
    fn waits_leave_connections_to_others() {
        let all = |all, connections| Bounds { all, of_source: 5 }.beside(connections).all;
        assert_eq!(
            (all(20_000, 25_000), all(20_000, 16_000), all(0, 9), all(9, 4), all(9, 1)),
            (20_000, 14_000, 0, 3, 0)
        );
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
        assert!(first.move_to(paths(&["/c"])) && !first.move_to(paths(&["/c"])));
        assert_eq!(hub.count(), 3);
        drop((first, second, third));
        let inner = hub.inner.lock();
        assert!(
            inner.spots.is_empty()
                && inner.by_path.iter().all(HashMap::is_empty)
                && inner.by_source.is_empty()
                && inner.count == 0
        );
    }
}
