//! How far a stream has come, as a token that the receiver gives back to the sender after a broken connection.
//!
//! ```text
//! progress = version:u8 term index revision compacted compaction_finished stored_bytes frames bytes (8 bytes each)
//!            crc:u32 table:u8 key_length:u32 key sum:u32        all integers big endian; sum covers what is before it
//! ```

use super::rows::Key;
use crate::command::Position;
use crate::mvcc::state::State;

const VERSION: u8 = 2;

/// Longest key that a token can name, be it of a user or a role. Behind a longer one the stream begins again.
const KEY_BYTES_MAX: usize = 64 << 10;

/// A stream is shorter than this; more is refused so that no sum overflows.
const STREAM_BYTES_MAX: u64 = 1 << 60;

/// Tells two snapshots of one history apart. Whatever a flush writes changes one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) position: Position,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    pub(crate) compaction_finished: i64,
    pub(crate) stored_bytes: u64,
}

impl Identity {
    pub(crate) fn of(state: &State) -> Self {
        Self {
            position: state.applied,
            revision: state.revision,
            compacted: state.compacted,
            compaction_finished: state.compaction_finished,
            stored_bytes: state.stored_bytes,
        }
    }
}

/// What a receiver has of a snapshot's stream: opaque, for [`crate::snapshot::Snapshot::resume_after`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub(crate) identity: Identity,
    /// Whole frames of rows. Without one the stream begins again, whichever snapshot it is of.
    pub(crate) frames: u64,
    /// Bytes up to the end of the last of them.
    pub(crate) bytes: u64,
    /// Checksum of all rows in them.
    pub(crate) crc: u32,
    /// The last row in them.
    pub(crate) last: Option<Key>,
}

impl Progress {
    /// Bytes of the stream that need not be sent again.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The token's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let id = &self.identity;
        let mut out = vec![VERSION];
        for int in [id.position.term, id.position.index] {
            out.extend(int.to_be_bytes());
        }
        for int in [id.revision, id.compacted, id.compaction_finished] {
            out.extend(int.to_be_bytes());
        }
        for int in [id.stored_bytes, self.frames, self.bytes] {
            out.extend(int.to_be_bytes());
        }
        out.extend(self.crc.to_be_bytes());
        if let Some(last) = &self.last {
            let (table, key) = last.encode();
            out.push(table);
            let key = &key[..key.len().min(KEY_BYTES_MAX)];
            out.extend((key.len() as u32).to_be_bytes());
            out.extend(key);
        }
        out.extend(crc32c::crc32c(&out).to_be_bytes());
        out
    }

    /// Reads a token; `None` for bytes that are not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (token, sum) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(token).to_be_bytes() != *sum {
            return None;
        }
        let mut rest = token;
        if take::<1>(&mut rest)? != [VERSION] {
            return None;
        }
        let mut ints = [0; 8];
        for int in &mut ints {
            *int = u64::from_be_bytes(take(&mut rest)?);
        }
        let [term, index, revision, compacted, compaction_finished, stored_bytes, frames, bytes] = ints;
        let crc = u32::from_be_bytes(take(&mut rest)?);
        let last = match rest {
            [] => None,
            [table, key @ ..] => {
                let (len, key) = key.split_first_chunk()?;
                if key.len() != u32::from_be_bytes(*len) as usize || key.len() > KEY_BYTES_MAX {
                    return None;
                }
                Some(Key::decode(*table, key).ok()?)
            }
        };
        if (frames == 0) != last.is_none() || bytes > STREAM_BYTES_MAX {
            return None;
        }
        let identity = Identity {
            position: Position { term, index },
            revision: revision as i64,
            compacted: compacted as i64,
            compaction_finished: compaction_finished as i64,
            stored_bytes,
        };
        Some(Self { identity, frames, bytes, crc, last })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::{Identity, Progress};
    use crate::command::Position;
    use crate::mvcc::revision::Revision;
    use crate::snapshot::rows::Key;

    #[test]
    fn a_token_is_read_back_and_nothing_else_is_one() {
        let identity = Identity {
            position: Position { term: 3, index: 400 },
            revision: 77,
            compacted: -1,
            compaction_finished: -1,
            stored_bytes: 9999,
        };
        let progress = |last| Progress { identity, frames: 3, bytes: 70_000, crc: 0xdead_beef, last: Some(last) };
        for progress in [
            Progress::default(),
            progress(Key::Meta("stored_bytes".into())),
            progress(Key::Alarm(3, 1)),
            progress(Key::AuthUser("a name".repeat(100).into())),
            progress(Key::Revision(Revision { main: 70, sub: 2 })),
        ] {
            let bytes = progress.encode();
            assert_eq!(Progress::decode(&bytes), Some(progress));
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x10;
                assert_eq!(Progress::decode(&damaged), None, "byte {at}");
                assert_eq!(Progress::decode(&bytes[..at]), None, "cut at {at}");
                // With the right checksum.
                let len = damaged.len() - 4;
                let sum = crc32c::crc32c(&damaged[..len]);
                damaged[len..].copy_from_slice(&sum.to_be_bytes());
                drop(Progress::decode(&damaged));
            }
        }
    }
}
