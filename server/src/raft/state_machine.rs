//! Drives the store with committed entries, and tells the rest of the member what they did.
//!
//! openraft calls from one task. The order is fixed: apply to memory, tell the observer (watchers, leases), answer
//! the proposers, those of this member's forwarded batches included. A fault of the store is an error here, which stops raft and with it the member.

use super::snapshot::{Outgoing, Parked};
use super::types::{
    Entry, EntryContent, LogId, Outcomes, SnapshotMeta, StoredMembership, TypeConfig, decode_stored_membership,
    encode_stored_membership, log_id,
};
use crate::node::TAIL_BYTES_MAX;
use crate::node::forwards::Forwards;
use crate::steps::ApplyTimes;
use api::cleatpb::command::Op;
use api::cleatpb::{Command, MemberRemoved};
use futures::{Stream, TryStreamExt};
use openraft::OptionalSend;
use openraft::alias::SnapshotOf;
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Applied, Installed, Outcome, Position, Reader, Received, Writer};
use tokio::runtime::{Handle, RuntimeFlavor};

/// Entries applied under one hold of the store's lock: readers wait no longer than that.
const APPLY_BATCH: usize = 256;

/// Their bytes, which are in memory together. A few entries are not counted: they are small together.
const APPLY_BATCH_BYTES: usize = 8 << 20;
const APPLY_UNCOUNTED: usize = 8;

/// Bytes applied and not yet in the database at which applying waits for the disk. Proposals are refused before, so it is
/// what other members propose that waits here: in the log, which is on disk. Above what is urgent on this member.
const TAIL_BYTES_HELD: usize = TAIL_BYTES_MAX + TAIL_BYTES_MAX / 2;

/// How often it is looked at whether there is room.
const HELD_LOOK: Duration = Duration::from_millis(10);

/// How often it is told that there is none.
const HELD_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Told what happens to the store. Must not block.
pub(crate) trait Observer: Send + Sync + 'static {
    /// A batch was applied, in this time; the proposers are not answered yet.
    fn applied(&self, applied: &Applied, took: Duration);

    /// A command of a batch was applied, in this time; the batch's others are not.
    fn applied_command(&self, _op: &Op, _outcome: &Outcome, _took: Duration) {}

    /// The whole content is about to be replaced.
    fn installing(&self) {}

    /// The whole content was replaced; the store is at this revision now.
    fn installed(&self, revision: i64);
}

pub(crate) struct StateMachine {
    writer: Writer,
    reader: Reader,
    observer: Box<dyn Observer>,
    forwards: Arc<Forwards>,
    /// Term of the last applied entry.
    term: u64,
    /// The members of the applied membership.
    members: BTreeSet<u64>,
    parked: Arc<Parked>,
    /// [`TAIL_BYTES_HELD`].
    tail_bytes_held: usize,
}

impl StateMachine {
    pub(crate) fn new(writer: Writer, reader: Reader, observer: Box<dyn Observer>, forwards: Arc<Forwards>) -> Self {
        let (position, membership) = reader.applied();
        let members = raft_state(position, &membership).map(|(_, stored)| member_ids(&stored)).unwrap_or_default();
        let (parked, tail_bytes_held) = (Arc::default(), TAIL_BYTES_HELD);
        Self { writer, reader, observer, forwards, term: position.term, members, parked, tail_bytes_held }
    }

    /// For a test that need not fill so much.
    #[cfg(test)]
    pub(crate) fn holding_at(mut self, tail_bytes: usize) -> Self {
        self.tail_bytes_held = tail_bytes;
        self
    }

    /// Waits until the disk has taken enough of what was applied. Meanwhile entries wait in the log.
    async fn room(&self) {
        let mut told: Option<Instant> = None;
        while self.reader.unflushed_bytes() > self.tail_bytes_held {
            if told.is_none_or(|at| at.elapsed() >= HELD_LOG_INTERVAL) {
                told = Some(Instant::now());
                let tail_bytes = self.reader.unflushed_bytes();
                tracing::warn!(tail_bytes, "the disk does not keep up with what is applied, waiting for it");
            }
            tokio::time::sleep(HELD_LOOK).await;
        }
    }

    fn apply_batch(&mut self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let removals: Vec<Vec<Command>> = batch.iter().map(|(entry, _)| self.removals(entry)).collect();
        let entries = batch.iter().zip(&removals).map(|((entry, _), removals)| store_entry(entry, removals));
        let started = Instant::now();
        let (observer, mut last) = (&self.observer, started);
        let tell = |command: &Command, outcome: &Outcome| {
            let Some(op) = &command.op else { return };
            let now = Instant::now();
            observer.applied_command(op, outcome, now - std::mem::replace(&mut last, now));
        };
        let mut applied = self.writer.apply_telling(entries, tell).map_err(io::Error::other)?;
        let outcomes = std::mem::take(&mut applied.outcomes);
        let times = ApplyTimes { began: started, took: started.elapsed() };
        self.observer.applied(&applied, times.took);
        if let Some((entry, _)) = batch.last() {
            self.forwards.set_applied(position(&entry.log_id()).index);
        }
        for ((entry, responder), outcomes) in batch.into_iter().zip(outcomes) {
            if entry.log_id.leader_id.term > self.term {
                self.term = entry.log_id.leader_id.term;
                self.forwards.enter_term(self.term);
            }
            let outcomes = Outcomes { outcomes, applied: Some(times), leader: 0 };
            match (responder, &entry.payload) {
                (Some(responder), _) => responder.send(outcomes),
                (None, EntryContent::Normal(payload)) => {
                    self.forwards.complete(payload.batch().origin.as_ref(), outcomes);
                }
                (None, EntryContent::Blank | EntryContent::Membership(_)) => {}
            }
        }
        Ok(())
    }
}

impl StateMachine {
    /// What the store must forget with an entry: members that are in the membership no more.
    fn removals(&mut self, entry: &Entry) -> Vec<Command> {
        let EntryContent::Membership(membership) = &entry.payload else { return Vec::new() };
        let now: BTreeSet<u64> = membership.nodes().map(|(id, _)| *id).collect();
        let before = std::mem::replace(&mut self.members, now);
        let gone = before.difference(&self.members);
        let op = |member_id: &u64| Some(Op::MemberRemoved(MemberRemoved { member_id: *member_id }));
        gone.map(|id| Command { header: None, op: op(id) }).collect()
    }

    /// Exchanges the store's content. Waits for a flush that is under way, so not on a worker that others need.
    fn install(&mut self, received: Received) -> io::Result<()> {
        self.observer.installing();
        let writer = &mut self.writer;
        let can_block = Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
        let installed =
            if can_block { tokio::task::block_in_place(|| writer.install(received)) } else { writer.install(received) };
        let Installed { position, membership, revision, replaced, .. } = installed.map_err(io::Error::other)?;
        let (_, stored) = raft_state(position, &membership)?;
        self.members = member_ids(&stored);
        self.term = position.term;
        // As large as the store.
        crate::blocking::detach(move || drop(replaced));
        self.forwards.skip();
        self.forwards.set_applied(position.index);
        self.observer.installed(revision);
        tracing::info!(index = position.index, revision, "installed a snapshot");
        Ok(())
    }
}

fn member_ids(stored: &StoredMembership) -> BTreeSet<u64> {
    stored.membership().nodes().map(|(id, _)| *id).collect()
}

/// The store counts entries from 1, as etcd does, and has 0 for "none"; openraft counts from 0.
fn position(id: &LogId) -> Position {
    Position { term: id.leader_id.term, index: id.index + 1 }
}

/// The raft view of a position in the store; nothing before the first entry.
pub(crate) fn raft_position(position: Position) -> Option<LogId> {
    position.index.checked_sub(1).map(|index| log_id(position.term, index))
}

fn store_entry<'a>(entry: &'a Entry, removals: &'a [Command]) -> store::Entry<'a> {
    let id = entry.log_id();
    let position = position(&id);
    match &entry.payload {
        EntryContent::Blank => store::Entry { position, commands: &[], membership: None },
        EntryContent::Normal(payload) => {
            store::Entry { position, commands: &payload.batch().commands, membership: None }
        }
        EntryContent::Membership(membership) => {
            let stored = StoredMembership::new(Some(id), membership.clone());
            store::Entry { position, commands: removals, membership: Some(encode_stored_membership(&stored)) }
        }
    }
}

/// Position and membership of the store as raft counts them.
///
/// # Errors
/// The membership cannot be read.
pub(crate) fn raft_state(position: Position, membership: &[u8]) -> io::Result<(Option<LogId>, StoredMembership)> {
    let at = raft_position(position);
    let membership = if membership.is_empty() {
        StoredMembership::default()
    } else {
        decode_stored_membership(membership).map_err(io::Error::other)?
    };
    Ok((at, membership))
}

/// What a snapshot is made of.
#[derive(Clone)]
pub(crate) enum SnapshotSource {
    /// The store itself, read when it is sent.
    Outgoing(Outgoing),
    /// A database that was received, until it is installed.
    Received(Arc<Mutex<Option<Received>>>),
}

/// Builds snapshots. Nothing is copied: the durable state in the database is the snapshot, and what it covers may be
/// purged from the log.
pub(crate) struct SnapshotBuilder {
    reader: Reader,
    parked: Arc<Parked>,
}

impl SnapshotBuilder {
    fn at(&self, position: Position, membership: &[u8]) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotSource>>> {
        let (last_log_id, last_membership) = raft_state(position, membership)?;
        let meta = SnapshotMeta { last_log_id, last_membership };
        let outgoing = Outgoing { reader: self.reader.clone(), parked: Arc::clone(&self.parked), position };
        Ok(last_log_id.map(|_| SnapshotOf::<TypeConfig, _> { meta, snapshot: SnapshotSource::Outgoing(outgoing) }))
    }

    fn durable(&self) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotSource>>> {
        let (position, membership) = self.reader.durable();
        self.at(position, &membership)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotSource;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotSource>> {
        self.durable()?.ok_or_else(|| io::Error::other("nothing is durable yet"))
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
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(entry) = entries.try_next().await? {
            if batch.len() >= APPLY_UNCOUNTED
                && let EntryContent::Normal(payload) = &entry.0.payload
            {
                bytes += payload.encoded_len();
            }
            batch.push(entry);
            if batch.len() == APPLY_BATCH || bytes >= APPLY_BATCH_BYTES {
                self.room().await;
                self.apply_batch(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.room().await;
        self.apply_batch(batch)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { reader: self.reader.clone(), parked: Arc::clone(&self.parked) }
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, snapshot: SnapshotSource) -> io::Result<()> {
        let SnapshotSource::Received(received) = snapshot else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a snapshot that was not received"));
        };
        let received = received.lock().take().ok_or_else(|| io::Error::other("a snapshot is installed once"))?;
        self.install(received)
    }

    /// The snapshot whose receiver was lost, if there is one: then the next attempt can go on with it.
    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotSource>>> {
        let builder = self.get_snapshot_builder().await;
        match self.parked.look() {
            Some((position, membership)) => builder.at(position, &membership),
            None => builder.durable(),
        }
    }
}

#[cfg(test)]
mod tests;
