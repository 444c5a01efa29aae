//! The v3 API of etcd and Cleat.
//!
//! Without watching, the keys of a resource are read in transactions that all show one revision. With it, a task for each
//! range of keys reads the range once, follows it, and keeps the [`Mirror`] that resources are rendered from: the store
//! is not asked again, and while it is away what is known stays. A range that cannot be read concerns its resources alone.

use super::{Change, Entries};
use crate::resource::{Resource, covers};
use crate::template::Text;
use api::etcdserverpb::TxnRequest;
use api::etcdserverpb::response_op::Response;
use api::mvccpb::{Event, KeyValue, event};
use client::message::{self, op};
use client::{Client, Options, TlsOptions, Update};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Operations that etcd takes in one transaction.
const MAX_OPERATIONS: usize = 128;
/// Ranges that are followed at once. More are joined, and what nobody wants is read with them.
const MAX_RANGES: usize = 32;
/// Changes that wait to be looked at; a task that has more waits.
const CHANGES: usize = 1024;
/// Longest time that ranges which are new after a hangup may take before the others are followed again.
const SETTLING: Duration = Duration::from_secs(5);

pub(crate) struct Etcd {
    client: Client,
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
    /// Ranges that have not been read yet, with what the last try said.
    unread: BTreeMap<String, Option<String>>,
    is_followed: bool,
}

impl Mirror {
    /// An error if some of these keys are in a range that has not been read yet.
    fn is_read(&self, keys: &[String]) -> Result<(), String> {
        // There are few ranges.
        let unread = |key: &String| self.unread.iter().find(|(range, _)| key.starts_with(range.as_str()));
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
        let (sender, changes) = mpsc::channel(CHANGES);
        Ok(Self { client, mirror: Arc::default(), sender, changes, tasks: BTreeMap::new() })
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

    /// What `select` takes of the mirror for a resource with these keys; None while nothing is followed. An error if not
    /// all of them have been read.
    pub(super) fn mirrored<T>(&self, keys: &[String], select: impl FnOnce(&Entries) -> T) -> Option<Result<T, String>> {
        let mirror = self.mirror();
        mirror.is_followed.then(|| mirror.is_read(keys).map(|()| select(&mirror.entries)))
    }

    fn mirror(&self) -> MutexGuard<'_, Mirror> {
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the tasks, those of ranges that are followed already excepted, and waits until each has tried to read its
    /// range. At first it waits until one was read, however long the store is away; later, when there is something to go
    /// on with, only for a while. The changes of that time are not told again: everything has to be looked at.
    pub(super) async fn follow(&mut self, resources: &[Resource]) {
        let ranges = ranges(resources.iter().flat_map(|resource| &resource.keys));
        let old: Vec<String> = self.tasks.keys().filter(|range| !ranges.contains(*range)).cloned().collect();
        for range in old {
            if let Some(mut task) = self.tasks.remove(&range) {
                task.shutdown().await;
            }
        }
        let is_first = {
            let mut mirror = self.mirror();
            mirror.unread.retain(|range, _| ranges.contains(range));
            let is_followed = |range: &String| self.tasks.contains_key(range);
            mirror.unread.extend(ranges.iter().filter(|&range| !is_followed(range)).map(|range| (range.clone(), None)));
            mirror.entries.retain(|key, _| ranges.iter().any(|range| key.starts_with(range.as_bytes())));
            !std::mem::replace(&mut mirror.is_followed, true)
        };
        for range in &ranges {
            if !self.tasks.contains_key(range) {
                let follower = Follower {
                    client: self.client.clone(),
                    range: range.clone(),
                    mirror: self.mirror.clone(),
                    changes: self.sender.clone(),
                };
                let mut task = JoinSet::new();
                task.spawn(follower.run());
                self.tasks.insert(range.clone(), task);
            }
        }
        if is_first {
            let is_away = |mirror: &Mirror| !ranges.is_empty() && mirror.unread.len() == ranges.len();
            while !self.mirror().is_settled() || is_away(&self.mirror()) {
                self.changed().await;
            }
        } else {
            let settled = async {
                while !self.mirror().is_settled() {
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
        let mut keys = client::Mirror::new(self.client.clone(), self.range.clone().into_bytes());
        loop {
            let told = match keys.next().await {
                Update::Listing(listing) => self.changes.send(self.replace(listing.kvs)).await,
                Update::Events(events) => self.apply(events.events).await,
                Update::Unread(error) => {
                    tracing::error!("{}: {error}", self.range);
                    // Somebody may wait for the first try.
                    if self.failed(&error) { self.tell(Vec::new()).await } else { Ok(()) }
                }
                Update::Lost(error) => {
                    tracing::warn!("{}: {error}; reading the keys again", self.range);
                    Ok(())
                }
            };
            if told.is_err() {
                return;
            }
        }
    }

    async fn tell(&self, keys: Vec<Text>) -> Result<(), mpsc::error::SendError<Change>> {
        self.changes.send(Change::Keys(keys)).await
    }

    /// Notes why the range cannot be read, if it never was. True at the first time.
    fn failed(&self, error: &client::Error) -> bool {
        let mut mirror = self.mirror.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reason) = mirror.unread.get_mut(&self.range) else { return false };
        reason.replace(error.to_string()).is_none()
    }

    /// Puts what was read in the place of what was known. Returns the keys that differ, or everything at the first time:
    /// a range without a key is news, too, to who waits for it.
    fn replace(&self, kvs: Vec<KeyValue>) -> Change {
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
        match mirror.unread.remove(&self.range) {
            Some(_) => Change::Everything,
            None => Change::Keys(changed),
        }
    }

    /// Does what happened to the range.
    async fn apply(&self, events: Vec<Event>) -> Result<(), mpsc::error::SendError<Change>> {
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
        if changed.is_empty() { Ok(()) } else { self.tell(changed).await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(keys: &[&str]) -> Resource {
        Resource {
            path: "a.toml".into(),
            src: "a".into(),
            dest: "/a".into(),
            keys: keys.iter().map(|&key| key.to_owned()).collect(),
            prefix: "/".to_owned(),
            mode: None,
            uid: None,
            gid: None,
            check: None,
            reload: None,
            wait: None,
            dialect: crate::functions::Dialect::default(),
            delims: (String::new(), String::new()),
            backup: false,
            rollback: false,
            make_dirs: false,
        }
    }

    /// Followers of a store that is away, but for what is read by hand.
    fn read_by_hand(etcd: &Etcd, range: &str, key: &str) -> Change {
        let (changes, _) = mpsc::channel(1);
        let range = range.to_owned();
        let follower = Follower { client: etcd.client.clone(), range, mirror: etcd.mirror.clone(), changes };
        let kv = KeyValue { key: key.as_bytes().to_vec().into(), value: "v".into(), ..KeyValue::default() };
        follower.replace(vec![kv])
    }

    #[tokio::test]
    async fn a_range_that_cannot_be_read_stops_its_own_resources_alone() {
        // Nobody listens there, and a connection is refused at once.
        let mut etcd = Etcd::new(&["http://127.0.0.1:1".to_owned()], None).unwrap();
        let (a, b) = (resource(&["/a/x"]), resource(&["/b"]));
        let of = |etcd: &Etcd, resource: &Resource| etcd.mirrored(&resource.keys, Entries::len);
        assert_eq!(of(&etcd, &a), None);
        let both = [a.clone(), b.clone()];
        {
            let followed = etcd.follow(&both);
            tokio::pin!(followed);
            let waits = tokio::time::timeout(Duration::from_millis(50), &mut followed).await;
            assert!(waits.is_err(), "nothing was read, so there is nothing to go on with");
        }
        assert_eq!(read_by_hand(&etcd, "/a/x", "/a/x/1"), Change::Everything);
        assert_eq!(of(&etcd, &a), Some(Ok(1)));
        let error = of(&etcd, &b).unwrap().unwrap_err();
        assert!(error.starts_with("the keys of /b have not been read yet"), "{error}");
        // After a hangup what stays is known, although the store is away, and what nobody wants any more is not.
        let c = resource(&["/c"]);
        etcd.follow(&[a.clone(), c.clone()]).await;
        assert_eq!(of(&etcd, &a), Some(Ok(1)));
        assert!(of(&etcd, &c).unwrap().is_err());
        etcd.follow(&[c]).await;
        assert_eq!(etcd.mirrored(&[], Entries::len), Some(Ok(0)));
    }

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
