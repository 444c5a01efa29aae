//! Drives the store with committed entries, and tells the rest of the member what they did.
//!
//! openraft calls from one task. The order is fixed: apply to memory, tell the observer (watchers, leases), answer
//! the proposers. A fault of the store is an error here, which stops raft and with it the member.

use super::types::{
    Entry, EntryContent, LogId, Outcomes, SnapshotMeta, StoredMembership, TypeConfig, decode_stored_membership,
    encode_stored_membership, log_id,
};
use futures::{Stream, TryStreamExt};
use openraft::OptionalSend;
use openraft::alias::SnapshotOf;
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use std::io;
use std::time::{Duration, Instant};
use store::{Applied, Position, Reader, Writer};

/// Entries applied under one hold of the store's lock: readers wait no longer than that.
const APPLY_BATCH: usize = 256;

/// Called after every applied batch with what it did and how long that took, before the proposers are answered. Must not block.
pub(crate) type Observer = Box<dyn Fn(&Applied, Duration) + Send + Sync>;

pub(crate) struct StateMachine {
    writer: Writer,
    reader: Reader,
    observer: Observer,
}

impl StateMachine {
    pub(crate) fn new(writer: Writer, reader: Reader, observer: Observer) -> Self {
        Self { writer, reader, observer }
    }

    fn apply_batch(&mut self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let entries = batch.iter().map(|(entry, _)| store_entry(entry));
        let started = Instant::now();
        let mut applied = self.writer.apply(entries).map_err(io::Error::other)?;
        let outcomes = std::mem::take(&mut applied.outcomes);
        (self.observer)(&applied, started.elapsed());
        for ((_, responder), outcomes) in batch.into_iter().zip(outcomes) {
            if let Some(responder) = responder {
                responder.send(Outcomes(outcomes));
            }
        }
        Ok(())
    }
}

/// The store counts entries from 1, as etcd does, and has 0 for "none"; openraft counts from 0.
fn position(id: &LogId) -> Position {
    Position { term: id.leader_id.term, index: id.index + 1 }
}

/// The raft view of a position in the store; nothing before the first entry.
pub(crate) fn raft_position(position: Position) -> Option<LogId> {
    position.index.checked_sub(1).map(|index| log_id(position.term, index))
}

fn store_entry(entry: &Entry) -> store::Entry<'_> {
    let id = entry.log_id();
    let position = position(&id);
    match &entry.payload {
        EntryContent::Blank => store::Entry { position, commands: &[], membership: None },
        EntryContent::Normal(payload) => {
            store::Entry { position, commands: &payload.batch().commands, membership: None }
        }
        EntryContent::Membership(membership) => {
            let stored = StoredMembership::new(Some(id), membership.clone());
            store::Entry { position, commands: &[], membership: Some(encode_stored_membership(&stored)) }
        }
    }
}

fn raft_state(position: Position, membership: &[u8]) -> io::Result<(Option<LogId>, StoredMembership)> {
    let at = raft_position(position);
    let membership = if membership.is_empty() {
        StoredMembership::default()
    } else {
        decode_stored_membership(membership).map_err(io::Error::other)?
    };
    Ok((at, membership))
}

/// What a snapshot is made of: the store itself, read when it is sent.
#[derive(Clone)]
pub(crate) struct SnapshotSource;

/// Builds snapshots. Nothing is copied: the durable state in the database is the snapshot, and what it covers may be
/// purged from the log.
pub(crate) struct SnapshotBuilder {
    reader: Reader,
}

impl SnapshotBuilder {
    fn current(&self) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotSource>>> {
        let (position, membership) = self.reader.durable();
        let (last_log_id, last_membership) = raft_state(position, &membership)?;
        let meta = SnapshotMeta { last_log_id, last_membership };
        Ok(last_log_id.map(|_| SnapshotOf::<TypeConfig, _> { meta, snapshot: SnapshotSource }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotSource;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotSource>> {
        self.current()?.ok_or_else(|| io::Error::other("nothing is durable yet"))
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotSource;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let (position, membership) = self.reader.applied();
        raft_state(position, &membership)
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut batch = Vec::new();
        while let Some(entry) = entries.try_next().await? {
            batch.push(entry);
            if batch.len() == APPLY_BATCH {
                self.apply_batch(std::mem::take(&mut batch))?;
            }
        }
        if batch.is_empty() { Ok(()) } else { self.apply_batch(batch) }
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { reader: self.reader.clone() }
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, _snapshot: SnapshotSource) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a single member has nobody to receive a snapshot from"))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotSource>>> {
        SnapshotBuilder { reader: self.reader.clone() }.current()
    }
}
