//! Events read back from the store, for watchers that start in the past or fell behind.

use super::revision::Revision;
use super::state::{Shared, fields, is_tombstone};
use super::tail::TailRecord;
use crate::command::{Change, KeyEvent, RevisionEvents};
use crate::error::{Fault, ReadError, Rejection};
use api::encoded::{KeyValue, KeyValueFields};
use std::sync::Arc;

/// Whole revisions of events.
#[derive(Debug, Default)]
pub struct Past {
    /// In revision order; revisions that changed no key that still has history are missing.
    pub changes: Vec<Change>,
    /// The revision to go on from; never below the one that was asked for.
    pub next: i64,
    /// The store revision when this was read: when `next` is above it, everything was read.
    pub current: i64,
}

/// Gathers changes into whole revisions until enough bytes were seen.
struct Gathered {
    max_bytes: usize,
    bytes: usize,
    changes: Vec<RevisionEvents>,
    /// The revision that no longer fitted.
    cut: Option<i64>,
}

impl Gathered {
    /// Takes a change; false when the revision it begins no longer fits.
    fn push(&mut self, revision: Revision, kv: &KeyValue, tombstone: bool) -> Result<bool, Fault> {
        if self.changes.last().is_none_or(|last| last.revision != revision.main) {
            if self.bytes >= self.max_bytes && !self.changes.is_empty() {
                self.cut = Some(revision.main);
                return Ok(false);
            }
            self.changes.push(RevisionEvents { revision: revision.main, events: Vec::new() });
        }
        self.bytes += kv.as_bytes().len();
        let fields = fields(kv.as_bytes())?;
        let event = if tombstone {
            let kv = KeyValueFields { key: fields.key, mod_revision: revision.main, ..Default::default() }.encode();
            KeyEvent { deleted: true, kv, created: false }
        } else {
            KeyEvent { deleted: false, kv: kv.clone(), created: fields.version == 1 }
        };
        // Invariant: the revision was pushed above.
        if let Some(last) = self.changes.last_mut() {
            last.events.push(event);
        }
        Ok(true)
    }
}

impl Gathered {
    fn finish(self, from: i64, current: i64) -> Past {
        let next = self.cut.unwrap_or(from.max(current + 1));
        Past { changes: self.changes.into_iter().map(Arc::new).collect(), next, current }
    }
}

impl Shared {
    /// Reads the events from revision `from` on, in whole revisions, until about `max_bytes` were read, but at
    /// least one revision when there is one.
    ///
    /// # Errors
    /// [`Rejection::Compacted`] when `from` lies below the compacted revision.
    pub(crate) fn past(&self, from: i64, max_bytes: usize) -> Result<Past, ReadError> {
        let start = Revision::first(from.max(0));
        let mut gathered = Gathered { max_bytes, bytes: 0, changes: Vec::new(), cut: None };
        let (on_disk, on_disk_to, current, compacted);
        let mut tail: Vec<TailRecord> = Vec::new();
        let mut tail_cut = None;
        {
            let state = self.state.read();
            if from < state.compacted {
                return Err(Rejection::Compacted.into());
            }
            current = state.revision;
            compacted = state.compacted;
            let tail_first = state.tail.first();
            if tail_first.is_some_and(|first| first <= start) {
                // The usual case, a watcher that is a little behind: no disk, no copies.
                for record in state.tail.from(start) {
                    if !gathered.push(record.revision, &record.kv, record.tombstone)? {
                        break;
                    }
                }
                return Ok(gathered.finish(from, current));
            }
            on_disk = self.revisions();
            // Invariant: the tail holds whole revisions.
            on_disk_to = tail_first.map_or(current, |first| first.main - 1);
            // Enough to fill the answer even if the disk has nothing.
            let mut bytes = 0;
            for record in state.tail.from(start) {
                if bytes > max_bytes && tail.last().is_none_or(|last| last.revision.main != record.revision.main) {
                    tail_cut = Some(record.revision.main);
                    break;
                }
                bytes += record.kv.as_bytes().len();
                tail.push(record.clone());
            }
        }
        for row in on_disk.scan(start.main, on_disk_to, compacted)? {
            let (revision, kv) = row?;
            if !gathered.push(revision, &kv, is_tombstone(&kv)?)? {
                break;
            }
        }
        for record in &tail {
            if gathered.cut.is_some() || !gathered.push(record.revision, &record.kv, record.tombstone)? {
                break;
            }
        }
        gathered.cut = gathered.cut.or(tail_cut);
        Ok(gathered.finish(from, current))
    }

    /// The key-value of `key` just before `revision`, unless it did not exist or was compacted away.
    pub(crate) fn previous(&self, key: &[u8], revision: i64) -> Result<Option<KeyValue>, Fault> {
        let (on_disk, stamp);
        {
            let state = self.state.read();
            let at = revision - 1;
            if at < state.compacted {
                return Ok(None);
            }
            let Some(found) = state.index.get(key).and_then(|entry| entry.at(at)) else { return Ok(None) };
            if let Some(kv) = state.in_memory(key, found) {
                return Ok(Some(kv));
            }
            stamp = found;
            on_disk = self.revisions();
        }
        on_disk.get(stamp.revision()).map(Some)
    }
}
