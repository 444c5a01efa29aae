//! Recent revisions that are not durable in redb yet (they are durable in the log).
//!
//! Appended by apply, copied by the flush, trimmed once the flush has committed. Ascending by revision.

use super::revision::Revision;
use api::encoded::KeyValue;
use std::collections::VecDeque;

/// One change: the key-value as it is stored. A tombstone stores only the key.
#[derive(Clone, Debug)]
pub(crate) struct TailRecord {
    pub(crate) revision: Revision,
    pub(crate) kv: KeyValue,
    pub(crate) tombstone: bool,
}

#[derive(Default)]
pub(crate) struct Tail {
    records: VecDeque<TailRecord>,
    bytes: usize,
}

impl Tail {
    pub(crate) fn push(&mut self, record: TailRecord) {
        debug_assert!(self.records.back().is_none_or(|last| last.revision < record.revision), "revisions only grow");
        self.bytes += record.kv.as_bytes().len();
        self.records.push_back(record);
    }

    /// Bytes of key-values held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// The oldest revision held.
    pub(crate) fn first(&self) -> Option<Revision> {
        self.records.front().map(|r| r.revision)
    }

    pub(crate) fn get(&self, revision: Revision) -> Option<&TailRecord> {
        let at = self.records.binary_search_by(|r| r.revision.cmp(&revision)).ok()?;
        self.records.get(at)
    }

    /// Records from `revision` on, ascending.
    pub(crate) fn from(&self, revision: Revision) -> impl Iterator<Item = &TailRecord> {
        self.records.range(self.records.partition_point(|r| r.revision < revision)..)
    }

    /// Forgets the first `count` records.
    pub(crate) fn trim(&mut self, count: usize) {
        for record in self.records.drain(..count) {
            self.bytes -= record.kv.as_bytes().len();
        }
        // After a burst the ring keeps its largest size; give most of it back.
        if self.records.capacity() > 4096 && self.records.len() < self.records.capacity() / 8 {
            self.records.shrink_to(self.records.capacity() / 4);
        }
    }
}
