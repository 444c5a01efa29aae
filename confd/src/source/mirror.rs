//! The keys that are followed, for every store that can be followed: a task for each range of keys reads the range once,
//! follows it, and keeps the [`Mirror`] that resources are rendered from. The store is not asked again, and while it is
//! away what is known stays. A range that cannot be read concerns its resources alone.
//!
//! How a range is read and followed is the store's matter (`etcd.rs`, `etcd_v2.rs`, `metad.rs`, `kubernetes.rs`); each does it through its
//! [`Follower`].

use super::{Change, Entries, Store};
use crate::resource::Resource;
use crate::template::Text;
use prometheus::IntCounter;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Ranges that are followed at once. More are joined, and what nobody wants is read with them.
const MAX_RANGES: usize = 32;
/// The same for a user, who may not read what lies between the ranges of its role.
const MAX_RANGES_OF_A_USER: usize = 1024;
/// Changes that wait to be looked at; a task that has more waits.
const CHANGES: usize = 1024;
/// After a range could not be read.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A store that was followed for so long did well, with news or without.
const STEADY: Duration = Duration::from_secs(10);
/// Longest time that ranges which are new after a hangup may take before the others are followed again.
const SETTLING: Duration = Duration::from_secs(5);

/// The ranges of a store that are followed.
pub(crate) struct Followed {
    store: Store,
    mirror: Arc<Mutex<Mirror>>,
    sender: mpsc::Sender<Change>,
    changes: mpsc::Receiver<Change>,
    /// Reads that failed, and watches that were lost.
    errors: IntCounter,
    /// One for each range that is followed; it is ended when this is dropped.
    tasks: BTreeMap<String, JoinSet<()>>,
}

/// What the tasks know.
#[derive(Default)]
struct Mirror {
    entries: Entries,
    /// Directories that are there, with files in them or without, for a store that has directories.
    directories: BTreeSet<Text>,
    /// Ranges that have not been read yet, with what the last try said.
    unread: BTreeMap<String, Option<String>>,
    /// Parts of these that were read when the ranges were others, and hold until their range is read.
    known: BTreeSet<String>,
    is_followed: bool,
}

/// True if a key belongs to a range: the text that its keys begin with, or a directory with a slash at its end.
fn is_in(range: &str, key: &[u8]) -> bool {
    key.starts_with(range.as_bytes()) || range.strip_suffix('/').is_some_and(|name| key == name.as_bytes())
}

impl Mirror {
    /// An error if some of these keys are in a range that has not been read yet.
    fn is_read(&self, keys: &[String]) -> Result<(), String> {
        // There are few ranges.
        let is_known = |key: &&String| self.known.iter().any(|range| is_in(range, key.as_bytes()));
        let unread = |key: &String| self.unread.iter().find(|(range, _)| is_in(range, key.as_bytes()));
        match keys.iter().filter(|key| !is_known(key)).find_map(unread) {
            Some((range, Some(error))) => Err(format!("the keys of {range} have not been read yet: {error}")),
            Some((range, None)) => Err(format!("the keys of {range} have not been read yet")),
            None => Ok(()),
        }
    }

    /// Lets other ranges be followed than before. Those that are followed already are `followed`, and what was read of the
    /// others is known as long as it belongs to one that is new.
    fn change_ranges(&mut self, ranges: &BTreeSet<String>, followed: impl Fn(&String) -> bool, old: BTreeSet<String>) {
        let was_read: BTreeSet<String> = old.into_iter().filter(|range| !self.unread.contains_key(range)).collect();
        let was_known: BTreeSet<String> = std::mem::take(&mut self.known).into_iter().chain(was_read).collect();
        self.unread.retain(|range, _| ranges.contains(range));
        self.unread.extend(ranges.iter().filter(|&range| !followed(range)).map(|range| (range.clone(), None)));
        // Of two ranges one begins with the other, or they have nothing in common.
        let common = |new: &String, old: &String| match (old.starts_with(new), new.starts_with(old)) {
            (true, _) => Some(old.clone()),
            (_, true) => Some(new.clone()),
            _ => None,
        };
        self.known = self.unread.keys().flat_map(|new| was_known.iter().filter_map(|old| common(new, old))).collect();
        self.entries.retain(|key, _| ranges.iter().any(|range| is_in(range, key)));
        self.directories.retain(|key| ranges.iter().any(|range| is_in(range, key)));
    }

    /// What was known of a range does not hold any more.
    fn forget_known(&mut self, range: &str) {
        self.known.retain(|known| !known.starts_with(range));
    }

    /// True if every range was read or could not be.
    fn is_settled(&self) -> bool {
        self.unread.values().all(Option::is_some)
    }

    /// True if a key, a key below it or a directory of that name is there.
    fn is_present(&self, key: &str) -> bool {
        let below = format!("{}/", key.trim_end_matches('/'));
        let starts = |found: Option<&Text>| found.is_some_and(|found| found.starts_with(below.as_bytes()));
        key == "/"
            || self.entries.contains_key(key.as_bytes())
            || self.directories.contains(key.as_bytes())
            || starts(super::from(&self.entries, below.as_bytes()).next().map(|(key, _)| key))
    }

    /// Puts what was read of a range, or of a directory in one, in the place of what was known. The keys and directories
    /// that differ.
    fn replace(&mut self, range: &str, present: Entries, directories: BTreeSet<Text>) -> BTreeSet<Text> {
        let mut changed = BTreeSet::new();
        let first = range.trim_end_matches('/');
        let known: Vec<Text> = super::from(&self.entries, first.as_bytes())
            .map(|(key, _)| key.clone())
            .take_while(|key| key.starts_with(first.as_bytes()))
            .filter(|key| is_in(range, key) && !present.contains_key(key))
            .collect();
        for key in known {
            self.entries.remove(&key);
            changed.insert(key);
        }
        for (key, value) in present {
            if self.entries.get(&key) != Some(&value) {
                self.entries.insert(key.clone(), value);
                changed.insert(key);
            }
        }
        // A directory is news, too, to who waits for it.
        let known: BTreeSet<Text> = self.directories.iter().filter(|key| is_in(range, key)).cloned().collect();
        changed.extend(known.symmetric_difference(&directories).cloned());
        self.directories.retain(|key| !known.contains(key));
        self.directories.extend(directories);
        changed
    }

    /// Forgets a key and everything below it. The keys that are gone.
    fn remove(&mut self, key: &[u8]) -> Vec<Text> {
        let below = [key, b"/"].concat();
        let is_below = |found: &&Text| found.starts_with(&below);
        let found = super::from(&self.entries, &below).map(|(key, _)| key).take_while(is_below);
        let mut gone: Vec<Text> = found.cloned().collect();
        gone.extend(self.entries.get_key_value(key).map(|(key, _)| key.clone()));
        for key in &gone {
            self.entries.remove(key);
        }
        let directories = self.directories.range::<[u8], _>((Bound::Included(&*below), Bound::Unbounded));
        let directories: Vec<Text> = directories.take_while(is_below).cloned().collect();
        for directory in directories {
            self.directories.remove(&directory);
        }
        self.directories.remove(key);
        gone
    }
}

impl std::fmt::Debug for Followed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Followed").field("store", &self.store).finish_non_exhaustive()
    }
}

fn locked(mirror: &Mutex<Mirror>) -> MutexGuard<'_, Mirror> {
    mirror.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Followed {
    pub(super) fn new(store: Store, errors: IntCounter) -> Self {
        let (sender, changes) = mpsc::channel(CHANGES);
        Self { store, mirror: Arc::default(), sender, changes, errors, tasks: BTreeMap::new() }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// What `select` takes of the mirror for a resource with these keys; None while nothing is followed. An error if not
    /// all of them have been read, or one is not there in a store that wants it to be.
    pub(super) fn mirrored<T>(&self, keys: &[String], select: impl FnOnce(&Entries) -> T) -> Option<Result<T, String>> {
        let mirror = locked(&self.mirror);
        let selected = || {
            mirror.is_read(keys)?;
            let missing = keys.iter().find(|key| !mirror.is_present(key));
            match missing.and_then(|key| self.store.missing(key)) {
                Some(error) => Err(error),
                None => Ok(select(&mirror.entries)),
            }
        };
        mirror.is_followed.then(selected)
    }

    /// Starts the tasks, those of ranges that are followed already excepted, and waits until each has tried to read its
    /// range. At first it waits until one was read, however long the store is away; later, when there is something to go
    /// on with, only for a while. The changes of that time are not told again: everything has to be looked at.
    pub(super) async fn follow(&mut self, resources: &[Resource]) {
        let max = if self.store.has_user() { MAX_RANGES_OF_A_USER } else { MAX_RANGES };
        let ranges = ranges(self.store.starts(resources), max);
        let before: BTreeSet<String> = self.tasks.keys().cloned().collect();
        let old: Vec<String> = self.tasks.keys().filter(|range| !ranges.contains(*range)).cloned().collect();
        for range in old {
            if let Some(mut task) = self.tasks.remove(&range) {
                task.shutdown().await;
            }
        }
        let is_first = {
            let mut mirror = locked(&self.mirror);
            mirror.change_ranges(&ranges, |range| self.tasks.contains_key(range), before);
            !std::mem::replace(&mut mirror.is_followed, true)
        };
        for range in &ranges {
            if !self.tasks.contains_key(range) {
                let mut task = JoinSet::new();
                task.spawn(self.follower(range).run(self.store.clone()));
                self.tasks.insert(range.clone(), task);
            }
        }
        if is_first {
            let is_away = |mirror: &Mirror| !ranges.is_empty() && mirror.unread.len() == ranges.len();
            while !locked(&self.mirror).is_settled() || is_away(&locked(&self.mirror)) {
                self.changed().await;
            }
        } else {
            let settled = async {
                while !locked(&self.mirror).is_settled() {
                    self.changed().await;
                }
            };
            // What is not read by then is told when it is.
            let _in_time = tokio::time::timeout(SETTLING, settled).await;
        }
    }

    fn follower(&self, range: &str) -> Follower {
        Follower {
            range: range.to_owned(),
            mirror: self.mirror.clone(),
            changes: self.sender.clone(),
            errors: self.errors.clone(),
            told: AtomicUsize::new(0),
        }
    }

    pub(super) async fn changed(&mut self) -> Change {
        match self.changes.recv().await {
            Some(change) => merged(change, &mut self.changes),
            // This has a sender itself.
            None => std::future::pending().await,
        }
    }
}

/// A change with all that wait behind it, so that they are one round.
fn merged(first: Change, changes: &mut mpsc::Receiver<Change>) -> Change {
    let Change::Keys(mut keys) = first else { return first };
    for _ in 0..CHANGES {
        match changes.try_recv() {
            Ok(Change::Keys(mut more)) => keys.append(&mut more),
            Ok(Change::Everything) => return Change::Everything,
            Err(_) => break,
        }
    }
    Change::Keys(keys)
}

/// The texts that followed keys begin with. Those below others are left out, and too many are joined by their
/// directories.
fn ranges(mut ranges: BTreeSet<String>, max: usize) -> BTreeSet<String> {
    loop {
        // In this order what begins with a text comes right behind it.
        let mut kept: Option<String> = None;
        ranges.retain(|range| {
            let is_new = !kept.as_ref().is_some_and(|kept| range.starts_with(kept.as_str()));
            if is_new {
                kept = Some(range.clone());
            }
            is_new
        });
        if ranges.len() <= max {
            return ranges;
        }
        // The deepest ones become their directories, until there are few enough.
        let name = |range: &str| range.trim_end_matches('/').to_owned();
        let depth = |range: &str| name(range).matches('/').count();
        let deepest = ranges.iter().map(|range| depth(range)).max().unwrap_or_default();
        let parent = |range: &String| match name(range).rfind('/') {
            Some(at) if depth(range) == deepest => range[..=at].to_owned(),
            _ => range.clone(),
        };
        let joined: BTreeSet<String> = ranges.iter().map(parent).collect();
        if joined == ranges {
            return BTreeSet::from(["/".to_owned()]);
        }
        ranges = joined;
    }
}

/// Why a range is not followed any more.
pub(super) enum Ended {
    /// It could not be read.
    Unread(Failure),
    /// It was read, and what came next is not known.
    Lost(String),
    /// Nobody listens.
    Unheard,
}

/// Why a range could not be read.
pub(super) struct Failure {
    pub(super) error: String,
    /// True if the store has decided so, and another try would not help.
    pub(super) is_refused: bool,
}

/// Nobody listens any more.
pub(super) struct Unheard;

impl From<Unheard> for Ended {
    fn from(_: Unheard) -> Self {
        Self::Unheard
    }
}

/// What happened to a key of a range.
pub(super) enum News {
    Put(Text, Text),
    /// It is gone.
    Deleted(Text),
    /// It is a directory, and no file.
    Directory(Text),
    /// It is gone, and everything below it.
    AllDeleted(Text),
}

/// Keeps one range of the mirror.
pub(super) struct Follower {
    /// The text that its keys begin with, or a directory with a slash at its end.
    pub(super) range: String,
    mirror: Arc<Mutex<Mirror>>,
    changes: mpsc::Sender<Change>,
    errors: IntCounter,
    /// What the store has told since it is followed.
    told: AtomicUsize,
}

impl Follower {
    async fn run(self, store: Store) {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            self.told.store(0, Ordering::Relaxed);
            match store.follow(&self).await {
                Ended::Unheard => return,
                Ended::Lost(error) => {
                    // More than the keys: a store that can be read and not be waited for would be read in a loop.
                    if self.told.load(Ordering::Relaxed) > 1 || began.elapsed() >= STEADY {
                        pause = FIRST_PAUSE;
                    }
                    self.lost(&error);
                }
                Ended::Unread(failure) => {
                    if self.unread(&failure).await.is_err() {
                        return;
                    }
                }
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Says that the range could not be read. It will be tried again.
    ///
    /// # Errors
    /// Nobody listens.
    pub(super) async fn unread(&self, failure: &Failure) -> Result<(), Unheard> {
        tracing::error!("{}: {}", self.range, failure.error);
        self.errors.inc();
        // Somebody may wait for the first try.
        if self.note(failure) { self.tell(Change::Keys(BTreeSet::new())).await } else { Ok(()) }
    }

    /// Says that it is not known what came next.
    pub(super) fn lost(&self, error: &str) {
        tracing::warn!("{}: {error}; reading the keys again", self.range);
        self.errors.inc();
    }

    /// Says that following was interrupted, and goes on by itself.
    #[cfg(feature = "kubernetes")]
    pub(super) fn interrupted(&self, error: &str) {
        tracing::warn!("{}: {error}; trying again", self.range);
        self.errors.inc();
    }

    async fn tell(&self, change: Change) -> Result<(), Unheard> {
        self.changes.send(change).await.map_err(|_| Unheard)
    }

    /// Notes why the range cannot be read, if it never was. True at the first time.
    fn note(&self, Failure { error, is_refused }: &Failure) -> bool {
        let mut mirror = locked(&self.mirror);
        if *is_refused {
            mirror.forget_known(&self.range);
        }
        let Some(reason) = mirror.unread.get_mut(&self.range) else { return false };
        reason.replace(error.clone()).is_none()
    }

    /// Puts what was read in the place of what was known, and tells of it. False if it is the same.
    ///
    /// # Errors
    /// Nobody listens.
    pub(super) async fn read(&self, present: Entries, directories: BTreeSet<Text>) -> Result<bool, Unheard> {
        self.told.fetch_add(1, Ordering::Relaxed);
        let changed = self.replace(present, directories);
        if changed == Change::Keys(BTreeSet::new()) {
            return Ok(false);
        }
        self.tell(changed).await?;
        Ok(true)
    }

    /// Returns the keys that differ, or everything at the first time: a range without a key is news, too, to who waits
    /// for it.
    fn replace(&self, present: Entries, directories: BTreeSet<Text>) -> Change {
        let mut mirror = locked(&self.mirror);
        let changed = mirror.replace(&self.range, present, directories);
        match mirror.unread.remove(&self.range) {
            Some(_) => {
                mirror.forget_known(&self.range);
                Change::Everything
            }
            None => Change::Keys(changed),
        }
    }

    /// Puts what was read of a directory in the range in the place of what was known, and tells of what differs.
    ///
    /// # Errors
    /// Nobody listens.
    #[cfg(feature = "kubernetes")]
    pub(super) async fn read_part(&self, directory: &str, present: Entries) -> Result<(), Unheard> {
        self.told.fetch_add(1, Ordering::Relaxed);
        let changed = locked(&self.mirror).replace(directory, present, BTreeSet::new());
        if changed.is_empty() { Ok(()) } else { self.tell(Change::Keys(changed)).await }
    }

    /// Takes what happened to the range, and tells of it.
    ///
    /// # Errors
    /// Nobody listens.
    pub(super) async fn apply(&self, news: impl IntoIterator<Item = News>) -> Result<(), Unheard> {
        self.told.fetch_add(1, Ordering::Relaxed);
        let mut changed = BTreeSet::new();
        {
            let mut mirror = locked(&self.mirror);
            for news in news {
                match news {
                    News::Put(key, value) => {
                        mirror.entries.insert(key.clone(), value);
                        changed.insert(key);
                    }
                    News::Deleted(key) => {
                        mirror.entries.remove(&key);
                        changed.insert(key);
                    }
                    News::Directory(key) => {
                        if mirror.entries.remove(&key).is_some() || !mirror.directories.contains(&key) {
                            changed.insert(key.clone());
                            mirror.directories.insert(key);
                        }
                    }
                    News::AllDeleted(key) => {
                        changed.extend(mirror.remove(&key));
                        // Whoever wants the directory has to hear that it is gone.
                        changed.insert(key);
                    }
                }
            }
        }
        if changed.is_empty() { Ok(()) } else { self.tell(Change::Keys(changed)).await }
    }
}

#[cfg(test)]
mod tests;
