//! The whole store as a stream of checksummed frames. See docs/format.md.
//!
//! A snapshot is taken of what is durable in the database at one moment; reading it blocks nobody. It serves the
//! `Snapshot` RPC, a member that is too far behind for the log, and offline tools.
//!
//! ```text
//! stream = "CLEATSNP" version:u32 frame* zeros    all integers big endian
//! frame  = length:u32 crc32c:u32 row*             length counts the rows; a frame without rows is the last
//! crc32c covers the rows of this frame and of all frames before it
//! row    = table:u8 key_length:u32 key value_length:u32 value
//! ```

use crate::command::Position;
use crate::error::Fault;
use crate::flush::{self, sync_directory};
use crate::open::build;
use crate::reader::Reader;
use crate::schema::{self, meta};
use crate::{Options, Revision};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTableMetadata};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"CLEATSNP";
const VERSION: u32 = 1;

/// The stream is padded with zeros to a multiple of this, so that etcdctl, which appends a SHA-256 to what it saves,
/// finds it by the file's size as in etcd's snapshots.
const PADDING: u64 = 512;

/// Rows are gathered until a frame has this size. One large value can exceed it.
const FRAME_BYTES: usize = 32 << 10;

/// Largest frame that is believed: the largest request is far below.
const FRAME_BYTES_MAX: u32 = 1 << 30;

const META: u8 = 0;
const LEASES: u8 = 1;
const ALARMS: u8 = 2;
const MEMBERS: u8 = 3;
const REVISIONS: u8 = 4;

/// A consistent view of the database, read frame by frame.
pub struct Snapshot {
    txn: ReadTransaction,
    /// A dropped database fails the reads that are still under way, and a defragmentation replaces it at any time.
    _database: Arc<Database>,
    stage: Stage,
    /// Checksum of all rows so far.
    crc: u32,
    position: Position,
    membership: Vec<u8>,
    revision: i64,
    compacted: i64,
    /// Revisions sent so far, and the check of their order.
    rows: u64,
    check: schema::Rows,
    /// Bytes of the stream so far.
    sent: u64,
}

enum Stage {
    Header,
    Tables,
    Revisions(Revision),
    End,
    Done,
}

impl Reader {
    /// Takes a snapshot of what is durable; flush first to have everything in it.
    ///
    /// # Errors
    /// A fault.
    pub fn snapshot(&self) -> Result<Snapshot, Fault> {
        let database = self.shared.database();
        let txn = database.begin_read()?;
        let table = txn.open_table(schema::META)?;
        let bytes = |name: &str| Ok::<_, Fault>(table.get(name)?.map(|bytes| bytes.value().to_vec()));
        let position = bytes(meta::APPLIED)?.map(|b| schema::decode_position(&b)).transpose()?.unwrap_or_default();
        let membership = bytes(meta::MEMBERSHIP)?.unwrap_or_default();
        let revision = bytes(meta::REVISION)?.map(|b| schema::decode_int("meta", &b)).transpose()?.unwrap_or(1);
        let compacted = bytes(meta::COMPACTED)?.map(|b| schema::decode_int("meta", &b)).transpose()?.unwrap_or(-1);
        drop(table);
        Ok(Snapshot {
            txn,
            _database: database,
            stage: Stage::Header,
            crc: 0,
            sent: 0,
            position,
            membership,
            revision,
            compacted,
            rows: 0,
            check: schema::Rows::new(0, compacted),
        })
    }
}

impl Snapshot {
    /// The last log entry that the snapshot contains.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The raft layer's membership at that entry.
    pub fn membership(&self) -> &[u8] {
        &self.membership
    }

    /// The store revision of the snapshot.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Bytes of the whole stream. Reads everything once.
    ///
    /// # Errors
    /// A fault.
    pub fn stream_bytes(&mut self) -> Result<u64, Fault> {
        let mut len = 0;
        self.stage = Stage::Header;
        while let Some(frame) = self.next_frame()? {
            len += frame.len() as u64;
        }
        self.stage = Stage::Header;
        self.sent = 0;
        Ok(len)
    }

    /// The next piece of the stream, `None` at its end. Blocking.
    ///
    /// # Errors
    /// A fault.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let piece = match self.stage {
            Stage::Header => {
                self.stage = Stage::Tables;
                self.crc = 0;
                self.rows = 0;
                self.check = schema::Rows::new(0, self.compacted);
                let mut header = MAGIC.to_vec();
                header.extend(VERSION.to_be_bytes());
                header
            }
            Stage::Tables => {
                self.stage = Stage::Revisions(Revision::default());
                let rows = self.table_rows()?;
                self.frame(&rows)
            }
            Stage::Revisions(from) => self.revisions_frame(from)?,
            Stage::End => {
                self.stage = Stage::Done;
                let mut last = self.frame(&[]);
                let end = self.sent + last.len() as u64;
                last.resize(last.len() + (end.next_multiple_of(PADDING) - end) as usize, 0);
                last
            }
            Stage::Done => return Ok(None),
        };
        self.sent += piece.len() as u64;
        Ok(Some(piece))
    }

    /// All tables but the revisions, in one frame.
    fn table_rows(&self) -> Result<Vec<u8>, Fault> {
        let mut rows = Vec::new();
        for row in self.txn.open_table(schema::META)?.range::<&str>(..)? {
            let (key, value) = row?;
            push_row(&mut rows, META, key.value().as_bytes(), value.value());
        }
        for row in self.txn.open_table(schema::LEASES)?.range::<i64>(..)? {
            let (key, value) = row?;
            push_row(&mut rows, LEASES, &key.value().to_be_bytes(), value.value());
        }
        for row in self.txn.open_table(schema::ALARMS)?.range::<(u64, i32)>(..)? {
            let (member_id, alarm) = row?.0.value();
            push_row(&mut rows, ALARMS, &member_id.to_be_bytes(), &alarm.to_be_bytes());
        }
        for row in self.txn.open_table(schema::MEMBERS)?.range::<u64>(..)? {
            let (key, value) = row?;
            push_row(&mut rows, MEMBERS, &key.value().to_be_bytes(), value.value());
        }
        Ok(rows)
    }

    fn revisions_frame(&mut self, from: Revision) -> Result<Vec<u8>, Fault> {
        let mut rows = Vec::with_capacity(FRAME_BYTES + 1024);
        let table = self.txn.open_table(schema::REVISIONS)?;
        let start = from.to_key();
        self.stage = Stage::End;
        for row in table.range::<&[u8; 12]>(&start..)? {
            let (key, value) = row?;
            if rows.len() >= FRAME_BYTES {
                self.stage = Stage::Revisions(Revision::from_key(key.value()));
                break;
            }
            self.check.next(key.value(), value.value())?;
            self.rows += 1;
            push_row(&mut rows, REVISIONS, key.value(), value.value());
        }
        if matches!(self.stage, Stage::End) {
            schema::check_count(self.rows, table.len()?)?;
        }
        drop(table);
        // Nothing is stored: the last frame comes next, and there is none of revisions.
        Ok(if rows.is_empty() { Vec::new() } else { self.frame(&rows) })
    }

    fn frame(&mut self, rows: &[u8]) -> Vec<u8> {
        self.crc = crc32c::crc32c_append(self.crc, rows);
        let mut frame = Vec::with_capacity(rows.len() + 8);
        frame.extend((rows.len() as u32).to_be_bytes());
        frame.extend(self.crc.to_be_bytes());
        frame.extend(rows);
        frame
    }
}

fn push_row(rows: &mut Vec<u8>, table: u8, key: &[u8], value: &[u8]) {
    rows.push(table);
    for bytes in [key, value] {
        rows.extend((bytes.len() as u32).to_be_bytes());
        rows.extend(bytes);
    }
}

/// Writes a snapshot into a new database file and makes it durable. The caller opens it.
///
/// # Errors
/// A stream that is damaged, incomplete or of another version leaves no file behind; an existing file is refused.
pub fn import(stream: impl Read, path: &Path, options: &Options) -> Result<(), Fault> {
    if path.exists() {
        return Err(Fault::Snapshot(format!("{} exists already", path.display())));
    }
    build(path, options, |db| fill(stream, db))?;
    sync_directory(path)
}

fn fill(mut stream: impl Read, db: &Database) -> Result<(), Fault> {
    let mut header = [0; 12];
    read_exact(&mut stream, &mut header)?;
    let (magic, version) = header.split_at(8);
    if magic != MAGIC {
        return Err(Fault::Snapshot("it does not begin like a snapshot of Cleat".into()));
    }
    if version != VERSION.to_be_bytes() {
        return Err(Fault::Snapshot(format!("version {version:?} is not known to this release")));
    }
    let txn = flush::begin(db)?;
    {
        let mut tables = Tables {
            meta: txn.open_table(schema::META)?,
            leases: txn.open_table(schema::LEASES)?,
            alarms: txn.open_table(schema::ALARMS)?,
            members: txn.open_table(schema::MEMBERS)?,
            revisions: txn.open_table(schema::REVISIONS)?,
        };
        let mut crc = 0;
        while let Some(rows) = read_frame(&mut stream, &mut crc)? {
            let mut rest = &*rows;
            while !rest.is_empty() {
                tables.insert(&mut rest)?;
            }
        }
    }
    txn.commit()?;
    Ok(())
}

struct Tables<'txn> {
    meta: redb::Table<'txn, &'static str, &'static [u8]>,
    leases: redb::Table<'txn, i64, &'static [u8; 16]>,
    alarms: redb::Table<'txn, (u64, i32), ()>,
    members: redb::Table<'txn, u64, &'static [u8]>,
    revisions: redb::Table<'txn, &'static [u8; 12], &'static [u8]>,
}

impl Tables<'_> {
    fn insert(&mut self, rest: &mut &[u8]) -> Result<(), Fault> {
        let [table] = *take(rest, 1)? else { return Err(short()) };
        let key_len = u32::from_be_bytes(array(take(rest, 4)?)?) as usize;
        let key = take(rest, key_len)?;
        let value_len = u32::from_be_bytes(array(take(rest, 4)?)?) as usize;
        let value = take(rest, value_len)?;
        match table {
            META => {
                let name = std::str::from_utf8(key).map_err(|error| Fault::Snapshot(error.to_string()))?;
                self.meta.insert(name, value)?;
            }
            LEASES => {
                self.leases.insert(i64::from_be_bytes(array(key)?), &array::<16>(value)?)?;
            }
            ALARMS => {
                let alarm = (u64::from_be_bytes(array(key)?), i32::from_be_bytes(array(value)?));
                self.alarms.insert(alarm, ())?;
            }
            MEMBERS => {
                self.members.insert(u64::from_be_bytes(array(key)?), value)?;
            }
            REVISIONS => {
                let key = array::<12>(key)?;
                schema::decode_row(&key, value)?;
                self.revisions.insert(&key, value)?;
            }
            other => return Err(Fault::Snapshot(format!("table {other} is not known to this release"))),
        }
        Ok(())
    }
}

fn short() -> Fault {
    Fault::Snapshot("a row is cut short".into())
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Fault> {
    let (taken, tail) = rest.split_at_checked(len).ok_or_else(short)?;
    *rest = tail;
    Ok(taken)
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Fault> {
    bytes.try_into().map_err(|_| short())
}

fn read_exact(stream: &mut impl Read, bytes: &mut [u8]) -> Result<(), Fault> {
    stream.read_exact(bytes).map_err(|error| Fault::Snapshot(format!("it ends too early: {error}")))
}

/// The rows of the next frame, `None` for the last one. `sum` is the checksum of all rows so far.
fn read_frame(stream: &mut impl Read, sum: &mut u32) -> Result<Option<Vec<u8>>, Fault> {
    let mut head = [0; 8];
    read_exact(stream, &mut head)?;
    let (len, crc) = head.split_at(4);
    let (len, crc) = (u32::from_be_bytes(array(len)?), u32::from_be_bytes(array(crc)?));
    if len > FRAME_BYTES_MAX {
        return Err(Fault::Snapshot(format!("a frame of {len} bytes is not plausible")));
    }
    // Grows with what really arrives: a damaged length must not allocate a gigabyte.
    let mut rows = Vec::new();
    stream
        .take(u64::from(len))
        .read_to_end(&mut rows)
        .map_err(|error| Fault::Snapshot(format!("it can not be read: {error}")))?;
    if rows.len() != len as usize {
        return Err(Fault::Snapshot("it ends too early".into()));
    }
    *sum = crc32c::crc32c_append(*sum, &rows);
    if *sum != crc {
        return Err(Fault::Snapshot("a checksum is wrong: a frame is damaged, missing or out of place".into()));
    }
    Ok((!rows.is_empty()).then_some(rows))
}
