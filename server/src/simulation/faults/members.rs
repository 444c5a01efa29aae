//! Members that are added, promoted, removed and replaced, and leadership that is handed over.

use super::super::Cluster;
use super::super::member::Process;
use super::super::random::Random;
use super::super::report::{Kind, note};
use api::cleatpb::membership_change::Change;
use api::error::Error;
use api::etcdserverpb::{MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest};
use std::time::Duration;

/// How often a change is asked for that must be made.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(200);

/// Changes the membership, or moves leadership.
pub(super) async fn change(cluster: &Cluster, random: &mut Random) {
    let members = cluster.members();
    let id = *random.pick(&members);
    let is_small = members.len() as u64 <= cluster.setup.members;
    match random.below(6) {
        0 if is_small => add(cluster, random, false).await,
        1 if is_small => {
            add(cluster, random, true).await;
            promote(cluster, random).await;
        }
        2 => replace(cluster, random, id).await,
        // A cluster that has grown shrinks again.
        0 | 1 | 3 | 4 if !is_small => {
            let Some(process) = cluster.pick(random) else { return };
            let removed = process.members.change(Change::Remove(MemberRemoveRequest { id })).await;
            note!(cluster.trace(), "remove {id}: {removed:?}");
            if removed.is_ok() {
                cluster.tally().count(Kind::MemberRemoved);
                tokio::time::sleep(random.duration(Duration::from_millis(1), Duration::from_secs(2))).await;
                cluster.scrap(id).await;
            }
        }
        3 => promote(cluster, random).await,
        _ => {
            let Some(process) = leader(cluster) else { return };
            let moved = process.members.move_leader(id).await;
            note!(cluster.trace(), "lead {id}: {moved:?}");
            if moved.is_ok() {
                cluster.tally().count(Kind::LeaderMoved);
            }
        }
    }
}

/// Who leads, or believes so.
fn leader(cluster: &Cluster) -> Option<Process> {
    let processes = cluster.members().into_iter().filter_map(|id| cluster.machine(id).try_lock().ok()?.process());
    processes.into_iter().find(|process| process.node.is_leader())
}

/// Adds a member and starts it.
pub(super) async fn add(cluster: &Cluster, random: &mut Random, is_learner: bool) {
    let url = format!("http://n{}:2380", random.below(1 << 20));
    let request = MemberAddRequest { peer_urls: vec![url], is_learner };
    for _ in 0..TRIES {
        if cluster.is_over() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
        let Some(process) = cluster.pick(random) else { continue };
        let added = process.members.change(Change::Add(request.clone())).await;
        note!(cluster.trace(), "add a member: {added:?}");
        let Ok(id) = added else { continue };
        cluster.tally().count(if is_learner { Kind::LearnerAdded } else { Kind::VoterAdded });
        cluster.build(id).await;
        if cluster.setup.learner_votes {
            cluster.network().count_votes_of(id);
        }
        return;
    }
}

/// Gives a learner its vote, if there is one and it catches up.
async fn promote(cluster: &Cluster, random: &mut Random) {
    for _ in 0..TRIES {
        if cluster.is_over() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
        let Some(process) = cluster.pick(random) else { continue };
        let stored = process.node.membership();
        let membership = stored.membership();
        let votes = |id: &u64| membership.voter_ids().any(|voter| voter == *id);
        let learner = membership.nodes().find(|(id, peer)| !votes(id) && !peer.joins_as_voter).map(|(id, _)| *id);
        let Some(id) = learner else { return };
        cluster.start(id).await;
        let promoted = process.members.change(Change::Promote(MemberPromoteRequest { id })).await;
        note!(cluster.trace(), "promote {id}: {promoted:?}");
        if promoted.is_ok() {
            cluster.tally().count(Kind::LearnerPromoted);
            return;
        }
    }
}

/// A member is lost for good: it is removed, and another one added.
async fn replace(cluster: &Cluster, random: &mut Random, id: u64) {
    note!(cluster.trace(), "{id} is lost");
    cluster.crash(id).await;
    for other in cluster.members() {
        if other != id {
            cluster.start(other).await;
        }
    }
    for _ in 0..TRIES {
        if cluster.is_over() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
        let Some(process) = cluster.pick(random) else { continue };
        let removed = process.members.change(Change::Remove(MemberRemoveRequest { id })).await;
        note!(cluster.trace(), "remove {id}: {removed:?}");
        // An earlier try may have removed it, whose answer was lost.
        if matches!(removed, Ok(_) | Err(Error::MemberNotFound)) {
            cluster.scrap(id).await;
            cluster.tally().count(Kind::MemberReplaced);
            return add(cluster, random, false).await;
        }
    }
}
