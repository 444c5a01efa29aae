//! A write transaction: all changes of one revision.
//!
//! Lives while apply holds the state lock. Reads inside it see its own changes. The store revision grows by one when
//! it ends, unless nothing changed.

use super::key_range::KeyRange;
use super::revision::Revision;
use super::state::{Shared, State, fields, stored_size};
use super::tail::TailRecord;
use crate::command::{KeyEvent, RevisionEvents};
use crate::error::{Fault, ReadError};
use api::encoded::{KeyValue, KeyValueFields, RangeResponse};
use api::etcdserverpb::RangeRequest;
use std::sync::Arc;

/// The state as a transaction sees it at one moment.
#[derive(Clone, Copy)]
pub(crate) struct ReadView<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) state: &'a State,
    /// True once the transaction has changed something.
    pub(crate) changed: bool,
}

impl ReadView<'_> {
    /// The store revision as the transaction sees it: one more once it has changed something.
    pub(crate) fn revision(&self) -> i64 {
        self.state.revision + i64::from(self.changed)
    }

    /// The key-value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Fault> {
        let Some(entry) = self.state.index.get(key).filter(|entry| entry.is_live()) else { return Ok(None) };
        let kv = self.shared.key_value(self.state, key, entry.last())?;
        fields(kv.as_bytes())?;
        Ok(Some(kv))
    }

    pub(crate) fn exists(&self, key: &[u8]) -> bool {
        self.state.index.get(key).is_some_and(super::index::KeyEntry::is_live)
    }

    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, ReadError> {
        self.shared.range_locked(self.state, request, self.revision())
    }
}

pub(crate) struct WriteTxn<'a> {
    shared: &'a Shared,
    pub(crate) state: &'a mut State,
    events: Vec<KeyEvent>,
}

impl<'a> WriteTxn<'a> {
    pub(crate) fn new(shared: &'a Shared, state: &'a mut State) -> Self {
        Self { shared, state, events: Vec::new() }
    }

    /// What the transaction sees now.
    pub(crate) fn view(&self) -> ReadView<'_> {
        ReadView { shared: self.shared, state: self.state, changed: !self.events.is_empty() }
    }

    fn next(&self) -> Revision {
        Revision { main: self.state.revision + 1, sub: self.events.len() as u32 }
    }

    /// Writes a key and returns the revision.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> i64 {
        let revision = self.next();
        let mut created = false;
        let kv = self.state.index.put(key, revision, |create_revision, version| {
            created = version == 1;
            KeyValueFields { key, create_revision, mod_revision: revision.main, version, value, lease }.encode()
        });
        self.state.leases.attach(key, lease);
        self.record(revision, kv.clone(), false);
        self.events.push(KeyEvent { deleted: false, kv, created });
        revision.main
    }

    /// Deletes the keys of a range and returns how many there were.
    pub(crate) fn delete_range(&mut self, range: KeyRange<'_>) -> i64 {
        let live = self.state.index.range(range, None).filter(|(_, entry)| entry.is_live());
        let keys: Vec<Box<[u8]>> = live.map(|(key, _)| key.into()).collect();
        for key in &keys {
            self.delete(key);
        }
        keys.len() as i64
    }

    fn delete(&mut self, key: &[u8]) {
        let revision = self.next();
        self.state.index.tombstone(key, revision);
        self.state.leases.attach(key, 0);
        // What etcd stores for a tombstone, and therefore what HashKV covers, is the key alone.
        self.record(revision, KeyValueFields { key, ..Default::default() }.encode(), true);
        let kv = KeyValueFields { key, mod_revision: revision.main, ..Default::default() }.encode();
        self.events.push(KeyEvent { deleted: true, kv, created: false });
    }

    fn record(&mut self, revision: Revision, kv: KeyValue, tombstone: bool) {
        self.state.stored_bytes += stored_size(kv.as_bytes());
        self.state.tail.push(TailRecord { revision, kv, tombstone });
    }

    /// Ends the transaction: the revision grows when something changed. Returns the events for the watchers.
    pub(crate) fn finish(self) -> Option<Arc<RevisionEvents>> {
        if self.events.is_empty() {
            return None;
        }
        self.state.revision += 1;
        Some(Arc::new(RevisionEvents { revision: self.state.revision, events: self.events }))
    }
}
