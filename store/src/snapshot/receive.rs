//! A snapshot on its way in: a new database file is filled beside the one in use, and the memory that goes with it.
//!
//! The stream arrives in pieces of any size. Every frame is checked before one of its rows is believed, and every row
//! before it is written: when the last byte has arrived, there is nothing left to do but to commit. Nothing of the
//! store in use is touched; [`crate::Writer::install`] puts the two in its place.
//!
//! [`Filling`] has the new database. Memory is bounded by its cache, one frame and the index.

use super::frames::Frames;
use super::progress::{Identity, Progress};
use super::rows::{self, Key};
use crate::Options;
use crate::auth;
use crate::blocks::{self, Block};
use crate::command::Position;
use crate::error::Fault;
use crate::filling::{Filling, over};
use crate::lease::{Lease, Leases};
use crate::mvcc::index::{self, Index, Records, Sorted};
use crate::mvcc::revision::Revision;
use crate::mvcc::state::{Revisions, State, fields, stored_size};
use crate::open::{Unnamed, create_database, receiving};
use crate::schema::{self, meta};
use crate::v2;
use api::cleatpb::MemberAttributes;
use api::encoded::KeyValueFields;
use prost::Message;
use redb::Database;
use std::path::Path;
use std::sync::Arc;

/// A stream that is being received. Dropped before it is finished, it leaves nothing behind. Blocking.
pub struct Import {
    frames: Frames,
    last: Option<Key>,
    state: Box<State>,
    /// Checks the revisions, from the first one on.
    check: Option<schema::Rows>,
    /// The changes so far, for the index.
    records: Records,
    /// The last changes, until there are enough for a row of the table.
    block: blocks::Builder,
    /// What the revisions so far amount to.
    stored_bytes: u64,
    /// What the rows of the v2 API's tables amount to.
    v2_bytes: u64,
    format: Option<i64>,
    /// After an error nothing more is believed.
    failed: bool,
    filling: Filling,
}

/// A whole snapshot in a durable file, for [`crate::Writer::install`]. Dropped without that, it leaves nothing behind.
pub struct Received {
    pub(crate) state: Box<State>,
    pub(crate) on_disk: Revisions,
    pub(crate) file: Unnamed,
}

impl Import {
    /// Begins a new database file beside the one at `path`.
    ///
    /// # Errors
    /// The file can not be created.
    pub fn create(path: &Path, options: &Options) -> Result<Self, Fault> {
        let file = Unnamed::new(&options.disk, receiving(path));
        options.disk.remove_left(file.path())?;
        let database = create_database(file.path(), options)?;
        Self::into_database(database, file, options)
    }

    /// Begins to fill an empty database.
    pub(crate) fn into_database(database: Database, file: Unnamed, options: &Options) -> Result<Self, Fault> {
        let filling = Filling::begin(database, file, options)?;
        let txn = filling.txn()?;
        txn.open_table(schema::META)?;
        txn.open_table(schema::LEASES)?;
        txn.open_table(schema::ALARMS)?;
        txn.open_table(schema::MEMBERS)?;
        txn.open_table(schema::REMOVED_MEMBERS)?;
        auth::rows::create(txn)?;
        v2::rows::create(txn)?;
        txn.open_table(schema::REVISIONS)?;
        Ok(Self {
            frames: Frames::new(),
            last: None,
            state: Box::default(),
            check: None,
            records: Records::default(),
            block: blocks::Builder::default(),
            stored_bytes: 0,
            v2_bytes: 0,
            format: None,
            failed: false,
            filling,
        })
    }

    /// Takes the next piece of the stream, of any length.
    ///
    /// # Errors
    /// [`Fault::Snapshot`] when the stream is not one: this import is over, and another one may begin. Any other fault is
    /// about the new file.
    pub fn feed(&mut self, mut piece: &[u8]) -> Result<(), Fault> {
        if self.failed {
            return Err(over());
        }
        self.failed = true;
        while !piece.is_empty() {
            if let Some(rows) = self.frames.next(&mut piece)? {
                self.take_rows(&rows).map_err(about_the_stream)?;
            }
        }
        self.failed = false;
        Ok(())
    }

    /// What has arrived in whole frames: where the sender may go on after [`Self::rewind`].
    pub fn progress(&self) -> Progress {
        let (frames, bytes, crc) = self.frames.whole();
        // The frames' checksum covers nothing else, so a stream of another snapshot would pass.
        let identity = if frames == 0 { Identity::default() } else { Identity::of(&self.state) };
        Progress { identity, frames, bytes, crc, last: self.last.clone() }
    }

    /// Forgets what has arrived of a frame that is not whole, for a stream that goes on from the answer.
    pub fn rewind(&mut self) -> Progress {
        self.frames.rewind();
        self.progress()
    }

    /// True once the last byte of the stream has arrived.
    pub fn is_complete(&self) -> bool {
        self.frames.complete()
    }

    /// True once all of the snapshot has arrived; what may follow is padding.
    pub(crate) fn has_end(&self) -> bool {
        self.frames.ended()
    }

    /// Bytes that can be fed before the next decision about the stream.
    pub(crate) fn missing(&self) -> usize {
        self.frames.missing()
    }

    /// Commits the new file and makes it durable.
    ///
    /// # Errors
    /// [`Fault::Snapshot`] for a stream that is not complete; any other fault is about the new file.
    pub fn finish(self) -> Result<Received, Fault> {
        if !self.is_complete() {
            return Err(Fault::Snapshot("it ends too early".into()));
        }
        self.finish_unpadded()
    }

    /// As [`Self::finish`], for a stream whose padding is somebody else's.
    pub(crate) fn finish_unpadded(self) -> Result<Received, Fault> {
        if self.failed || !self.has_end() {
            return Err(Fault::Snapshot("it ends too early".into()));
        }
        self.check_whole().map_err(about_the_stream)?;
        let Self { mut state, records, mut block, filling, .. } = self;
        block.write(&mut filling.txn()?.open_table(schema::REVISIONS)?)?;
        let leases = std::mem::take(&mut state.leases);
        let (committed, indexed) = std::thread::scope(|scope| {
            let indexed = scope.spawn(|| index_of(records, leases));
            let committed = filling.commit();
            // A panic goes on.
            (committed, indexed.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let (database, file) = committed?;
        (state.index, state.leases) = indexed;
        state.auth.restored();
        state.v2.restored().map_err(about_the_stream)?;
        let on_disk = Revisions::committed(Arc::new(database))?;
        Ok(Received { state, on_disk, file })
    }

    /// What can only be said of all rows together.
    fn check_whole(&self) -> Result<(), Fault> {
        self.check_format()?;
        check_numbers(&self.state)?;
        let state = &self.state;
        let check = self.check.as_ref();
        let nothing = schema::Rows::new(0, state.compacted);
        check.unwrap_or(&nothing).reach(state.revision)?;
        if self.stored_bytes != state.stored_bytes {
            return Err(Fault::Snapshot(format!(
                "its revisions have {} bytes, there should be {}",
                self.stored_bytes, state.stored_bytes
            )));
        }
        Ok(())
    }

    fn check_format(&self) -> Result<(), Fault> {
        match self.format {
            Some(format) if format as u64 == schema::FORMAT => Ok(()),
            Some(found) => Err(Fault::Format { found: found as u64, expected: schema::FORMAT }),
            None => Err(Fault::Snapshot("it does not name its format".into())),
        }
    }

    fn take_rows(&mut self, mut rest: &[u8]) -> Result<(), Fault> {
        while !rest.is_empty() {
            let from_here = rest;
            let (key, value) = rows::take(&mut rest)?;
            if self.last.as_ref().is_some_and(|last| key <= *last) {
                return Err(out_of_place());
            }
            if matches!(key, Key::Revision(_)) {
                return self.take_revisions(from_here);
            }
            self.take_row(&key, value)?;
            if matches!(key, Key::V2Node(_) | Key::V2Event(_)) {
                self.v2_bytes += value.len() as u64;
                self.filling.step(self.stored_bytes + self.v2_bytes)?;
            }
            self.last = Some(key);
        }
        Ok(())
    }

    /// Revisions come last: nothing else may follow one.
    fn take_revisions(&mut self, mut rest: &[u8]) -> Result<(), Fault> {
        if self.check.is_none() {
            self.check_format()?;
            check_numbers(&self.state)?;
            self.records = Records::expecting(self.state.stored_bytes);
        }
        let Self { filling, state, check, last, stored_bytes, block, records, .. } = self;
        let check = check.get_or_insert_with(|| schema::Rows::new(0, state.compacted));
        let mut table = filling.txn()?.open_table(schema::REVISIONS)?;
        while !rest.is_empty() {
            let (key, value) = rows::take(&mut rest)?;
            let Key::Revision(first) = key else { return Err(out_of_place()) };
            for change in Block::new(&first.to_key(), value)? {
                let (key, row) = change?;
                let (revision, kv) = check.next(key, row)?;
                records.push(revision, &plausible(state, revision, kv)?, stored_size(kv));
                block.push(&mut table, key, row)?;
                *stored_bytes += stored_size(kv);
            }
            *last = Some(key);
        }
        drop(table);
        self.filling.step(self.stored_bytes + self.v2_bytes)
    }

    /// A row of any table but the revisions.
    fn take_row(&mut self, key: &Key, value: &[u8]) -> Result<(), Fault> {
        let (txn, state) = (self.filling.txn()?, &mut *self.state);
        match key {
            Key::Meta(name) => {
                let int = || schema::decode_int("meta", value);
                match &**name {
                    meta::FORMAT => self.format = Some(int()?),
                    meta::APPLIED => state.applied = schema::decode_position(value)?,
                    meta::MEMBERSHIP => state.membership = value.to_vec(),
                    meta::REVISION => state.revision = int()?,
                    meta::COMPACTED => state.compacted = int()?,
                    meta::COMPACTION_FINISHED => state.compaction_finished = int()?,
                    meta::STORED_BYTES => state.stored_bytes = int()? as u64,
                    meta::V2_INDEX => state.v2.restore_index(int()? as u64),
                    name if state.auth.restore_number(name, int().unwrap_or_default()) => drop(int()?),
                    other => return Err(Fault::Snapshot(format!("{other} is not known to this release"))),
                }
                txn.open_table(schema::META)?.insert(&**name, value)?;
            }
            Key::Lease(id) => {
                let (ttl, remaining_ttl) = schema::decode_pair("leases", value)?;
                state.leases.restore(*id, Lease { ttl, remaining_ttl });
                txn.open_table(schema::LEASES)?.insert(id, &schema::encode_pair(ttl, remaining_ttl))?;
            }
            Key::Alarm(member_id, alarm) => {
                state.alarms.restore(*member_id, *alarm);
                txn.open_table(schema::ALARMS)?.insert((*member_id, *alarm), ())?;
            }
            Key::Member(id) => {
                let attributes = MemberAttributes::decode(value).map_err(|error| damaged_member(&error.to_string()))?;
                if attributes.member_id != *id {
                    return Err(damaged_member("the id of a member is another one's"));
                }
                state.members.restore(attributes);
                txn.open_table(schema::MEMBERS)?.insert(id, value)?;
            }
            Key::RemovedMember(id) => {
                state.members.restore_removed(*id);
                txn.open_table(schema::REMOVED_MEMBERS)?.insert(id, ())?;
            }
            Key::AuthUser(name) => {
                state.auth.restore_user(name, value)?;
                txn.open_table(schema::AUTH_USERS)?.insert(&**name, value)?;
            }
            Key::AuthRole(name) => {
                state.auth.restore_role(name, value)?;
                txn.open_table(schema::AUTH_ROLES)?.insert(&**name, value)?;
            }
            Key::V2Node(path) => {
                state.v2.restore_node(path, value)?;
                txn.open_table(schema::V2_NODES)?.insert(&**path, value)?;
            }
            Key::V2Event(index) => {
                state.v2.restore_event(*index, value)?;
                txn.open_table(schema::V2_EVENTS)?.insert(index, value)?;
            }
            // Invariant: the caller keeps revisions to itself.
            Key::Revision(_) => {}
        }
        Ok(())
    }
}

impl Received {
    /// The last log entry that the snapshot contains.
    pub fn position(&self) -> Position {
        self.state.applied
    }

    /// The raft layer's membership at that entry.
    pub fn membership(&self) -> &[u8] {
        &self.state.membership
    }

    /// The store revision of the snapshot.
    pub fn revision(&self) -> i64 {
        self.state.revision
    }

    /// Puts the file at `path`, without a store that is in use. The caller makes the name durable.
    pub(crate) fn place(self, path: &Path) -> Result<(), Fault> {
        self.file.place(path)
    }
}

/// The fields of a change, if the store can have it.
fn plausible<'a>(state: &State, revision: Revision, kv: &'a [u8]) -> Result<KeyValueFields<'a>, Fault> {
    let fields = fields(kv)?;
    let plausible = revision.main > 1 && revision.main <= state.revision && revision.sub < 1 << 31;
    if !plausible || (fields.mod_revision != 0 && fields.mod_revision != revision.main) {
        return Err(schema::damaged(revision, "is not plausible"));
    }
    Ok(fields)
}

/// The index of all changes, and the leases with the keys that are attached to them.
fn index_of(records: Records, mut leases: Leases) -> (Index, Leases) {
    let index = Index::rebuild(index::sort(records), Sorted::default(), |key, lease| leases.attach(key, lease));
    (index, leases)
}

fn check_numbers(state: &State) -> Result<(), Fault> {
    let plausible = state.revision >= 1
        && (-1..=state.revision).contains(&state.compacted)
        && (-1..=state.compacted).contains(&state.compaction_finished);
    if plausible { Ok(()) } else { Err(Fault::Snapshot("its numbers are not plausible".into())) }
}

fn out_of_place() -> Fault {
    Fault::Snapshot("a row is doubled or out of place".into())
}

fn damaged_member(reason: &str) -> Fault {
    Fault::Damaged { table: "members", reason: reason.into() }
}

/// What would be a damaged database here is a stream that is not to be believed.
fn about_the_stream(fault: Fault) -> Fault {
    match fault {
        Fault::Damaged { table, reason } => Fault::Snapshot(format!("table {table}: {reason}")),
        Fault::Format { .. } => Fault::Snapshot(fault.to_string()),
        other => other,
    }
}
