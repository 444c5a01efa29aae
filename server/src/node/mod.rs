//! The one handle that every API uses on the replicated store: propose a change, wait until reads are safe, look.
//!
//! PROPOSE (`propose`). At most a few entries are on their way. A proposal that finds room goes to raft by itself;
//! others queue in a bounded channel, and one task makes an entry of what waits together. What is urgent has a queue of
//! its own. So a busy member batches by
//! itself, and an idle one adds nothing to the latency. Each proposal keeps its own revision and its own outcome. A
//! member that does not lead sends the entry to the leader, and finds the outcomes when it applies it (`forwards`).
//!
//! READ (`read`). A linearizable read must see everything that was acknowledged before it began. The only voter of a
//! cluster that leads in its own term has applied all of that, so it answers at once. Otherwise all waiting readers share
//! one read-index round, which a follower asks of the leader.
//!
//! Not here: request shapes and etcd's answers (`v3/`), who may ask (`v3/`), what a command does (`store`), who the
//! members are (`cluster`).

pub(crate) mod forwards;
mod propose;
mod read;
mod view;

pub(crate) use propose::{BATCH_BYTES, BATCH_COMMANDS, ProposalStats, TAIL_BYTES_MAX};

use crate::peer::{PeerApi, PeerError, Transport};
use crate::raft::network::Majority;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{Raft, StoredMembership, decode_stored_membership};
use crate::raft::wal::WalStats;
use crate::sync::watch;
use api::error::Error;
use api::etcdserverpb::ResponseHeader;
use forwards::Forwards;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftMetrics;
use propose::Proposal;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::Reader;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use view::View;

/// Entries proposed and not yet applied. Two keep the disk busy; more let a slow apply overlap with syncing.
const ENTRIES_IN_FLIGHT: usize = 4;

/// The same for urgent ones, beside the others.
const URGENT_ENTRIES_IN_FLIGHT: usize = 2;

/// Proposals that wait, in each queue. More are refused with "too many requests", at etcd's count.
const PROPOSALS_WAITING: usize = 5000;

/// Their bytes, in each queue: a thousand of the largest ones would be more than memory is worth.
const PROPOSAL_BYTES_WAITING: usize = 256 << 20;

/// Readers that wait for a read-index round.
const READERS_WAITING: usize = 16_384;

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
    /// Time between heartbeats.
    pub(crate) heartbeat_interval: Duration,
    /// Time without a leader before an election.
    pub(crate) election_timeout: Duration,
}

/// What a node is built on.
pub(crate) struct Parts {
    pub(crate) raft: Raft<StateMachine>,
    pub(crate) reader: Reader,
    pub(crate) log: Arc<WalStats>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) forwards: Arc<Forwards>,
    pub(crate) majority: Majority,
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
}

/// See the module. Clones share one member.
#[derive(Clone)]
pub(crate) struct Node(Arc<Inner>);

struct Inner {
    parts: Parts,
    ordinary: Queue,
    urgent: Queue,
    readers: mpsc::Sender<read::Waiting>,
    view: View,
    stats: ProposalStats,
    /// This member takes no part in raft yet.
    is_held_back: AtomicBool,
}

/// Proposals on their way to the log.
struct Queue {
    waiting: mpsc::Sender<Proposal>,
    /// For entries.
    in_flight: Arc<Semaphore>,
    /// For the bytes of those that wait.
    room: Arc<Semaphore>,
}

impl Queue {
    fn new(entries_in_flight: usize) -> (Self, mpsc::Receiver<Proposal>) {
        let (waiting, receiver) = mpsc::channel(PROPOSALS_WAITING);
        let in_flight = Arc::new(Semaphore::new(entries_in_flight));
        let room = Arc::new(Semaphore::new(PROPOSAL_BYTES_WAITING));
        (Self { waiting, in_flight, room }, receiver)
    }

    /// Room for a proposal that waits; None if there is none. One that is larger than all of it has it alone.
    fn room_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = bytes.min(PROPOSAL_BYTES_WAITING) as u32;
        Arc::clone(&self.room).try_acquire_many_owned(bytes).ok()
    }
}

impl Node {
    /// Builds the handle and spawns its tasks.
    pub(crate) fn start(parts: Parts, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        let (ordinary, ordinary_rx) = Queue::new(ENTRIES_IN_FLIGHT);
        let (urgent, urgent_rx) = Queue::new(URGENT_ENTRIES_IN_FLIGHT);
        let (readers, readers_rx) = mpsc::channel(READERS_WAITING);
        let in_flight = [&ordinary, &urgent].map(|queue| Arc::clone(&queue.in_flight));
        let view = View::new(parts.identity, parts.limits.election_timeout, parts.majority.clone());
        let stats = ProposalStats::default();
        let is_held_back = AtomicBool::default();
        let node = Self(Arc::new(Inner { parts, ordinary, urgent, readers, view, stats, is_held_back }));
        for (waiting, in_flight) in [ordinary_rx, urgent_rx].into_iter().zip(in_flight) {
            tasks.spawn(node.clone().batch(waiting, in_flight, stop.clone()));
        }
        tasks.spawn(node.clone().confirm_reads(readers_rx, stop.clone()));
        tasks.spawn(node.clone().follow_raft(stop.clone()));
        node
    }

    /// Waits until there is a leader and this member has caught up with it: the first barrier after a start.
    ///
    /// # Errors
    /// As [`Node::read_barrier`], after the request timeout.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        let mut leader = self.watch_leader();
        // What it returns is a lock on the value: not to be held while anything is waited for.
        let known = async { leader.wait_for(|leader| *leader != 0).await.map(drop) };
        match tokio::time::timeout(self.limits().request_timeout, known).await {
            Ok(Ok(())) => self.read_barrier().await,
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => Err(Error::NoLeader),
        }
    }

    /// This member's state. Linearizable only behind [`Node::read_barrier`].
    pub(crate) fn reader(&self) -> &Reader {
        &self.0.parts.reader
    }

    pub(crate) fn identity(&self) -> Identity {
        self.0.parts.identity
    }

    pub(crate) fn limits(&self) -> Limits {
        self.0.parts.limits
    }

    pub(crate) fn stats(&self) -> &ProposalStats {
        &self.0.stats
    }

    /// Bytes written to the log since the start.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.0.parts.log.bytes_written()
    }

    pub(crate) fn raft(&self) -> &Raft<StateMachine> {
        &self.0.parts.raft
    }

    /// What raft says now. Costs a lock; for what is asked rarely.
    pub(crate) fn raft_metrics<T>(&self, look: impl FnOnce(&RaftMetrics<crate::raft::types::TypeConfig>) -> T) -> T {
        look(&self.raft().metrics().borrow_watched())
    }

    /// A response header with this member's ids and term.
    pub(crate) fn header(&self, revision: i64) -> ResponseHeader {
        let Identity { cluster_id, member_id } = self.identity();
        ResponseHeader { cluster_id, member_id, revision, raft_term: self.term() }
    }

    pub(crate) fn term(&self) -> u64 {
        self.0.view.term.load(Ordering::Relaxed)
    }

    /// The newest membership, committed or not.
    pub(crate) fn membership(&self) -> Arc<StoredMembership> {
        self.0.view.membership()
    }

    pub(crate) fn watch_membership(&self) -> watch::Receiver<Arc<StoredMembership>> {
        self.0.view.watch_membership()
    }

    /// The membership as it is applied here.
    pub(crate) fn applied_membership(&self) -> StoredMembership {
        let (_, bytes) = self.reader().applied();
        // Invariant: apply stored what it had encoded.
        decode_stored_membership(&bytes).unwrap_or_default()
    }

    /// True if the cluster has no other member, learners included.
    pub(crate) fn is_alone(&self) -> bool {
        self.membership().membership().nodes().map(|(id, _)| *id).eq([self.identity().member_id])
    }

    /// True if this member does not vote and was not added to vote.
    pub(crate) fn is_learner(&self) -> bool {
        self.0.view.is_learner.load(Ordering::Relaxed)
    }

    /// The leader's id, 0 while none is known to work.
    pub(crate) fn leader(&self) -> u64 {
        self.0.view.leader()
    }

    pub(crate) fn watch_leader(&self) -> watch::Receiver<u64> {
        self.0.view.watch_leader()
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.leader() == self.identity().member_id
    }

    /// True while this member, if it leads, has led for less than an election timeout.
    pub(crate) fn was_just_elected(&self) -> bool {
        self.0.view.was_just_elected()
    }

    /// The term in which this member leads, once it has caught up with what earlier leaders committed.
    pub(crate) fn leads_in(&self) -> watch::Receiver<Option<u64>> {
        self.0.view.leads_in.subscribe()
    }

    pub(crate) fn leader_changes(&self) -> u64 {
        self.0.view.leader_changes.load(Ordering::Relaxed)
    }

    /// Keeps this member out of raft: it answers none of its requests. Called before others can ask; see `newcomer`.
    pub(crate) fn hold_back(&self) {
        self.0.is_held_back.store(true, Ordering::SeqCst);
    }

    /// From now on this member votes and takes entries.
    pub(crate) fn take_part(&self) {
        self.0.is_held_back.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_held_back(&self) -> bool {
        self.0.is_held_back.load(Ordering::SeqCst)
    }

    /// True while this member has nothing but the entry that founds its cluster, and knows no leader.
    pub(crate) fn is_fresh(&self) -> bool {
        self.raft_metrics(|now| {
            let has_nothing = now.last_log_index.map_or(self.is_held_back(), |last| last == 0);
            // To raft, who writes the founding entry leads in term 0.
            has_nothing && (now.current_term == 0 || now.current_leader.is_none())
        })
    }

    /// Index of the last entry known to be committed, counted from 1 as etcd does.
    pub(crate) fn committed(&self) -> u64 {
        self.raft_metrics(|now| now.local_committed.map_or(0, |id| id.index + 1))
    }

    /// Another member led us to believe that it leads: it sent entries or a heartbeat.
    pub(crate) fn hear_leader(&self) {
        self.0.view.hear();
    }

    /// While a change of the membership is proposed, no read may take this member for the only voter.
    pub(crate) fn membership_change(&self) -> MembershipChangeGuard {
        self.0.view.begin_membership_change();
        MembershipChangeGuard(self.clone())
    }

    /// Waits until the entry with this index, counted from 1, is applied here.
    ///
    /// # Errors
    /// It took longer than a request may take.
    pub(crate) async fn wait_applied(&self, index: u64) -> Result<(), Error> {
        match tokio::time::timeout(self.limits().request_timeout, self.0.parts.forwards.wait_applied(index)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Stopped),
            Err(_) => Err(Error::TimeoutWaitApplied),
        }
    }

    /// The leader, if it is another member.
    ///
    /// # Errors
    /// There is none, it is this member, or it can not be reached.
    pub(crate) fn leading_peer(&self) -> Result<Arc<dyn PeerApi>, Error> {
        let leader = self.leader();
        if leader == 0 || leader == self.identity().member_id {
            return Err(Error::NoLeader);
        }
        self.0.parts.transport.peer(leader).ok_or(Error::NoLeader)
    }

    /// Another member.
    pub(crate) fn peer(&self, id: u64) -> Option<Arc<dyn PeerApi>> {
        self.0.parts.transport.peer(id)
    }

    /// True if the member was removed from the cluster, for good.
    pub(crate) fn is_removed(&self, id: u64) -> bool {
        self.reader().is_removed(id)
    }

    /// Keeps [`View`] up to date. Raft's full metrics change with every write, its server metrics with terms, leaders and
    /// membership only; the full ones are followed just until they show what changed, and looked at once a heartbeat
    /// to see whether the leader still works, and whether applying keeps up.
    async fn follow_raft(self, stop: CancellationToken) {
        let (mut rare, mut full) = (self.raft().server_metrics(), self.raft().metrics());
        let mut stopped = pin!(stop.cancelled());
        let mut known: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        let mut tick = tokio::time::interval(self.limits().heartbeat_interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_settled = self.0.view.look(&full.borrow_watched(), &rare.borrow_watched());
            self.meet_members(&mut known);
            let alive = tokio::select! {
                biased;
                () = &mut stopped => return,
                _ = tick.tick() => {
                    self.0.view.judge(&full.borrow_watched());
                    true
                }
                changed = rare.changed() => changed.is_ok(),
                changed = full.changed(), if !is_settled => changed.is_ok(),
            };
            if !alive {
                // The last full metrics say why raft ended.
                self.0.view.look(&full.borrow_watched(), &rare.borrow_watched());
                return;
            }
        }
    }

    /// Tells the transport where the members are, when that changed.
    fn meet_members(&self, known: &mut BTreeMap<u64, Vec<String>>) {
        let membership = self.membership();
        let nodes = || membership.membership().nodes();
        if nodes().map(|(id, peer)| (id, &peer.peer_urls)).eq(known.iter()) {
            return;
        }
        *known = nodes().map(|(id, peer)| (*id, peer.peer_urls.clone())).collect();
        self.0.parts.transport.set_members(known);
    }
}

/// Ends the time in which the membership may be another than raft's metrics say.
pub(crate) struct MembershipChangeGuard(Node);

impl Drop for MembershipChangeGuard {
    fn drop(&mut self) {
        self.0.0.view.end_membership_change();
    }
}

/// What a failed request to the leader means for a client.
pub(crate) fn peer_failure(error: &PeerError) -> Error {
    match error {
        PeerError::Refused(error) => *error,
        PeerError::Lost(_) => Error::TimeoutConnectionLost,
        PeerError::OtherCluster(_) => Error::ClusterIdMismatch,
        PeerError::NotSent(_) | PeerError::Removed | PeerError::Invalid(_) => Error::NoLeader,
    }
}
