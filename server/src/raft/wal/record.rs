//! One record of the log: its layout, checksums and content.
//!
//! A record is encoded by whoever queues it, straight into the writer's buffer, and *sealed* by the
//! writer once its place is known: both checksums and the start of its group depend on the place.
//!
//! Two checksums, for two questions. The header checksum (seeded with the segment's salt, and covering
//! the offset) says "a record of this segment was written here", even when what stands before it is
//! damaged. The chained checksum says "this record follows exactly those before it".

use super::super::types::{Entry, EntryContent, LogId, Payload, Vote, decode_membership, encode_membership, log_id};

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 36;
/// Largest payload. Offsets are 32 bits wide, and a segment holds at least one record.
pub(super) const MAX_PAYLOAD_BYTES: usize = 1 << 30;

const GROUP: usize = 4;
const KIND: usize = 8;
const TERM: usize = 12;
const INDEX: usize = 20;
const CHAIN: usize = 28;
const CHECK: usize = 32;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Entry without content.
    Blank = 1,
    /// Entry with a batch of commands.
    Commands = 2,
    /// Entry with a membership.
    Membership = 3,
    /// The vote; `index` is the member voted for, the payload one byte: 1 once it leads.
    Vote = 4,
    /// Entries up to `index` are committed.
    Committed = 5,
    /// Entries after `index` are gone.
    Truncate = 6,
    /// All entries are gone.
    Clear = 7,
    /// Entries up to `index` are no longer needed.
    Purge = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Blank,
            2 => Self::Commands,
            3 => Self::Membership,
            4 => Self::Vote,
            5 => Self::Committed,
            6 => Self::Truncate,
            7 => Self::Clear,
            8 => Self::Purge,
            _ => return None,
        })
    }

    /// Name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Blank => "blank",
            Self::Commands => "commands",
            Self::Membership => "membership",
            Self::Vote => "vote",
            Self::Committed => "committed",
            Self::Truncate => "truncate",
            Self::Clear => "clear",
            Self::Purge => "purge",
        }
    }

    pub(super) fn is_entry(self) -> bool {
        matches!(self, Self::Blank | Self::Commands | Self::Membership)
    }
}

/// A record's header, once its own checksum has been found right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) payload_len: usize,
    /// Offset at which the write began that this record was part of: everything before it was
    /// durable when this record was written.
    pub(super) group: u32,
    pub(super) kind: Kind,
    pub(super) term: u64,
    pub(super) index: u64,
    pub(super) chain: u32,
}

impl Header {
    pub(super) fn log_id(&self) -> LogId {
        log_id(self.term, self.index)
    }

    /// Header and payload.
    pub(super) fn record_len(&self) -> usize {
        HEADER_BYTES + self.payload_len
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("invariant: four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("invariant: eight bytes"))
}

fn check(fields: &[u8], salt: u32, offset: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(salt, &fields[..CHAIN]), &offset.to_le_bytes())
}

fn chain(previous: u32, record: &[u8]) -> u32 {
    let fields = crc32c::crc32c_append(previous, &record[..CHAIN]);
    crc32c::crc32c_append(fields, &record[HEADER_BYTES..])
}

/// Reads the header at the start of `bytes`, or `None` when no record of this segment was written
/// there.
pub(super) fn parse(bytes: &[u8], salt: u32, offset: u32) -> Option<Header> {
    let fields = bytes.get(..HEADER_BYTES)?;
    let kind = Kind::from_byte(fields[KIND])?;
    if fields[KIND + 1..TERM] != [0; 3] || u32_at(fields, CHECK) != check(fields, salt, offset) {
        return None;
    }
    let payload_len = u32_at(fields, 0) as usize;
    (payload_len <= MAX_PAYLOAD_BYTES).then(|| header(fields, kind))
}

/// Reads the header of a record in memory, sealed or not.
///
/// The caller encoded the record itself.
pub(super) fn trusted(record: &[u8]) -> Header {
    header(record, Kind::from_byte(record[KIND]).expect("invariant: encoded by this module"))
}

fn header(fields: &[u8], kind: Kind) -> Header {
    Header {
        payload_len: u32_at(fields, 0) as usize,
        group: u32_at(fields, GROUP),
        kind,
        term: u64_at(fields, TERM),
        index: u64_at(fields, INDEX),
        chain: u32_at(fields, CHAIN),
    }
}

/// True when `record` (header and payload) is what followed the records summed up in `previous`.
pub(super) fn follows(record: &[u8], previous: u32) -> bool {
    u32_at(record, CHAIN) == chain(previous, record)
}

/// Completes an encoded record for its place and returns the new chain value.
pub(super) fn seal(record: &mut [u8], group: u32, offset: u32, salt: u32, previous: u32) -> u32 {
    record[GROUP..KIND].copy_from_slice(&group.to_le_bytes());
    let sum = chain(previous, record);
    record[CHAIN..CHECK].copy_from_slice(&sum.to_le_bytes());
    let check = check(record, salt, offset);
    record[CHECK..HEADER_BYTES].copy_from_slice(&check.to_le_bytes());
    sum
}

fn encode(buf: &mut Vec<u8>, kind: Kind, id: LogId, payload: impl FnOnce(&mut Vec<u8>)) -> usize {
    let start = buf.len();
    buf.extend_from_slice(&[0; GROUP + 4]);
    buf.extend_from_slice(&[kind as u8, 0, 0, 0]);
    buf.extend_from_slice(&id.leader_id.term.to_le_bytes());
    buf.extend_from_slice(&id.index.to_le_bytes());
    buf.extend_from_slice(&[0; HEADER_BYTES - CHAIN]);
    payload(buf);
    let len = buf.len() - start - HEADER_BYTES;
    // A longer payload is refused by the queue before it is written.
    buf[start..start + GROUP].copy_from_slice(&(len as u32).to_le_bytes());
    buf.len() - start
}

/// Appends an entry to `buf`, unsealed; returns the record's length.
pub(super) fn encode_entry(buf: &mut Vec<u8>, entry: &Entry) -> usize {
    match &entry.payload {
        EntryContent::Blank => encode(buf, Kind::Blank, entry.log_id, |_| ()),
        EntryContent::Normal(payload) => encode(buf, Kind::Commands, entry.log_id, |buf| payload.encode(buf)),
        EntryContent::Membership(m) => encode(buf, Kind::Membership, entry.log_id, |buf| encode_membership(m, buf)),
    }
}

/// Appends a vote to `buf`, unsealed.
pub(super) fn encode_vote(buf: &mut Vec<u8>, vote: &Vote) {
    let id = log_id(vote.leader_id.term, vote.leader_id.voted_for);
    encode(buf, Kind::Vote, id, |buf| buf.push(u8::from(vote.committed)));
}

/// Appends a committed or purged position, or the end of a truncated log, to `buf`, unsealed.
pub(super) fn encode_position(buf: &mut Vec<u8>, kind: Kind, id: LogId) {
    encode(buf, kind, id, |_| ());
}

/// The vote that a record of that kind carries.
pub(super) fn decode_vote(header: &Header, payload: &[u8]) -> Option<Vote> {
    match payload {
        [0] => Some(Vote::new(header.term, header.index)),
        [1] => Some(Vote::new_committed(header.term, header.index)),
        _ => None,
    }
}

/// The entry that a record carries.
///
/// # Errors
/// A text, when the payload is not what the kind says or the record is no entry.
pub(super) fn decode_entry(header: &Header, payload: &[u8]) -> Result<Entry, String> {
    let payload = match header.kind {
        Kind::Blank => EntryContent::Blank,
        Kind::Commands => EntryContent::Normal(Payload::decode(payload).map_err(|e| e.to_string())?),
        Kind::Membership => EntryContent::Membership(decode_membership(payload).map_err(|e| e.to_string())?),
        Kind::Vote | Kind::Committed | Kind::Truncate | Kind::Clear | Kind::Purge => {
            return Err(format!("{} record where an entry was", header.kind.name()));
        }
    };
    Ok(Entry { log_id: header.log_id(), payload })
}
