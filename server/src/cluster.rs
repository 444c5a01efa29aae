//! Who the members are: adding, removing, changing and promoting them, and handing leadership over.
//!
//! Raft's membership is the only record of members and their peer URLs; names and client URLs are published by the
//! members themselves and live in the store. A change is made by the leader, one at a time, each as one log entry.
//!
//! A member that is added to vote is a learner at first and gets its vote when it has caught up ([`Cluster::promote`]
//! does that by itself), so that one that never starts cannot take the majority away. To clients it is a voter all the
//! time. See docs/adr/0006-voters-catch-up-first.md.

mod join;

use crate::node::{Node, peer_failure};
use crate::peer::PeerError;
use crate::peer::address::PeerUrl;
use crate::peer::limit::MEMBERSHIP_BYTES_MAX;
use crate::raft::types::{LogId, Membership, Peer, StoredMembership, TypeConfig};
use crate::raft::wire;
use api::cleatpb::membership_change::Change;
use api::cleatpb::{MembershipChange, MembershipChanged};
use api::error::Error;
use api::etcdserverpb::{Member, MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest};
use openraft::entry::RaftPayload as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::metrics::RaftMetrics;
use openraft::raft::{ClientWriteResponse, Precondition};
use openraft::{ChangeMembers, Instant as _};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the leader looks whether new voters have caught up: one that has what the leader had a moment ago has.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(100);

/// After a change that could not be made at this moment, before it is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// The part of the leader's log that a learner must have to be promoted, in percent. etcd's figure.
const LEARNER_READY_PERCENT: u64 = 90;

/// More than a member takes in an encoded membership beside its URLs: its id up to three times, and lengths.
const MEMBER_BYTES: usize = 64;

/// Tag and length of a URL.
const URL_BYTES: usize = 6;

type Written = Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

/// What changes of the membership must keep to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Refuse changes that would leave too few started members.
    pub(crate) strict: bool,
    /// Most members that were added as learners.
    pub(crate) max_learners: usize,
}

/// See the module.
pub(crate) struct Cluster {
    node: Node,
    rules: Rules,
    /// Held during a change.
    changing: Mutex<()>,
    /// When a member joined by itself while this one led.
    joined: parking_lot::Mutex<Option<Instant>>,
    /// Members that lost their data and asked for their place, by their old ids.
    lost: parking_lot::Mutex<BTreeMap<u64, Instant>>,
    /// Why the last one could not.
    refused_join: parking_lot::Mutex<String>,
    /// The last refusal that was logged: name and reason, and when.
    told_join: parking_lot::Mutex<Option<((String, String), Instant)>>,
    /// Learners that clients had promoted here.
    promotions: AtomicU64,
    /// Those that were refused while this member led, by the reason.
    refused_promotions: parking_lot::Mutex<BTreeMap<&'static str, u64>>,
}

/// One member as clients see it.
pub(crate) fn members(node: &Node, membership: &Membership) -> Vec<Member> {
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let member = |(id, peer): (&u64, &Peer)| {
        let published = node.reader().member(*id).unwrap_or_default();
        Member {
            id: *id,
            name: published.name,
            peer_urls: peer.peer_urls.clone(),
            client_urls: published.client_urls,
            is_learner: !votes(&voters, *id, peer),
        }
    };
    membership.nodes().map(member).collect()
}

/// True for voters and those that are to become one by themselves.
fn votes(voters: &BTreeSet<u64>, id: u64, peer: &Peer) -> bool {
    voters.contains(&id) || peer.joins_as_voter
}

/// How a request to change the membership ended here.
enum Refusal {
    /// With an error for the client.
    Final(Error),
    /// Not done; it may go better in a moment, or elsewhere.
    Retry(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Cluster {
    pub(crate) fn new(node: Node, rules: Rules) -> Self {
        Self {
            node,
            rules,
            changing: Mutex::default(),
            joined: parking_lot::Mutex::default(),
            lost: parking_lot::Mutex::default(),
            refused_join: parking_lot::Mutex::default(),
            told_join: parking_lot::Mutex::default(),
            promotions: AtomicU64::default(),
            refused_promotions: parking_lot::Mutex::default(),
        }
    }

    /// Learners that were promoted as clients asked, while this member led.
    pub(crate) fn promotions(&self) -> u64 {
        self.promotions.load(Ordering::Relaxed)
    }

    /// Promotions that clients asked for and this member, while it led, refused: how many, for each reason.
    pub(crate) fn refused_promotions(&self) -> Vec<(&'static str, u64)> {
        self.refused_promotions.lock().iter().map(|(reason, count)| (*reason, *count)).collect()
    }

    /// Makes a change, wherever the leader is. When it returns, this member knows of the change. Returns the id of the
    /// member that the change concerned.
    ///
    /// # Errors
    /// etcd's; after [`Error::Timeout`] and its kind the change may or may not have been made.
    pub(crate) async fn change(&self, change: Change) -> Result<u64, Error> {
        if change.encoded_len() > MEMBERSHIP_BYTES_MAX {
            return Err(Error::RequestTooLarge);
        }
        let deadline = Instant::now() + self.node.limits().request_timeout;
        let mut leader = self.node.watch_leader();
        while Instant::now() + RETRY < deadline {
            leader.mark_unchanged();
            let request = MembershipChange { change: Some(change.clone()) };
            let made = if self.node.is_leader() {
                self.change_here(request).await
            } else {
                match self.node.leading_peer() {
                    Err(error) => Err(error),
                    Ok(peer) => match tokio::time::timeout_at(deadline, peer.change_membership(request)).await {
                        Err(_) => return Err(Error::Timeout),
                        Ok(Err(error @ PeerError::Lost(_))) => return Err(peer_failure(&error)),
                        Ok(answer) => answer.map_err(|error| peer_failure(&error)),
                    },
                }
            };
            match made {
                Ok(MembershipChanged { member_id, at }) => {
                    // A member that is removed does not hear of it any more.
                    if member_id == self.node.identity().member_id && matches!(change, Change::Remove(_)) {
                        return Ok(member_id);
                    }
                    self.node.wait_applied(at.map_or(0, |at| at.index + 1)).await?;
                    return Ok(member_id);
                }
                Err(Error::NoLeader | Error::NotLeader) => {}
                Err(error) => return Err(error),
            }
            tokio::time::timeout(RETRY, leader.changed()).await.ok();
        }
        Err(Error::Timeout)
    }

    /// Makes a change, if this member leads.
    ///
    /// # Errors
    /// [`Error::NotLeader`] when another member must do it; otherwise as [`Cluster::change`].
    pub(crate) async fn change_here(&self, request: MembershipChange) -> Result<MembershipChanged, Error> {
        let change = request.change.ok_or(Error::MemberNotFound)?;
        let deadline = Instant::now() + self.node.limits().request_timeout;
        // An id is made once: a retry must not add the member twice.
        let now = crate::wall_clock::unix_seconds();
        loop {
            let one_at_a_time = tokio::time::timeout_at(deadline, self.changing.lock());
            let Ok(changing) = one_at_a_time.await else { return Err(Error::Timeout) };
            if !self.node.is_leader() {
                return Err(Error::NotLeader);
            }
            let made = match &change {
                Change::Add(request) => self.add(request, now).await,
                Change::Remove(request) => self.remove(request).await,
                Change::Update(request) => self.update(request).await,
                Change::Promote(request) => self.promote_learner(request).await,
                Change::Join(request) => self.join(request, now).await,
            };
            // What is waited for may be another change, as the vote of a member that was added.
            drop(changing);
            match made {
                Ok((member_id, at)) => return Ok(MembershipChanged { member_id, at: Some(wire::to_log_id(at)) }),
                Err(Refusal::Final(error)) => return Err(self.refused(&change, error)),
                Err(Refusal::Retry(error)) if Instant::now() + RETRY >= deadline => {
                    return Err(self.refused(&change, error));
                }
                Err(Refusal::Retry(_)) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// Counts a promotion that is refused.
    fn refused(&self, change: &Change, error: Error) -> Error {
        if matches!(change, Change::Promote(_)) {
            *self.refused_promotions.lock().entry(error.text()).or_default() += 1;
        }
        if let Change::Join(request) = change {
            self.tell_refused_join(request, error);
        }
        error
    }

    async fn add(&self, request: &MemberAddRequest, now: u64) -> Result<(u64, LogId), Refusal> {
        let urls = checked_urls(&request.peer_urls)?;
        let stored = self.node.membership();
        let membership = stored.membership();
        if membership.nodes().any(|(_, peer)| peer.peer_urls.iter().any(|url| urls.contains(url))) {
            return Err(Error::PeerUrlExists.into());
        }
        let id = discovery::id::member_id_at(&urls, now);
        if membership.get_node(&id).is_some() || self.node.is_removed(id) {
            return Err(Error::MemberExists.into());
        }
        if request.is_learner {
            let voters: BTreeSet<u64> = membership.voter_ids().collect();
            let learners = membership.nodes().filter(|(id, peer)| !votes(&voters, **id, peer)).count();
            if learners >= self.rules.max_learners {
                return Err(Error::TooManyLearners.into());
            }
        } else if self.rules.strict {
            self.check_strict_add(membership)?;
        }
        let peer = Peer { peer_urls: urls, joins_as_voter: !request.is_learner };
        check_size(membership, id, &peer)?;
        let changes = ChangeMembers::AddNodes(BTreeMap::from([(id, peer.clone())]));
        let at = self.write(|raft| raft.change_membership_if(changes, true, [unchanged(&stored)])).await?;
        tracing::info!(
            member_id = format_args!("{id:x}"),
            peer_urls = ?peer.peer_urls,
            is_learner = request.is_learner,
            "added member"
        );
        Ok((id, at))
    }

    async fn remove(&self, request: &MemberRemoveRequest) -> Result<(u64, LogId), Refusal> {
        let id = request.id;
        let stored = self.node.membership();
        let membership = stored.membership();
        let peer = membership.get_node(&id).ok_or(Error::MemberNotFound)?;
        let mut voters: BTreeSet<u64> = membership.voter_ids().collect();
        let is_voting = votes(&voters, id, peer);
        voters.remove(&id);
        if voters.is_empty() {
            // The answer of --strict-reconfig-check. Without that, etcd 3.4 would end in a panic.
            let none_left = Error::MemberNotEnoughStarted;
            let may_vote_soon = pending(membership).into_iter().any(|id| self.is_started(id));
            return Err(if may_vote_soon { Refusal::Retry(none_left) } else { Refusal::Final(none_left) });
        }
        if is_voting && self.rules.strict {
            self.check_strict_remove(membership, id)?;
        }
        if id == self.node.identity().member_id {
            // The rest is the next leader's business.
            let is_handed_over = self.hand_over().await;
            return Err(if is_handed_over {
                Refusal::Final(Error::NotLeader)
            } else {
                Refusal::Retry(Error::Unhealthy)
            });
        }
        let nodes = membership.nodes().filter(|(node, _)| **node != id).map(|(id, peer)| (*id, peer.clone()));
        let at = self.append(&stored, voters, nodes.collect()).await?;
        tracing::info!(member_id = format_args!("{id:x}"), "removed member");
        Ok((id, at))
    }

    async fn update(&self, request: &MemberUpdateRequest) -> Result<(u64, LogId), Refusal> {
        let urls = checked_urls(&request.peer_urls)?;
        let stored = self.node.membership();
        let membership = stored.membership();
        let peer = membership.get_node(&request.id).ok_or(Error::MemberNotFound)?;
        let taken =
            |(id, peer): (&u64, &Peer)| *id != request.id && peer.peer_urls.iter().any(|url| urls.contains(url));
        if membership.nodes().any(taken) {
            return Err(Error::PeerUrlExists.into());
        }
        let peer = Peer { peer_urls: urls, joins_as_voter: peer.joins_as_voter };
        check_size(membership, request.id, &peer)?;
        let changes = ChangeMembers::SetNodes(BTreeMap::from([(request.id, peer.clone())]));
        let at = self.write(|raft| raft.change_membership_if(changes, true, [unchanged(&stored)])).await?;
        tracing::info!(
            member_id = format_args!("{:x}", request.id),
            peer_urls = ?peer.peer_urls,
            "updated member"
        );
        Ok((request.id, at))
    }

    async fn promote_learner(&self, request: &MemberPromoteRequest) -> Result<(u64, LogId), Refusal> {
        let id = request.id;
        let stored = self.node.membership();
        let membership = stored.membership();
        let peer = membership.get_node(&id).ok_or(Error::MemberNotFound)?;
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let (matched, last, answers) = self.node.raft_metrics(|now| {
            let entries = |index: Option<u64>| index.map_or(0, |index| index + 1);
            (entries(matched(now, id)), entries(now.last_log_index), self.answers(now, id))
        });
        let is_behind = id != self.node.identity().member_id && matched * 100 < last * LEARNER_READY_PERCENT;
        if votes(&voters, id, peer) {
            // As in etcd, which looks at the log first.
            let error = if is_behind { Error::LearnerNotReady } else { Error::MemberNotLearner };
            return Err(error.into());
        }
        // One that is gone still has what it had: in a cluster that is idle, everything.
        if !answers || is_behind {
            return Err(Error::LearnerNotReady.into());
        }
        if self.rules.strict {
            self.check_strict_promote(membership, id)?;
        }
        let at = self.give_vote(&stored, id).await?;
        self.promotions.fetch_add(1, Ordering::Relaxed);
        Ok((id, at))
    }

    async fn give_vote(&self, stored: &StoredMembership, id: u64) -> Result<LogId, Refusal> {
        let membership = stored.membership();
        let voters = membership.voter_ids().chain([id]).collect();
        let nodes = membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect();
        let at = self.append(stored, voters, nodes).await?;
        tracing::info!(member_id = format_args!("{id:x}"), "promoted member, it votes now");
        Ok(at)
    }

    /// Writes a membership that differs from `before` in at most one voter, unless it changed meanwhile.
    async fn append(
        &self,
        before: &StoredMembership,
        voters: BTreeSet<u64>,
        nodes: BTreeMap<u64, Peer>,
    ) -> Result<LogId, Refusal> {
        let proposed = Membership::new(vec![voters], nodes).map_err(|error| {
            tracing::error!(%error, "a membership that contradicts itself");
            Error::Unhealthy
        })?;
        let blank = crate::raft::types::EntryContent::blank();
        self.write(|raft| raft.append_membership(proposed, blank, [unchanged(before)])).await
    }

    /// Lets raft write, with reads and the time of a request in mind.
    async fn write<'a, F>(&'a self, write: impl FnOnce(&'a RaftNode) -> F) -> Result<LogId, Refusal>
    where
        F: Future<Output = Written>,
    {
        let _guard = self.node.membership_change();
        let written = tokio::time::timeout(self.node.limits().request_timeout, write(self.node.raft())).await;
        match written {
            Ok(Ok(written)) => Ok(written.log_id),
            // It may still be committed.
            Err(_) => Err(Refusal::Final(Error::Timeout)),
            Ok(Err(RaftError::Fatal(_))) => Err(Refusal::Final(Error::Stopped)),
            Ok(Err(RaftError::APIError(error))) => Err(match error {
                ClientWriteError::ForwardToLeader(_) => Refusal::Final(Error::NotLeader),
                // Thrown away here, but another member may have it and commit it yet, or has done so.
                ClientWriteError::LogEntryDiscarded(_) => Refusal::Final(Error::TimeoutLeaderLost),
                // Another change is not committed yet, or was made meanwhile.
                ClientWriteError::ChangeMembershipError(error) => {
                    tracing::debug!(%error, "the membership can not change now");
                    Refusal::Retry(Error::Unhealthy)
                }
                ClientWriteError::PreconditionFailed(_) => Refusal::Retry(Error::Unhealthy),
            }),
        }
    }

    /// Members that vote or are to vote, and how many of them have told their name.
    fn started(&self, membership: &Membership) -> (usize, usize) {
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let voting = membership.nodes().filter(|(id, peer)| votes(&voters, **id, peer)).map(|(id, _)| *id);
        voting.fold((0, 0), |(all, started), id| (all + 1, started + usize::from(self.is_started(id))))
    }

    fn is_started(&self, id: u64) -> bool {
        self.node.reader().member(id).is_some_and(|member| !member.name.is_empty())
    }

    fn check_strict_add(&self, membership: &Membership) -> Result<(), Refusal> {
        let (all, started) = self.started(membership);
        // A cluster of one may grow.
        if !(all == 1 && started == 1) && started < majority(all + 1) {
            return Err(Error::MemberNotEnoughStarted.into());
        }
        self.check_majority_answers(membership.voter_ids())
    }

    fn check_strict_remove(&self, membership: &Membership, id: u64) -> Result<(), Refusal> {
        let (all, started) = self.started(membership);
        if started - usize::from(self.is_started(id)) < majority(all - 1) {
            return Err(Error::MemberNotEnoughStarted.into());
        }
        // Invariant: a majority answers who leads. It is one of those that are left, too, when the member that goes does
        // not answer, and mostly not without it while another one is down.
        self.check_majority_answers(membership.voter_ids().filter(|voter| *voter != id))
    }

    fn check_strict_promote(&self, membership: &Membership, id: u64) -> Result<(), Refusal> {
        let (all, started) = self.started(membership);
        if started + usize::from(self.is_started(id)) < majority(all + 1) {
            return Err(Error::MemberNotEnoughStarted.into());
        }
        self.check_majority_answers(membership.voter_ids())
    }

    /// True if a member has answered within an election timeout.
    fn answers(&self, now: &RaftMetrics<TypeConfig>, id: u64) -> bool {
        let at = now.heartbeat.as_ref().and_then(|all| all.get(&id)).and_then(Option::as_ref);
        at.is_some_and(|at| at.elapsed() < self.node.limits().election_timeout)
    }

    /// Refuses while less than a majority of these voters answers.
    fn check_majority_answers(&self, voters: impl Iterator<Item = u64>) -> Result<(), Refusal> {
        let me = self.node.identity().member_id;
        let (all, answering) = self.node.raft_metrics(|now| {
            voters.fold((0, 0), |(all, answering), id| {
                (all + 1, answering + usize::from(id == me || self.answers(now, id)))
            })
        });
        if answering >= majority(all) {
            return Ok(());
        }
        // Who has just been elected has not been answered by all yet.
        let is_new = self.node.was_just_elected();
        Err(if is_new { Refusal::Retry(Error::Unhealthy) } else { Refusal::Final(Error::Unhealthy) })
    }

    /// Gives new voters their vote once they have caught up, while this member leads. Ends at `stop`.
    pub(crate) async fn promote(self: Arc<Self>, stop: CancellationToken) {
        let mut stopped = pin!(stop.cancelled());
        let mut membership = self.node.watch_membership();
        // What the leader had when it looked last, by the learners that are to vote.
        let mut goals: BTreeMap<u64, u64> = BTreeMap::new();
        loop {
            let stored = Arc::clone(&membership.borrow_and_update());
            let pending = pending(stored.membership());
            goals.retain(|id, _| pending.contains(id));
            tokio::select! {
                biased;
                () = &mut stopped => return,
                changed = membership.changed(), if pending.is_empty() => if changed.is_err() { return },
                () = tokio::time::sleep(CATCH_UP_INTERVAL), if !pending.is_empty() => {}
            }
            if !self.node.is_leader() {
                goals.clear();
                continue;
            }
            let Some(last) = self.node.raft_metrics(|now| now.last_log_index) else { continue };
            for id in pending {
                let (has, answers) = self.node.raft_metrics(|now| (matched(now, id), self.answers(now, id)));
                let caught_up = has.zip(goals.get(&id)).is_some_and(|(has, goal)| has >= *goal);
                goals.insert(id, last);
                // Only with a majority of the enlarged cluster at hand, which the new voter is a part of.
                if !answers || !caught_up || self.check_majority_answers(stored.membership().voter_ids()).is_err() {
                    continue;
                }
                let Ok(_changing) = self.changing.try_lock() else { continue };
                let given = tokio::select! {
                    biased;
                    // It may be given all the same.
                    () = &mut stopped => return,
                    given = self.give_vote(&stored, id) => given,
                };
                if let Err(Refusal::Final(error) | Refusal::Retry(error)) = given {
                    tracing::debug!(member_id = format_args!("{id:x}"), %error, "cannot promote a member now");
                }
                // The others are looked at with the new membership.
                break;
            }
        }
    }

    /// Hands leadership to the voter that is furthest ahead. True if another member leads now.
    pub(crate) async fn hand_over(&self) -> bool {
        let me = self.node.identity().member_id;
        let membership = self.node.membership();
        let best = self.node.raft_metrics(|now| {
            let voters = membership.membership().voter_ids().filter(|id| *id != me);
            voters.filter(|id| self.answers(now, *id)).max_by_key(|id| matched(now, *id))
        });
        match best {
            Some(to) => self.transfer(to, self.node.limits().election_timeout).await,
            None => false,
        }
    }

    /// Hands leadership to a member. True once another member leads.
    pub(crate) async fn transfer(&self, to: u64, patience: Duration) -> bool {
        let me = self.node.identity().member_id;
        let mut leader = self.node.watch_leader();
        tracing::info!(to = format_args!("{to:x}"), "leadership transfer starting");
        if self.node.raft().trigger().transfer_leader(to).await.is_err() {
            return false;
        }
        let changed = leader.wait_for(|leader| *leader != 0 && *leader != me);
        let is_done = matches!(tokio::time::timeout(patience, changed).await, Ok(Ok(_)));
        if is_done {
            tracing::info!(to = format_args!("{:x}", self.node.leader()), "leadership transfer finished");
        } else {
            tracing::warn!(to = format_args!("{to:x}"), ?patience, "leadership transfer did not finish in time");
        }
        is_done
    }

    /// Moves leadership to `target`, as a client asked.
    ///
    /// # Errors
    /// This member does not lead, the target is no voter, or it did not take over in time.
    pub(crate) async fn move_leader(&self, target: u64) -> Result<(), Error> {
        if !self.node.is_leader() {
            return Err(Error::NotLeader);
        }
        let membership = self.node.membership();
        if !membership.membership().voter_ids().any(|id| id == target) {
            return Err(Error::BadLeaderTransferee);
        }
        if target == self.node.identity().member_id {
            return Ok(());
        }
        let moved = self.transfer(target, self.node.limits().request_timeout).await;
        if moved && self.node.leader() == target { Ok(()) } else { Err(Error::TimeoutLeaderLost) }
    }
}

type RaftNode = crate::raft::types::Raft<crate::raft::state_machine::StateMachine>;

/// Index of the last entry that a member is known to have as the leader has it.
fn matched(now: &RaftMetrics<TypeConfig>, id: u64) -> Option<u64> {
    now.replication.as_ref().and_then(|all| all.get(&id).copied().flatten()).map(|id| id.index)
}

fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Holds while no other change was made than those that a decision was made by.
fn unchanged(before: &StoredMembership) -> Precondition<TypeConfig> {
    Precondition::LastMembershipLogId { last_membership_log_id: *before.log_id() }
}

/// Members that were added to vote and do not yet.
fn pending(membership: &Membership) -> BTreeSet<u64> {
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let waiting = membership.nodes().filter(|(id, peer)| peer.joins_as_voter && !voters.contains(id));
    waiting.map(|(id, _)| *id).collect()
}

/// Peer URLs as they are kept: checked, sorted, without repetition.
fn checked_urls(urls: &[String]) -> Result<Vec<String>, Error> {
    if urls.is_empty() || urls.iter().any(|url| PeerUrl::parse(url).is_none()) {
        return Err(Error::MemberBadUrls);
    }
    let sorted: BTreeSet<&str> = urls.iter().map(|url| url.trim()).collect();
    Ok(sorted.into_iter().map(str::to_owned).collect())
}

/// Refuses a membership that would not fit into a message: one with this peer in it.
fn check_size(membership: &Membership, id: u64, peer: &Peer) -> Result<(), Error> {
    let others = membership.nodes().filter(|(other, _)| **other != id).map(|(_, peer)| peer);
    let urls = others.chain([peer]).map(|peer| &peer.peer_urls);
    let bytes: usize =
        urls.map(|urls| MEMBER_BYTES + urls.iter().map(|url| URL_BYTES + url.len()).sum::<usize>()).sum();
    if bytes > MEMBERSHIP_BYTES_MAX { Err(Error::RequestTooLarge) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_checked_and_sorted() {
        let urls = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            checked_urls(&urls(&["http://b:1", " http://a:1", "http://b:1 "])),
            Ok(urls(&["http://a:1", "http://b:1"]))
        );
        for bad in [&[][..], &["a:1"], &["http://a"], &["http://a:1", "ftp://b:1"]] {
            assert_eq!(checked_urls(&urls(bad)), Err(Error::MemberBadUrls), "{bad:?}");
        }
    }

    #[test]
    fn a_membership_is_bounded() {
        let peer = |bytes| Peer { peer_urls: vec!["x".repeat(bytes)], joins_as_voter: false };
        let half = MEMBERSHIP_BYTES_MAX / 2 - 1000;
        let nodes = BTreeMap::from([(1, peer(half)), (2, peer(10))]);
        let membership = Membership::new(vec![BTreeSet::from([1])], nodes).unwrap();
        assert_eq!(check_size(&membership, 3, &peer(half)), Ok(()));
        assert_eq!(check_size(&membership, 3, &peer(half + 2000)), Err(Error::RequestTooLarge));
        // In the place of the large one.
        assert_eq!(check_size(&membership, 1, &peer(half + 2000)), Ok(()));
        let mut encoded = Vec::new();
        crate::raft::types::encode_membership(&membership, &mut encoded);
        assert!(encoded.len() < half + 10 + 2 * (MEMBER_BYTES + URL_BYTES), "{}", encoded.len());
    }

    #[test]
    fn who_waits_for_a_vote() {
        let peer = |joins_as_voter| Peer { peer_urls: vec![], joins_as_voter };
        let nodes = BTreeMap::from([(1, peer(true)), (2, peer(true)), (3, peer(false))]);
        let membership = Membership::new(vec![BTreeSet::from([1])], nodes).unwrap();
        assert_eq!(pending(&membership), BTreeSet::from([2]));
    }
}
