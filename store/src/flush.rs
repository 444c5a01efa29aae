//! Brings what was applied to the database: one durable transaction for the tail, every changed table and the
//! applied position. Also everything else that rewrites the database: compaction and defragmentation.
//!
//! There is one [`Flusher`], driven by a thread of the server. It holds the state lock only to copy what changed and
//! to trim the tail afterwards; apply and readers go on while it writes.

use crate::auth::rows as auth_rows;
use crate::blocks::{self, Block};
use crate::command::Position;
use crate::error::Fault;
use crate::lease::Lease;
use crate::members::MemberChange;
use crate::mvcc::compact::Walk;
use crate::mvcc::revision::Revision;
use crate::mvcc::state::{Revisions, Shared};
use crate::mvcc::tail::TailRecord;
use crate::open::{Unnamed, build};
use crate::schema::{self, meta};
use crate::v2::rows as v2_rows;
use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTableMetadata, WriteTransaction};
use std::sync::Arc;

/// Compacted revisions deleted in one flush: about 50 ms of work, so that the tail does not pile up meanwhile.
const DELETES_PER_FLUSH: usize = 10_000;

/// Cache slots visited for eviction after a flush.
const EVICTION_STEPS: usize = 20_000;

/// The one handle that writes the database.
pub struct Flusher {
    pub(crate) shared: Arc<Shared>,
    walk: Walk,
    /// The state's generation at the last flush.
    generation: u64,
}

/// What one flush wrote.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flushed {
    /// Changes written.
    pub changes: usize,
    /// Compacted changes deleted.
    pub deleted: usize,
    /// True when compacted changes are left to delete: flush again soon.
    pub more: bool,
    /// A compaction that is finished now.
    pub compaction_finished: Option<i64>,
}

/// A consistent copy of everything that a flush writes.
struct Changes {
    tail: Vec<TailRecord>,
    leases: Vec<(i64, Option<Lease>)>,
    alarms: Option<Vec<(u64, i32)>>,
    members: Vec<MemberChange>,
    auth: Option<auth_rows::Changes>,
    v2: Option<v2_rows::Changes>,
    /// Ascending.
    dropped: Vec<Revision>,
    revision: i64,
    compacted: i64,
    compaction_finished: i64,
    stored_bytes: u64,
    applied: Position,
    membership: Vec<u8>,
}

impl Flusher {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, walk: Walk::default(), generation: 0 }
    }

    /// Writes everything applied so far. Blocking; the commit syncs the file.
    ///
    /// # Errors
    /// A fault means that this member must stop.
    pub fn flush(&mut self) -> Result<Flushed, Fault> {
        // A snapshot is installed before or after: not while what was copied here goes to the database.
        let shared = Arc::clone(&self.shared);
        let _writing = shared.writing.lock();
        let installed = self.follow_installed();
        let Some(changes) = self.take_changes() else {
            return Ok(Flushed { compaction_finished: installed, ..Flushed::default() });
        };
        let database = shared.database();
        let txn = begin(&database)?;
        let freed = write(&txn, &changes)?;
        txn.commit()?;
        let committed = Arc::new(Revisions::committed(database)?);

        let mut state = self.shared.state.write();
        // Before the tail is trimmed, and under the same lock: what it gives up is found there.
        let before = std::mem::replace(&mut *shared.on_disk.write(), committed);
        state.tail.trim(changes.tail.len());
        state.v2.written();
        state.stored_bytes -= freed;
        state.index.evict(self.shared.options.cache_bytes, EVICTION_STEPS);
        let more = !state.dropped.is_empty();
        let finished = changes.compaction_finished > state.compaction_finished;
        state.compaction_finished = changes.compaction_finished;
        self.shared.gauges.publish(&state);
        drop(state);
        drop(before);
        if finished {
            self.walk.done = None;
        }
        *self.shared.durable.lock() = (changes.applied, changes.membership);
        Ok(Flushed {
            changes: changes.tail.len(),
            deleted: changes.dropped.len(),
            more,
            compaction_finished: finished.then_some(changes.compaction_finished).or(installed),
        })
    }

    /// Whether a flush is worth waiting for: no key has changed, but nodes of the v2 API's tree have. Their rows lie anywhere in
    /// their table, so that almost every one of them costs a page, and the next change of the same page as much again. Changes
    /// of keys only follow each other. What else may have changed (leases, users, members) is small, and in the log.
    pub fn may_wait(&self) -> bool {
        let state = self.shared.state.read();
        state.v2.waiting_bytes() > 0 && state.tail.len() == 0 && state.dropped.is_empty() && self.walk.done.is_none()
    }

    /// The compaction that a snapshot brought with it, when one was installed since the last flush.
    fn follow_installed(&mut self) -> Option<i64> {
        let state = self.shared.state.read();
        self.walk.follow(&state);
        let installed = std::mem::replace(&mut self.generation, state.generation) != state.generation;
        (installed && state.compaction_finished >= 0).then_some(state.compaction_finished)
    }

    /// Visits up to `keys` keys of a compaction under way. Returns false when there is nothing to do now.
    pub fn compact_step(&mut self, keys: usize) -> bool {
        // What was dropped must not pile up faster than flushes delete it.
        if self.shared.state.read().dropped.len() > 2 * DELETES_PER_FLUSH {
            return false;
        }
        self.walk.step(&self.shared, keys)
    }

    fn take_changes(&self) -> Option<Changes> {
        let mut guard = self.shared.state.write();
        let state = &mut *guard;
        let count = state.dropped.len().min(DELETES_PER_FLUSH);
        let mut dropped: Vec<_> = state.dropped.drain(..count).collect();
        dropped.sort_unstable();
        let all_dropped = state.dropped.is_empty();
        let finished = self.walk.done.filter(|_| all_dropped).unwrap_or(state.compaction_finished);
        if state.applied == self.shared.durable.lock().0 && dropped.is_empty() && finished == state.compaction_finished
        {
            return None;
        }
        Some(Changes {
            tail: state.tail.from(Revision::default()).cloned().collect(),
            leases: state.leases.take_changed(),
            alarms: state.alarms.take_changed(),
            members: state.members.take_changed(),
            auth: state.auth.take_changed(),
            v2: state.v2.take_changed(),
            dropped,
            revision: state.revision,
            compacted: state.compacted,
            compaction_finished: finished,
            stored_bytes: state.stored_bytes,
            applied: state.applied,
            membership: state.membership.clone(),
        })
    }

    /// Copies the database to a new file without its free space and puts it in the old one's place. Apply and
    /// readers go on: only the flush waits, so the tail grows meanwhile.
    ///
    /// What is not flushed yet stays in the tail and goes to the new file. A snapshot that is installed meanwhile makes the
    /// copy worthless: its file is as good. `Ok(Err(_))` says why it was not done, a full disk for example: then the old
    /// file is in use as before.
    ///
    /// # Errors
    /// A fault means that this member must stop: the new file is in use, and a crash could bring the old one back.
    pub fn defragment(&mut self) -> Result<Result<(), Fault>, Fault> {
        match self.copy_database() {
            Ok(copy) => self.exchange(copy),
            Err(reason) => Ok(Err(reason)),
        }
    }

    fn copy_database(&self) -> Result<Copy, Fault> {
        let shared = &self.shared;
        let (from, generation, compacted) = {
            let state = shared.state.read();
            (shared.database(), state.generation, state.compacted)
        };
        let (database, file) = build(&shared.path, &shared.options, |to| copy(&from, to, compacted))?;
        Ok(Copy { on_disk: Revisions::committed(Arc::new(database))?, file, generation })
    }

    fn exchange(&self, copy: Copy) -> Result<Result<(), Fault>, Fault> {
        let shared = &self.shared;
        let _writing = shared.writing.lock();
        if shared.state.read().generation != copy.generation {
            return Ok(Ok(()));
        }
        if let Err(reason) = copy.file.place(&shared.path) {
            return Ok(Err(reason));
        }
        let old = std::mem::replace(&mut *shared.on_disk.write(), Arc::new(copy.on_disk));
        // Closed outside the lock, unless a reader still holds it.
        drop(old);
        shared.options.disk.sync_directory(&shared.path).map(Ok)
    }
}

/// A copy of the database without its free space, until it takes the database's place.
struct Copy {
    on_disk: Revisions,
    file: Unnamed,
    /// Of the state that the copied database belongs to.
    generation: u64,
}

/// Starts a durable transaction that commits in two phases, so that a damaged commit is an error and never a silent step
/// back. The allocation state is not saved with it ("quick repair"): opening verifies the file and does not use it.
pub(crate) fn begin(db: &Database) -> Result<WriteTransaction, Fault> {
    let mut txn = db.begin_write()?;
    txn.set_two_phase_commit(true);
    Ok(txn)
}

/// Writes the changes and returns how many stored bytes the deletes freed.
fn write(txn: &WriteTransaction, changes: &Changes) -> Result<u64, Fault> {
    let mut freed = 0;
    {
        let mut revisions = txn.open_table(schema::REVISIONS)?;
        if !changes.tail.is_empty() {
            let mut block = blocks::Builder::at_end(&revisions)?;
            let mut row = Vec::new();
            for record in &changes.tail {
                let key = record.revision.to_key();
                block.push(&mut revisions, &key, schema::encode_row(&key, record.kv.as_bytes(), &mut row))?;
            }
            block.write(&mut revisions)?;
        }
        freed += blocks::remove(&mut revisions, &changes.dropped)?;
    }
    if !changes.leases.is_empty() {
        let mut leases = txn.open_table(schema::LEASES)?;
        for (id, lease) in &changes.leases {
            match lease {
                Some(lease) => drop(leases.insert(id, &schema::encode_pair(lease.ttl, lease.remaining_ttl))?),
                None => drop(leases.remove(id)?),
            }
        }
    }
    if let Some(alarms) = &changes.alarms {
        let mut table = txn.open_table(schema::ALARMS)?;
        table.retain(|_, ()| false)?;
        for alarm in alarms {
            table.insert(alarm, ())?;
        }
    }
    if !changes.members.is_empty() {
        let mut members = txn.open_table(schema::MEMBERS)?;
        let mut removed = txn.open_table(schema::REMOVED_MEMBERS)?;
        for member in &changes.members {
            match member {
                MemberChange::Published(attributes) => {
                    drop(members.insert(attributes.member_id, attributes.encode_to_vec().as_slice())?);
                }
                MemberChange::Removed(id) => {
                    drop(members.remove(id)?);
                    removed.insert(id, ())?;
                }
            }
        }
    }
    if let Some(auth) = &changes.auth {
        auth_rows::write(txn, auth)?;
    }
    if let Some(v2) = &changes.v2 {
        v2_rows::write(txn, v2)?;
    }
    let mut table = txn.open_table(schema::META)?;
    table.insert(meta::APPLIED, schema::encode_position(changes.applied).as_slice())?;
    table.insert(meta::MEMBERSHIP, changes.membership.as_slice())?;
    for (name, value) in [
        (meta::REVISION, changes.revision),
        (meta::COMPACTED, changes.compacted),
        (meta::COMPACTION_FINISHED, changes.compaction_finished),
        (meta::STORED_BYTES, (changes.stored_bytes - freed) as i64),
    ] {
        table.insert(name, value.to_be_bytes().as_slice())?;
    }
    Ok(freed)
}

/// Copies every table into a new database and syncs it.
fn copy(from: &Database, to: &Database, compacted: i64) -> Result<(), Fault> {
    let source = from.begin_read()?;
    let txn = begin(to)?;
    {
        let mut revisions = txn.open_table(schema::REVISIONS)?;
        let rows = source.open_table(schema::REVISIONS)?;
        let mut check = schema::Rows::new(0, compacted);
        let mut count = 0;
        // Into full blocks again: compactions leave small ones.
        let mut copied = blocks::Builder::default();
        for row in rows.range::<&[u8; 12]>(..)? {
            let (key, block) = row?;
            for change in Block::new(key.value(), block.value())? {
                let (key, row) = change?;
                check.next(key, row)?;
                copied.push(&mut revisions, key, row)?;
            }
            count += 1;
        }
        copied.write(&mut revisions)?;
        schema::check_count(count, rows.len()?)?;
        let mut leases = txn.open_table(schema::LEASES)?;
        for row in source.open_table(schema::LEASES)?.range::<i64>(..)? {
            let (key, value) = row?;
            leases.insert(key.value(), value.value())?;
        }
        let mut alarms = txn.open_table(schema::ALARMS)?;
        for row in source.open_table(schema::ALARMS)?.range::<(u64, i32)>(..)? {
            alarms.insert(row?.0.value(), ())?;
        }
        let mut members = txn.open_table(schema::MEMBERS)?;
        for row in source.open_table(schema::MEMBERS)?.range::<u64>(..)? {
            let (key, value) = row?;
            members.insert(key.value(), value.value())?;
        }
        let mut removed = txn.open_table(schema::REMOVED_MEMBERS)?;
        for row in source.open_table(schema::REMOVED_MEMBERS)?.range::<u64>(..)? {
            removed.insert(row?.0.value(), ())?;
        }
        auth_rows::copy(&source, &txn)?;
        v2_rows::copy(&source, &txn)?;
        let mut table = txn.open_table(schema::META)?;
        for row in source.open_table(schema::META)?.range::<&str>(..)? {
            let (key, value) = row?;
            table.insert(key.value(), value.value())?;
        }
    }
    txn.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{begin, build, copy, write};
    use crate::command::{Entry, Position};
    use crate::error::Fault;
    use crate::open::unfinished;
    use crate::{Import, Options, Reader, Writer, open};
    use api::cleatpb::Command;
    use api::cleatpb::command::Op;
    use api::etcdserverpb::{PutRequest, RangeRequest};

    fn put(writer: &mut Writer, index: u64, key: &'static str) {
        let put = PutRequest { key: key.into(), ..Default::default() };
        let commands = [Command { header: None, op: Some(Op::Put(put)) }];
        writer.apply([Entry { position: Position { term: 1, index }, commands: &commands, membership: None }]).unwrap();
    }

    fn set(writer: &mut Writer, index: u64, value: usize) {
        let request = api::cleatpb::V2Request {
            method: api::cleatpb::v2_request::Method::Set as i32,
            path: "/1/k".into(),
            value: vec![b'v'; value].into(),
            ..Default::default()
        };
        let commands = [Command { header: None, op: Some(Op::V2(request)) }];
        writer.apply([Entry { position: Position { term: 1, index }, commands: &commands, membership: None }]).unwrap();
    }

    fn answers(reader: &Reader) -> String {
        let all = RangeRequest { key: "a".into(), range_end: vec![0].into(), revision: 3, ..Default::default() };
        let range = reader.range(&all).unwrap();
        let past = [1, 30, 1000].map(|bytes| {
            let past = reader.past(2, bytes).unwrap();
            (past.next, past.changes.iter().map(|change| (change.revision, change.events.len())).collect::<Vec<_>>())
        });
        format!("{range:?} {past:?} {:?}", reader.hash_kv(0).unwrap())
    }

    #[test]
    fn a_copy_that_fails_leaves_the_database_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let (mut writer, mut flusher, reader) = open(&path, Options::default()).unwrap();
        for (index, key) in ["a", "b", "c"].into_iter().enumerate() {
            put(&mut writer, 1 + index as u64, key);
        }
        flusher.flush().unwrap();
        // As a disk that is full once the copy is written.
        let full = |from: &redb::Database, to: &redb::Database| {
            copy(from, to, -1)?;
            Err(Fault::Io { context: "copy".into(), source: std::io::ErrorKind::StorageFull.into() })
        };
        let database = flusher.shared.database();
        assert!(build(&path, &Options::default(), |to| full(&database, to)).is_err());
        drop(database);
        assert!(!unfinished(&path).exists());
        put(&mut writer, 4, "d");
        flusher.flush().unwrap();
        let before = answers(&reader);
        flusher.defragment().unwrap().unwrap();
        assert_eq!((answers(&reader), reader.durable().0.index), (before, 4));
    }

    #[test]
    fn a_copy_that_a_snapshot_overtakes_is_thrown_away() {
        let directory = tempfile::tempdir().unwrap();
        let (path, options) = (directory.path().join("db"), Options::default());
        let (mut writer, mut flusher, reader) = open(&path, options.clone()).unwrap();
        put(&mut writer, 1, "a");
        flusher.flush().unwrap();
        let mut snapshot = reader.snapshot().unwrap();
        let (mut behind, mut behind_flusher, behind_reader) =
            open(&directory.path().join("behind"), options.clone()).unwrap();
        let copied = behind_flusher.copy_database().unwrap();
        let mut import = Import::create(&directory.path().join("behind"), &options).unwrap();
        while let Some(frame) = snapshot.next_frame().unwrap() {
            import.feed(&frame).unwrap();
        }
        drop(behind.install(import.finish().unwrap()).unwrap());
        behind_flusher.exchange(copied).unwrap().unwrap();
        assert_eq!(directory.path().read_dir().unwrap().count(), 2);
        for index in [2, 3] {
            put(&mut writer, index, "b");
            put(&mut behind, index, "b");
            behind_flusher.flush().unwrap();
            assert_eq!(answers(&behind_reader), answers(&reader));
            behind_flusher.defragment().unwrap().unwrap();
        }
        drop((behind, behind_flusher, behind_reader));
        assert_eq!(answers(&open(&directory.path().join("behind"), options).unwrap().2), answers(&reader));
    }

    #[test]
    fn only_nodes_of_the_tree_may_wait() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let (mut writer, mut flusher, reader) = open(&path, Options::default()).unwrap();
        assert!(!flusher.may_wait(), "nothing has changed");
        set(&mut writer, 1, 1000);
        assert!(flusher.may_wait() && reader.tail_bytes() == 0);
        let waiting = reader.v2_waiting_bytes();
        assert!(waiting > 1000 && reader.unflushed_bytes() == waiting);
        set(&mut writer, 2, 1000);
        assert_eq!(reader.v2_waiting_bytes(), waiting, "the same row");
        put(&mut writer, 3, "a");
        assert!(!flusher.may_wait());
        assert_eq!(reader.unflushed_bytes(), waiting + reader.tail_bytes());
        let changes = flusher.take_changes().unwrap();
        put(&mut writer, 4, "b");
        assert_eq!((reader.v2_waiting_bytes(), reader.unflushed_bytes()), (0, waiting + reader.tail_bytes()));
        drop(changes);
        flusher.flush().unwrap();
        assert_eq!((reader.unflushed_bytes(), flusher.may_wait()), (0, false));
    }

    /// Between its commit and the trim of the tail, a flush has every change in both places.
    #[test]
    fn a_committed_change_that_is_still_in_the_tail_counts_once() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, mut flusher, reader) = open(&directory.path().join("db"), Options::default()).unwrap();
        put(&mut writer, 1, "a");
        flusher.flush().unwrap();
        put(&mut writer, 2, "b");
        put(&mut writer, 3, "c");
        let before = answers(&reader);
        let changes = flusher.take_changes().unwrap();
        let txn = begin(&flusher.shared.database()).unwrap();
        write(&txn, &changes).unwrap();
        txn.commit().unwrap();
        assert_eq!(answers(&reader), before);
        put(&mut writer, 4, "d");
        assert_eq!(reader.past(2, 1000).unwrap().changes.len(), 4);
    }
}
