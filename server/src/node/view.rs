//! What raft last said, in a form that costs an atomic load to read.
//!
//! Raft remembers a leader until it knows of another one. Whoever asks for a leader wants one that works: a follower
//! that has not heard from the leader for an election timeout has none, and neither has a leader that a majority has not
//! answered for as long, nor whoever hears from nobody but that one.

use super::Identity;
use crate::raft::network::Majority;
use crate::raft::types::{LogId, Membership, StoredMembership, TypeConfig};
use crate::sync::watch;
use openraft::metrics::{RaftMetrics, RaftServerMetrics};
use openraft::{Instant as _, ServerState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// See the module.
pub(super) struct View {
    identity: Identity,
    election_timeout: Duration,
    started: Instant,
    pub(super) term: AtomicU64,
    /// Who leads, as raft says; 0 for none.
    raft_leader: AtomicU64,
    pub(super) leader_changes: AtomicU64,
    /// When the leader was last heard, in milliseconds since the start.
    heard: AtomicU64,
    /// Who leads and works; 0 for none.
    leader: watch::Sender<u64>,
    /// The term in which this member leads and has applied an entry of its own.
    pub(super) leads_in: watch::Sender<Option<u64>>,
    /// This member does not vote and was not added to vote.
    pub(super) is_learner: AtomicBool,
    /// Leads, is the only voter, and has applied an entry of its own term.
    pub(super) reads_need_no_round: AtomicBool,
    /// A change of the membership is under way: this member may not be the only voter any more.
    membership_changes: AtomicBool,
    /// The newest membership, which may not be committed.
    membership: watch::Sender<Arc<StoredMembership>>,
    /// Entries known to be committed and not applied here, as of the last look.
    unapplied: AtomicU64,
    majority: Majority,
}

impl View {
    pub(super) fn new(identity: Identity, election_timeout: Duration, majority: Majority) -> Self {
        Self {
            identity,
            election_timeout,
            started: Instant::now(),
            term: AtomicU64::default(),
            raft_leader: AtomicU64::default(),
            leader_changes: AtomicU64::default(),
            heard: AtomicU64::default(),
            leader: watch::Sender::default(),
            leads_in: watch::Sender::default(),
            is_learner: AtomicBool::default(),
            reads_need_no_round: AtomicBool::default(),
            membership_changes: AtomicBool::default(),
            membership: watch::Sender::default(),
            unapplied: AtomicU64::default(),
            majority,
        }
    }

    /// The leader, 0 for none.
    pub(super) fn leader(&self) -> u64 {
        *self.leader.borrow()
    }

    pub(super) fn watch_leader(&self) -> watch::Receiver<u64> {
        self.leader.subscribe()
    }

    pub(super) fn membership(&self) -> Arc<StoredMembership> {
        Arc::clone(&self.membership.borrow())
    }

    pub(super) fn watch_membership(&self) -> watch::Receiver<Arc<StoredMembership>> {
        self.membership.subscribe()
    }

    /// Entries known to be committed and not applied here. As of the last heartbeat: what waits together is an entry, so it
    /// takes longer to become many.
    pub(super) fn unapplied(&self) -> u64 {
        self.unapplied.load(Ordering::Relaxed)
    }

    /// The leader sent something.
    pub(super) fn hear(&self) {
        self.heard.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// From now on a read asks the others, until the change is over and [`View::look`] finds this member alone.
    pub(super) fn begin_membership_change(&self) {
        self.membership_changes.store(true, Ordering::SeqCst);
        self.reads_need_no_round.store(false, Ordering::SeqCst);
    }

    pub(super) fn end_membership_change(&self) {
        self.membership_changes.store(false, Ordering::SeqCst);
    }

    fn is_only_voter(&self, membership: &Membership) -> bool {
        membership.voter_ids().eq([self.identity.member_id])
    }

    fn is_learner_in(&self, membership: &Membership) -> bool {
        let me = self.identity.member_id;
        let votes = membership.voter_ids().any(|id| id == me);
        membership.get_node(&me).is_some_and(|peer| !votes && !peer.joins_as_voter)
    }

    /// Takes over what raft says; false while more is to come.
    pub(super) fn look(&self, now: &RaftMetrics<TypeConfig>, rare: &RaftServerMetrics<TypeConfig>) -> bool {
        // Nobody is elected in term 0: raft means who wrote the founding entry, and cannot write anything else yet.
        let is_elected = now.current_term > 0;
        let leader = now.current_leader.filter(|_| is_elected).unwrap_or(0);
        self.term.store(now.current_term, Ordering::Relaxed);
        let before = self.raft_leader.swap(leader, Ordering::Relaxed);
        if before != leader {
            // A new leader has the time that an old one has.
            self.hear();
            if leader != 0 {
                self.leader_changes.fetch_add(1, Ordering::Relaxed);
                tracing::info!(leader = format_args!("{leader:x}"), term = now.current_term, "elected leader");
            } else {
                tracing::warn!(lost = format_args!("{before:x}"), term = now.current_term, "lost the leader");
            }
        }
        self.membership.send_if_modified(|before| {
            let is_new = **before != *now.membership_config;
            if is_new {
                before.clone_from(&now.membership_config);
            }
            is_new
        });
        self.is_learner.store(self.is_learner_in(now.membership_config.membership()), Ordering::Relaxed);
        let only_voter = self.is_only_voter(now.membership_config.membership());
        let leads = is_elected && now.state == ServerState::Leader && now.running_state.is_ok();
        // Not before an entry of its own term is applied: until then the store lacks what others committed.
        let applied_own = now.last_applied.is_some_and(|id| id.leader_id.term == now.current_term);
        let is_settled = !self.membership_changes.load(Ordering::SeqCst);
        self.reads_need_no_round.store(leads && only_voter && applied_own && is_settled, Ordering::SeqCst);
        if self.membership_changes.load(Ordering::SeqCst) {
            // It began meanwhile.
            self.reads_need_no_round.store(false, Ordering::SeqCst);
        }
        let leads_in = (leads && applied_own).then_some(now.current_term);
        self.leads_in.send_if_modified(|before| std::mem::replace(before, leads_in) != leads_in);
        self.judge(now);
        let agree = now.state == rare.state
            && now.current_leader == rare.current_leader
            && now.vote == rare.vote
            && now.membership_config == rare.membership_config;
        agree && (applied_own || !leads)
    }

    /// Decides whether the leader works, and sees how far applying is behind.
    pub(super) fn judge(&self, now: &RaftMetrics<TypeConfig>) {
        self.unapplied.store(unapplied(now), Ordering::Relaxed);
        let leader = self.raft_leader.load(Ordering::Relaxed);
        let works = if leader == self.identity.member_id {
            let alone = self.is_only_voter(now.membership_config.membership());
            let answered = now.last_quorum_acked.as_ref().map(|at| at.elapsed());
            alone || self.was_just_elected() || answered.is_some_and(|it| it < self.election_timeout)
        } else {
            self.silence() < self.election_timeout
        };
        self.majority.tell(leader == self.identity.member_id && !works);
        let leader = if works { leader } else { 0 };
        self.leader.send_if_modified(|before| std::mem::replace(before, leader) != leader);
    }

    /// True while this member, if it leads, has led for less than an election timeout: it may not have been answered yet.
    pub(super) fn was_just_elected(&self) -> bool {
        self.silence() < self.election_timeout
    }

    fn silence(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.heard.load(Ordering::Relaxed)))
    }
}

/// Entries that are committed and not applied.
fn unapplied(now: &RaftMetrics<TypeConfig>) -> u64 {
    let count = |id: Option<&LogId>| id.map_or(0, |id| id.index + 1);
    count(now.local_committed.as_ref()).saturating_sub(count(now.last_applied.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{CommittedLeaderId, Peer};
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn who_waits_for_its_vote_is_no_learner() {
        let peer = |joins_as_voter| Peer { peer_urls: vec![], joins_as_voter };
        let nodes = BTreeMap::from([(1, peer(false)), (2, peer(true)), (3, peer(false))]);
        let membership = Membership::new(vec![BTreeSet::from([1])], nodes).unwrap();
        // Nor is a member that the membership does not know yet.
        for (member_id, is_learner) in [(1, false), (2, false), (3, true), (4, false)] {
            let view = View::new(Identity { cluster_id: 1, member_id }, Duration::from_secs(1), Majority::default());
            assert_eq!(view.is_learner_in(&membership), is_learner, "{member_id}");
        }
    }

    /// Raft calls a member that wrote the founding entry the leader of term 0, in which nobody is elected.
    #[test]
    fn nobody_leads_before_the_first_election() {
        let view = View::new(Identity { cluster_id: 1, member_id: 1 }, Duration::from_secs(1), Majority::default());
        let peer = Peer { peer_urls: vec![], joins_as_voter: true };
        for voters in [1, 3] {
            let voters: BTreeSet<u64> = (1..=voters).collect();
            let nodes = voters.iter().map(|id| (*id, peer.clone())).collect::<BTreeMap<_, _>>();
            let founding = LogId { leader_id: CommittedLeaderId::new(0), index: 0 };
            let mut now = RaftMetrics::new_initial(1);
            now.state = ServerState::Leader;
            now.current_leader = Some(1);
            now.last_applied = Some(founding);
            let membership = Membership::new(vec![voters], nodes).unwrap();
            now.membership_config = Arc::new(StoredMembership::new(Some(founding), membership));
            look(&view, &now);
            assert_eq!((view.leader(), *view.leads_in.borrow()), (0, None));
            assert!(!view.reads_need_no_round.load(Ordering::SeqCst));
            assert_eq!(view.leader_changes.load(Ordering::Relaxed), 0);
        }
        let mut elected = RaftMetrics::new_initial(1);
        (elected.current_term, elected.current_leader) = (1, Some(1));
        look(&view, &elected);
        assert_eq!((view.leader(), view.leader_changes.load(Ordering::Relaxed)), (1, 1));
    }

    #[test]
    fn what_is_committed_and_not_applied_is_counted() {
        let view = View::new(Identity { cluster_id: 1, member_id: 1 }, Duration::from_secs(1), Majority::default());
        let at = |index| Some(LogId { leader_id: CommittedLeaderId::new(1), index });
        for (committed, applied, unapplied) in [
            (None, None, 0),
            (at(0), None, 1),
            (at(7000), at(1999), 5001),
            (at(7000), at(7000), 0),
            // The start knows what is applied before it knows what is committed.
            (None, at(7), 0),
        ] {
            let mut now = RaftMetrics::new_initial(1);
            (now.local_committed, now.last_applied) = (committed, applied);
            view.judge(&now);
            assert_eq!(view.unapplied(), unapplied);
        }
    }

    fn look(view: &View, now: &RaftMetrics<TypeConfig>) {
        let rare = RaftServerMetrics {
            id: now.id,
            vote: now.vote,
            state: now.state,
            current_leader: now.current_leader,
            membership_config: Arc::clone(&now.membership_config),
            committed_membership_config: Arc::clone(&now.committed_membership_config),
        };
        view.look(now, &rare);
    }
}
