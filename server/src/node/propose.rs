//! Proposals: what waits together becomes one log entry, here or on the leader.
//!
//! A proposal that certainly was not taken is made again, by whoever leads then, until its time is over. One whose fate
//! is not known is never made again.
//!
//! There are two queues, each with a task and with entries of its own. What keeps a busy cluster sound (`is_urgent`) does
//! not wait behind thousands of puts, and is not refused for them: its entry follows the few that are on their way. Who
//! was answered is ahead of both queues, so what a client sees happens in the order in which it asked.

use super::forwards::Place;
use super::{Node, Queue, peer_failure};
use crate::metrics::{Kind, Times};
use crate::peer::PeerError;
use crate::raft::types::{CommittedLeaderId, Outcomes, Payload, TypeConfig};
use crate::steps::{self, ProposalTimes, Step};
use api::cleatpb::command::Op;
use api::cleatpb::propose_response::Result as Proposed;
use api::cleatpb::{Batch, Command, CommandHeader, ProposeRequest, ProposeResponse};
use api::error::Error;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::impls::OneshotResponder;
use prost::Message;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use store::Outcome;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Commands in one entry.
pub(crate) const BATCH_COMMANDS: usize = 1024;

/// Bytes of commands in one entry; a single larger command makes an entry of its own.
pub(crate) const BATCH_BYTES: usize = 1 << 20;

/// Bytes applied and not yet in the database at which proposals are refused: the disk does not keep up.
pub(crate) const TAIL_BYTES_MAX: usize = 512 << 20;

/// The same for what is urgent: what it frees is worth the room.
const TAIL_BYTES_MAX_URGENT: usize = TAIL_BYTES_MAX + TAIL_BYTES_MAX / 4;

/// Entries committed and not yet applied here at which proposals are refused: applying does not keep up. etcd's figure.
const UNAPPLIED_MAX: u64 = 5000;

/// The same for what is urgent. etcd's figure, since 3.7 and for revocations.
const UNAPPLIED_MAX_URGENT: u64 = 10_000;

/// How often an entry waits for whoever is about to propose, as long as more do each time. It is no time: others run
/// meanwhile, and it is over at once when none is ready.
const GATHERINGS: usize = 4;

/// After a proposal that nobody took, before it is made again, unless the leader changes earlier.
const RETRY: Duration = Duration::from_millis(20);

pub(super) struct Proposal {
    command: Command,
    bytes: usize,
    answer: oneshot::Sender<Result<(Outcome, ProposalTimes), Error>>,
    /// Given back when it is taken out of the queue.
    _room: OwnedSemaphorePermit,
}

/// What a busy cluster must not refuse, and what must not wait behind it: revocations make room and take locks away, a
/// checkpoint undone is a lease renewed, and alarms protect the rest.
fn is_urgent(op: &Op) -> bool {
    matches!(op, Op::LeaseRevoke(_) | Op::LeaseCheckpoint(_) | Op::Alarm(_))
}

/// Whether proposals are refused while so many bytes are not in the database, and so many entries are not applied.
fn is_too_far_behind(tail_bytes: usize, unapplied: u64, urgent: bool) -> bool {
    let (tail_bytes_max, unapplied_max) =
        if urgent { (TAIL_BYTES_MAX_URGENT, UNAPPLIED_MAX_URGENT) } else { (TAIL_BYTES_MAX, UNAPPLIED_MAX) };
    tail_bytes > tail_bytes_max || unapplied > unapplied_max
}

/// The same for a batch. Urgent commands are never in one with others.
fn is_urgent_batch(batch: &Batch) -> bool {
    batch.commands.iter().all(|command| command.op.as_ref().is_some_and(is_urgent))
}

/// Counters of proposals and read-index rounds, for the metrics.
#[derive(Default)]
pub(crate) struct ProposalStats {
    pending: AtomicUsize,
    failed: AtomicU64,
    refused: AtomicU64,
    pub(super) reads_failed: AtomicU64,
    pub(super) reads_timed_out: AtomicU64,
    /// Where the durations of requests are counted, once that is known.
    times: OnceLock<Times>,
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

    /// Proposals that were refused because too many wait, or because the disk or applying does not keep up.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Counts how long requests take from now on.
    pub(crate) fn count_times(&self, times: Times) {
        // The first counts.
        drop(self.times.set(times));
    }

    /// A request was answered, or not.
    pub(crate) fn answered(&self, kind: Kind, is_success: bool, took: Duration) {
        if let Some(times) = self.times.get() {
            times.observe(kind, is_success, took);
        }
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

/// A proposal that waits for its outcome, until that is there or its client gives up.
struct Pending<'a>(&'a AtomicUsize);

impl<'a> Pending<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What became of one attempt to propose.
enum Attempt {
    Done(Result<Outcomes, Error>),
    /// Nobody took it, for this reason.
    NotTaken(Error),
}

/// Lets the tasks run that are ready: who has read a request proposes what it asks. Entries become fewer and larger, and
/// with them the writes to the disk.
async fn gather<T>(waiting: &mpsc::Receiver<T>) {
    for _ in 0..GATHERINGS {
        let before = waiting.len();
        tokio::task::yield_now().await;
        if waiting.len() == before || before >= BATCH_COMMANDS {
            return;
        }
    }
}

impl Node {
    /// Replicates and applies a command of a client that gave no name, and returns its outcome with the store revision
    /// after it. This member has applied it by then, also when another one leads.
    ///
    /// Cancellation: a proposal that was queued goes on when the caller stops waiting.
    ///
    /// # Errors
    /// Too large, too many waiting, no leader, timed out (the outcome is then unknown), stopped. What the command
    /// itself answers, "no" included, is in the outcome.
    pub(crate) async fn propose(&self, op: Op) -> Result<Outcome, Error> {
        self.propose_as(None, op).await
    }

    /// As [`Node::propose`], of this member itself: it needs no permission.
    ///
    /// # Errors
    /// As [`Node::propose`].
    pub(crate) async fn propose_own(&self, op: Op) -> Result<Outcome, Error> {
        self.propose_as(Some(by_member()), op).await
    }

    /// As [`Node::propose`], of whoever the header names. Whether it may is decided when the command is applied.
    ///
    /// # Errors
    /// As [`Node::propose`].
    pub(crate) async fn propose_as(&self, header: Option<CommandHeader>, op: Op) -> Result<Outcome, Error> {
        let (kind, began) = (Kind::of(&op), std::time::Instant::now());
        let urgent = is_urgent(&op);
        let outcome = self.propose_counted(Command { header, op: Some(op) }, urgent).await;
        self.0.stats.answered(kind, outcome.is_ok(), began.elapsed());
        outcome
    }

    async fn propose_counted(&self, command: Command, urgent: bool) -> Result<Outcome, Error> {
        let bytes = command.encoded_len();
        steps::decoded();
        // Its name and URLs are what a member must be able to tell whatever clients may ask.
        let is_limited = !matches!(command.op, Some(Op::MemberAttributes(_)));
        if is_limited && bytes > self.limits().request_bytes {
            return Err(Error::RequestTooLarge);
        }
        if self.is_overloaded(urgent) {
            self.0.stats.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Error::TooManyRequests);
        }
        let queue = if urgent { &self.0.urgent } else { &self.0.ordinary };
        let pending = Pending::begin(&self.0.stats.pending);
        let outcome = tokio::time::timeout(self.limits().request_timeout, self.write(queue, command, bytes)).await;
        drop(pending);
        let outcome = outcome.unwrap_or(Err(Error::Timeout));
        match outcome {
            Ok((outcome, times)) => {
                steps::proposed(&times);
                Ok(outcome)
            }
            Err(error) => {
                steps::done(if self.is_leader() { Step::Replicate } else { Step::Forward });
                self.0.stats.failed.fetch_add(1, Ordering::Relaxed);
                self.0.stats.refused.fetch_add(u64::from(error == Error::TooManyRequests), Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Replicates and applies a command of this member itself, as the leader of `term`, or not at all.
    ///
    /// # Errors
    /// [`Error::NotLeader`] if this member does not lead in that term; otherwise as [`Node::propose`].
    pub(crate) async fn propose_in(&self, term: u64, op: Op) -> Result<Outcome, Error> {
        let commands = vec![Command { header: Some(by_member()), op: Some(op) }];
        let payload = Payload::new(Batch { commands, origin: None });
        let (responder, written) = OneshotResponder::new_pair();
        let request = self.raft().write(payload).with_leader(CommittedLeaderId::new(term)).responder(responder);
        let written = async {
            request.await.map_err(|_| Error::Stopped)?;
            // Raft answers when it stops.
            written.await.map_err(|_| Error::Stopped)
        };
        match tokio::time::timeout(self.limits().request_timeout, written).await {
            // Invariant: one outcome for each command.
            Ok(Ok(Ok(written))) => written.data.outcomes.into_iter().next().ok_or(Error::Stopped),
            Ok(Ok(Err(ClientWriteError::ForwardToLeader(_) | ClientWriteError::PreconditionFailed(_)))) => {
                Err(Error::NotLeader)
            }
            Ok(Ok(Err(error))) => Err(write_error(&RaftError::APIError(error))),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// True while the disk or applying does not keep up.
    fn is_overloaded(&self, urgent: bool) -> bool {
        is_too_far_behind(self.reader().unflushed_bytes(), self.0.view.unapplied(), urgent)
    }

    async fn write(&self, queue: &Queue, command: Command, bytes: usize) -> Result<(Outcome, ProposalTimes), Error> {
        // Where there are others an entry of its own would cost them a write. Whoever waits for room goes first: a released
        // permit is handed to the batching task before it can be tried.
        let is_alone = self.0.stats.pending() <= 1;
        if is_alone && let Ok(permit) = Arc::clone(&queue.in_flight).try_acquire_owned() {
            let (outcomes, times) = self.submit(vec![command], permit).await?;
            // Invariant: one outcome for each command.
            let outcome = outcomes.into_iter().next().ok_or(Error::Stopped)?;
            return Ok((outcome, times));
        }
        let (answer, outcome) = oneshot::channel();
        let room = queue.room_for(bytes).ok_or(Error::TooManyRequests)?;
        queue.waiting.try_send(Proposal { command, bytes, answer, _room: room }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::TooManyRequests,
            mpsc::error::TrySendError::Closed(_) => Error::Stopped,
        })?;
        outcome.await.unwrap_or(Err(Error::Stopped))
    }

    /// Makes one log entry of the proposals that wait together in a queue.
    pub(super) async fn batch(
        self,
        mut waiting: mpsc::Receiver<Proposal>,
        in_flight: Arc<Semaphore>,
        stop: CancellationToken,
    ) {
        let mut left: Option<Proposal> = None;
        loop {
            let next = if left.is_some() {
                left.take()
            } else {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => None,
                    proposal = waiting.recv() => proposal,
                }
            };
            let Some(first) = next else { return };
            // Invariant: the semaphore is never closed.
            let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else { return };
            gather(&waiting).await;
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
            let node = self.clone();
            // Detached on purpose: it ends within the time of a request, and raft answers when it stops.
            tokio::spawn(async move {
                match node.submit(commands, permit).await {
                    Ok((outcomes, times)) => {
                        for (answer, outcome) in answers.into_iter().zip(outcomes) {
                            // The proposer may have stopped waiting.
                            drop(answer.send(Ok((outcome, times))));
                        }
                    }
                    Err(error) => {
                        for answer in answers {
                            drop(answer.send(Err(error)));
                        }
                    }
                }
            });
        }
    }

    /// Brings commands into the log, wherever the leader is, and returns their outcomes. The permit is given back as soon
    /// as the entry is on its way no more, be its outcome known or not.
    async fn submit(
        &self,
        commands: Vec<Command>,
        permit: OwnedSemaphorePermit,
    ) -> Result<(Vec<Outcome>, ProposalTimes), Error> {
        let submitted = std::time::Instant::now();
        let Outcomes { outcomes, applied, leader } = self.submit_batch(commands, permit).await?;
        Ok((outcomes, ProposalTimes { submitted, applied, leader }))
    }

    async fn submit_batch(&self, commands: Vec<Command>, permit: OwnedSemaphorePermit) -> Result<Outcomes, Error> {
        if self.is_leader() {
            let payload = Payload::new(Batch { commands, origin: None });
            match self.write_locally(payload.clone()).await {
                Attempt::Done(outcomes) => return outcomes,
                Attempt::NotTaken(Error::Stopped) => return Err(Error::Stopped),
                Attempt::NotTaken(_) => {}
            }
            return self.submit_anywhere(payload.batch().commands.clone(), permit).await;
        }
        self.submit_anywhere(commands, permit).await
    }

    async fn submit_anywhere(&self, commands: Vec<Command>, permit: OwnedSemaphorePermit) -> Result<Outcomes, Error> {
        let deadline = Instant::now() + self.limits().request_timeout;
        let origin = self.0.parts.forwards.origin();
        let mut held = Some((Payload::new(Batch { commands, origin: Some(origin) }), permit));
        let mut leader = self.watch_leader();
        let mut last = Error::Timeout;
        loop {
            let now = *leader.borrow_and_update();
            let attempt = match &held {
                // Invariant: whatever was taken is not made again.
                None => return Err(last),
                Some((payload, _)) if now == self.identity().member_id => self.write_locally(payload.clone()).await,
                Some(_) if now == 0 => Attempt::NotTaken(Error::NoLeader),
                Some(_) => {
                    let mut place = self.0.parts.forwards.register(origin, self.term())?;
                    self.forward(now, &mut held, &mut place, deadline).await
                }
            };
            match attempt {
                Attempt::Done(outcomes) => return outcomes,
                Attempt::NotTaken(Error::Stopped) => return Err(Error::Stopped),
                // The leader's limit is lower than this member's.
                Attempt::NotTaken(error @ (Error::TooManyRequests | Error::RequestTooLarge)) => return Err(error),
                Attempt::NotTaken(Error::NoLeader) => {}
                Attempt::NotTaken(error) => last = error,
            }
            if Instant::now() + RETRY >= deadline {
                return Err(last);
            }
            tokio::time::timeout(RETRY, leader.changed()).await.ok();
        }
    }

    async fn write_locally(&self, payload: Payload) -> Attempt {
        // A leader that was cut off from the others keeps what it took, and finds out later what became of it.
        match tokio::time::timeout(self.limits().request_timeout, self.raft().client_write(payload)).await {
            Ok(Ok(written)) => Attempt::Done(Ok(written.data)),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Attempt::NotTaken(Error::NoLeader),
            Ok(Err(error)) => Attempt::Done(Err(write_error(&error))),
            Err(_) => Attempt::Done(Err(Error::Timeout)),
        }
    }

    /// Sends a batch to the leader, and waits until it is applied here. Lets go of the batch and of its permit once they are
    /// needed no more.
    async fn forward(
        &self,
        leader: u64,
        held: &mut Option<(Payload, OwnedSemaphorePermit)>,
        place: &mut Place,
        deadline: Instant,
    ) -> Attempt {
        let Some(peer) = self.0.parts.transport.peer(leader) else { return Attempt::NotTaken(Error::NoLeader) };
        let Some((payload, _)) = held else { return Attempt::NotTaken(Error::NoLeader) };
        let mut batch = Vec::with_capacity(payload.encoded_len());
        payload.encode(&mut batch);
        let request = ProposeRequest { batch: batch.into() };
        // In a task, so that the call ends with its answer even when the outcomes are here first, as they mostly are: to
        // break it off costs both sides more, and HTTP/2 gives up a connection on which that is the rule.
        let asked = tokio::spawn(async move { tokio::time::timeout_at(deadline, peer.propose(request)).await });
        let unknown = tokio::select! {
            biased;
            outcomes = place.outcomes() => return Attempt::Done(forwarded(outcomes, leader)),
            answer = asked => match answer.unwrap_or_else(|_| Ok(Err(PeerError::Lost("the call ended".to_owned())))) {
                Err(_) => return Attempt::Done(Err(Error::Timeout)),
                Ok(Err(error @ PeerError::Lost(_))) => {
                    tracing::debug!(leader = format_args!("{leader:x}"), %error, "a forwarded proposal may be lost");
                    Error::TimeoutConnectionLost
                }
                Ok(Err(error)) => return Attempt::NotTaken(peer_failure(&error)),
                Ok(Ok(ProposeResponse { result })) => match result {
                    Some(Proposed::Committed(_)) => Error::TimeoutWaitApplied,
                    Some(Proposed::Leader(_)) | None => return Attempt::NotTaken(Error::NoLeader),
                    Some(Proposed::Busy(_)) => return Attempt::NotTaken(Error::TooManyRequests),
                    Some(Proposed::Unknown(_)) => Error::TimeoutLeaderLost,
                },
            },
        };
        // Others need not wait for this one, and a member that applies slowly must not keep many.
        held.take();
        match tokio::time::timeout_at(deadline, place.outcomes()).await {
            Ok(outcomes) => Attempt::Done(forwarded(outcomes, leader)),
            Err(_) => Attempt::Done(Err(unknown)),
        }
    }

    /// Proposes what another member forwarded, if this one leads.
    pub(crate) async fn propose_for(&self, payload: Payload) -> ProposeResponse {
        let result = if self.is_overloaded(is_urgent_batch(payload.batch())) {
            Proposed::Busy(true)
        } else if !self.is_leader() {
            Proposed::Leader(self.leader())
        } else {
            match tokio::time::timeout(self.limits().request_timeout, self.raft().client_write(payload)).await {
                Ok(Ok(written)) => Proposed::Committed(crate::raft::wire::to_log_id(written.log_id)),
                Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(other)))) => {
                    Proposed::Leader(other.leader_id.unwrap_or(0))
                }
                Ok(Err(_)) | Err(_) => Proposed::Unknown(true),
            }
        };
        ProposeResponse { result: Some(result) }
    }
}

/// The header of what a member asks for by itself.
fn by_member() -> CommandHeader {
    CommandHeader { by_member: true, ..CommandHeader::default() }
}

fn forwarded(outcomes: Result<Outcomes, Error>, leader: u64) -> Result<Outcomes, Error> {
    outcomes.map(|outcomes| Outcomes { leader, ..outcomes })
}

fn write_error(error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Error {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Error::NoLeader,
        // Thrown away here, but another member may have it and commit it yet, or has done so.
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => Error::TimeoutLeaderLost,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)) => {
            Error::Unhealthy
        }
        RaftError::Fatal(_) => Error::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PROPOSAL_BYTES_WAITING, Queue};
    use super::*;

    #[test]
    fn what_is_too_far_behind_refuses_the_ordinary_first() {
        for (tail_bytes, unapplied, ordinary, urgent) in [
            (0, 0, false, false),
            (TAIL_BYTES_MAX, UNAPPLIED_MAX, false, false),
            (TAIL_BYTES_MAX + 1, 0, true, false),
            (0, UNAPPLIED_MAX + 1, true, false),
            (TAIL_BYTES_MAX_URGENT + 1, 0, true, true),
            (0, UNAPPLIED_MAX_URGENT + 1, true, true),
        ] {
            let refused = [false, true].map(|is_urgent| is_too_far_behind(tail_bytes, unapplied, is_urgent));
            assert_eq!(refused, [ordinary, urgent], "{tail_bytes} {unapplied}");
        }
    }

    /// On one thread: who is ready runs in turn.
    #[tokio::test]
    async fn an_entry_waits_for_who_is_ready_and_for_nobody_else() {
        let (sender, mut waiting) = mpsc::channel(100);
        // One needs no time, one a turn more, and one has to wait for something.
        for turns in [0, 1, 50] {
            let sender = sender.clone();
            tokio::spawn(async move {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                sender.send(turns).await.unwrap();
            });
        }
        gather(&waiting).await;
        let mut gathered = Vec::new();
        while let Ok(turns) = waiting.try_recv() {
            gathered.push(turns);
        }
        assert_eq!(gathered, [0, 1]);
        // Whoever goes on for ever is not waited for.
        let endless = tokio::spawn(async move {
            while sender.send(0).await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        gather(&waiting).await;
        assert!((1..=GATHERINGS).contains(&waiting.len()), "{}", waiting.len());
        endless.abort();
    }

    #[test]
    fn what_waits_has_room_for_its_bytes_or_is_refused() {
        let (queue, _waiting) = Queue::new(1);
        let most = queue.room_for(PROPOSAL_BYTES_WAITING - 10).unwrap();
        let rest = queue.room_for(10).unwrap();
        assert!(queue.room_for(1).is_none());
        drop(rest);
        assert!(queue.room_for(11).is_none());
        drop(most);
        // One that is larger than all of it has it alone.
        let alone = queue.room_for(2 * PROPOSAL_BYTES_WAITING).unwrap();
        assert!(queue.room_for(1).is_none());
        drop(alone);
        assert!(queue.room_for(1).is_some());
    }
}
