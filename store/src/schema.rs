//! Every table of the database and the bytes in it. Nothing else opens a table. See docs/format.md.

use crate::command::Position;
use crate::error::Fault;
use redb::TableDefinition;

/// The format that this release writes. Changes with every incompatible change of a table.
pub(crate) const FORMAT: u64 = 1;

/// Revision key ([`crate::Revision::to_key`]) to the encoded `mvccpb.KeyValue`; a tombstone has only the key field.
pub(crate) const REVISIONS: TableDefinition<'static, &[u8; 12], &[u8]> = TableDefinition::new("revisions");
/// Lease id to TTL and remaining TTL, seconds, big endian.
pub(crate) const LEASES: TableDefinition<'static, i64, &[u8; 16]> = TableDefinition::new("leases");
/// Member id and alarm type.
pub(crate) const ALARMS: TableDefinition<'static, (u64, i32), ()> = TableDefinition::new("alarms");
/// Member id to the encoded `cleatpb.MemberAttributes`.
pub(crate) const MEMBERS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("members");
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
