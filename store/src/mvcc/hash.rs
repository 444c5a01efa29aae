//! Hashes over the stored history, equal to etcd's for equal histories.

use super::key_range::{KeyRange, RangeEnd};
use super::revision::Revision;
use super::state::{Shared, fields, is_tombstone};
use crate::error::{Fault, ReadError, Rejection};
use api::encoded::KeyValue;

/// A hash of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C as etcd computes it.
    pub hash: u32,
    /// The revision that was hashed.
    pub revision: i64,
    /// Store revision when it was computed.
    pub current: i64,
    /// The last compaction, -1 for none.
    pub compacted: i64,
}

/// Rows looked at under one hold of the state lock.
const STEP: usize = 1000;

/// Bytes of rows after which a step ends early: that much of them is in memory.
const STEP_BYTES: usize = 1 << 20;

impl Shared {
    /// CRC-32C of the literal `key`, then for each change up to `revision` (0 for the latest) etcd's revision key and
    /// the stored key-value. Of the changes up to the compacted revision only those count that are still visible at
    /// `revision`; when no key exists at `revision`, those that a finished compaction keeps. Both rules are etcd's,
    /// and make the hash the same before and after history was removed. (In the second case etcd's own hash changes
    /// when it has deleted and committed what the compaction removes: this is the one from then on.)
    ///
    /// # Errors
    /// A future revision, or one below the compacted revision.
    pub(crate) fn hash_kv(&self, asked: i64) -> Result<HashKv, ReadError> {
        // Every turn needs another snapshot that was installed meanwhile.
        loop {
            if let Some(hash) = self.hash_state(asked)? {
                return Ok(hash);
            }
        }
    }

    /// None when an installed snapshot took the state's place before the end.
    fn hash_state(&self, asked: i64) -> Result<Option<HashKv>, ReadError> {
        // A compaction step in the middle would drop changes that the first half has counted.
        let _history = self.history.lock();
        let (on_disk, on_disk_to, tail, hashed, kept_at, generation);
        {
            let state = self.state.read();
            let revision = if asked == 0 { state.revision } else { asked };
            if asked > 0 && asked < state.compacted {
                return Err(Rejection::Compacted.into());
            }
            if asked > state.revision {
                return Err(Rejection::FutureRevision.into());
            }
            hashed = HashKv { hash: 0, revision, current: state.revision, compacted: state.compacted };
            generation = state.generation;
            let everything = KeyRange { key: &[], end: RangeEnd::Open };
            let any = state.index.range(everything, None).any(|(_, entry)| entry.at(revision).is_some());
            kept_at = if any { revision } else { state.compacted };
            on_disk = self.revisions();
            // Invariant: the tail holds whole revisions.
            on_disk_to = revision.min(state.tail.first().map_or(revision, |first| first.main - 1));
            tail = state.tail.from(Revision::default()).cloned().collect::<Vec<_>>();
        }
        let mut hash = crc32c::crc32c(b"key");
        let (mut step, mut step_bytes) = (Vec::with_capacity(STEP), 0);
        let rows = on_disk.scan(0, on_disk_to, hashed.compacted)?;
        for row in rows.chain(tail.into_iter().map(|record| Ok((record.revision, record.kv)))) {
            let (revision, kv) = row?;
            if revision.main > hashed.revision {
                break;
            }
            step_bytes += kv.as_bytes().len();
            step.push((revision, kv));
            if step.len() == STEP || step_bytes >= STEP_BYTES {
                step_bytes = 0;
                match self.hash_step(hash, &mut step, hashed.compacted, kept_at, generation)? {
                    Some(next) => hash = next,
                    None => return Ok(None),
                }
            }
        }
        let hash = self.hash_step(hash, &mut step, hashed.compacted, kept_at, generation)?;
        Ok(hash.map(|hash| HashKv { hash, ..hashed }))
    }

    fn hash_step(
        &self,
        mut hash: u32,
        rows: &mut Vec<(Revision, KeyValue)>,
        compacted: i64,
        kept_at: i64,
        generation: u64,
    ) -> Result<Option<u32>, Fault> {
        {
            let state = self.state.read();
            if state.generation != generation {
                return Ok(None);
            }
            let mut counted = Vec::with_capacity(rows.len());
            for (revision, kv) in rows.drain(..) {
                let is_counted = revision.main > compacted || {
                    let entry = state.index.get(fields(kv.as_bytes())?.key);
                    entry.is_some_and(|entry| entry.is_visible(revision, kept_at))
                };
                if is_counted {
                    counted.push((revision, kv));
                }
            }
            *rows = counted;
        }
        // Nobody who writes waits for this.
        for (revision, kv) in rows.drain(..) {
            let (key, len) = revision.etcd_key(is_tombstone(&kv)?);
            hash = crc32c::crc32c_append(hash, &key[..len]);
            hash = crc32c::crc32c_append(hash, kv.as_bytes());
        }
        Ok(Some(hash))
    }
}
