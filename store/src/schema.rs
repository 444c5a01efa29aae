//! Every table of the database and the bytes in it. Nothing else opens a table. See docs/format.md.

use crate::command::Position;
use crate::error::Fault;
use crate::mvcc::revision::Revision;
use redb::TableDefinition;

/// The format that this release writes. Changes with every incompatible change of a table.
pub(crate) const FORMAT: u64 = 3;

/// The format before the v2 API: the same without its tables, which are added when it is opened.
pub(crate) const FORMAT_WITHOUT_V2: u64 = 2;

/// Revision key ([`Revision::to_key`]) of the first change of a block to the block, see [`crate::blocks`]. A change has a
/// row: a checksum and the encoded `mvccpb.KeyValue`, see [`Rows`]; a tombstone has only the key field.
pub(crate) const REVISIONS: TableDefinition<'static, &[u8; 12], &[u8]> = TableDefinition::new("revisions");
/// Lease id to TTL and remaining TTL, seconds, big endian.
pub(crate) const LEASES: TableDefinition<'static, i64, &[u8; 16]> = TableDefinition::new("leases");
/// Member id and alarm type.
pub(crate) const ALARMS: TableDefinition<'static, (u64, i32), ()> = TableDefinition::new("alarms");
/// Member id to the encoded `cleatpb.MemberAttributes`.
pub(crate) const MEMBERS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("members");
/// Ids of removed members.
pub(crate) const REMOVED_MEMBERS: TableDefinition<'static, u64, ()> = TableDefinition::new("removed_members");
/// Name to the encoded `authpb.User`.
pub(crate) const AUTH_USERS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("auth_users");
/// Name to the encoded `authpb.Role`.
pub(crate) const AUTH_ROLES: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("auth_roles");
/// Path of a node of the v2 API's tree to the encoded `cleatpb.V2Node`. Its namespaces are not in it.
pub(crate) const V2_NODES: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("v2_nodes");
/// Index of an event of the v2 API to the encoded `cleatpb.V2Event`.
pub(crate) const V2_EVENTS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("v2_events");
/// Named single values, see [`Meta`].
pub(crate) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

/// Keys of [`META`].
pub(crate) mod meta {
    pub(crate) const FORMAT: &str = "format";
    /// Term and index of the last applied log entry, 8 bytes each, big endian.
    pub(crate) const APPLIED: &str = "applied";
    /// Opaque bytes of the raft layer.
    pub(crate) const MEMBERSHIP: &str = "membership";
    /// The store revision: a revision that changed no key is not in [`super::REVISIONS`].
    pub(crate) const REVISION: &str = "revision";
    /// Revision of the last accepted compaction.
    pub(crate) const COMPACTED: &str = "compacted";
    /// Revision up to which history has been removed.
    pub(crate) const COMPACTION_FINISHED: &str = "compaction_finished";
    /// Bytes of keys, values and overhead kept, see `mvcc::stored_size`.
    pub(crate) const STORED_BYTES: &str = "stored_bytes";
    /// 1 while requests need a user.
    pub(crate) const AUTH_ENABLED: &str = "auth_enabled";
    /// Grows with every change of users and roles.
    pub(crate) const AUTH_REVISION: &str = "auth_revision";
    /// Index of the v2 API's tree.
    pub(crate) const V2_INDEX: &str = "v2_index";
}

/// Bytes of the checksum that a row begins with.
pub(crate) const ROW_SUM: usize = 4;

pub(crate) fn row_sum(key: &[u8; 12], kv: &[u8]) -> [u8; ROW_SUM] {
    crc32c::crc32c_append(crc32c::crc32c(key), kv).to_be_bytes()
}

/// The row of a change, in `buffer`.
pub(crate) fn encode_row<'a>(key: &[u8; 12], kv: &[u8], buffer: &'a mut Vec<u8>) -> &'a [u8] {
    buffer.clear();
    buffer.extend(row_sum(key, kv));
    buffer.extend(kv);
    buffer
}

/// Checks the row of a change and returns its encoded key-value. redb verifies a page when the file is opened and
/// never again; the checksum covers the revision too, so that a row is not taken for another one's.
pub(crate) fn decode_row<'a>(key: &[u8; 12], row: &'a [u8]) -> Result<&'a [u8], Fault> {
    match row.split_at_checked(ROW_SUM) {
        Some((sum, kv)) if sum == row_sum(key, kv) => Ok(kv),
        _ => Err(damaged(Revision::from_key(key), "has a wrong checksum")),
    }
}

/// A fault that names a revision.
pub(crate) fn damaged(revision: Revision, what: &str) -> Fault {
    Fault::Damaged { table: "revisions", reason: format!("revision {}.{} {what}", revision.main, revision.sub) }
}

/// Checks a scan of [`REVISIONS`] change by change: checksums, the order, and that no revision is left out. A checksum alone
/// does not notice rows that a damaged page leaves out or shows again.
pub(crate) struct Rows {
    last: Option<Revision>,
    /// Above this revision every main and sub revision has a row.
    complete_above: i64,
}

impl Rows {
    /// A scan from the first change of the main revision `from`, 0 for everything.
    pub(crate) fn new(from: i64, compacted: i64) -> Self {
        // As if the one before had just been seen. There is no revision 1.
        let last = (from > compacted.max(1)).then(|| Revision { main: from - 1, sub: 0 });
        Self { last, complete_above: compacted.max(1) }
    }

    /// A scan that begins with a change, whatever was before.
    pub(crate) fn at(first: Revision, compacted: i64) -> Self {
        let before = match first.sub.checked_sub(1) {
            Some(sub) => Revision { main: first.main, sub },
            None => Revision::first(first.main - 1),
        };
        Self::after(before, compacted)
    }

    /// A scan that goes on behind a revision that has a row.
    pub(crate) fn after(last: Revision, compacted: i64) -> Self {
        Self { last: Some(last), complete_above: compacted.max(1) }
    }

    /// Checks the next row and returns its revision and encoded key-value.
    pub(crate) fn next<'a>(&mut self, key: &[u8; 12], row: &'a [u8]) -> Result<(Revision, &'a [u8]), Fault> {
        let kv = decode_row(key, row)?;
        let revision = Revision::from_key(key);
        self.follows(revision)?;
        Ok((revision, kv))
    }

    /// Checks that the next row may have this revision.
    pub(crate) fn follows(&mut self, revision: Revision) -> Result<(), Fault> {
        if self.last.is_some_and(|last| revision <= last) {
            return Err(damaged(revision, "is out of order"));
        }
        if revision.main > self.complete_above {
            let last = self.last.filter(|last| last.main >= self.complete_above);
            let last = last.unwrap_or(Revision { main: self.complete_above, sub: 0 });
            let in_order = if revision.main == last.main {
                revision.sub == last.sub + 1
            } else {
                revision == Revision::first(last.main + 1)
            };
            if !in_order {
                return Err(damaged(revision, "does not follow the one before: rows are missing"));
            }
        }
        self.last = Some(revision);
        Ok(())
    }

    /// Checks that a scan ended where it had to: `revision` is the latest one that must have been seen.
    pub(crate) fn reach(&self, revision: i64) -> Result<(), Fault> {
        if revision > self.complete_above && self.last.is_none_or(|last| last.main < revision) {
            return Err(damaged(Revision::first(revision), "and perhaps others before it are missing"));
        }
        Ok(())
    }
}

/// Checks that a scan of all blocks of [`REVISIONS`] saw as many as the table says it has.
pub(crate) fn check_count(seen: u64, expected: u64) -> Result<(), Fault> {
    if seen == expected {
        return Ok(());
    }
    Err(Fault::Damaged { table: "revisions", reason: format!("{seen} blocks were read, there should be {expected}") })
}

pub(crate) fn encode_position(position: Position) -> [u8; 16] {
    encode_pair(position.term as i64, position.index as i64)
}

pub(crate) fn decode_position(bytes: &[u8]) -> Result<Position, Fault> {
    let (term, index) = decode_pair("meta", bytes)?;
    Ok(Position { term: term as u64, index: index as u64 })
}

pub(crate) fn encode_pair(a: i64, b: i64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&a.to_be_bytes());
    out[8..].copy_from_slice(&b.to_be_bytes());
    out
}

pub(crate) fn decode_pair(table: &'static str, bytes: &[u8]) -> Result<(i64, i64), Fault> {
    let damaged = || Fault::Damaged { table, reason: format!("expected 16 bytes, found {}", bytes.len()) };
    let (a, b) = bytes.split_at_checked(8).ok_or_else(damaged)?;
    let int = |half: &[u8]| half.try_into().map(i64::from_be_bytes).map_err(|_| damaged());
    Ok((int(a)?, int(b)?))
}

pub(crate) fn decode_int(table: &'static str, bytes: &[u8]) -> Result<i64, Fault> {
    let damaged = |_| Fault::Damaged { table, reason: format!("expected 8 bytes, found {}", bytes.len()) };
    bytes.try_into().map(i64::from_be_bytes).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::{Rows, decode_row, encode_row};
    use crate::mvcc::revision::Revision;

    #[test]
    fn a_row_is_only_taken_for_its_own_revision() {
        let (key, other) = (Revision::first(7).to_key(), Revision { main: 7, sub: 1 }.to_key());
        let mut row = encode_row(&key, b"kv", &mut Vec::new()).to_vec();
        assert_eq!(decode_row(&key, &row).unwrap(), b"kv");
        assert!(decode_row(&other, &row).unwrap_err().to_string().contains("revision 7.1 has a wrong checksum"));
        for at in 0..row.len() {
            row[at] ^= 1;
            assert!(decode_row(&key, &row).is_err(), "byte {at}");
            row[at] ^= 1;
        }
        assert!(decode_row(&key, &row[..3]).is_err());
    }

    #[test]
    fn a_scan_misses_no_revision() {
        // From, compacted, the revisions seen, and whether they are what a sound table gives up to revision 6.
        for (from, compacted, seen, sound) in [
            (0, -1, &[(2, 0), (3, 0), (3, 1), (4, 0), (5, 0), (6, 0)][..], true),
            (0, -1, &[(3, 0), (4, 0), (5, 0), (6, 0)], false),
            (0, -1, &[(2, 0), (3, 1), (4, 0), (5, 0), (6, 0)], false),
            (0, -1, &[(2, 0), (3, 0), (4, 0)], false),
            (0, -1, &[], false),
            (0, 4, &[(2, 3), (4, 1), (5, 0), (6, 0)], true),
            (0, 4, &[(2, 3), (2, 2), (5, 0), (6, 0)], false),
            (0, 4, &[(6, 0)], false),
            (0, 6, &[], true),
            (5, 4, &[(5, 0), (6, 0)], true),
            (5, 4, &[(6, 0)], false),
            (4, 4, &[(5, 0), (6, 0)], true),
            (4, 4, &[(4, 1), (5, 0), (6, 0)], true),
            (7, 4, &[], true),
        ] {
            let mut rows = Rows::new(from, compacted);
            let mut seen_all =
                seen.iter().try_for_each(|(main, sub)| rows.follows(Revision { main: *main, sub: *sub }));
            seen_all = seen_all.and_then(|()| rows.reach(6));
            assert_eq!(seen_all.is_ok(), sound, "{from} {compacted} {seen:?}: {seen_all:?}");
        }
    }
}
