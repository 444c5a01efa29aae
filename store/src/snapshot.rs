//! The whole store as a stream of checksummed frames. See docs/format.md.
//!
//! A snapshot is taken of what is durable in the database at one moment; reading it blocks nobody. It serves the
//! `Snapshot` RPC, a member that is too far behind for the log, and offline tools.
//!
//! - this file: the sender, and the import of a whole stream into a new file;
//! - [`progress`]: how far a receiver has come, for a sender that goes on after a broken connection;
//! - [`receive`]: an import that is fed piece by piece while the store is in use;
//! - [`frames`] and [`rows`]: the parts of the stream.
//!
//! ```text
//! stream = "CLEATSNP" version:u32 frame* zeros    all integers big endian
//! frame  = length:u32 crc32c:u32 row*             length counts the rows; a frame without rows is the last
//! crc32c covers the rows of this frame and of all frames before it
//! row    = table:u8 key_length:u32 key value_length:u32 value
//! ```

mod frames;
pub(crate) mod progress;
pub(crate) mod receive;
pub(crate) mod rows;
#[cfg(test)]
mod tests;

use crate::Options;
use crate::blocks::Block;
use crate::command::Position;
use crate::error::Fault;
use crate::mvcc::revision::Revision;
use crate::reader::Reader;
use crate::schema::{self, meta};
use progress::{Identity, Progress};
use receive::Import;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTableMetadata};
use rows::Key;
use std::io::Read;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"CLEATSNP";
const VERSION: u32 = 3;

/// Bytes before the first frame, and of a frame before its rows.
pub(crate) const HEADER: usize = 12;
pub(crate) const FRAME_HEAD: usize = 8;

/// The stream is padded with zeros to a multiple of this, so that etcdctl, which appends a SHA-256 to what it saves,
/// finds it by the file's size as in etcd's snapshots.
const PADDING: u64 = 512;

/// Rows are gathered until a frame has this size. One large value can exceed it.
const FRAME_BYTES: usize = 32 << 10;

/// Largest frame that is believed: the largest request is far below.
const FRAME_BYTES_MAX: u32 = 1 << 30;

/// Bytes handed to an import at once.
const IMPORT_PIECE: usize = 64 << 10;

/// A consistent view of the database, read frame by frame.
pub struct Snapshot {
    txn: Arc<ReadTransaction>,
    /// A dropped database fails the reads that are still under way, and a defragmentation replaces it at any time.
    database: Arc<Database>,
    stage: Stage,
    membership: Vec<u8>,
    /// What was sent, and which snapshot this is.
    sent: Progress,
    /// Blocks sent; unknown when the stream began elsewhere.
    blocks: Option<u64>,
    check: schema::Rows,
}

enum Stage {
    Header,
    Rows,
    Done,
}

impl Reader {
    /// Takes a snapshot of what is durable; flush first to have everything in it.
    ///
    /// # Errors
    /// A fault.
    pub fn snapshot(&self) -> Result<Snapshot, Fault> {
        Snapshot::of(self.shared.database())
    }
}

impl Snapshot {
    /// Of what is durable in a database.
    pub(crate) fn of(database: Arc<Database>) -> Result<Self, Fault> {
        let txn = database.begin_read()?;
        let table = txn.open_table(schema::META)?;
        let bytes = |name: &str| Ok::<_, Fault>(table.get(name)?.map(|bytes| bytes.value().to_vec()));
        let int =
            |name: &str, default: i64| bytes(name)?.map_or(Ok(default), |bytes| schema::decode_int("meta", &bytes));
        let identity = Identity {
            position: bytes(meta::APPLIED)?.map(|b| schema::decode_position(&b)).transpose()?.unwrap_or_default(),
            revision: int(meta::REVISION, 1)?,
            compacted: int(meta::COMPACTED, -1)?,
            compaction_finished: int(meta::COMPACTION_FINISHED, -1)?,
            stored_bytes: int(meta::STORED_BYTES, 0)? as u64,
        };
        let membership = bytes(meta::MEMBERSHIP)?.unwrap_or_default();
        drop(table);
        Ok(Self {
            txn: Arc::new(txn),
            database,
            stage: Stage::Header,
            membership,
            sent: Progress { identity, ..Progress::default() },
            blocks: Some(0),
            check: schema::Rows::new(0, identity.compacted),
        })
    }

    /// The last log entry that the snapshot contains.
    pub fn position(&self) -> Position {
        self.sent.identity.position
    }

    /// The raft layer's membership at that entry.
    pub fn membership(&self) -> &[u8] {
        &self.membership
    }

    /// The store revision of the snapshot.
    pub fn revision(&self) -> i64 {
        self.sent.identity.revision
    }

    /// The same snapshot from its beginning: its stream has the same bytes, whatever was written or compacted since.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            txn: Arc::clone(&self.txn),
            database: Arc::clone(&self.database),
            stage: Stage::Header,
            membership: self.membership.clone(),
            sent: Progress { identity: self.sent.identity, ..Progress::default() },
            blocks: Some(0),
            check: schema::Rows::new(0, self.sent.identity.compacted),
        }
    }

    /// Bytes of the whole stream. Reads everything once.
    ///
    /// # Errors
    /// A fault.
    pub fn stream_bytes(&mut self) -> Result<u64, Fault> {
        let mut len = 0;
        self.restart();
        while let Some(frame) = self.next_frame()? {
            len += frame.len() as u64;
        }
        self.restart();
        Ok(len)
    }

    /// Goes on behind what a receiver has: the bytes that follow are those that followed before. False, and nothing is
    /// changed, when the receiver has a part of another snapshot: then it must begin again.
    ///
    /// # Errors
    /// A fault.
    pub fn resume_after(&mut self, progress: &Progress) -> Result<bool, Fault> {
        let Some(last) = &progress.last else {
            self.restart();
            return Ok(true);
        };
        // The token came over the network: a row that is not there would look like damage later.
        if progress.identity != self.sent.identity || !self.has(last)? {
            return Ok(false);
        }
        let compacted = self.sent.identity.compacted;
        (self.blocks, self.check) = match last {
            Key::Revision(block) => (None, schema::Rows::after(self.last_of(*block)?, compacted)),
            _ => (Some(0), schema::Rows::new(0, compacted)),
        };
        self.sent = progress.clone();
        self.stage = Stage::Rows;
        Ok(true)
    }

    fn restart(&mut self) {
        self.stage = Stage::Header;
        self.sent = Progress { identity: self.sent.identity, ..Progress::default() };
        self.blocks = Some(0);
        self.check = schema::Rows::new(0, self.sent.identity.compacted);
    }

    /// The last change of the block that begins with a revision.
    fn last_of(&self, block: Revision) -> Result<Revision, Fault> {
        let (first, table) = (block.to_key(), self.txn.open_table(schema::REVISIONS)?);
        match table.get(&first)? {
            Some(bytes) => Block::new(&first, bytes.value())?.last(),
            None => Ok(block),
        }
    }

    fn has(&self, key: &Key) -> Result<bool, Fault> {
        Ok(match key {
            Key::Meta(name) => self.txn.open_table(schema::META)?.get(&**name)?.is_some(),
            Key::Lease(id) => self.txn.open_table(schema::LEASES)?.get(id)?.is_some(),
            Key::Alarm(id, alarm) => self.txn.open_table(schema::ALARMS)?.get((*id, *alarm))?.is_some(),
            Key::Member(id) => self.txn.open_table(schema::MEMBERS)?.get(id)?.is_some(),
            Key::RemovedMember(id) => self.txn.open_table(schema::REMOVED_MEMBERS)?.get(id)?.is_some(),
            Key::AuthUser(name) => self.txn.open_table(schema::AUTH_USERS)?.get(&**name)?.is_some(),
            Key::AuthRole(name) => self.txn.open_table(schema::AUTH_ROLES)?.get(&**name)?.is_some(),
            Key::V2Node(path) => self.txn.open_table(schema::V2_NODES)?.get(&**path)?.is_some(),
            Key::V2Event(index) => self.txn.open_table(schema::V2_EVENTS)?.get(index)?.is_some(),
            Key::Revision(revision) => self.txn.open_table(schema::REVISIONS)?.get(&revision.to_key())?.is_some(),
        })
    }

    /// The next piece of the stream, `None` at its end. Blocking.
    ///
    /// # Errors
    /// A fault.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        match self.stage {
            Stage::Header => {
                self.stage = Stage::Rows;
                let mut header = MAGIC.to_vec();
                header.extend(VERSION.to_be_bytes());
                self.sent.bytes = header.len() as u64;
                Ok(Some(header))
            }
            Stage::Rows => {
                let (mut frame, is_end) = self.next_rows()?;
                self.head(&mut frame);
                if is_end {
                    self.stage = Stage::Done;
                    let end = self.sent.bytes;
                    frame.resize(frame.len() + (end.next_multiple_of(PADDING) - end) as usize, 0);
                }
                Ok(Some(frame))
            }
            Stage::Done => Ok(None),
        }
    }

    /// Rows, behind room for the head; and whether there were none.
    fn next_rows(&mut self) -> Result<(Vec<u8>, bool), Fault> {
        let mut bytes = Vec::with_capacity(FRAME_BYTES + FRAME_BYTES / 4);
        bytes.resize(FRAME_HEAD, 0);
        let mut gathered = Gathered { bytes, last: self.sent.last.clone() };
        if !matches!(gathered.last, Some(Key::Revision(_))) {
            self.gather_tables(&mut gathered)?;
        }
        if gathered.is_empty() {
            self.gather_revisions(&mut gathered)?;
        }
        let is_end = gathered.is_empty();
        self.sent.last = gathered.last;
        Ok((gathered.bytes, is_end))
    }

    /// Rows of all tables but the revisions. The first frame has at least those of `meta`, so that whoever has a frame
    /// knows which snapshot it is of.
    fn gather_tables(&self, gathered: &mut Gathered) -> Result<(), Fault> {
        let leases_from = match gathered.last {
            None => {
                for row in self.txn.open_table(schema::META)?.range::<&str>(..)? {
                    let (key, value) = row?;
                    gathered.push(Key::Meta(key.value().into()), value.value());
                }
                Some(i64::MIN)
            }
            Some(Key::Meta(_)) => Some(i64::MIN),
            Some(Key::Lease(id)) => id.checked_add(1),
            Some(_) => return self.gather_auth(gathered),
        };
        if let Some(from) = leases_from {
            for row in self.txn.open_table(schema::LEASES)?.range(from..)? {
                let (key, value) = row?;
                if gathered.is_full() {
                    return Ok(());
                }
                gathered.push(Key::Lease(key.value()), value.value());
            }
        }
        // A handful for each member: together in one frame.
        for row in self.txn.open_table(schema::ALARMS)?.range::<(u64, i32)>(..)? {
            let (member_id, alarm) = row?.0.value();
            gathered.push(Key::Alarm(member_id, alarm), &[]);
        }
        for row in self.txn.open_table(schema::MEMBERS)?.range::<u64>(..)? {
            let (key, value) = row?;
            gathered.push(Key::Member(key.value()), value.value());
        }
        for row in self.txn.open_table(schema::REMOVED_MEMBERS)?.range::<u64>(..)? {
            gathered.push(Key::RemovedMember(row?.0.value()), &[]);
        }
        self.gather_auth(gathered)
    }

    fn gather_auth(&self, gathered: &mut Gathered) -> Result<(), Fault> {
        if matches!(gathered.last, Some(Key::V2Node(_) | Key::V2Event(_))) {
            return self.gather_v2(gathered);
        }
        if !matches!(gathered.last, Some(Key::AuthRole(_))) {
            let table = self.txn.open_table(schema::AUTH_USERS)?;
            let last = if let Some(Key::AuthUser(name)) = &gathered.last { Some(name.clone()) } else { None };
            let after = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            for row in table.range::<&str>((after, Bound::Unbounded))? {
                let (name, record) = row?;
                if gathered.is_full() {
                    return Ok(());
                }
                gathered.push(Key::AuthUser(name.value().into()), record.value());
            }
        }
        let table = self.txn.open_table(schema::AUTH_ROLES)?;
        let last = if let Some(Key::AuthRole(name)) = &gathered.last { Some(name.clone()) } else { None };
        let after = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        for row in table.range::<&str>((after, Bound::Unbounded))? {
            let (name, record) = row?;
            if gathered.is_full() {
                return Ok(());
            }
            gathered.push(Key::AuthRole(name.value().into()), record.value());
        }
        self.gather_v2(gathered)
    }

    fn gather_v2(&self, gathered: &mut Gathered) -> Result<(), Fault> {
        if !matches!(gathered.last, Some(Key::V2Event(_))) {
            let table = self.txn.open_table(schema::V2_NODES)?;
            let last = if let Some(Key::V2Node(path)) = &gathered.last { Some(path.clone()) } else { None };
            let after = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            for row in table.range::<&[u8]>((after, Bound::Unbounded))? {
                let (path, record) = row?;
                if gathered.is_full() {
                    return Ok(());
                }
                gathered.push(Key::V2Node(path.value().into()), record.value());
            }
        }
        let last = if let Some(Key::V2Event(index)) = gathered.last { Some(index) } else { None };
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        for row in self.txn.open_table(schema::V2_EVENTS)?.range::<u64>((after, Bound::Unbounded))? {
            let (index, record) = row?;
            if gathered.is_full() {
                return Ok(());
            }
            gathered.push(Key::V2Event(index.value()), record.value());
        }
        Ok(())
    }

    fn gather_revisions(&mut self, gathered: &mut Gathered) -> Result<(), Fault> {
        let table = self.txn.open_table(schema::REVISIONS)?;
        let last = match &gathered.last {
            Some(Key::Revision(block)) => Some(block.to_key()),
            _ => None,
        };
        let after = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        for row in table.range::<&[u8; 12]>((after, Bound::Unbounded))? {
            let (key, block) = row?;
            if gathered.is_full() {
                return Ok(());
            }
            for change in Block::new(key.value(), block.value())? {
                let (key, row) = change?;
                self.check.next(key, row)?;
            }
            self.blocks = self.blocks.map(|blocks| blocks + 1);
            gathered.push(Key::Revision(Revision::from_key(key.value())), block.value());
        }
        // These are the last.
        match self.blocks {
            Some(blocks) => schema::check_count(blocks, table.len()?),
            None => Ok(()),
        }
    }

    /// Writes the head of a frame before its rows.
    fn head(&mut self, frame: &mut [u8]) {
        let (head, rows) = frame.split_at_mut(FRAME_HEAD);
        self.sent.crc = crc32c::crc32c_append(self.sent.crc, rows);
        let (len, sum) = head.split_at_mut(4);
        len.copy_from_slice(&(rows.len() as u32).to_be_bytes());
        sum.copy_from_slice(&self.sent.crc.to_be_bytes());
        self.sent.frames += 1;
        self.sent.bytes += frame.len() as u64;
    }
}

/// Rows for a frame, behind room for its head.
struct Gathered {
    bytes: Vec<u8>,
    /// The last row so far, in this frame or before it.
    last: Option<Key>,
}

impl Gathered {
    fn is_full(&self) -> bool {
        self.bytes.len() >= FRAME_HEAD + FRAME_BYTES
    }

    fn is_empty(&self) -> bool {
        self.bytes.len() == FRAME_HEAD
    }

    fn push(&mut self, key: Key, value: &[u8]) {
        rows::push(&mut self.bytes, &key, value);
        self.last = Some(key);
    }
}

/// Writes a snapshot into a new database file and makes it durable. The caller opens it. What follows the end of the
/// stream is not read.
///
/// # Errors
/// A stream that is damaged, incomplete or of another version leaves no file behind; an existing file is refused.
pub fn import(mut stream: impl Read, path: &Path, options: &Options) -> Result<(), Fault> {
    if options.disk.exists(path) {
        return Err(Fault::Snapshot(format!("{} exists already", path.display())));
    }
    let mut import = Import::create(path, options)?;
    let mut piece = vec![0; IMPORT_PIECE];
    while !import.has_end() {
        let len = import.missing().min(IMPORT_PIECE);
        let piece = &mut piece[..len];
        stream.read_exact(piece).map_err(|error| Fault::Snapshot(format!("it ends too early: {error}")))?;
        import.feed(piece)?;
    }
    import.finish_unpadded()?.place(path)?;
    options.disk.sync_directory(path)
}
