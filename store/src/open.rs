//! Opens the database and rebuilds the memory from it.

use crate::Options;
use crate::alarm::Alarms;
use crate::command::Position;
use crate::error::Fault;
use crate::flush;
use crate::lease::{Lease, Leases};
use crate::members::Members;
use crate::mvcc::index::{self, Index, Record, Sorted};
use crate::mvcc::revision::Revision;
use crate::mvcc::state::{Gauges, Shared, State, fields};
use crate::mvcc::tail::Tail;
use crate::schema::{self, meta};
use api::cleatpb::MemberAttributes;
use parking_lot::{Mutex, RwLock};
use prost::Message;
use redb::{
    AccessGuard, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn create_database(path: &Path, options: &Options) -> Result<Database, Fault> {
    // Without the check redb trusts a file that was closed cleanly: a flipped bit becomes a panic or other data.
    Database::builder()
        .set_cache_size(options.database_cache_bytes)
        .set_check_integrity_on_open(true)
        .create(path)
        .map_err(Fault::Open)
}

/// The name that a database has until it is whole.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("unfinished")
}

/// Removes what a crash left of a creation, an import or a defragmentation.
fn remove_unfinished(path: &Path) -> Result<(), Fault> {
    match std::fs::remove_file(unfinished(path)) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault::Io { context: format!("remove {}", unfinished(path).display()), source })
        }
        _ => Ok(()),
    }
}

/// Builds a database under another name, and puts it at `path` once it is whole and synced: at no moment is there
/// half a database, which redb would refuse to open or would take for an empty one. After an error `path` is as it
/// was. The caller makes the new name durable with [`flush::sync_directory`].
pub(crate) fn build(
    path: &Path,
    options: &Options,
    fill: impl FnOnce(&Database) -> Result<(), Fault>,
) -> Result<Database, Fault> {
    remove_unfinished(path)?;
    let temporary = unfinished(path);
    let built = create_database(&temporary, options).and_then(|db| {
        fill(&db)?;
        std::fs::rename(&temporary, path)
            .map_err(|source| Fault::Io { context: format!("replace {}", path.display()), source })?;
        Ok(db)
    });
    if built.is_err() {
        // Best effort: the next start removes it too.
        drop(std::fs::remove_file(&temporary));
    }
    built
}

pub(crate) fn open(path: &Path, options: Options) -> Result<Shared, Fault> {
    let db = if path.exists() {
        remove_unfinished(path)?;
        create_database(path, &options)?
    } else {
        let db = build(path, &options, create_tables)?;
        flush::sync_directory(path)?;
        db
    };
    from_database(db, path, options)
}

pub(crate) fn from_database(db: Database, path: &Path, options: Options) -> Result<Shared, Fault> {
    create_tables(&db)?;
    let txn = db.begin_read()?;
    let state = read_state(&txn)?;
    drop(txn);
    let durable = (state.applied, state.membership.clone());
    let gauges = Gauges::default();
    gauges.publish(&state);
    Ok(Shared {
        gauges,
        state: RwLock::new(state),
        db: RwLock::new(Arc::new(db)),
        path: path.to_owned(),
        options,
        history: Mutex::new(()),
        durable: Mutex::new(durable),
    })
}

/// Creates the tables of a new database; checks the format of an old one.
fn create_tables(db: &Database) -> Result<(), Fault> {
    let txn = flush::begin(db)?;
    let found = {
        let table = txn.open_table(schema::META)?;
        let found = table.get(meta::FORMAT)?;
        found.map(|bytes| schema::decode_int("meta", bytes.value())).transpose()?
    };
    match found {
        Some(found) if found as u64 == schema::FORMAT => return Ok(txn.abort()?),
        Some(found) => return Err(Fault::Format { found: found as u64, expected: schema::FORMAT }),
        None => {}
    }
    txn.open_table(schema::META)?.insert(meta::FORMAT, schema::FORMAT.to_be_bytes().as_slice())?;
    txn.open_table(schema::REVISIONS)?;
    txn.open_table(schema::LEASES)?;
    txn.open_table(schema::ALARMS)?;
    txn.open_table(schema::MEMBERS)?;
    txn.commit()?;
    Ok(())
}

fn read_state(txn: &ReadTransaction) -> Result<State, Fault> {
    let table = txn.open_table(schema::META)?;
    let bytes = |name: &str| Ok::<_, Fault>(table.get(name)?.map(|bytes| bytes.value().to_vec()));
    let int = |name: &str, default: i64| bytes(name)?.map_or(Ok(default), |bytes| schema::decode_int("meta", &bytes));
    let mut leases = read_leases(txn)?;
    let compacted = int(meta::COMPACTED, -1)?;
    let index = read_index(txn, &mut leases, compacted)?;
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
    let position = bytes(meta::APPLIED)?.map(|bytes| schema::decode_position(&bytes)).transpose()?;
    Ok(State {
        index,
        tail: Tail::default(),
        leases,
        alarms,
        members,
        revision: int(meta::REVISION, 1)?,
        compacted,
        compaction_finished: int(meta::COMPACTION_FINISHED, -1)?,
        dropped: Vec::new(),
        stored_bytes: int(meta::STORED_BYTES, 0)? as u64,
        applied: position.unwrap_or(Position::default()),
        membership: bytes(meta::MEMBERSHIP)?.unwrap_or_default(),
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
fn read_index(txn: &ReadTransaction, leases: &mut Leases, compacted: i64) -> Result<Index, Fault> {
    let table = txn.open_table(schema::REVISIONS)?;
    let main = |row: Option<(AccessGuard<'_, &[u8; 12]>, _)>| row.map(|row| Revision::from_key(row.0.value()).main);
    let (first, last) = (main(table.first()?), main(table.last()?));
    let (first, last) = (first.unwrap_or_default().max(0), last.unwrap_or_default());
    let middle = first + (last - first) / 2 + 1;
    let rows = table.len()?;
    let (earlier, later) = std::thread::scope(|scope| {
        let later = scope.spawn(|| read_records(&table, middle, i64::MAX, compacted, rows / 2));
        let earlier = read_records(&table, 0, middle, compacted, rows);
        // A panic of redb goes on.
        (earlier, later.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let ((earlier, earlier_rows), (later, later_rows)) = (earlier?, later?);
    schema::check_count(earlier_rows + later_rows, rows)?;
    Ok(Index::rebuild(earlier, later, |key, lease| {
        if lease != 0 {
            leases.attach(key, lease);
        }
    }))
}

/// The changes of the main revisions from `from` to before `to`, sorted, and how many rows they are.
fn read_records(
    table: &ReadOnlyTable<&'static [u8; 12], &'static [u8]>,
    from: i64,
    to: i64,
    compacted: i64,
    expected: u64,
) -> Result<(Sorted, u64), Fault> {
    // At most what a table of plausible length needs: the length is not verified yet.
    let mut records = Vec::with_capacity(expected.min(1 << 20) as usize);
    let mut check = schema::Rows::new(from, compacted);
    let (start, end) = (Revision::first(from).to_key(), Revision::first(to).to_key());
    for row in table.range::<&[u8; 12]>(&start..&end)? {
        let (key, value) = row?;
        let (revision, kv) = check.next(key.value(), value.value())?;
        records.push(Record::new(revision, &fields(kv)?));
    }
    let rows = records.len() as u64;
    Ok((index::sort(records), rows))
}
