//! The v3 API of etcd and Cleat.
//!
//! Without watching, the keys of a resource are read in transactions that all show one revision. With it, a task for each
//! range of keys reads the range once, follows it, and keeps the [`Mirror`] that resources are rendered from: the store
//! is not asked again, and while it is away what is known stays.

use super::{Change, Entries};
use crate::resource::{Resource, covers};
use crate::template::Text;
use api::etcdserverpb::TxnRequest;
use api::etcdserverpb::response_op::Response;
use api::mvccpb::{KeyValue, event};
use client::message::{self, op};
use client::{Client, Options, TlsOptions, WatchOptions};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Operations that etcd takes in one transaction.
const MAX_OPERATIONS: usize = 128;
/// Ranges that are followed at once. More are joined, and what nobody wants is read with them.
const MAX_RANGES: usize = 32;
/// Changes that wait to be looked at; a task that has more waits.
const CHANGES: usize = 1024;
/// After a range could not be read.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(crate) struct Etcd {
    client: Client,
    mirror: Arc<Mutex<Mirror>>,
    changes: Option<mpsc::Receiver<Change>>,
    /// Ended when this is dropped.
    tasks: JoinSet<()>,
}

/// What the tasks know.
#[derive(Default)]
struct Mirror {
    entries: Entries,
    /// Ranges that have not been read yet.
    unread: usize,
    is_followed: bool,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("client", &self.client).finish_non_exhaustive()
    }
}

fn text(bytes: &[u8]) -> Text {
    // A copy: the field is a slice of the whole answer.
    Text::from(bytes)
}

impl Etcd {
    pub(super) fn new(nodes: &[String], tls: Option<TlsOptions>) -> Result<Self, String> {
        let options = Options { endpoints: nodes.to_vec(), tls, ..Options::default() };
        let client = Client::new(&options).map_err(|error| error.to_string())?;
        Ok(Self { client, mirror: Arc::default(), changes: None, tasks: JoinSet::new() })
    }

    /// The wanted keys and what is below them, all at one revision.
    pub(super) async fn read(&self, keys: &[String]) -> Result<Entries, String> {
        let mut entries = Entries::new();
        let mut revision = 0;
        for chunk in keys.chunks(MAX_OPERATIONS) {
            let ranges = chunk.iter().map(|key| {
                let mut range = message::get_prefix(key.clone().into_bytes());
                range.revision = revision;
                op::range(range)
            });
            let request = TxnRequest { success: ranges.collect(), ..TxnRequest::default() };
            let answer = self.client.txn(request).await.map_err(|error| error.to_string())?;
            if revision == 0 {
                revision = answer.header.map_or(0, |header| header.revision);
            }
            for (wanted, response) in chunk.iter().zip(answer.responses) {
                let Some(Response::ResponseRange(range)) = response.response else { continue };
                let kvs = range.kvs.into_iter().filter(|kv| covers(wanted, &kv.key));
                entries.extend(kvs.map(|kv| (text(&kv.key), text(&kv.value))));
            }
        }
        Ok(entries)
    }

    /// What `select` takes of the mirror; None while nothing is followed.
    pub(super) fn mirrored<T>(&self, select: impl FnOnce(&Entries) -> T) -> Option<T> {
        let mirror = self.mirror.lock().unwrap_or_else(PoisonError::into_inner);
        mirror.is_followed.then(|| select(&mirror.entries))
    }

    /// Starts the tasks, and waits until each has read its range, however long the store is away.
    pub(super) async fn follow(&mut self, resources: &[Resource]) -> Result<(), String> {
        self.tasks.shutdown().await;
        let ranges = ranges(resources.iter().flat_map(|resource| &resource.keys));
        let mirror = Mirror { unread: ranges.len(), is_followed: true, entries: Entries::new() };
        self.mirror = Arc::new(Mutex::new(mirror));
        let (sender, receiver) = mpsc::channel(CHANGES);
        self.changes = Some(receiver);
        for range in ranges {
            let follower =
                Follower { client: self.client.clone(), range, mirror: self.mirror.clone(), changes: sender.clone() };
            self.tasks.spawn(follower.run());
        }
        while self.mirror.lock().unwrap_or_else(PoisonError::into_inner).unread > 0 {
            self.changed().await;
        }
        Ok(())
    }

    pub(super) async fn changed(&mut self) -> Change {
        match &mut self.changes {
            Some(changes) => match changes.recv().await {
                Some(change) => merged(change, changes),
                None => std::future::pending().await,
            },
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
fn ranges<'k>(keys: impl Iterator<Item = &'k String>) -> BTreeSet<String> {
    let mut ranges: BTreeSet<String> = keys.cloned().collect();
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
        if ranges.len() <= MAX_RANGES {
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

/// Keeps one range of the mirror.
struct Follower {
    client: Client,
    range: String,
    mirror: Arc<Mutex<Mirror>>,
    changes: mpsc::Sender<Change>,
}

impl Follower {
    async fn run(self) {
        let mut pause = FIRST_PAUSE;
        let mut is_first = true;
        loop {
            match self.client.list(self.range.clone().into_bytes()).await {
                Ok(listing) => {
                    pause = FIRST_PAUSE;
                    let changed = self.replace(listing.kvs, std::mem::take(&mut is_first));
                    if self.tell(changed).await.is_err() {
                        return;
                    }
                    match self.watch(listing.revision + 1).await {
                        Some(error) => tracing::warn!("{}: {error}; reading the keys again", self.range),
                        None => return,
                    }
                }
                Err(error) => tracing::error!("{}: {error}", self.range),
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn tell(&self, keys: Vec<Text>) -> Result<(), mpsc::error::SendError<Change>> {
        self.changes.send(Change::Keys(keys)).await
    }

    /// Puts what was read in the place of what was known. Returns the keys that differ.
    fn replace(&self, kvs: Vec<KeyValue>, is_first: bool) -> Vec<Text> {
        let mut mirror = self.mirror.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Vec::new();
        let known: Vec<Text> = super::from(&mirror.entries, self.range.as_bytes())
            .map(|(key, _)| key.clone())
            .take_while(|key| key.starts_with(self.range.as_bytes()))
            .collect();
        let present: Entries = kvs.into_iter().map(|kv| (text(&kv.key), text(&kv.value))).collect();
        for key in known {
            if !present.contains_key(&key) {
                mirror.entries.remove(&key);
                changed.push(key);
            }
        }
        for (key, value) in present {
            if mirror.entries.get(&key) != Some(&value) {
                mirror.entries.insert(key.clone(), value);
                changed.push(key);
            }
        }
        if is_first {
            mirror.unread -= 1;
        }
        changed
    }

    /// Follows the range until the store cannot tell what came next. None when nobody listens any more.
    async fn watch(&self, start_revision: i64) -> Option<client::Error> {
        let (key, range_end) = message::prefix_range(self.range.clone().into_bytes());
        let options = WatchOptions { key, range_end, start_revision, ..WatchOptions::default() };
        let mut watch = match self.client.watch(options).await {
            Ok(watch) => watch,
            Err(error) => return Some(error),
        };
        loop {
            let events = match watch.next().await {
                Ok(events) => events.events,
                Err(error) => return Some(error),
            };
            let mut changed = Vec::with_capacity(events.len());
            {
                let mut mirror = self.mirror.lock().unwrap_or_else(PoisonError::into_inner);
                for event in events {
                    let is_delete = event.r#type == i32::from(event::EventType::Delete);
                    let Some(kv) = event.kv else { continue };
                    let key = text(&kv.key);
                    if is_delete {
                        mirror.entries.remove(&key);
                    } else {
                        mirror.entries.insert(key.clone(), text(&kv.value));
                    }
                    changed.push(key);
                }
            }
            if !changed.is_empty() && self.tell(changed).await.is_err() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_all_keys_and_are_few() {
        let of = |keys: &[&str]| {
            let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
            ranges(keys.iter()).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(of(&["/b", "/a/x", "/a", "/a/x/y"]), ["/a", "/b"]);
        let many: Vec<String> = (0..100).map(|number| format!("/app/{number}/key")).collect();
        assert_eq!(ranges(many.iter()).into_iter().collect::<Vec<_>>(), ["/app/"]);
        let many: Vec<String> = (0..100).map(|number| format!("/{number:03}")).collect();
        assert_eq!(ranges(many.iter()).into_iter().collect::<Vec<_>>(), ["/"]);
        assert_eq!(of(&["/a/x", "/a-b", "/a", "/ab", "/b/c", "/b/cd", "/b/d"]), ["/a", "/b/c", "/b/d"]);
        // As many as a large site has; looking at each pair would take hours.
        let many: Vec<String> = (0..200_000).map(|number| format!("/app/{number}/key")).collect();
        assert_eq!(ranges(many.iter()).into_iter().collect::<Vec<_>>(), ["/app/"]);
    }
}
