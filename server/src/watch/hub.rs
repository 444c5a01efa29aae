//! The registry of every watcher of this member, and the mailboxes that changes are put into.
//!
//! [`Hub::publish`] is called by the state machine after every applied batch, in revision order, on the thread that
//! applies. It looks up each event's key once, puts a reference to the change into the mailbox of each stream that
//! watches it, and wakes each such stream once. It waits for nothing: a mailbox that is full makes the watcher
//! unsynced, and the stream reads the rest from the store.
//!
//! How no event is lost or doubled: a watcher has a first revision, below which nothing is put into its mailbox.
//! Registration and publication hold one lock, so a watcher that becomes synced after hub revision R misses nothing
//! above R. The lock is never held while the store is read. A snapshot that is installed ([`Hub::replaced`]) is a gap in
//! what is published: who misses it is behind from its beginning.

use super::index::{Index, WatchedRange};
use super::stats::Stats;
use parking_lot::Mutex;
use std::sync::Arc;
use store::Change;
use tokio::sync::{Notify, Semaphore};

/// Mailbox entries that a stream may always have. Beyond it, and beyond [`ITEMS_PER_WATCHER`], watchers become unsynced.
const MIN_ITEMS: usize = 1024;
/// Mailbox entries for each watcher of a stream: a burst on a key that all of them watch must fit.
const ITEMS_PER_WATCHER: usize = 16;
/// Bytes of key-values that one stream's mailbox may keep alive; one revision may exceed it.
const MAX_BYTES: usize = 8 << 20;
/// Streams that read history at the same time, so that many slow clients do not take all blocking threads.
const HISTORY_READERS: usize = 4;
/// First revision of an unsynced watcher: nothing is put into its mailbox.
const NEVER: i64 = i64::MAX;

/// The kinds of event that a watcher wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kinds {
    pub(crate) puts: bool,
    pub(crate) deletes: bool,
}

impl Kinds {
    pub(crate) fn wants(self, deleted: bool) -> bool {
        if deleted { self.deletes } else { self.puts }
    }
}

/// The events of a change that concern one watcher, by position, ascending.
#[derive(Debug)]
pub(crate) enum Matches {
    One(u32),
    Many(Box<[u32]>),
}

impl Matches {
    pub(crate) fn positions(&self) -> &[u32] {
        match self {
            Self::One(position) => std::slice::from_ref(position),
            Self::Many(positions) => positions,
        }
    }
}

/// What one change means to one watcher.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) watch_id: i64,
    pub(crate) change: Change,
    pub(crate) matches: Matches,
}

/// A watcher that did not fit: everything from the revision on is to be read from the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behind {
    pub(crate) watch_id: i64,
    pub(crate) from: i64,
}

/// What a stream takes out of its mailbox.
#[derive(Default)]
pub(crate) struct Mail {
    /// In the order of revisions.
    pub(crate) items: Vec<Item>,
    /// The watchers that became unsynced; their items all lie below the revision given.
    pub(crate) behind: Vec<Behind>,
}

#[derive(Default)]
struct Queued {
    mail: Mail,
    /// Events in `mail`.
    events: usize,
    /// Bytes that `mail` keeps alive.
    bytes: usize,
    /// Watchers of the stream.
    watchers: usize,
    /// The publication that last put something in.
    publication: u64,
}

impl Queued {
    fn has_room(&self) -> bool {
        self.bytes < MAX_BYTES && self.mail.items.len() < MIN_ITEMS.max(self.watchers * ITEMS_PER_WATCHER)
    }
}

/// Where a stream's changes wait for it.
#[derive(Default)]
pub(crate) struct Mailbox {
    queued: Mutex<Queued>,
    filled: Notify,
}

impl Mailbox {
    /// Waits until something may have been put in. Cancellation safe.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }
}

struct Watcher {
    mailbox: Arc<Mailbox>,
    range: WatchedRange,
    watch_id: i64,
    kinds: Kinds,
    /// First revision to put into the mailbox.
    first: i64,
}

#[derive(Default)]
struct Registry {
    /// Everything up to here was published.
    revision: i64,
    publications: u64,
    watchers: Vec<Option<Watcher>>,
    free: Vec<u32>,
    index: Index,
    /// Pairs of watcher and event of the change at hand; kept for its capacity.
    matched: Vec<(u32, u32)>,
    /// Mailboxes to wake at the end of the publication at hand.
    touched: Vec<Arc<Mailbox>>,
}

/// Registers watchers and distributes changes.
pub(crate) struct Hub {
    registry: Mutex<Registry>,
    stats: Stats,
    history: Arc<Semaphore>,
}

impl Hub {
    /// A hub whose next publication follows the given store revision.
    pub(crate) fn new(revision: i64) -> Self {
        let registry = Registry { revision, ..Registry::default() };
        Self {
            registry: Mutex::new(registry),
            stats: Stats::default(),
            history: Arc::new(Semaphore::new(HISTORY_READERS)),
        }
    }

    /// The counts for metrics.
    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The permits for reading history.
    pub(crate) fn history(&self) -> &Arc<Semaphore> {
        &self.history
    }

    /// Everything up to this revision was distributed.
    pub(crate) fn revision(&self) -> i64 {
        self.registry.lock().revision
    }

    /// Distributes applied changes. Does not wait.
    pub(crate) fn publish(&self, changes: &[Change]) {
        let Some(last) = changes.last() else { return };
        let mut registry = self.registry.lock();
        if !registry.index.is_empty() {
            registry.publications += 1;
            for change in changes {
                registry.distribute(change, &self.stats);
            }
            for mailbox in registry.touched.drain(..) {
                mailbox.filled.notify_one();
            }
        }
        debug_assert!(last.revision > registry.revision, "revisions only grow");
        registry.revision = last.revision;
    }

    /// Takes note that the store was replaced by one at `revision`, and that nobody publishes what lies between. Synced
    /// watchers that want some of it become unsynced and read it from the store; to those that start later nothing
    /// happens. Called where changes are published, so never beside a publication. Does not wait.
    pub(crate) fn replaced(&self, revision: i64) {
        let mut registry = self.registry.lock();
        if revision <= registry.revision {
            return;
        }
        let next = registry.revision + 1;
        for watcher in registry.watchers.iter_mut().flatten() {
            // What the mailbox has lies below.
            if watcher.first <= revision {
                watcher.fall_behind(watcher.first.max(next), &self.stats);
                watcher.mailbox.filled.notify_one();
            }
        }
        registry.revision = revision;
    }

    /// Registers a watcher that wants everything from `first` on, or from the next revision for none. `current` is a
    /// store revision read before. Answers the watcher's slot, the revision that it was registered at, and, when it is
    /// unsynced, where its history begins.
    pub(crate) fn register(
        &self,
        mailbox: &Arc<Mailbox>,
        range: &WatchedRange,
        watch_id: i64,
        kinds: Kinds,
        first: Option<i64>,
        current: i64,
    ) -> (u32, i64, Option<i64>) {
        let mut registry = self.registry.lock();
        let at = registry.revision.max(current);
        let first = first.unwrap_or(at + 1);
        let unsynced = first <= registry.revision;
        let watcher = Watcher {
            mailbox: Arc::clone(mailbox),
            range: range.clone(),
            watch_id,
            kinds,
            first: if unsynced { NEVER } else { first },
        };
        self.stats.watchers.add(1);
        self.stats.unsynced.add(usize::from(unsynced));
        mailbox.queued.lock().watchers += 1;
        let slot = if let Some(slot) = registry.free.pop() {
            registry.watchers[slot as usize] = Some(watcher);
            slot
        } else {
            registry.watchers.push(Some(watcher));
            (registry.watchers.len() - 1) as u32
        };
        registry.index.insert(range, slot);
        (slot, at, unsynced.then_some(first))
    }

    /// Forgets a watcher and its mail.
    pub(crate) fn remove(&self, slot: u32) {
        let mut registry = self.registry.lock();
        let Some(watcher) = registry.watchers.get_mut(slot as usize).and_then(Option::take) else { return };
        registry.index.remove(&watcher.range, slot);
        registry.free.push(slot);
        self.stats.watchers.sub(1);
        self.stats.unsynced.sub(usize::from(watcher.first == NEVER));
        let mut queued = watcher.mailbox.queued.lock();
        queued.watchers -= 1;
        let before = queued.events;
        queued.forget(watcher.watch_id);
        self.stats.pending.sub(before - queued.events);
    }

    /// Makes unsynced watchers synced that have read everything up to store revision `read`, unless more was
    /// published meanwhile. Answers the hub's revision: on success what lies above it will come by mail, and must be
    /// left out of what was read. Only a slot's own stream may call this.
    pub(crate) fn synchronize(&self, slots: impl IntoIterator<Item = u32>, read: i64) -> Result<i64, i64> {
        let mut registry = self.registry.lock();
        let revision = registry.revision;
        if revision > read {
            return Err(revision);
        }
        for slot in slots {
            if let Some(watcher) = registry.watchers.get_mut(slot as usize).and_then(Option::as_mut) {
                watcher.first = revision + 1;
                self.stats.unsynced.sub(1);
            }
        }
        Ok(revision)
    }

    /// Empties a mailbox into `mail`, and answers the hub's revision: every event up to it for a synced watcher of the
    /// stream was in the mailbox, none above it.
    pub(crate) fn collect(&self, mailbox: &Mailbox, mail: &mut Mail) -> i64 {
        let registry = self.registry.lock();
        let mut queued = mailbox.queued.lock();
        std::mem::swap(&mut queued.mail, mail);
        self.stats.pending.sub(queued.events);
        (queued.events, queued.bytes) = (0, 0);
        registry.revision
    }
}

impl Queued {
    fn forget(&mut self, watch_id: i64) {
        self.mail.behind.retain(|behind| behind.watch_id != watch_id);
        let (mut events, mut bytes) = (0, 0);
        self.mail.items.retain(|item| {
            let keep = item.watch_id != watch_id;
            if !keep {
                events += item.matches.positions().len();
                bytes += matched_bytes(&item.change, item.matches.positions());
            }
            keep
        });
        self.events -= events;
        self.bytes -= bytes;
    }
}

fn matched_bytes(change: &Change, positions: &[u32]) -> usize {
    positions.iter().map(|at| change.events[*at as usize].kv.as_bytes().len()).sum()
}

impl Watcher {
    fn fall_behind(&mut self, from: i64, stats: &Stats) {
        self.first = NEVER;
        stats.unsynced.add(1);
        self.mailbox.queued.lock().mail.behind.push(Behind { watch_id: self.watch_id, from });
    }

    /// Puts a change into the mailbox; true when the mailbox is to be woken and was not touched before.
    fn put(&mut self, change: &Change, positions: &[(u32, u32)], publication: u64, stats: &Stats) -> bool {
        let mut queued = self.mailbox.queued.lock();
        let untouched = queued.publication != publication;
        queued.publication = publication;
        if !queued.has_room() {
            drop(queued);
            self.fall_behind(change.revision, stats);
            return untouched;
        }
        let matches = match positions {
            [(_, position)] => Matches::One(*position),
            positions => Matches::Many(positions.iter().map(|(_, position)| *position).collect()),
        };
        queued.events += positions.len();
        queued.bytes += matched_bytes(change, matches.positions());
        queued.mail.items.push(Item { watch_id: self.watch_id, change: Arc::clone(change), matches });
        stats.pending.add(positions.len());
        untouched
    }
}

impl Registry {
    fn distribute(&mut self, change: &Change, stats: &Stats) {
        let Self { watchers, index, matched, touched, publications, .. } = self;
        index.matches(change, matched, |slot, event| {
            watchers[slot as usize]
                .as_ref()
                .is_some_and(|watcher| change.revision >= watcher.first && watcher.kinds.wants(event.deleted))
        });
        for positions in matched.chunk_by(|a, b| a.0 == b.0) {
            if let Some(watcher) = &mut watchers[positions[0].0 as usize]
                && watcher.put(change, positions, *publications, stats)
            {
                touched.push(Arc::clone(&watcher.mailbox));
            }
        }
    }
}
