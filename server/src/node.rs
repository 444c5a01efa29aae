//! The one handle that every API uses on the replicated store: propose a change, wait until reads are safe, look.
//!
//! PROPOSE. At most [`ENTRIES_IN_FLIGHT`] entries are on their way. A proposal that finds room goes to raft by itself;
//! others queue in a bounded channel, and one task makes an entry of what waits together. So a busy member batches by
//! itself, and an idle one adds nothing to the latency. Each proposal keeps its own revision and its own outcome.
//!
//! READ. A linearizable read must see everything that was acknowledged before it began. The only voter of a cluster
//! that leads in its own term has applied all of that, so it answers at once. Otherwise all waiting readers share one
//! read-index round.
//!
//! Not here: request shapes and etcd's answers (`v3/`), who may ask (`v3/`), what a command does (`store`).

use crate::raft::state_machine::StateMachine;
use crate::raft::types::{Payload, Raft, TypeConfig};
use crate::raft::wal::WalStats;
use api::cleatpb::command::Op;
use api::cleatpb::{Batch, Command};
use api::error::Error;
use api::etcdserverpb::ResponseHeader;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::metrics::{RaftMetrics, RaftServerMetrics};
use openraft::{ReadPolicy, ServerState};
use prost::Message;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use store::{Outcome, Reader};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Entries proposed and not yet applied. Two keep the disk busy; more let a slow apply overlap with syncing.
const ENTRIES_IN_FLIGHT: usize = 4;

/// Commands in one entry.
const BATCH_COMMANDS: usize = 1024;

/// Bytes of commands in one entry; a single larger command makes an entry of its own.
const BATCH_BYTES: usize = 1 << 20;

/// Proposals that wait. More are refused with "too many requests", at etcd's count.
const PROPOSALS_WAITING: usize = 5000;

/// Readers that wait for a read-index round.
const READERS_WAITING: usize = 16_384;

/// Bytes applied and not yet in the database at which proposals are refused: the disk does not keep up.
pub(crate) const TAIL_BYTES_MAX: usize = 512 << 20;

struct Proposal {
    command: Command,
    bytes: usize,
    answer: oneshot::Sender<Result<Outcome, Error>>,
}

/// Who this member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
}

/// Limits that requests are checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Largest encoded command.
    pub(crate) request_bytes: usize,
    /// Longest wait for a proposal or a read barrier.
    pub(crate) request_timeout: Duration,
}

/// Counters of proposals and read-index rounds, for the metrics.
#[derive(Default)]
pub(crate) struct ProposalStats {
    pending: AtomicUsize,
    failed: AtomicU64,
    reads_failed: AtomicU64,
    reads_timed_out: AtomicU64,
}

impl ProposalStats {
    /// Proposals that wait for their outcome.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Proposals that ended without an outcome.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Read-index rounds that confirmed nothing.
    pub(crate) fn reads_failed(&self) -> u64 {
        self.reads_failed.load(Ordering::Relaxed)
    }

    /// Those of them that took too long.
    pub(crate) fn reads_timed_out(&self) -> u64 {
        self.reads_timed_out.load(Ordering::Relaxed)
    }
}

/// See the module. Clones share one member.
#[derive(Clone)]
pub(crate) struct Node(Arc<Inner>);

struct Inner {
    raft: Raft<StateMachine>,
    reader: Reader,
    log: Arc<WalStats>,
    identity: Identity,
    limits: Limits,
    proposals: mpsc::Sender<Proposal>,
    in_flight: Arc<Semaphore>,
    readers: mpsc::Sender<oneshot::Sender<Result<(), Error>>>,
    view: View,
    stats: ProposalStats,
}

/// What raft last said, in a form that costs an atomic load to read.
#[derive(Default)]
struct View {
    term: AtomicU64,
    /// 0 for none.
    leader: AtomicU64,
    leader_changes: AtomicU64,
    /// The term in which this member leads and has applied an entry of its own.
    leads_in: watch::Sender<Option<u64>>,
    /// Leads, is the only voter, and has applied an entry of its own term.
    reads_need_no_round: AtomicBool,
}

impl Node {
    /// Builds the handle and spawns its tasks.
    pub(crate) fn start(
        raft: Raft<StateMachine>,
        reader: Reader,
        log: Arc<WalStats>,
        identity: Identity,
        limits: Limits,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let (proposals, proposals_rx) = mpsc::channel(PROPOSALS_WAITING);
        let (readers, readers_rx) = mpsc::channel(READERS_WAITING);
        let in_flight = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT));
        let (view, stats) = (View::default(), ProposalStats::default());
        let node =
            Self(Arc::new(Inner { raft, reader, log, identity, limits, proposals, in_flight, readers, view, stats }));
        tasks.spawn(node.clone().batch(proposals_rx, stop.clone()));
        tasks.spawn(node.clone().confirm_reads(readers_rx, stop.clone()));
        tasks.spawn(node.clone().follow_raft(stop.clone()));
        node
    }

    /// Replicates and applies a command, and returns its outcome with the store revision after it.
    ///
    /// Cancellation: a proposal that was queued goes on when the caller stops waiting.
    ///
    /// # Errors
    /// Too large, too many waiting, no leader, timed out (the outcome is then unknown), stopped. What the command
    /// itself answers, "no" included, is in the outcome.
    pub(crate) async fn propose(&self, op: Op) -> Result<Outcome, Error> {
        let command = Command { header: None, op: Some(op) };
        let bytes = command.encoded_len();
        if bytes > self.0.limits.request_bytes {
            return Err(Error::RequestTooLarge);
        }
        if self.0.reader.tail_bytes() > TAIL_BYTES_MAX {
            return Err(Error::TooManyRequests);
        }
        self.0.stats.pending.fetch_add(1, Ordering::Relaxed);
        let outcome = tokio::time::timeout(self.0.limits.request_timeout, self.write(command, bytes)).await;
        self.0.stats.pending.fetch_sub(1, Ordering::Relaxed);
        let outcome = outcome.unwrap_or(Err(Error::Timeout));
        if outcome.is_err() {
            self.0.stats.failed.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    async fn write(&self, command: Command, bytes: usize) -> Result<Outcome, Error> {
        // Whoever waits for room goes first: a released permit is handed to the batching task before it can be tried.
        if let Ok(_permit) = self.0.in_flight.try_acquire() {
            let batch = Batch { commands: vec![command] };
            let written = self.0.raft.client_write(Payload::new(batch)).await.map_err(|error| write_error(&error))?;
            // Invariant: one outcome for each command.
            return written.data.0.into_iter().next().ok_or(Error::Stopped);
        }
        let (answer, outcome) = oneshot::channel();
        self.0.proposals.try_send(Proposal { command, bytes, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::TooManyRequests,
            mpsc::error::TrySendError::Closed(_) => Error::Stopped,
        })?;
        outcome.await.unwrap_or(Err(Error::Stopped))
    }

    /// Returns once this member's state is at least as new as everything acknowledged before the call.
    ///
    /// # Errors
    /// No leader, too many waiting, timed out, stopped.
    pub(crate) async fn read_barrier(&self) -> Result<(), Error> {
        if self.0.view.reads_need_no_round.load(Ordering::Acquire) {
            return Ok(());
        }
        let (answer, confirmed) = oneshot::channel();
        self.0.readers.try_send(answer).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::TooManyRequests,
            mpsc::error::TrySendError::Closed(_) => Error::Stopped,
        })?;
        match tokio::time::timeout(self.0.limits.request_timeout, confirmed).await {
            Ok(Ok(confirmed)) => confirmed,
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// Waits until there is a leader and this member has caught up with it: the first barrier after a start.
    ///
    /// # Errors
    /// As [`Node::read_barrier`], after the request timeout.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        let wait = self.0.raft.wait(Some(self.0.limits.request_timeout));
        wait.metrics(|now| now.current_leader.is_some(), "a leader is known").await.map_err(|_| Error::NoLeader)?;
        self.read_barrier().await
    }

    /// This member's state. Linearizable only behind [`Node::read_barrier`].
    pub(crate) fn reader(&self) -> &Reader {
        &self.0.reader
    }

    pub(crate) fn identity(&self) -> Identity {
        self.0.identity
    }

    pub(crate) fn limits(&self) -> Limits {
        self.0.limits
    }

    pub(crate) fn stats(&self) -> &ProposalStats {
        &self.0.stats
    }

    /// Bytes written to the log since the start.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.0.log.bytes_written()
    }

    pub(crate) fn raft(&self) -> &Raft<StateMachine> {
        &self.0.raft
    }

    /// A response header with this member's ids and term.
    pub(crate) fn header(&self, revision: i64) -> ResponseHeader {
        let Identity { cluster_id, member_id } = self.0.identity;
        ResponseHeader { cluster_id, member_id, revision, raft_term: self.term() }
    }

    pub(crate) fn term(&self) -> u64 {
        self.0.view.term.load(Ordering::Relaxed)
    }

    /// True if the cluster has no other member, learners included.
    pub(crate) fn is_alone(&self) -> bool {
        let metrics = self.0.raft.server_metrics();
        let now = metrics.borrow_watched();
        now.membership_config.membership().nodes().map(|(id, _)| *id).eq([self.0.identity.member_id])
    }

    /// The leader's id, 0 for none.
    pub(crate) fn leader(&self) -> u64 {
        self.0.view.leader.load(Ordering::Relaxed)
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.leader() == self.0.identity.member_id
    }

    /// The term in which this member leads, once it has caught up with what earlier leaders committed.
    pub(crate) fn leads_in(&self) -> watch::Receiver<Option<u64>> {
        self.0.view.leads_in.subscribe()
    }

    pub(crate) fn leader_changes(&self) -> u64 {
        self.0.view.leader_changes.load(Ordering::Relaxed)
    }

    /// Index of the last entry known to be committed, counted from 1 as etcd does.
    pub(crate) fn committed(&self) -> u64 {
        self.0.raft.metrics().borrow_watched().local_committed.map_or(0, |id| id.index + 1)
    }

    /// Makes one log entry of the proposals that wait together.
    async fn batch(self, mut waiting: mpsc::Receiver<Proposal>, stop: CancellationToken) {
        let mut left: Option<Proposal> = None;
        loop {
            let next = if left.is_some() {
                left.take()
            } else {
                tokio::select! {
                    proposal = waiting.recv() => proposal,
                    () = stop.cancelled() => None,
                }
            };
            let Some(first) = next else { return };
            // Invariant: the semaphore is never closed.
            let Ok(permit) = Arc::clone(&self.0.in_flight).acquire_owned().await else { return };
            let mut bytes = first.bytes;
            let mut answers = vec![first.answer];
            let mut commands = vec![first.command];
            while commands.len() < BATCH_COMMANDS {
                let Ok(next) = waiting.try_recv() else { break };
                bytes += next.bytes;
                if bytes > BATCH_BYTES {
                    left = Some(next);
                    break;
                }
                answers.push(next.answer);
                commands.push(next.command);
            }
            let raft = self.0.raft.clone();
            // Detached on purpose: it ends with raft's answer, and raft answers when it stops.
            tokio::spawn(async move {
                let written = raft.client_write(Payload::new(Batch { commands })).await;
                drop(permit);
                match written {
                    Ok(written) => {
                        for (answer, outcome) in answers.into_iter().zip(written.data.0) {
                            // The proposer may have stopped waiting.
                            drop(answer.send(Ok(outcome)));
                        }
                    }
                    Err(error) => {
                        let error = write_error(&error);
                        for answer in answers {
                            drop(answer.send(Err(error)));
                        }
                    }
                }
            });
        }
    }

    /// Confirms leadership once for all readers that wait together.
    async fn confirm_reads(
        self,
        mut waiting: mpsc::Receiver<oneshot::Sender<Result<(), Error>>>,
        stop: CancellationToken,
    ) {
        let mut readers = Vec::new();
        loop {
            let got = tokio::select! {
                got = waiting.recv_many(&mut readers, READERS_WAITING) => got,
                () = stop.cancelled() => return,
            };
            if got == 0 {
                return;
            }
            let confirmed = tokio::time::timeout(self.0.limits.request_timeout, self.confirm())
                .await
                .unwrap_or(Err(Error::Timeout));
            self.0.stats.reads_failed.fetch_add(u64::from(confirmed.is_err()), Ordering::Relaxed);
            let timed_out = confirmed == Err(Error::Timeout);
            self.0.stats.reads_timed_out.fetch_add(u64::from(timed_out), Ordering::Relaxed);
            for reader in readers.drain(..) {
                // A reader that stopped waiting needs no answer.
                reader.send(confirmed).ok();
            }
        }
    }

    async fn confirm(&self) -> Result<(), Error> {
        let raft = &self.0.raft;
        let linearizer = raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|error| match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => Error::NoLeader,
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => Error::Timeout,
            RaftError::Fatal(_) => Error::Stopped,
        })?;
        linearizer.await_ready(raft).await.map(drop).map_err(|_| Error::Stopped)
    }

    /// Keeps [`View`] up to date. Raft's full metrics change with every write, its server metrics with terms, leaders and
    /// membership only; the full ones are followed just until they show what changed.
    async fn follow_raft(self, stop: CancellationToken) {
        let (mut rare, mut full) = (self.0.raft.server_metrics(), self.0.raft.metrics());
        let mut stopped = pin!(stop.cancelled());
        loop {
            let is_settled = self.look(&full.borrow_watched(), &rare.borrow_watched());
            let alive = tokio::select! {
                changed = rare.changed() => changed.is_ok(),
                changed = full.changed(), if !is_settled => changed.is_ok(),
                () = &mut stopped => return,
            };
            if !alive {
                // The last full metrics say why raft ended.
                self.look(&full.borrow_watched(), &rare.borrow_watched());
                return;
            }
        }
    }

    /// Takes over what raft says; false while more is to come.
    fn look(&self, now: &RaftMetrics<TypeConfig>, rare: &RaftServerMetrics<TypeConfig>) -> bool {
        let view = &self.0.view;
        let leader = now.current_leader.unwrap_or(0);
        view.term.store(now.current_term, Ordering::Relaxed);
        if view.leader.swap(leader, Ordering::Relaxed) != leader && leader != 0 {
            view.leader_changes.fetch_add(1, Ordering::Relaxed);
            tracing::info!(leader = format_args!("{leader:x}"), term = now.current_term, "elected leader");
        }
        let me = self.0.identity.member_id;
        let only_voter = now.membership_config.membership().voter_ids().eq([me]);
        let leads = now.state == ServerState::Leader && now.running_state.is_ok();
        // Not before an entry of its own term is applied: until then the store lacks what others committed.
        let applied_own = now.last_applied.is_some_and(|id| id.leader_id.term == now.current_term);
        view.reads_need_no_round.store(leads && only_voter && applied_own, Ordering::Release);
        let leads_in = (leads && applied_own).then_some(now.current_term);
        view.leads_in.send_if_modified(|before| std::mem::replace(before, leads_in) != leads_in);
        let agree = now.state == rare.state
            && now.current_leader == rare.current_leader
            && now.vote == rare.vote
            && now.membership_config == rare.membership_config;
        agree && (applied_own || !leads)
    }
}

fn write_error(error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Error {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Error::NoLeader,
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => Error::LeaderChanged,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)) => {
            Error::Unhealthy
        }
        RaftError::Fatal(_) => Error::Stopped,
    }
}
