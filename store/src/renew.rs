//! A database as the beginning of a new cluster: what a restored snapshot becomes.
//!
//! What clients stored stays; what belongs to the old cluster goes: its members, their alarms, and the position in its log.
//! Every founder of the new cluster begins with a copy of this database, and a log that goes on behind it.

use crate::Options;
use crate::command::Position;
use crate::error::Fault;
use crate::flush;
use crate::open::create_database;
use crate::schema::{self, meta};
use crate::snapshot::Snapshot;
use crate::v2;
use std::path::Path;
use std::sync::Arc;

/// The numbers of a renewed store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The store revision.
    pub revision: i64,
    /// The last compaction, -1 for none.
    pub compacted: i64,
}

/// Makes the database at `path` the beginning of a new cluster, at `applied` in its log and with the raft layer's
/// `membership` there.
///
/// `bump_revision` is added to the store revision, and everything up to there counts as compacted: whoever watches, or
/// caches by revision, has seen revisions that the snapshot does not have, and must notice. 0 leaves both as they are.
///
/// Returns its numbers and a snapshot of it. The database is in use until that is dropped.
///
/// # Errors
/// A fault; a revision that no longer fits.
pub fn renew(
    path: &Path,
    (applied, membership): (Position, &[u8]),
    bump_revision: u64,
    options: &Options,
) -> Result<(Renewed, Snapshot), Fault> {
    let database = create_database(path, options)?;
    let txn = flush::begin(&database)?;
    let renewed = {
        txn.open_table(schema::ALARMS)?.retain(|_, ()| false)?;
        txn.open_table(schema::MEMBERS)?.retain(|_, _| false)?;
        txn.open_table(schema::REMOVED_MEMBERS)?.retain(|_, ()| false)?;
        let mut table = txn.open_table(schema::META)?;
        table.insert(meta::APPLIED, schema::encode_position(applied).as_slice())?;
        table.insert(meta::MEMBERSHIP, membership)?;
        let int = |bytes: Option<redb::AccessGuard<'_, &[u8]>>, default| {
            bytes.map_or(Ok(default), |bytes| schema::decode_int("meta", bytes.value()))
        };
        let mut renewed = Renewed {
            revision: int(redb::ReadableTable::get(&table, meta::REVISION)?, 1)?,
            compacted: int(redb::ReadableTable::get(&table, meta::COMPACTED)?, -1)?,
        };
        if bump_revision > 0 {
            let bumped = i64::try_from(bump_revision).ok().and_then(|bump| renewed.revision.checked_add(bump));
            renewed.revision = bumped.ok_or_else(|| {
                Fault::Snapshot(format!("its revision {} cannot be moved up by {bump_revision}", renewed.revision))
            })?;
            renewed.compacted = renewed.revision;
            table.insert(meta::REVISION, renewed.revision.to_be_bytes().as_slice())?;
            table.insert(meta::COMPACTED, renewed.compacted.to_be_bytes().as_slice())?;
            // The same for those of the v2 API.
            v2::rows::forget_events(&txn, &mut table, bump_revision)?;
        }
        renewed
    };
    txn.commit()?;
    Ok((renewed, Snapshot::of(Arc::new(database))?))
}

#[cfg(test)]
mod tests {
    use super::{Snapshot, renew};
    use crate::command::{Entry, Position};
    use crate::error::{ReadError, Rejection};
    use crate::{Options, Reader, Writer, open};
    use api::cleatpb::command::Op;
    use api::cleatpb::{Command, MemberAttributes, MemberRemoved};
    use api::etcdserverpb::{AlarmRequest, LeaseGrantRequest, PutRequest, RangeRequest};

    fn apply(writer: &mut Writer, index: u64, op: Op) {
        let commands = [Command { header: None, op: Some(op) }];
        let membership = (index == 1).then(|| b"members".to_vec());
        let entry = Entry { position: Position { term: 3, index }, commands: &commands, membership };
        writer.apply([entry]).unwrap();
    }

    fn put(n: u64) -> Op {
        let value = n.to_string();
        Op::Put(PutRequest { key: "k".into(), value: value.into(), lease: 7, ..Default::default() })
    }

    fn at(reader: &Reader, revision: i64) -> Result<Option<Vec<u8>>, Rejection> {
        match reader.range(&RangeRequest { key: "k".into(), revision, ..Default::default() }) {
            Ok((response, _)) => Ok(response.kvs.first().map(|kv| kv.fields().unwrap().value.to_vec())),
            Err(ReadError::Rejected(rejection)) => Err(rejection),
            Err(ReadError::Fault(fault)) => panic!("{fault}"),
        }
    }

    fn stream_of(snapshot: &mut Snapshot) -> Vec<u8> {
        std::iter::from_fn(|| snapshot.next_frame().unwrap()).flatten().collect()
    }

    #[test]
    fn a_new_cluster_begins_with_the_keys_and_nothing_of_the_old_one() {
        for (bump, revision, compacted) in [(0, 4, -1), (1000, 1004, 1004)] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("db");
            let (mut writer, mut flusher, reader) = open(&path, Options::default()).unwrap();
            apply(&mut writer, 1, Op::LeaseGrant(LeaseGrantRequest { id: 7, ttl: 60 }));
            for n in 2..5 {
                apply(&mut writer, n, put(n));
            }
            apply(&mut writer, 5, Op::Alarm(AlarmRequest { action: 1, member_id: 9, alarm: 1 }));
            let member = MemberAttributes { member_id: 9, name: "m".into(), ..Default::default() };
            apply(&mut writer, 6, Op::MemberAttributes(member));
            apply(&mut writer, 7, Op::MemberRemoved(MemberRemoved { member_id: 8 }));
            flusher.flush().unwrap();
            drop((writer, flusher, reader));

            let beginning = (Position { term: 1, index: 1 }, b"founders".as_slice());
            let (renewed, mut snapshot) = renew(&path, beginning, bump, &Options::default()).unwrap();
            assert_eq!((snapshot.position(), snapshot.revision()), (beginning.0, revision));
            let stream = stream_of(&mut snapshot);
            drop(snapshot);
            assert_eq!((renewed.revision, renewed.compacted), (revision, compacted));
            let (mut writer, mut flusher, reader) = open(&path, Options::default()).unwrap();
            assert_eq!(reader.applied(), (beginning.0, beginning.1.to_vec()));
            assert_eq!(stream_of(&mut reader.snapshot().unwrap()), stream, "that of a store that was opened");
            assert_eq!((reader.alarms(0), reader.member(9), reader.is_removed(8)), (Vec::new(), None, false));
            assert_eq!(reader.lease(7).0.map(|lease| lease.ttl), Some(60));
            assert_eq!(reader.lease_keys(7).len(), 1);
            assert_eq!(at(&reader, 0), Ok(Some(b"4".to_vec())));
            assert_eq!(at(&reader, 3), if bump == 0 { Ok(Some(b"3".to_vec())) } else { Err(Rejection::Compacted) });
            assert_eq!(reader.past(3, 1000).is_ok(), bump == 0, "whoever watches from the past notices");
            assert!(reader.hash_kv(0).is_ok());
            apply(&mut writer, 2, put(9));
            while flusher.compact_step(100) || flusher.flush().unwrap().more {}
            flusher.flush().unwrap();
            drop((writer, flusher, reader));
            let (writer, flusher, reader) = open(&path, Options::default()).unwrap();
            assert_eq!((reader.revision(), at(&reader, 0)), (revision + 1, Ok(Some(b"9".to_vec()))));
            assert!(reader.hash_kv(0).is_ok());
            drop((writer, flusher, reader));
            let error = renew(&path, beginning, u64::MAX, &Options::default()).map(drop).unwrap_err();
            assert!(error.to_string().contains("cannot be moved up"), "{error}");
        }
    }
}
