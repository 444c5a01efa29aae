//! The v3 API of etcd and Cleat, with the keys of yunify's metad, so that both can share a cluster.
//!
//! ```text
//! PREFIX/PATH                          data, one key for each leaf
//! /_metad/mapping/GROUP/CLIENT/NAME    mappings, one key for each path
//! /_metad/rule/GROUP/HOST              rules, one key with a JSON list for each host
//! ```
//!
//! A task for each table follows its keys. The store may be away, at the start, too: what is known stays.

use super::plan::{self, Op, Plan};
use super::{Failure, Manner, Target};
use crate::path;
use crate::state::{Table, World, Write};
use crate::values::Leaves;
use api::mvccpb::event::EventType;
use api::mvccpb::{Event, KeyValue};
use bytes::Bytes;
use client::message::{self, op};
use client::{Client, Listing, Mirror, Update};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The directory of metad's own keys.
const OWN: &str = "/_metad";
/// Names within each other; deeper keys are not seen.
const MAX_DEPTH: usize = 128;
/// Attempts to replace what others change meanwhile.
const MAX_ATTEMPTS: usize = 8;
/// Keys in one answer while the keys below a path are read.
const PAGE_KEYS: i64 = 10_000;
/// Time for a write of several transactions. Who follows the data waits as long for one that broke off.
const STAGING: Duration = Duration::from_mins(1);
/// Writes that are held back for such a write, at most.
const MAX_HELD: usize = 1_000_000;
/// How long a write waits for its own echo.
const ECHO: Duration = Duration::from_secs(2);
/// How often a quiet store is asked whether it is there, and after what silence it counts as away.
const PING: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(12);

const TABLES: [Table; 3] = [Table::Data, Table::Mapping, Table::Rule];

#[derive(Debug)]
pub(crate) struct Etcd {
    client: Client,
    layout: Layout,
    /// Revision up to which each table is known; 0 until it was read.
    applied: BTreeMap<Table, watch::Sender<i64>>,
    heard: Mutex<Instant>,
}

/// Where the keys are.
#[derive(Clone, Debug)]
struct Layout {
    /// Without a slash at the end; empty for the root.
    prefix: String,
    group: String,
}

impl Layout {
    /// What stands before the paths of a table.
    fn base(&self, table: Table) -> String {
        match table {
            Table::Data => self.prefix.clone(),
            Table::Mapping => format!("{OWN}/mapping/{}", self.group),
            Table::Rule => format!("{OWN}/rule/{}", self.group),
        }
    }

    fn key(&self, table: Table, path: &[u8]) -> Vec<u8> {
        let path = if path == b"/" { b"" } else { path };
        [self.base(table).as_bytes(), path].concat()
    }

    /// The directory of the markers of a table, which is followed with it. metad shows none of its keys when the data
    /// is at the root, because they begin like those of mappings.
    fn markers(&self, table: Table) -> Vec<u8> {
        let own = if table == Table::Data { "/_metad/mapping-stage/" } else { "/_stage/" };
        [self.base(table).as_bytes(), own.as_bytes()].concat()
    }

    /// The path of a key of a table; None if it is none of its leaves.
    fn path(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        let below = key.strip_prefix(self.base(table).as_bytes()).filter(|below| below.starts_with(b"/"))?;
        let path = path::clean(below);
        let is_own = table == Table::Data && (self.is_own(&path) || key.starts_with(&self.markers(table)));
        (path != b"/" && !is_own && path::names(&path).len() <= MAX_DEPTH).then_some(path)
    }

    /// True for paths of the data that are metad's own keys.
    fn is_own(&self, path: &[u8]) -> bool {
        let below = path.strip_prefix(OWN.as_bytes());
        self.prefix.is_empty() && below.is_some_and(|below| below.is_empty() || below.starts_with(b"/"))
    }

    /// Ranges of the keys below a path.
    fn ranges(&self, table: Table, path: &[u8]) -> Vec<(Bytes, Bytes)> {
        let mut below = self.key(table, path);
        below.push(b'/');
        if table == Table::Data && below == b"/" {
            // All but metad's own.
            let own = message::prefix_range(format!("{OWN}/"));
            let all = message::prefix_range("/");
            return vec![(all.0, own.0), (own.1, all.1)];
        }
        vec![message::prefix_range(below)]
    }
}

fn failed(error: &client::Error) -> Failure {
    Failure::Store(error.to_string())
}

impl Etcd {
    /// Checks the options. Nothing is asked before [`Etcd::follow`]. Must be called in a tokio runtime.
    pub(crate) fn new(options: &client::Options, prefix: &str, group: &str) -> Result<Self, client::Error> {
        let prefix = String::from_utf8_lossy(&path::clean(prefix.as_bytes())).trim_end_matches('/').to_owned();
        Ok(Self {
            client: Client::new(options)?,
            layout: Layout { prefix, group: group.to_owned() },
            applied: TABLES.map(|table| (table, watch::Sender::new(0))).into(),
            heard: Mutex::new(Instant::now()),
        })
    }

    pub(super) fn is_synced(&self) -> bool {
        self.applied.values().all(|applied| *applied.borrow() > 0)
    }

    pub(super) async fn synced(&self) {
        for applied in self.applied.values() {
            // It is never closed while this lives.
            drop(applied.subscribe().wait_for(|revision| *revision > 0).await);
        }
    }

    pub(super) fn silence(&self) -> Duration {
        let silence = self.heard.lock().elapsed();
        if silence < SILENCE { Duration::ZERO } else { silence }
    }

    fn hear(&self) {
        *self.heard.lock() = Instant::now();
    }

    /// Starts the tasks that follow the store.
    pub(crate) fn follow(self: &Arc<Self>, world: &Arc<World>, tasks: &TaskTracker, stop: &CancellationToken) {
        for table in TABLES {
            let mut follower = Follower {
                etcd: Arc::clone(self),
                world: Arc::clone(world),
                table,
                open: BTreeSet::new(),
                held: Held::default(),
            };
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(follower.run()).await });
        }
        let (etcd, stop) = (Arc::clone(self), stop.clone());
        tasks.spawn(async move {
            let pinging = async {
                loop {
                    sleep(PING).await;
                    if etcd.client.get(OWN).await.is_ok() {
                        etcd.hear();
                    }
                }
            };
            stop.run_until_cancelled(pinging).await
        });
    }

    pub(super) async fn put(&self, table: Table, path: &[u8], leaves: Leaves, manner: Manner) -> Result<(), Failure> {
        let mut puts = Leaves::new();
        for (below, value) in leaves {
            let path = path::join(path, &below);
            if path == b"/" {
                return Err(Failure::Invalid("the root cannot be a value: give an object".to_owned()));
            }
            if table == Table::Data && self.layout.is_own(&path) {
                let problem = "/_metad is where metad keeps mappings and rules: use /v1/mapping and /v1/rule";
                return Err(Failure::Invalid(problem.to_owned()));
            }
            if path::names(&path).len() > MAX_DEPTH {
                return Err(Failure::Invalid(format!("a path has more than {MAX_DEPTH} names")));
            }
            puts.insert(self.layout.key(table, &path), value);
        }
        let lease = match manner.ttl {
            Some(ttl) => self.client.grant(i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX)).await,
            None => Ok(0),
        };
        let lease = lease.map_err(|error| failed(&error))?;
        for _ in 0..MAX_ATTEMPTS {
            let (ops, guard) = if manner.replace {
                let (surplus, revision) = self.surplus(table, path, &puts).await?;
                let barrier = format!("{OWN}/").into_bytes();
                let ops = plan::deletes(&surplus, &puts, &barrier);
                let ranges = self.layout.ranges(table, path).into_iter();
                (ops, ranges.map(|range| plan::unchanged_since(range, revision)).collect())
            } else {
                (Vec::new(), Vec::new())
            };
            let all_puts = puts.iter().map(|(key, value)| Op::Put { key: key.clone(), value: value.clone() });
            let ops: Vec<Op> = ops.into_iter().chain(all_puts).collect();
            if ops.is_empty() || self.commit(table, ops, guard, lease).await? {
                return Ok(());
            }
        }
        Err(Failure::Store("what is to be replaced changes all the time; try again later".to_owned()))
    }

    /// Keys below a path that are not among those to write, and the revision that this is true for.
    async fn surplus(&self, table: Table, path: &[u8], puts: &Leaves) -> Result<(Vec<Vec<u8>>, i64), Failure> {
        let (mut surplus, mut revision) = (Vec::new(), 0);
        for (mut key, range_end) in self.layout.ranges(table, path) {
            loop {
                let request = api::etcdserverpb::RangeRequest {
                    key: key.clone(),
                    range_end: range_end.clone(),
                    limit: PAGE_KEYS,
                    revision,
                    keys_only: true,
                    ..Default::default()
                };
                let page = self.client.range(request).await.map_err(|error| failed(&error))?;
                if revision == 0 {
                    revision = page.header.map_or(0, |header| header.revision);
                }
                let keys = page.kvs.iter().map(|kv| kv.key.to_vec());
                let markers = self.layout.markers(table);
                surplus.extend(keys.filter(|key| !puts.contains_key(key) && !key.starts_with(&markers)));
                match page.kvs.last() {
                    Some(last) if page.more => key = message::after(&last.key),
                    _ => break,
                }
            }
        }
        Ok((surplus, revision))
    }

    /// Commits operations, all at once for who follows them. False if the guard did not hold.
    async fn commit(
        &self,
        table: Table,
        ops: Vec<Op>,
        guard: Vec<api::etcdserverpb::Compare>,
        lease: i64,
    ) -> Result<bool, Failure> {
        let parts = match Plan::of(ops) {
            Plan::One(ops) => {
                let answer = self.client.txn(plan::transaction(ops, guard, lease)).await;
                let answer = answer.map_err(|error| failed(&error))?;
                let revision = answer.header.map_or(0, |header| header.revision);
                if answer.succeeded {
                    self.echo(table, revision).await;
                }
                return Ok(answer.succeeded);
            }
            Plan::Staged(parts) => parts,
        };
        let staging = i64::try_from(STAGING.as_secs()).unwrap_or(i64::MAX);
        let marker_lease = self.client.grant(staging).await.map_err(|error| failed(&error))?;
        let mut marker = self.layout.markers(table);
        marker.extend_from_slice(format!("{:016x}", rand::random::<u64>()).as_bytes());
        let last = parts.len() - 1;
        for (number, part) in parts.into_iter().enumerate() {
            let compare = if number == 0 { guard.clone() } else { vec![plan::exists(&marker)] };
            let mut request = plan::transaction(part, compare, lease);
            if number == 0 {
                // An empty list, because older metads take it for rules.
                let put = message::put(marker.clone(), "[]");
                request.success.insert(0, op::put(api::etcdserverpb::PutRequest { lease: marker_lease, ..put }));
            } else if number == last {
                request.success.push(op::delete(message::delete(marker.clone())));
            }
            let answer = self.client.txn(request).await.map_err(|error| failed(&error))?;
            match (answer.succeeded, number) {
                (false, 0) => return Ok(false),
                (false, _) => {
                    return Err(Failure::Store(format!(
                        "the write took longer than {STAGING:?}; a part of it was done"
                    )));
                }
                (true, number) if number == last => {
                    self.echo(table, answer.header.map_or(0, |header| header.revision)).await;
                }
                (true, _) => {}
            }
        }
        Ok(true)
    }

    pub(super) async fn delete(&self, table: Table, targets: &[Target]) -> Result<(), Failure> {
        let mut ops = Vec::new();
        for target in targets {
            if target.is_dir {
                let ranges = self.layout.ranges(table, &target.path).into_iter();
                ops.extend(ranges.map(|(first, end)| Op::Delete { first: first.to_vec(), end: end.to_vec() }));
            } else {
                ops.push(Op::Delete { first: self.layout.key(table, &target.path), end: Vec::new() });
            }
        }
        if !ops.is_empty() {
            self.commit(table, ops, Vec::new(), 0).await?;
        }
        Ok(())
    }

    /// Waits until a write has come back, so that who wrote reads it here. Bounded: something else may have been
    /// written, and nothing changed.
    async fn echo(&self, table: Table, revision: i64) {
        if let Some(applied) = self.applied.get(&table) {
            let mut applied = applied.subscribe();
            let waiting = applied.wait_for(|known| *known >= revision || *known == 0);
            drop(timeout(ECHO, waiting).await);
        }
    }
}

/// What was told and is not shown yet.
#[derive(Default)]
struct Held {
    /// All keys, in the place of those that are known.
    listing: Option<BTreeMap<Vec<u8>, Write>>,
    writes: Vec<Write>,
    revision: i64,
    since: Option<Instant>,
}

/// Keeps one table.
struct Follower {
    etcd: Arc<Etcd>,
    world: Arc<World>,
    table: Table,
    /// Markers of writes under way.
    open: BTreeSet<Vec<u8>>,
    held: Held,
}

impl Follower {
    async fn run(&mut self) {
        let mut watched = self.etcd.layout.base(self.table).into_bytes();
        watched.push(b'/');
        let mut keys = Mirror::new(self.etcd.client.clone(), watched);
        loop {
            let next = async {
                match self.held.since {
                    None => Some(keys.next().await),
                    Some(since) => timeout(STAGING.saturating_sub(since.elapsed()), keys.next()).await.ok(),
                }
            };
            let Some(update) = next.await else {
                tracing::warn!(table = ?self.table, "a write of several parts did not end; its parts are shown");
                self.open.clear();
                self.publish();
                continue;
            };
            match update {
                Update::Listing(listing) => self.list(listing),
                Update::Events(events) => {
                    self.held.revision = self.held.revision.max(events.revision);
                    events.events.into_iter().for_each(|event| self.event(event));
                }
                Update::Unread(error) => {
                    tracing::warn!(table = ?self.table, "cannot read the store, trying again: {error}");
                    continue;
                }
                Update::Lost(error) => {
                    tracing::warn!(table = ?self.table, "{error}; reading everything again");
                    continue;
                }
            }
            self.etcd.hear();
            if self.open.is_empty() || self.held.writes.len() > MAX_HELD {
                self.publish();
            } else if self.held.since.is_none() {
                self.held.since = Some(Instant::now());
            }
        }
    }

    fn list(&mut self, listing: Listing) {
        self.open.clear();
        self.held = Held { since: self.held.since, revision: listing.revision, ..Held::default() };
        let mut present = BTreeMap::new();
        for kv in listing.kvs {
            if let Some(write) = self.write(&kv, false) {
                present.insert(write.path.clone(), write);
            }
        }
        self.held.listing = Some(present);
    }

    fn event(&mut self, event: Event) {
        let is_delete = event.r#type == i32::from(EventType::Delete);
        let Some(write) = event.kv.and_then(|kv| self.write(&kv, is_delete)) else { return };
        self.held.writes.push(write);
    }

    /// The write of a key, unless it is a marker or nothing of the table's.
    fn write(&mut self, kv: &KeyValue, is_delete: bool) -> Option<Write> {
        if kv.key.starts_with(&self.etcd.layout.markers(self.table)) {
            if is_delete {
                self.open.remove(kv.key.as_ref());
            } else {
                self.open.insert(kv.key.to_vec());
            }
            return None;
        }
        let path = self.etcd.layout.path(self.table, &kv.key)?;
        // A copy: the field is a slice of the whole answer.
        Some(Write { path, value: (!is_delete).then(|| kv.value.to_vec()), revision: kv.mod_revision })
    }

    /// Shows all that was held back, at once.
    fn publish(&mut self) {
        let held = std::mem::take(&mut self.held);
        let revision = held.revision;
        match held.listing {
            Some(mut listing) => {
                for write in held.writes {
                    if write.value.is_some() {
                        listing.insert(write.path.clone(), write);
                    } else {
                        listing.remove(&write.path);
                    }
                }
                let count = listing.len();
                self.world.replace(self.table, listing.into_values().collect(), revision);
                tracing::info!(table = ?self.table, keys = count, revision, "read the store");
            }
            None if held.writes.is_empty() => {}
            None => self.world.write(self.table, &held.writes),
        }
        if let Some(applied) = self.etcd.applied.get(&self.table) {
            applied.send_if_modified(|known| {
                let is_newer = revision > *known;
                *known = revision.max(*known);
                is_newer
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(prefix: &str) -> Layout {
        Layout { prefix: prefix.to_owned(), group: "g".to_owned() }
    }

    #[test]
    fn keys_are_yunifys() {
        let root = layout("");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!(text(root.key(Table::Data, b"/nodes/1")), "/nodes/1");
        assert_eq!(text(layout("/p").key(Table::Data, b"/a")), "/p/a");
        assert_eq!(text(root.key(Table::Mapping, b"/1.1.1.1/node")), "/_metad/mapping/g/1.1.1.1/node");
        assert_eq!(text(root.key(Table::Rule, b"/1.1.1.1")), "/_metad/rule/g/1.1.1.1");
        for (prefix, table, key, expected) in [
            ("", Table::Data, "/a//b", Some("/a/b")),
            ("", Table::Data, "/_metad/rule/default/x", None),
            ("", Table::Data, "/_metad/mappingX", None),
            ("", Table::Data, "/_metadx/a", Some("/_metadx/a")),
            ("", Table::Data, "a", None),
            ("/u/1", Table::Data, "/u/12/x", None),
            ("/u/1", Table::Data, "/u/1/_metad/x", Some("/_metad/x")),
            ("/u/1", Table::Data, "/u/1/_metad/mapping-stage/0", None),
            ("", Table::Mapping, "/_metad/mapping/g/1.1.1.1/a", Some("/1.1.1.1/a")),
            ("", Table::Mapping, "/_metad/mapping/gg/1.1.1.1/a", None),
            ("", Table::Rule, "/_metad/rule/g/h", Some("/h")),
        ] {
            let path = layout(prefix).path(table, key.as_bytes()).map(text);
            assert_eq!(path.as_deref(), expected, "{prefix} {key}");
        }
    }

    #[test]
    fn the_root_of_the_data_is_all_but_metads_own_keys() {
        let ranges = layout("").ranges(Table::Data, b"/");
        let is_in = |key: &str| ranges.iter().any(|(first, end)| first <= key.as_bytes() && end > key.as_bytes());
        assert!(is_in("/a") && is_in("/_metadx") && is_in("/_metad0") && is_in("/_metab"));
        assert!(!is_in("/_metad/rule/g/h") && !is_in("0") && !is_in("."));
        assert_eq!(layout("/p").ranges(Table::Data, b"/"), [message::prefix_range("/p/")]);
        assert_eq!(layout("").ranges(Table::Data, b"/a"), [message::prefix_range("/a/")]);
    }
}
