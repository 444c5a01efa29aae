//! Opens the database and rebuilds the memory from it.

use crate::Options;
use crate::alarm::Alarms;
use crate::auth;
use crate::blocks::Block;
use crate::disk::Disk;
use crate::error::Fault;
use crate::flush;
use crate::lease::{Lease, Leases};
use crate::members::Members;
use crate::mvcc::index::{self, Index, Records, Sorted};
use crate::mvcc::revision::Revision;
use crate::mvcc::state::{Gauges, Revisions, Shared, State, fields, stored_size};
use crate::schema::{self, meta};
use crate::v2;
use api::cleatpb::MemberAttributes;
use parking_lot::{Mutex, RwLock};
use prost::Message;
use redb::{
    AccessGuard, Builder, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata,
};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How the extension of a file begins that is being received.
const RECEIVING: &str = "receiving-";

fn builder(options: &Options) -> Builder {
    let mut builder = Database::builder();
    // Without the check redb trusts a file that was closed cleanly: a flipped bit becomes a panic or other data.
    builder.set_cache_size(options.database_cache_bytes).set_check_integrity_on_open(true);
    builder
}

pub(crate) fn create_database(path: &Path, options: &Options) -> Result<Database, Fault> {
    options.disk.create_database(&builder(options), path).map_err(Fault::Open)
}

/// The name that a database has until it is whole.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("unfinished")
}

/// A name for a database that is being received. Another one each time: an import that was given up may still be
/// removing its file.
pub(crate) fn receiving(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    path.with_extension(format!("{RECEIVING}{}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// A database file that has not got its name yet. Removed when it is dropped without one.
pub(crate) struct Unnamed {
    disk: Disk,
    path: Option<PathBuf>,
}

impl Unnamed {
    pub(crate) fn new(disk: &Disk, path: PathBuf) -> Self {
        Self { disk: disk.clone(), path: Some(path) }
    }

    pub(crate) fn path(&self) -> &Path {
        // Invariant: only `place` takes it, with the whole.
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Puts the file at `path`, in the place of what is there. The caller makes the new name durable.
    pub(crate) fn place(mut self, path: &Path) -> Result<(), Fault> {
        self.disk.replace(path, self.path())?;
        self.path = None;
        Ok(())
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Best effort: the next start removes it too.
            drop(self.disk.remove_left(path));
        }
    }
}

/// Removes what a crash left of imports.
fn remove_received(disk: &Disk, path: &Path) -> Result<(), Fault> {
    let Some(stem) = path.file_stem() else { return Ok(()) };
    let mut begin = stem.to_owned();
    begin.push(format!(".{RECEIVING}"));
    for beside in disk.beside(path)? {
        if beside.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(begin.as_encoded_bytes())) {
            disk.remove_left(&beside)?;
        }
    }
    Ok(())
}

/// Builds a database under another name, for the place at `path` once it is whole and synced: at no moment is there
/// half a database, which redb would refuse to open or would take for an empty one. The caller puts it there and makes
/// the new name durable.
pub(crate) fn build(
    path: &Path,
    options: &Options,
    fill: impl FnOnce(&Database) -> Result<(), Fault>,
) -> Result<(Database, Unnamed), Fault> {
    // redb would open what a crash left of one and take it for the new one.
    options.disk.remove_left(&unfinished(path))?;
    let file = Unnamed::new(&options.disk, unfinished(path));
    let db = create_database(file.path(), options)?;
    fill(&db)?;
    Ok((db, file))
}

pub(crate) fn open(path: &Path, options: Options) -> Result<Shared, Fault> {
    let disk = &options.disk;
    remove_received(disk, path)?;
    let db = if disk.exists(path) {
        disk.remove_left(&unfinished(path))?;
        create_database(path, &options)?
    } else {
        let (db, file) = build(path, &options, create_tables)?;
        file.place(path)?;
        disk.sync_directory(path)?;
        db
    };
    from_database(db, path, options)
}

pub(crate) fn from_database(db: Database, path: &Path, options: Options) -> Result<Shared, Fault> {
    create_tables(&db)?;
    let txn = db.begin_read()?;
    let state = read_state(&txn)?;
    drop(txn);
    let on_disk = Revisions::committed(Arc::new(db))?;
    let durable = (state.applied, state.membership.clone());
    let gauges = Gauges::default();
    gauges.publish(&state);
    Ok(Shared {
        gauges,
        state: RwLock::new(state),
        on_disk: RwLock::new(Arc::new(on_disk)),
        writing: Mutex::new(()),
        path: path.to_owned(),
        options,
        history: Mutex::new(()),
        durable: Mutex::new(durable),
    })
}

/// Creates the tables of a new database; checks the format of an old one.
pub(crate) fn create_tables(db: &Database) -> Result<(), Fault> {
    let txn = flush::begin(db)?;
    let found = {
        let table = txn.open_table(schema::META)?;
        let found = table.get(meta::FORMAT)?;
        found.map(|bytes| schema::decode_int("meta", bytes.value())).transpose()?
    };
    match found {
        Some(found) if found as u64 == schema::FORMAT => return Ok(txn.abort()?),
        Some(found) if found as u64 == schema::FORMAT_WITHOUT_V2 => {}
        Some(found) => return Err(Fault::Format { found: found as u64, expected: schema::FORMAT }),
        None => {}
    }
    txn.open_table(schema::META)?.insert(meta::FORMAT, schema::FORMAT.to_be_bytes().as_slice())?;
    txn.open_table(schema::REVISIONS)?;
    txn.open_table(schema::LEASES)?;
    txn.open_table(schema::ALARMS)?;
    txn.open_table(schema::MEMBERS)?;
    txn.open_table(schema::REMOVED_MEMBERS)?;
    auth::rows::create(&txn)?;
    v2::rows::create(&txn)?;
    txn.commit()?;
    Ok(())
}

fn read_state(txn: &ReadTransaction) -> Result<State, Fault> {
    let table = txn.open_table(schema::META)?;
    let bytes = |name: &str| Ok::<_, Fault>(table.get(name)?.map(|bytes| bytes.value().to_vec()));
    let int = |name: &str, default: i64| bytes(name)?.map_or(Ok(default), |bytes| schema::decode_int("meta", &bytes));
    let mut leases = read_leases(txn)?;
    let compacted = int(meta::COMPACTED, -1)?;
    let stored_bytes = int(meta::STORED_BYTES, 0)? as u64;
    let index = read_index(txn, &mut leases, compacted, stored_bytes)?;
    let mut alarms = Alarms::default();
    for row in txn.open_table(schema::ALARMS)?.range::<(u64, i32)>(..)? {
        let (member_id, alarm) = row?.0.value();
        alarms.restore(member_id, alarm);
    }
    let mut members = Members::default();
    for row in txn.open_table(schema::MEMBERS)?.range::<u64>(..)? {
        let attributes = MemberAttributes::decode(row?.1.value())
            .map_err(|error| Fault::Damaged { table: "members", reason: error.to_string() })?;
        members.restore(attributes);
    }
    for row in txn.open_table(schema::REMOVED_MEMBERS)?.range::<u64>(..)? {
        members.restore_removed(row?.0.value());
    }
    let position = bytes(meta::APPLIED)?.map(|bytes| schema::decode_position(&bytes)).transpose()?;
    Ok(State {
        index,
        leases,
        alarms,
        members,
        auth: auth::rows::read(txn)?,
        v2: v2::rows::read(txn)?,
        revision: int(meta::REVISION, 1)?,
        compacted,
        compaction_finished: int(meta::COMPACTION_FINISHED, -1)?,
        stored_bytes,
        applied: position.unwrap_or_default(),
        membership: bytes(meta::MEMBERSHIP)?.unwrap_or_default(),
        ..State::default()
    })
}

fn read_leases(txn: &ReadTransaction) -> Result<Leases, Fault> {
    let mut leases = Leases::default();
    for row in txn.open_table(schema::LEASES)?.range::<i64>(..)? {
        let (id, bytes) = row?;
        let (ttl, remaining_ttl) = schema::decode_pair("leases", bytes.value())?;
        leases.restore(id.value(), Lease { ttl, remaining_ttl });
    }
    Ok(leases)
}

/// One scan of all revisions, in two halves side by side. The last change of a key decides to which lease it is
/// attached.
fn read_index(txn: &ReadTransaction, leases: &mut Leases, compacted: i64, stored_bytes: u64) -> Result<Index, Fault> {
    let table = txn.open_table(schema::REVISIONS)?;
    let main = |row: Option<(AccessGuard<'_, &[u8; 12]>, _)>| row.map(|row| Revision::from_key(row.0.value()).main);
    let (first, last) = (main(table.first()?), main(table.last()?));
    let (first, last) = (first.unwrap_or_default().max(0), last.unwrap_or_default());
    let middle = Revision::first(first + (last - first) / 2 + 1).to_key();
    let middle = table.range::<&[u8; 12]>(&middle..)?.next().transpose()?.map(|row| *row.0.value());
    let (earlier, later) = std::thread::scope(|scope| {
        let later = scope.spawn(|| match &middle {
            Some(middle) => read_records(&table, Some(middle), None, compacted, stored_bytes / 2),
            None => Ok(Half::default()),
        });
        // With room for the later half, which is appended.
        let earlier = read_records(&table, None, middle.as_ref(), compacted, stored_bytes);
        // A panic of redb goes on.
        (earlier, later.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (earlier, later) = (earlier?, later?);
    if let (Some(mut check), Some(middle)) = (earlier.check, middle) {
        check.follows(Revision::from_key(&middle))?;
    }
    schema::check_count(earlier.blocks + later.blocks, table.len()?)?;
    Ok(Index::rebuild(earlier.records, later.records, |key, lease| {
        if lease != 0 {
            leases.attach(key, lease);
        }
    }))
}

/// What a part of the revisions amounts to.
#[derive(Default)]
struct Half {
    records: Sorted,
    blocks: u64,
    check: Option<schema::Rows>,
}

/// The changes of the blocks from `from` to before `to`, sorted.
fn read_records(
    table: &ReadOnlyTable<&'static [u8; 12], &'static [u8]>,
    from: Option<&[u8; 12]>,
    to: Option<&[u8; 12]>,
    compacted: i64,
    expected: u64,
) -> Result<Half, Fault> {
    let mut records = Records::expecting(expected);
    let mut blocks = 0;
    let mut check = match from {
        Some(from) => schema::Rows::at(Revision::from_key(from), compacted),
        None => schema::Rows::new(0, compacted),
    };
    let (from, to) = (from.map_or(Bound::Unbounded, Bound::Included), to.map_or(Bound::Unbounded, Bound::Excluded));
    for row in table.range::<&[u8; 12]>((from, to))? {
        let (key, block) = row?;
        for change in Block::new(key.value(), block.value())? {
            let (key, row) = change?;
            let (revision, kv) = check.next(key, row)?;
            records.push(revision, &fields(kv)?, stored_size(kv));
        }
        blocks += 1;
    }
    Ok(Half { records: index::sort(records), blocks, check: Some(check) })
}
