//! The v3 API of etcd and Cleat: [`Layout`] says where the keys are.
//!
//! A task for each table follows its keys. The store may be away, at the start, too: what is known stays. Writes are
//! tasks of their own, so they come to their end though who asked for them has gone.

use super::follow::Follower;
use super::layout::{Layout, OWN};
use super::plan::{self, Op, Plan};
use super::{Failure, Manner};
use crate::path;
use crate::state::{Table, World};
use crate::values::{self, Leaves, Types};
use api::etcdserverpb::Compare;
use bytes::Bytes;
use client::message;
use client::{Client, Error};
use parking_lot::Mutex;
use prometheus::Histogram;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Attempts to replace what others change meanwhile.
const MAX_ATTEMPTS: usize = 8;
/// Keys in one answer while the keys below a path are read.
const PAGE_KEYS: i64 = 10_000;
/// Writes at a time; more wait. Those that wait keep their bodies in memory.
const MAX_WRITES: usize = 64;
/// Time for a write of several transactions, and that of the lease of its marker.
pub(super) const STAGING: Duration = Duration::from_mins(1);
/// How long a write waits for one of several transactions: its time, and that of the store to notice that it is over.
const TURN: Duration = Duration::from_secs(75);
/// Pauses while it waits: the first, and the longest, to which they double.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// How long a write waits for its own echo.
const ECHO: Duration = Duration::from_secs(2);
/// How often a quiet store is asked whether it is there, and after what silence it counts as away.
const PING: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(12);

const TABLES: [Table; 3] = [Table::Data, Table::Mapping, Table::Rule];

#[derive(Debug)]
pub(crate) struct Etcd {
    pub(super) client: Client,
    /// What is known of the store.
    pub(super) world: Arc<World>,
    pub(super) layout: Layout,
    /// Revision up to which each table is known; 0 until it was read.
    applied: BTreeMap<Table, watch::Sender<i64>>,
    heard: Mutex<Instant>,
    /// Tasks that the end of the process waits for.
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    writes: Arc<Semaphore>,
    /// How long echoes take.
    echo: Histogram,
}

pub(super) fn failed(error: &Error) -> Failure {
    Failure::Store(error.to_string())
}

/// What is to become of the keys of a table.
struct Change {
    table: Table,
    /// The path that is written, if one is.
    written: Option<Vec<u8>>,
    /// Texts and types by their path from there.
    leaves: Leaves,
    types: Types,
    /// Nothing else stays below the path.
    replace: bool,
    /// Paths that go, with all below.
    deleted: Vec<Vec<u8>>,
    ttl: Option<Duration>,
}

/// How an attempt to commit has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Committed {
    Done,
    /// The keys have changed since they were read.
    Changed,
    /// A write of several transactions is under way.
    Marked,
}

impl Etcd {
    /// Checks the options. Nothing is asked before [`Etcd::follow`]. Must be called in a tokio runtime.
    ///
    /// Writes are tasks of `tasks`, and give up what does not succeed at once when `stop` is cancelled.
    pub(crate) fn new(
        options: &client::Options,
        prefix: &str,
        group: &str,
        world: &Arc<World>,
        echo: Histogram,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, Error> {
        Ok(Self {
            client: Client::new(options)?,
            world: Arc::clone(world),
            layout: Layout::new(prefix, group),
            applied: TABLES.map(|table| (table, watch::Sender::new(0))).into(),
            heard: Mutex::new(Instant::now()),
            tasks: tasks.clone(),
            stop: stop.clone(),
            writes: Arc::new(Semaphore::new(MAX_WRITES)),
            echo,
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
        let silence = self.heard().elapsed();
        if silence < SILENCE { Duration::ZERO } else { silence }
    }

    /// When the store was heard last; at the start it counts as heard.
    pub(super) fn heard(&self) -> Instant {
        *self.heard.lock()
    }

    pub(super) fn hear(&self) {
        *self.heard.lock() = Instant::now();
    }

    /// Tells that a table is known up to a revision.
    pub(super) fn apply(&self, table: Table, revision: i64) {
        if let Some(applied) = self.applied.get(&table) {
            applied.send_if_modified(|known| {
                let is_newer = revision > *known;
                *known = revision.max(*known);
                is_newer
            });
        }
    }

    /// Starts the tasks that follow the store.
    pub(crate) fn follow(self: &Arc<Self>) {
        for table in TABLES {
            let mut follower = Follower::new(Arc::clone(self), table);
            let stop = self.stop.clone();
            self.tasks.spawn(async move { stop.run_until_cancelled(follower.run()).await });
        }
        let etcd = Arc::clone(self);
        self.tasks.spawn(async move {
            let pinging = async {
                loop {
                    sleep(PING).await;
                    if is_answer(etcd.client.get(ping_key()).await.as_ref().err()) {
                        etcd.hear();
                    }
                }
            };
            etcd.stop.run_until_cancelled(pinging).await
        });
    }

    /// Why a clean path can be no leaf, if it cannot.
    pub(super) fn reserves(&self, table: Table, path: &[u8]) -> Option<&'static str> {
        self.layout.is_reserved(table, path).then_some(match table {
            Table::Data => "/_metad is where metad keeps mappings and rules: use /v1/mapping and /v1/rule",
            Table::Mapping | Table::Rule => "metad uses this name itself",
        })
    }

    /// Writes leaves, whose paths are allowed, below a path.
    pub(super) async fn put(
        self: &Arc<Self>,
        table: Table,
        path: &[u8],
        leaves: Leaves,
        types: Types,
        manner: Manner,
    ) -> Result<(), Failure> {
        let Manner { replace, ttl } = manner;
        let written = Some(path.to_vec());
        self.finish(Change { table, written, leaves, types, replace, deleted: Vec::new(), ttl }).await
    }

    /// Takes paths away, with all below.
    pub(super) async fn delete(self: &Arc<Self>, table: Table, paths: Vec<Vec<u8>>) -> Result<(), Failure> {
        let (leaves, types) = (Leaves::new(), Types::new());
        let change = Change { table, written: None, leaves, types, replace: false, deleted: paths, ttl: None };
        self.finish(change).await
    }

    /// Makes a change to its end, though who asked for it may go: half of it would be held back from everybody until
    /// its marker is gone.
    async fn finish(self: &Arc<Self>, change: Change) -> Result<(), Failure> {
        let broke_off = || Failure::Store("the write broke off".to_owned());
        let place = Arc::clone(&self.writes).acquire_owned().await.map_err(|_| broke_off())?;
        let etcd = Arc::clone(self);
        let writing = self.tasks.spawn(async move {
            let _place = place;
            etcd.write(change).await
        });
        writing.await.map_err(|_| broke_off())?
    }

    async fn write(&self, change: Change) -> Result<(), Failure> {
        let (mut lease, mut attempts) = (None, 0);
        let (mut turn, mut pause) = (None, PAUSES.0);
        loop {
            if let Some(ttl) = change.ttl {
                lease = Some(self.lease(lease, ttl).await?);
            }
            let (ops, guard) = self.operations(&change).await?;
            if ops.is_empty() {
                return Ok(());
            }
            match self.commit(change.table, ops, guard, lease.map_or(0, |(lease, _)| lease)).await? {
                Committed::Done => return Ok(()),
                Committed::Changed if attempts < MAX_ATTEMPTS => attempts += 1,
                Committed::Changed => {
                    let problem = "what is to be replaced changes all the time; try again later";
                    return Err(Failure::Store(problem.to_owned()));
                }
                Committed::Marked => {
                    let end = *turn.get_or_insert_with(|| Instant::now() + TURN);
                    if Instant::now() >= end || self.stop.run_until_cancelled(sleep(pause)).await.is_none() {
                        let problem = "another write of several transactions does not end; try again later";
                        return Err(Failure::Store(problem.to_owned()));
                    }
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    /// A lease for what goes by itself, and when it was granted: the one before while more than half of its time is left.
    async fn lease(&self, before: Option<(i64, Instant)>, ttl: Duration) -> Result<(i64, Instant), Failure> {
        if let Some((lease, at)) = before
            && at.elapsed() < ttl / 2
        {
            return Ok((lease, at));
        }
        let at = Instant::now();
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let lease = self.client.grant(seconds).await.map_err(|error| failed(&error))?;
        Ok((lease, at))
    }

    /// The operations of a change, and what must hold for them to be right.
    async fn operations(&self, change: &Change) -> Result<(Vec<Op>, Vec<Compare>), Failure> {
        let table = change.table;
        let mut ops: Vec<Op> = change.deleted.iter().flat_map(|path| self.deletes(table, path)).collect();
        let mut guard = Vec::new();
        if let Some(path) = &change.written {
            let key = |below: &Vec<u8>| self.layout.key(table, &path::join(path, below));
            let type_key = |below: &Vec<u8>| self.layout.type_key(&path::join(path, below));
            let texts = change.leaves.iter().map(|(below, text)| (key(below), text.clone()));
            let types = change.types.iter().map(|(below, json)| (type_key(below), json.clone()));
            let puts: Leaves = texts.chain(types).collect();
            let mut gone = BTreeSet::new();
            if change.replace {
                let (surplus, ranges) = self.surplus(table, path, &puts).await?;
                ops.extend(surplus);
                guard.extend(ranges);
                if table == Table::Data && path != b"/" {
                    gone.insert(self.layout.type_key(path));
                }
            } else if table == Table::Data {
                // As far as it is known here: a write asks the store for nothing.
                let state = self.world.state();
                let known = state.types().get(path).map(AsRef::as_ref);
                gone.extend(values::outdated(known, &change.leaves, &change.types).iter().map(type_key));
            }
            // With a replacing write only what is at the path itself is not gone yet.
            let textless = values::containers(&change.types).filter(|below| !change.replace || *below == b"/");
            gone.extend(textless.map(key));
            let gone = gone.into_iter().filter(|key| !puts.contains_key(key));
            ops.extend(gone.map(|first| Op::Delete { first, end: Vec::new() }));
            ops.extend(puts.into_iter().map(|(key, value)| Op::Put { key, value }));
        }
        Ok((ops, guard))
    }

    /// Operations that take a path away: none if no leaf can be there, though the store has keys there.
    fn deletes(&self, table: Table, path: &[u8]) -> Vec<Op> {
        if self.layout.is_reserved(table, path) {
            return Vec::new();
        }
        let key = self.layout.key(table, path);
        let delete = |(first, end): (Bytes, Bytes)| Op::Delete { first: first.into(), end: end.into() };
        if table == Table::Rule && path != b"/" {
            return vec![delete((key.into(), Bytes::new()))];
        }
        let values = self.layout.ranges(table, path);
        let mut ops: Vec<Op> = if path == b"/" {
            values.into_iter().map(delete).collect()
        } else {
            vec![Op::DeletePath { key, below: values }]
        };
        if table == Table::Data {
            let own = (self.layout.type_key(path).into(), Bytes::new());
            let types = [own, self.layout.types_below(path)];
            // They hide no value, so they go with it and with what hides it. The root has none of its own.
            ops.extend(types.into_iter().skip(usize::from(path == b"/")).map(delete));
        }
        ops
    }

    /// Operations that take away what is below a path and not among what is written, and what must hold for them to be
    /// right.
    async fn surplus(&self, table: Table, path: &[u8], puts: &Leaves) -> Result<(Vec<Op>, Vec<Compare>), Failure> {
        let (mut ops, mut guard, mut revision) = (Vec::new(), Vec::new(), 0);
        let (mut surplus, ranges) = (Vec::new(), self.layout.ranges(table, path));
        for range in &ranges {
            surplus.extend(self.others(range, puts, &mut revision).await?);
        }
        ops.extend(plan::deletes(&surplus, puts, &self.layout.reserved(table)));
        guard.extend(ranges.into_iter().map(|range| plan::unchanged_since(range, revision)));
        if table == Table::Data && !self.layout.is_reserved(table, path) {
            let range = self.layout.types_below(path);
            let surplus = self.others(&range, puts, &mut revision).await?;
            ops.extend(plan::deletes(&surplus, puts, &<(Bytes, Bytes)>::default()));
            guard.push(plan::unchanged_since(range, revision));
        }
        Ok((ops, guard))
    }

    /// Keys in a range that are not among those to write, as of a revision; if it is 0, as of now, which is told.
    async fn others(
        &self,
        (first, range_end): &(Bytes, Bytes),
        puts: &Leaves,
        revision: &mut i64,
    ) -> Result<Vec<Vec<u8>>, Failure> {
        let (mut others, mut key) = (Vec::new(), first.clone());
        loop {
            let request = api::etcdserverpb::RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: PAGE_KEYS,
                revision: *revision,
                keys_only: true,
                ..Default::default()
            };
            let page = self.client.range(request).await.map_err(|error| failed(&error))?;
            if *revision == 0 {
                *revision = page.header.map_or(0, |header| header.revision);
            }
            let keys = page.kvs.iter().map(|kv| kv.key.to_vec());
            others.extend(keys.filter(|key| !puts.contains_key(key)));
            match page.kvs.last() {
                Some(last) if page.more => key = message::after(&last.key),
                _ => return Ok(others),
            }
        }
    }

    /// Commits operations, all at once for who follows them, unless the guard does not hold or another write is under
    /// way in several transactions, with which they would mix.
    async fn commit(
        &self,
        table: Table,
        ops: Vec<Op>,
        mut guard: Vec<Compare>,
        lease: i64,
    ) -> Result<Committed, Failure> {
        let markers = message::prefix_range(self.layout.markers(table));
        guard.push(plan::is_empty(markers.clone()));
        let ops = match Plan::of(ops) {
            Plan::One(ops) => ops,
            Plan::Staged(parts) => return self.stage(table, parts, guard, lease).await,
        };
        let request = plan::transaction(ops, guard, lease, Some(plan::some_keys(markers)));
        let answer = self.client.txn(request).await.map_err(|error| failed(&error))?;
        if !answer.succeeded {
            let is_marked = plan::found(&answer).next().is_some();
            return Ok(if is_marked { Committed::Marked } else { Committed::Changed });
        }
        if plan::has_changed(&answer) {
            self.echo(table, answer.header.map_or(0, |header| header.revision)).await;
        }
        Ok(Committed::Done)
    }

    /// Waits until a write has come back, so that who wrote reads it here. Bounded: the watch may be away.
    pub(super) async fn echo(&self, table: Table, revision: i64) {
        if let Some(applied) = self.applied.get(&table) {
            let mut applied = applied.subscribe();
            let waiting = applied.wait_for(|known| *known >= revision || *known == 0);
            let begin = Instant::now();
            drop(timeout(ECHO, waiting).await);
            self.echo.observe(begin.elapsed().as_secs_f64());
        }
    }
}

/// A key that everybody may read who may read what metad needs. There is none.
fn ping_key() -> String {
    format!("{OWN}/")
}

/// True if the store has answered and works: a refusal is an answer.
fn is_answer(error: Option<&Error>) -> bool {
    error.is_none_or(|error| matches!(error, Error::Answered { .. }) && !error.may_pass())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_sign_of_life() {
        // The codes of gRPC: permission denied, and unavailable, as without a leader.
        let (endpoint, text, effect) = (String::new, String::new, client::Effect::Read);
        let answered = |code: i32| Error::Answered { endpoint: endpoint(), code: code.into(), text: text(), effect };
        assert!(is_answer(None) && is_answer(Some(&answered(7))));
        let lost = Error::Lost { endpoint: endpoint(), reason: text(), effect };
        assert!(!is_answer(Some(&answered(14))) && !is_answer(Some(&lost)));
        // A role for all keys with that prefix is for this one, too.
        assert!(ping_key().starts_with("/_metad/"));
    }
}
