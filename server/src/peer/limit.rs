//! How large a message between members can be.
//!
//! What a client may send in one request bounds everything else, because it is never put together with others beyond
//! [`BATCH_BYTES`] and its like:
//!
//! | message | carries at most |
//! |---|---|
//! | `Propose` | an entry: one command of a client ([`Limits::request_bytes`]), or many of [`BATCH_BYTES`] together, framed [`BATCH_COMMANDS`] times |
//! | `Append` | one entry of any size, or several of [`MAX_READ_BYTES`] together, their framing included |
//! | `InstallSnapshot` | frames of [`PIECE_BYTES`] together and one more: [`FRAME_BYTES`] and one row, which is what one command wrote; or a membership |
//! | `ChangeMembership`, and a membership in an entry | [`MEMBERSHIP_BYTES_MAX`] |
//! | `LeaseRenew` | 10,000 numbers |
//! | the others | a few numbers |
//!
//! Entries and values live longer than a member's flags, and members may be given different ones: see
//! [`REQUEST_BYTES_LEAST`].
//!
//! [`Limits::request_bytes`]: crate::node::Limits

use crate::node::{BATCH_BYTES, BATCH_COMMANDS};
use crate::raft::log_store::MAX_READ_BYTES;
use crate::raft::snapshot::PIECE_BYTES;

/// Taken for `--max-request-bytes` where that is lower: the largest that is not warned of. A member whose flag was lowered
/// to no less still takes what others have in their logs and stores from before.
const REQUEST_BYTES_LEAST: usize = 10 << 20;

/// Everything around the largest request.
const OVERHEAD_BYTES: usize = 512 << 10;

/// A membership, encoded; a member has a few hundred bytes of URLs in it.
pub(crate) const MEMBERSHIP_BYTES_MAX: usize = 1 << 20;

/// Tag and length of a field.
const FIELD_BYTES: usize = 1 + 5;
/// Positions, ballots and an origin: numbers of at most ten bytes with their tags.
const NUMBERS_BYTES: usize = 32 * 11;
/// Of a snapshot's frame, see `store/src/snapshot.rs`.
const FRAME_BYTES: usize = 32 << 10;

const _: () = assert!(BATCH_BYTES <= REQUEST_BYTES_LEAST && MAX_READ_BYTES <= REQUEST_BYTES_LEAST);
const _: () = assert!(MEMBERSHIP_BYTES_MAX + FRAME_BYTES <= REQUEST_BYTES_LEAST);
const _: () = assert!((BATCH_COMMANDS + 4) * FIELD_BYTES + NUMBERS_BYTES + FRAME_BYTES + PIECE_BYTES <= OVERHEAD_BYTES);

/// The largest message that a member takes, given its `--max-request-bytes`.
pub(crate) fn message_bytes_max(request_bytes: usize) -> usize {
    request_bytes.max(REQUEST_BYTES_LEAST).saturating_add(OVERHEAD_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{Entry, EntryContent, Payload, log_id};
    use crate::raft::wire;
    use api::cleatpb::command::Op;
    use api::cleatpb::{Batch, Command, Origin};
    use api::etcdserverpb::PutRequest;
    use openraft::raft::AppendEntriesRequest;
    use prost::Message as _;

    /// An append of one entry, with numbers that take the most bytes.
    fn append(commands: Vec<Command>) -> usize {
        let origin = Some(Origin { member_id: u64::MAX, run: u64::MAX, sequence: u64::MAX });
        let payload = EntryContent::Normal(Payload::new(Batch { commands, origin }));
        let at = log_id(u64::MAX - 1, u64::MAX - 1);
        wire::to_append(&AppendEntriesRequest {
            vote: crate::raft::types::Vote::new_committed(u64::MAX, u64::MAX),
            prev_log_id: Some(at),
            leader_commit: Some(at),
            entries: vec![Entry { log_id: log_id(u64::MAX, u64::MAX), payload }],
        })
        .encoded_len()
    }

    fn put(bytes: usize) -> Command {
        let put = PutRequest { value: vec![0; bytes].into(), ..Default::default() };
        Command { header: None, op: Some(Op::Put(put)) }
    }

    #[test]
    fn the_largest_entries_fit() {
        for request_bytes in [1, 3 << 19, 10 << 20, 20 << 20] {
            let limit = message_bytes_max(request_bytes);
            assert!(append(vec![put(request_bytes)]) <= limit, "{request_bytes}");
            // As many commands as can be, and with them more bytes than wait together.
            let small = (0..BATCH_COMMANDS).map(|_| put(BATCH_BYTES / BATCH_COMMANDS));
            assert!(append(small.collect()) <= limit, "{request_bytes}");
            assert!(limit < request_bytes + (11 << 20), "{request_bytes}");
        }
    }
}
