//! Linearizable reads: one confirmation of leadership for all readers that wait together.
//!
//! A leader asks the others with a heartbeat. A follower asks the leader, and says with it whom it follows itself, looked
//! at after its readers began to wait. Where leader and follower are a majority together, as in a cluster of three, that
//! is the whole round: before the follower said so nobody can have been elected without one of the two, so whatever was
//! acknowledged by then was committed in the leader's log, which knows it once an entry of its own term is committed.

use super::{Node, READERS_WAITING, peer_failure};
use crate::raft::types::{LogId, Membership, TypeConfig, Vote};
use crate::raft::wire;
use crate::steps::{self, Step};
use api::cleatpb::ReadIndexRequest;
use api::cleatpb::read_index_response::Result as ReadIndexResult;
use api::error::Error;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::metrics::RaftMetrics;
use openraft::{ReadPolicy, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// After a round that found no leader, before the next is tried.
const RETRY: Duration = Duration::from_millis(20);

/// How often other tasks are let run before a round, so that their reads join it.
const GATHERING_TURNS: usize = 4;

/// What a round has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Confirmed {
    /// Up to where a read must have applied the log, counted from 1. This member has.
    pub(crate) index: u64,
    /// The term in which this member leads, if it was this one that confirmed it.
    pub(crate) led_in: Option<u64>,
}

/// A reader that waits for a round.
pub(super) type Waiting = oneshot::Sender<Result<Confirmed, Error>>;

impl Node {
    /// Returns once this member's state is at least as new as everything acknowledged before the call.
    ///
    /// # Errors
    /// No leader, too many waiting, timed out, stopped.
    pub(crate) async fn read_barrier(&self) -> Result<(), Error> {
        if self.0.view.reads_need_no_round.load(Ordering::SeqCst) {
            return Ok(());
        }
        steps::decoded();
        let confirmed = self.confirmed_by_round().await;
        steps::done(Step::Barrier);
        confirmed.map(drop)
    }

    /// As [`Node::read_barrier`], with what was confirmed. For what keeps a cluster sound: it is not refused because many
    /// reads wait, but waits for a place among them.
    ///
    /// # Errors
    /// No leader, timed out, stopped.
    pub(crate) async fn confirmed(&self) -> Result<Confirmed, Error> {
        if self.0.view.reads_need_no_round.load(Ordering::SeqCst) {
            let led_in = *self.0.view.leads_in.borrow();
            return Ok(Confirmed { index: self.reader().applied().0.index, led_in });
        }
        let (answer, confirmed) = oneshot::channel();
        let asked = tokio::time::timeout(self.limits().request_timeout, self.0.readers.send(answer)).await;
        asked.map_err(|_| Error::Timeout)?.map_err(|_| Error::Stopped)?;
        self.in_time(confirmed).await
    }

    /// As [`Node::confirmed`], for a follower, and with its word: `follows` is its ballot, looked at after its readers
    /// began to wait. Waits for nothing to be applied here, the follower does that.
    ///
    /// # Errors
    /// As [`Node::read_barrier`].
    pub(crate) async fn confirmed_for(&self, follower: u64, follows: Option<Vote>) -> Result<Confirmed, Error> {
        if let Some(follows) = follows
            && let Some(confirmed) = self.confirmed_with(follower, follows).await?
        {
            return Ok(confirmed);
        }
        self.confirmed().await
    }

    /// None if this member and the follower are no majority, or if this member does not lead with that ballot, or has
    /// not committed an entry under it. Raft itself is asked: what is known here of its ballot may be of yesterday.
    async fn confirmed_with(&self, follower: u64, follows: Vote) -> Result<Option<Confirmed>, Error> {
        let me = self.identity().member_id;
        let confirmed = self.raft().with_raft_state(move |raft| {
            let leads = raft.server_state == ServerState::Leader
                && follows.committed
                && follows.leader_id.voted_for == me
                && *raft.vote_ref() == follows;
            let committed = raft.local_committed()?;
            let knows_all = committed.leader_id.term == follows.leader_id.term;
            let is_majority = are_majority(raft.membership_state.effective().membership(), [me, follower]);
            let led_in = Some(follows.leader_id.term);
            (leads && knows_all && is_majority).then_some(Confirmed { index: committed.index + 1, led_in })
        });
        confirmed.await.map_err(|_| Error::Stopped)
    }

    /// Returns once this member leads, has applied everything that was acknowledged before the call, and all of that is
    /// on the disks of a majority of the voters even without `other`, which has acknowledged nothing to this leader.
    ///
    /// # Errors
    /// This member does not lead, or [`Node::read_barrier`]'s.
    pub(crate) async fn held_without(&self, other: u64) -> Result<(), Error> {
        if !self.is_leader() {
            return Err(Error::NotLeader);
        }
        let index = self.confirmed().await?.index;
        let me = self.identity().member_id;
        let is_held = move |now: &RaftMetrics<TypeConfig>| {
            let voters = now.membership_config.membership().voter_ids();
            now.replication.as_ref().is_some_and(|all| is_held_without(other, all, voters, me, index))
        };
        let wait = self.raft().wait(Some(self.limits().election_timeout));
        wait.metrics(is_held, "a majority without one member has it").await.map(drop).map_err(|_| Error::Timeout)
    }

    async fn confirmed_by_round(&self) -> Result<Confirmed, Error> {
        let (answer, confirmed) = oneshot::channel();
        self.0.readers.try_send(answer).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::TooManyRequests,
            mpsc::error::TrySendError::Closed(_) => Error::Stopped,
        })?;
        self.in_time(confirmed).await
    }

    async fn in_time(&self, confirmed: oneshot::Receiver<Result<Confirmed, Error>>) -> Result<Confirmed, Error> {
        match tokio::time::timeout(self.limits().request_timeout, confirmed).await {
            Ok(Ok(confirmed)) => confirmed,
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// Confirms leadership once for all readers that wait together.
    pub(super) async fn confirm_reads(self, mut waiting: mpsc::Receiver<Waiting>, stop: CancellationToken) {
        let mut readers = Vec::new();
        loop {
            let got = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                got = waiting.recv_many(&mut readers, READERS_WAITING) => got,
            };
            if got == 0 {
                return;
            }
            // A round is a request to every other member. Letting tasks run that are about to read makes one of several;
            // on an idle member there are none, and this costs nothing.
            for _ in 0..GATHERING_TURNS {
                tokio::task::yield_now().await;
                while readers.len() < READERS_WAITING
                    && let Ok(reader) = waiting.try_recv()
                {
                    readers.push(reader);
                }
            }
            let confirmed = tokio::select! {
                biased;
                confirmed = self.confirm() => confirmed,
                () = stop.cancelled() => Err(Error::Stopped),
            };
            let stats = &self.0.stats;
            stats.reads_failed.fetch_add(u64::from(confirmed.is_err()), Ordering::Relaxed);
            stats.reads_timed_out.fetch_add(u64::from(confirmed == Err(Error::Timeout)), Ordering::Relaxed);
            for reader in readers.drain(..) {
                // A reader that stopped waiting needs no answer.
                reader.send(confirmed).ok();
            }
        }
    }

    /// Asks until somebody leads, for as long as a request may take. Asking again is safe: the readers wait since before.
    async fn confirm(&self) -> Result<Confirmed, Error> {
        let deadline = Instant::now() + self.limits().request_timeout;
        loop {
            let mut leader = self.watch_leader();
            leader.mark_unchanged();
            let confirmed = async {
                tokio::select! {
                    biased;
                    confirmed = self.confirm_once() => confirmed,
                    // The one that was asked may never answer.
                    _ = leader.changed() => Err(Error::LeaderChanged),
                }
            };
            match tokio::time::timeout_at(deadline, confirmed).await {
                Ok(Ok(confirmed)) => {
                    let applied = self.0.parts.forwards.wait_applied(confirmed.index);
                    return match tokio::time::timeout_at(deadline, applied).await {
                        Ok(true) => Ok(confirmed),
                        Ok(false) => Err(Error::Stopped),
                        Err(_) => Err(Error::TimeoutWaitApplied),
                    };
                }
                Ok(Err(Error::Stopped)) => return Err(Error::Stopped),
                Ok(Err(_)) if Instant::now() + RETRY < deadline => {}
                // As in etcd, which does not say what it was waiting for.
                Ok(Err(error)) => return Err(if error == Error::NoLeader { Error::Timeout } else { error }),
                Err(_) => return Err(Error::Timeout),
            }
            // Whatever comes first: somebody else leads, or the one that did not answer tries again.
            tokio::time::timeout(RETRY, leader.changed()).await.ok();
        }
    }

    async fn confirm_once(&self) -> Result<Confirmed, Error> {
        if self.is_leader() {
            return self.confirm_leading().await;
        }
        let asked = self.leading_peer()?;
        let follows = self.raft().with_raft_state(|raft| *raft.vote_ref()).await.map_err(|_| Error::Stopped)?;
        let member_id = self.identity().member_id;
        let request = ReadIndexRequest { ballot: Some(wire::to_ballot(&follows)), member_id };
        match asked.read_index(request).await.map_err(|error| peer_failure(&error))?.result {
            Some(ReadIndexResult::Index(at)) => Ok(Confirmed { index: at.index, led_in: None }),
            Some(ReadIndexResult::Leader(_)) | None => Err(Error::NoLeader),
        }
    }

    /// Makes sure that this member leads.
    async fn confirm_leading(&self) -> Result<Confirmed, Error> {
        let linearizer = self.raft().get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|error| match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => Error::NoLeader,
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => Error::Timeout,
            RaftError::Fatal(_) => Error::Stopped,
        })?;
        // Of the leadership that was confirmed, be the entry this leader's own or not.
        let at = linearizer.read_log_id().log_id();
        Ok(Confirmed { index: at.index + 1, led_in: Some(at.leader_id.term) })
    }
}

/// True if these members have more than half of the votes, in both configurations while one replaces the other.
fn are_majority(membership: &Membership, members: [u64; 2]) -> bool {
    let [one, other] = members;
    let votes = |id, voters: &BTreeSet<u64>| usize::from(voters.contains(&id));
    one != other
        && membership
            .get_joint_config()
            .iter()
            .all(|voters| 2 * (votes(one, voters) + votes(other, voters)) > voters.len())
}

/// True if a majority of the voters, this member among the holders, has the log up to `index`, counted from 1, and `other`
/// is not one of them. Never if `other` has acknowledged anything to this leader: that would count later.
fn is_held_without(
    other: u64,
    acknowledged: &BTreeMap<u64, Option<LogId>>,
    voters: impl Iterator<Item = u64>,
    me: u64,
    index: u64,
) -> bool {
    let by = |id: u64| acknowledged.get(&id).copied().flatten();
    let (mut all, mut holders) = (0, 0);
    for id in voters {
        all += 1;
        // What this member has applied is on its disk.
        let holds = id == me || by(id).is_some_and(|at| at.index + 1 >= index);
        holders += usize::from(holds && id != other);
    }
    by(other).is_none() && holders > all / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{Peer, log_id};

    fn membership(configs: &[&[u64]]) -> Membership {
        let voters: Vec<BTreeSet<u64>> = configs.iter().map(|voters| voters.iter().copied().collect()).collect();
        let nodes: BTreeMap<u64, Peer> = (1..=6).map(|id| (id, Peer::default())).collect();
        Membership::new(voters, nodes).unwrap()
    }

    #[test]
    fn two_are_a_majority_of_up_to_three_voters() {
        let cases: &[(&[&[u64]], bool)] = &[
            (&[&[1]], true),
            (&[&[1, 2]], true),
            (&[&[1, 2, 3]], true),
            (&[&[1, 2, 3, 4]], false),
            (&[&[1, 2, 3, 4, 5]], false),
            // A learner's word does not count.
            (&[&[1, 3]], false),
            (&[&[1, 3, 4]], false),
            (&[&[1, 2, 3], &[1, 2, 3, 4]], false),
            (&[&[1, 2, 3], &[1, 2, 4]], true),
            (&[&[1, 2, 3], &[1, 3, 4]], false),
        ];
        for (configs, expected) in cases {
            assert_eq!(are_majority(&membership(configs), [1, 2]), *expected, "{configs:?}");
        }
        assert!(!are_majority(&membership(&[&[1, 2, 3]]), [1, 1]), "nobody counts twice");
    }

    #[test]
    fn a_majority_may_have_to_do_without_a_member() {
        // Member 1 leads, 3 is the other one.
        let is_held = |voters: u64, acknowledged: &[(u64, u64)]| {
            let mut all: BTreeMap<u64, Option<LogId>> = (1..=voters).map(|id| (id, None)).collect();
            all.extend(acknowledged.iter().map(|(id, index)| (*id, Some(log_id(1, *index)))));
            is_held_without(3, &all, 1..=voters, 1, 8)
        };
        assert!(is_held(3, &[(2, 7)]));
        assert!(!is_held(3, &[(2, 6)]), "one entry is missing");
        assert!(!is_held(3, &[]));
        assert!(!is_held(4, &[(2, 7)]), "the other one counts as a voter");
        assert!(is_held(4, &[(2, 7), (4, 9)]));
        assert!(!is_held(5, &[(2, 7)]));
        assert!(is_held(5, &[(2, 7), (5, 7)]));
        assert!(!is_held(5, &[(2, 7), (3, 0), (5, 7)]), "the other one was here before");
        assert!(is_held(1, &[]), "who joins is no voter yet");
    }
}
