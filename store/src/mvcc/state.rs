//! The state machine's memory, and the one lock around it.
//!
//! Apply takes the lock for writing once per batch; readers take it for reading and let go of it every
//! [`RANGE_CHUNK`] keys. What is on disk is read without the lock.

use super::index::{Index, Stamp};
use super::revision::Revision;
use super::tail::Tail;
use crate::Options;
use crate::alarm::Alarms;
use crate::auth::Auth;
use crate::blocks::{self, Block};
use crate::command::Position;
use crate::error::Fault;
use crate::lease::Leases;
use crate::members::Members;
use crate::schema;
use crate::v2::Tree;
use api::encoded::KeyValue;
use parking_lot::{Mutex, RwLock};
use redb::{Database, ReadableDatabase, ReadableTable};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

/// Keys that a reader visits under one hold of the lock.
pub(crate) const RANGE_CHUNK: usize = 1000;

/// What every stored change costs beside its key-value: its revision, its checksum and its place in the index.
const STORED_OVERHEAD: u64 = 32;

/// Bytes that a stored change counts for in the space quota, by its encoded key-value.
pub(crate) fn stored_size(kv: &[u8]) -> u64 {
    kv.len() as u64 + STORED_OVERHEAD
}

pub(crate) struct State {
    /// Grows when an installed snapshot takes the state's place: what was found in the index and the tail before says
    /// nothing about the new ones.
    pub(crate) generation: u64,
    pub(crate) index: Index,
    pub(crate) tail: Tail,
    pub(crate) leases: Leases,
    pub(crate) alarms: Alarms,
    pub(crate) members: Members,
    pub(crate) auth: Auth,
    /// The v2 API's keys.
    pub(crate) v2: Tree,
    /// The store revision.
    pub(crate) revision: i64,
    /// Everything below was compacted away; -1 when nothing ever was, as in etcd.
    pub(crate) compacted: i64,
    /// Up to here history has been removed from the index and from disk.
    pub(crate) compaction_finished: i64,
    /// Revisions that a compaction dropped from the index and the flush has yet to delete.
    pub(crate) dropped: Vec<Revision>,
    /// Bytes kept, see [`stored_size`]. The same on every member that finished the same compactions.
    pub(crate) stored_bytes: u64,
    pub(crate) applied: Position,
    /// The raft layer's membership, opaque here.
    pub(crate) membership: Vec<u8>,
}

/// A fresh store.
impl Default for State {
    fn default() -> Self {
        Self {
            generation: 0,
            index: Index::default(),
            tail: Tail::default(),
            leases: Leases::default(),
            alarms: Alarms::default(),
            members: Members::default(),
            auth: Auth::default(),
            v2: Tree::default(),
            revision: 1,
            compacted: -1,
            compaction_finished: -1,
            dropped: Vec::new(),
            stored_bytes: 0,
            applied: Position::default(),
            membership: Vec::new(),
        }
    }
}

/// Numbers published after every apply and flush.
#[derive(Default)]
pub(crate) struct Gauges {
    /// Changes of keys that are not in the database.
    pub(crate) tail_bytes: AtomicUsize,
    /// The same with the nodes of the v2 API's tree.
    pub(crate) unflushed_bytes: AtomicUsize,
    /// Nodes of the tree that no flush has taken yet.
    pub(crate) v2_waiting_bytes: AtomicUsize,
    pub(crate) stored_bytes: AtomicU64,
    /// The auth revision while authentication is enabled, 0 while it is not.
    pub(crate) auth_revision: AtomicU64,
    /// When the next node of the v2 API's tree expires, `i64::MAX` if none does.
    pub(crate) v2_expiration: AtomicI64,
    /// Whether requests of the v2 API need a user, and twice the number of changes of its users and roles.
    pub(crate) v2_auth: AtomicU64,
    /// Reads of the v2 API's tree, and those that found nothing: of one level, and of all below.
    pub(crate) v2_gets: [[AtomicU64; 2]; 2],
}

impl Gauges {
    pub(crate) fn publish(&self, state: &State) {
        self.tail_bytes.store(state.tail.bytes(), Ordering::Relaxed);
        self.unflushed_bytes.store(state.unflushed_bytes(), Ordering::Relaxed);
        self.v2_waiting_bytes.store(state.v2.waiting_bytes(), Ordering::Relaxed);
        self.stored_bytes.store(state.counted_bytes(), Ordering::Relaxed);
        self.v2_expiration.store(state.v2.next_expiration().unwrap_or(i64::MAX), Ordering::Relaxed);
        let auth_revision = if state.auth.is_enabled() { state.auth.revision() } else { 0 };
        // Before the answers to what was applied go out, and its events.
        self.auth_revision.store(auth_revision, Ordering::Release);
        let (v2_enabled, v2_changes) = state.v2.auth();
        self.v2_auth.store(u64::from(v2_enabled) | v2_changes << 1, Ordering::Release);
    }
}

/// Shared by the one writer, the flush and all readers.
pub(crate) struct Shared {
    pub(crate) state: RwLock<State>,
    /// What the last flush has left in the database. Replaced by every flush, and with another database by a
    /// defragmentation and an installed snapshot. Readers hold on to the one they started with.
    pub(crate) on_disk: RwLock<Arc<Revisions>>,
    /// Held by whoever writes the database or puts another one in its place: what was copied from the state for the
    /// database must not go to another one. A flush at most.
    pub(crate) writing: Mutex<()>,
    pub(crate) path: std::path::PathBuf,
    pub(crate) options: Options,
    /// Held by whoever needs history to stay as it is (a hash), and by each step of a compaction.
    pub(crate) history: Mutex<()>,
    /// What proposers look at before every request, without the lock.
    pub(crate) gauges: Gauges,
    /// Position that is durable in the database, and the membership at that position.
    pub(crate) durable: Mutex<(Position, Vec<u8>)>,
}

impl Shared {
    pub(crate) fn database(&self) -> Arc<Database> {
        self.on_disk.read().database.clone()
    }

    /// The revisions on disk. Called with the state lock held, so that whatever the index names and the tail no longer
    /// holds is in them.
    ///
    /// Never waits for the disk: redb's `begin_read` would, while a flush that needs a larger file syncs it.
    pub(crate) fn revisions(&self) -> Arc<Revisions> {
        self.on_disk.read().clone()
    }

    /// The key-value of a change, for callers that hold the state lock anyway.
    pub(crate) fn key_value(&self, state: &State, key: &[u8], stamp: Stamp) -> Result<KeyValue, Fault> {
        if let Some(kv) = state.in_memory(key, stamp) {
            return Ok(kv);
        }
        self.revisions().get(stamp.revision())
    }
}

impl State {
    /// What the quota limits.
    pub(crate) fn counted_bytes(&self) -> u64 {
        self.stored_bytes + self.v2.bytes()
    }

    /// What was applied and is not in the database yet: changes of keys, and nodes of the v2 API's tree.
    pub(crate) fn unflushed_bytes(&self) -> usize {
        self.tail.bytes() + self.v2.unwritten_bytes()
    }

    /// The key-value of a change when it is cached or in the tail.
    pub(crate) fn in_memory(&self, key: &[u8], stamp: Stamp) -> Option<KeyValue> {
        let cached = self.index.get(key).and_then(|entry| entry.cached(stamp));
        cached.cloned().or_else(|| self.tail.get(stamp.revision()).map(|record| record.kv.clone()))
    }
}

/// A consistent view of the revisions on disk.
pub(crate) struct Revisions {
    table: redb::ReadOnlyTable<&'static [u8; 12], &'static [u8]>,
    /// A dropped database fails the reads that are still under way, and a defragmentation or a snapshot that is installed
    /// replaces it at any time.
    database: Arc<Database>,
}

impl Revisions {
    /// What is committed now. May wait for a sync of the file.
    pub(crate) fn committed(database: Arc<Database>) -> Result<Self, Fault> {
        let table = database.begin_read()?.open_table(schema::REVISIONS)?;
        Ok(Self { table, database })
    }

    /// The database, unless it is shared.
    #[cfg(test)]
    pub(crate) fn into_database(self) -> Option<Database> {
        drop(self.table);
        Arc::into_inner(self.database)
    }

    pub(crate) fn get(&self, revision: Revision) -> Result<KeyValue, Fault> {
        blocks::find(&self.table, revision)?.ok_or_else(|| schema::damaged(revision, "is in the index but not on disk"))
    }

    /// Changes from the main revision `from` on, ascending, up to and including `to`. Fails when one is missing;
    /// `compacted` is the compacted revision as of this view.
    pub(crate) fn scan(
        &self,
        from: i64,
        to: i64,
        compacted: i64,
    ) -> Result<impl Iterator<Item = Result<(Revision, KeyValue), Fault>> + '_, Fault> {
        let start = Revision::first(from);
        let begin = blocks::begin_of(&self.table, start)?;
        let mut range = ReadableTable::range::<&[u8; 12]>(&self.table, &begin..)?;
        let mut check = schema::Rows::new(from, compacted);
        let mut gathered = Vec::<(Revision, KeyValue)>::new().into_iter();
        let mut done = false;
        let mut next = move || loop {
            if let Some((revision, kv)) = gathered.next() {
                if revision.main <= to {
                    return Ok(Some((revision, kv)));
                }
            } else if let Some(block) = range.next() {
                let (key, block) = block?;
                gathered = changes(Block::new(key.value(), block.value())?, start, &mut check)?.into_iter();
                continue;
            }
            check.reach(to)?;
            return Ok(None);
        };
        Ok(std::iter::from_fn(move || {
            if done {
                return None;
            }
            let change = next().transpose();
            done = !matches!(change, Some(Ok(_)));
            change
        }))
    }
}

/// The changes of a block from a revision on.
fn changes(block: Block<'_>, from: Revision, check: &mut schema::Rows) -> Result<Vec<(Revision, KeyValue)>, Fault> {
    let mut changes = Vec::new();
    for change in block {
        let (key, row) = change?;
        if Revision::from_key(key) >= from {
            let (revision, kv) = check.next(key, row)?;
            changes.push((revision, KeyValue::from_stored(kv)));
        }
    }
    Ok(changes)
}

/// True when a stored key-value is a tombstone: a put always has a revision.
pub(crate) fn is_tombstone(kv: &KeyValue) -> Result<bool, Fault> {
    Ok(fields(kv.as_bytes())?.mod_revision == 0)
}

/// The fields of a stored key-value.
pub(crate) fn fields(kv: &[u8]) -> Result<api::encoded::KeyValueFields<'_>, Fault> {
    api::encoded::fields(kv).map_err(|error| Fault::Damaged { table: "revisions", reason: error.to_string() })
}
