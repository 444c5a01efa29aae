//! The keys that are followed, for every store that can be followed: a task for each range of keys reads the range once,
//! follows it, and keeps the [`Mirror`] that resources are rendered from. The store is not asked again, and while it is
//! away what is known stays. A range that cannot be read concerns its resources alone.
//!
//! How a range is read and followed is the store's matter (`etcd.rs`, `etcd_v2.rs`, `metad.rs`); each does it through its
//! [`Follower`].

use super::{Change, Entries, Store};
use crate::resource::Resource;
use crate::template::Text;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
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
/// Longest time that ranges which are new after a hangup may take before the others are followed again.
const SETTLING: Duration = Duration::from_secs(5);

/// The ranges of a store that are followed.
pub(crate) struct Followed {
    store: Store,
    mirror: Arc<Mutex<Mirror>>,
    sender: mpsc::Sender<Change>,
    changes: mpsc::Receiver<Change>,
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
        let unread = |key: &String| self.unread.iter().find(|(range, _)| is_in(range, key.as_bytes()));
        match keys.iter().find_map(unread) {
            Some((range, Some(error))) => Err(format!("the keys of {range} have not been read yet: {error}")),
            Some((range, None)) => Err(format!("the keys of {range} have not been read yet")),
            None => Ok(()),
        }
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
    pub(super) fn new(store: Store) -> Self {
        let (sender, changes) = mpsc::channel(CHANGES);
        Self { store, mirror: Arc::default(), sender, changes, tasks: BTreeMap::new() }
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
        let old: Vec<String> = self.tasks.keys().filter(|range| !ranges.contains(*range)).cloned().collect();
        for range in old {
            if let Some(mut task) = self.tasks.remove(&range) {
                task.shutdown().await;
            }
        }
        let is_first = {
            let mut mirror = locked(&self.mirror);
            mirror.unread.retain(|range, _| ranges.contains(range));
            let is_followed = |range: &String| self.tasks.contains_key(range);
            mirror.unread.extend(ranges.iter().filter(|&range| !is_followed(range)).map(|range| (range.clone(), None)));
            mirror.entries.retain(|key, _| ranges.iter().any(|range| is_in(range, key)));
            mirror.directories.retain(|key| ranges.iter().any(|range| is_in(range, key)));
            !std::mem::replace(&mut mirror.is_followed, true)
        };
        for range in &ranges {
            if !self.tasks.contains_key(range) {
                let follower = Follower::new(range.clone(), self.mirror.clone(), self.sender.clone());
                let mut task = JoinSet::new();
                task.spawn(follower.run(self.store.clone()));
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
            Ok(Change::Keys(more)) => keys.extend(more),
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
    Unread(String),
    /// It was read, and what came next is not known.
    Lost(String),
    /// Nobody listens.
    Unheard,
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
}

impl Follower {
    fn new(range: String, mirror: Arc<Mutex<Mirror>>, changes: mpsc::Sender<Change>) -> Self {
        Self { range, mirror, changes }
    }

    async fn run(self, store: Store) {
        let mut pause = FIRST_PAUSE;
        loop {
            match store.follow(&self).await {
                Ended::Unheard => return,
                Ended::Lost(error) => {
                    pause = FIRST_PAUSE;
                    self.lost(&error);
                }
                Ended::Unread(error) => {
                    if self.unread(&error).await.is_err() {
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
    pub(super) async fn unread(&self, error: &str) -> Result<(), Unheard> {
        tracing::error!("{}: {error}", self.range);
        // Somebody may wait for the first try.
        if self.note(error) { self.tell(Change::Keys(Vec::new())).await } else { Ok(()) }
    }

    /// Says that it is not known what came next.
    pub(super) fn lost(&self, error: &str) {
        tracing::warn!("{}: {error}; reading the keys again", self.range);
    }

    async fn tell(&self, change: Change) -> Result<(), Unheard> {
        self.changes.send(change).await.map_err(|_| Unheard)
    }

    /// Notes why the range cannot be read, if it never was. True at the first time.
    fn note(&self, error: &str) -> bool {
        let mut mirror = locked(&self.mirror);
        let Some(reason) = mirror.unread.get_mut(&self.range) else { return false };
        reason.replace(error.to_owned()).is_none()
    }

    /// Puts what was read in the place of what was known, and tells of it. False if it is the same.
    ///
    /// # Errors
    /// Nobody listens.
    pub(super) async fn read(&self, present: Entries, directories: BTreeSet<Text>) -> Result<bool, Unheard> {
        let changed = self.replace(present, directories);
        if changed == Change::Keys(Vec::new()) {
            return Ok(false);
        }
        self.tell(changed).await?;
        Ok(true)
    }

    /// Returns the keys that differ, or everything at the first time: a range without a key is news, too, to who waits
    /// for it.
    fn replace(&self, present: Entries, directories: BTreeSet<Text>) -> Change {
        let mut mirror = locked(&self.mirror);
        let mut changed = Vec::new();
        let first = self.range.trim_end_matches('/');
        let known: Vec<Text> = super::from(&mirror.entries, first.as_bytes())
            .map(|(key, _)| key.clone())
            .take_while(|key| key.starts_with(first.as_bytes()))
            .filter(|key| is_in(&self.range, key) && !present.contains_key(key))
            .collect();
        for key in known {
            mirror.entries.remove(&key);
            changed.push(key);
        }
        for (key, value) in present {
            if mirror.entries.get(&key) != Some(&value) {
                mirror.entries.insert(key.clone(), value);
                changed.push(key);
            }
        }
        // A directory is news, too, to who waits for it.
        let known: BTreeSet<Text> = mirror.directories.iter().filter(|key| is_in(&self.range, key)).cloned().collect();
        changed.extend(known.symmetric_difference(&directories).cloned());
        mirror.directories.retain(|key| !known.contains(key));
        mirror.directories.extend(directories);
        match mirror.unread.remove(&self.range) {
            Some(_) => Change::Everything,
            None => Change::Keys(changed),
        }
    }

    /// Takes what happened to the range, and tells of it.
    ///
    /// # Errors
    /// Nobody listens.
    pub(super) async fn apply(&self, news: impl IntoIterator<Item = News>) -> Result<(), Unheard> {
        let mut changed = Vec::new();
        {
            let mut mirror = locked(&self.mirror);
            for news in news {
                match news {
                    News::Put(key, value) => {
                        mirror.entries.insert(key.clone(), value);
                        changed.push(key);
                    }
                    News::Deleted(key) => {
                        mirror.entries.remove(&key);
                        changed.push(key);
                    }
                    News::Directory(key) => {
                        if mirror.entries.remove(&key).is_some() || !mirror.directories.contains(&key) {
                            changed.push(key.clone());
                            mirror.directories.insert(key);
                        }
                    }
                    News::AllDeleted(key) => {
                        changed.extend(mirror.remove(&key));
                        // Whoever wants the directory has to hear that it is gone.
                        changed.push(key);
                    }
                }
            }
        }
        if changed.is_empty() { Ok(()) } else { self.tell(Change::Keys(changed)).await }
    }
}

#[cfg(test)]
mod tests;
