//! What a member does beside answering: tells the cluster who it is, keeps the lease clock, purges the log, and notices
//! that it is broken or was removed. One function for each task; `server` spawns them.

use crate::config::Config;
use crate::lessor::Lessor;
use crate::node::Node;
use crate::peer::PeerError;
use crate::raft::catch_up::CatchUps;
use crate::raft::log_store::LogExtent;
use crate::raft::types::LogId;
use crate::server::End;
use crate::storage::FaultSender;
use crate::version::COMPATIBLE_ETCD_VERSION;
use api::cleatpb::command::Op;
use api::cleatpb::{MemberAttributes, ReadIndexRequest};
use openraft::async_runtime::WatchReceiver;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How often the log is looked at for what can be purged.
const PURGE_INTERVAL: Duration = Duration::from_millis(100);

/// A snapshot is a position and costs nothing, but raft takes it behind what it is doing.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(1);

/// Segments kept for members that are a little behind, however few entries they hold; the one that is being written is
/// one of them.
const CATCH_UP_SEGMENTS: u64 = 6;

/// Segments kept at most for members that are sent a snapshot: 1 GiB. Who has not caught up by then is sent another one.
const CATCH_UP_SEGMENTS_MAX: u64 = 128;

/// Tells the cluster this member's name, client URLs and version, unless it knows them. Tries until it is done.
pub(crate) async fn publish(node: Node, config: Config, stop: CancellationToken) {
    let member_id = node.identity().member_id;
    let attributes = MemberAttributes {
        member_id,
        name: config.name,
        client_urls: config.advertise_client_urls,
        version: COMPATIBLE_ETCD_VERSION.to_owned(),
    };
    while node.reader().member(member_id).as_ref() != Some(&attributes) {
        let proposed = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            proposed = node.propose_own(Op::MemberAttributes(attributes.clone())) => proposed,
        };
        match proposed {
            Ok(_) => tracing::info!(name = attributes.name, "published local member to cluster through raft"),
            Err(error) => {
                tracing::warn!(%error, "cannot publish this member's name and client URLs, will retry");
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(node.limits().election_timeout) => {}
                }
            }
        }
    }
}

/// Where the end of the member is reported.
pub(crate) type EndSender = mpsc::Sender<End>;

/// Passes the faults of threads on.
pub(crate) fn fault_sender(ends: EndSender) -> FaultSender {
    let (faults, mut reports) = mpsc::channel(1);
    tokio::spawn(async move {
        if let Some(fault) = reports.recv().await {
            // A report that does not fit joins one that is being handled.
            drop(ends.try_send(End::Fault(fault)));
        }
    });
    faults
}

/// Reports when this member is part of the cluster no more. Members that left are not told: a member without a leader
/// asks the others.
pub(crate) async fn watch_removal(node: Node, ends: EndSender, stop: CancellationToken) {
    let me = node.identity().member_id;
    let mut membership = node.watch_membership();
    let mut stopped = pin!(stop.cancelled());
    loop {
        tokio::select! {
            () = &mut stopped => return,
            () = tokio::time::sleep(node.limits().election_timeout) => {}
            changed = membership.changed() => if changed.is_err() { return },
        }
        let asked = async { node.leader() == 0 && others_say_removed(&node).await };
        let is_gone = node.reader().is_removed(me)
            || tokio::select! {
                biased;
                () = &mut stopped => return,
                is_gone = asked => is_gone,
            };
        if is_gone {
            tell_removed(me);
            // A report that does not fit joins one that is being handled.
            drop(ends.try_send(End::Removed));
            return;
        }
    }
}

/// The last word of a member that was removed.
pub(crate) fn tell_removed(member_id: u64) {
    tracing::error!(
        member_id = format_args!("{member_id:x}"),
        "this member has been permanently removed from the cluster; its data directory can be deleted"
    );
}

async fn others_say_removed(node: &Node) -> bool {
    let stored = node.membership();
    let others = stored.membership().nodes().map(|(id, _)| *id).filter(|id| *id != node.identity().member_id);
    for peer in others.filter_map(|id| node.peer(id)) {
        let asked =
            tokio::time::timeout(node.limits().election_timeout, peer.read_index(ReadIndexRequest::default())).await;
        if matches!(asked, Ok(Err(PeerError::Removed))) {
            return true;
        }
    }
    false
}

/// Reports when raft stops by itself: its storage failed.
pub(crate) async fn watch_raft(node: Node, ends: EndSender, stop: CancellationToken) {
    // These change rarely, and end with raft; the full metrics change with every write.
    let mut metrics = node.raft().server_metrics();
    let mut stopped = pin!(stop.cancelled());
    loop {
        let is_over = tokio::select! {
            biased;
            () = &mut stopped => return,
            changed = metrics.changed() => changed.is_err(),
        };
        if let Err(fatal) = &node.raft().metrics().borrow_watched().running_state {
            tracing::error!(error = %fatal, "raft stopped");
            // A report that does not fit joins one that is being handled.
            drop(ends.try_send(End::Fault(fatal.to_string())));
            return;
        }
        if is_over {
            return;
        }
    }
}

/// Runs the lease clock while this member leads.
pub(crate) async fn lead_leases(node: Node, lessor: Arc<Lessor>, stop: CancellationToken) {
    let mut leads_in = node.leads_in();
    loop {
        match *leads_in.borrow_and_update() {
            Some(term) => lessor.promote(term, || node.reader().leases()),
            None => lessor.demote(),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = leads_in.changed() => if changed.is_err() { return },
        }
    }
}

/// Lets the log write small entries at once while this member has no peers.
pub(crate) async fn follow_peers(node: Node, log: LogExtent, stop: CancellationToken) {
    let mut membership = node.watch_membership();
    loop {
        membership.mark_unchanged();
        log.set_writes_inline(node.is_alone());
        tokio::select! {
            changed = membership.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Index of the entry that a member needs next, if this one leads.
fn next_of(node: &Node, member: u64) -> Option<u64> {
    let metrics = node.raft().metrics();
    let metrics = metrics.borrow_watched();
    let matched = metrics.replication.as_ref()?.get(&member)?.as_ref();
    Some(matched.map_or(0, |id| id.index + 1))
}

/// What the log is purged by.
#[derive(Clone, Copy)]
pub(crate) struct Kept {
    /// Entries between snapshots.
    pub(crate) snapshot_count: u64,
    /// Entries before a snapshot that are kept with it.
    pub(crate) catchup_entries: u64,
}

impl Kept {
    pub(crate) fn of(config: &Config) -> Self {
        Self { snapshot_count: config.snapshot_count, catchup_entries: config.snapshot_catchup_entries }
    }
}

/// Lets raft drop the part of the log that the store holds durably, but for a piece for members that are a little
/// behind: bounded in entries with every snapshot, and always in bytes, because an entry may hold a thousand writes.
/// Members that are sent a snapshot need more of it.
///
/// Raft purges nothing by itself: what it wants to purge with a snapshot may lie before what was triggered here and has to
/// wait for a follower, and it takes that for a contradiction.
pub(crate) async fn purge_log(
    node: Node,
    (log, catch_ups): (LogExtent, CatchUps),
    keep: Kept,
    stop: CancellationToken,
) {
    let mut covered = node.reader().durable().0.index;
    let mut purged_to = 0;
    let mut stopped = pin!(stop.cancelled());
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => return,
            () = tokio::time::sleep(PURGE_INTERVAL) => {}
        }
        let durable = node.reader().durable().0.index;
        let segments = if node.is_alone() { 1 } else { CATCH_UP_SEGMENTS };
        let is_snapshot_due = durable.saturating_sub(covered) >= keep.snapshot_count;
        let by_entries = if is_snapshot_due { durable.saturating_sub(keep.catchup_entries) } else { 0 };
        let keep_from = log.first_in_newest(segments).unwrap_or(0).max(by_entries).min(durable);
        let needed_from = catch_ups.needs_from(keep_from, |member| next_of(&node, member));
        let keep_from = match needed_from {
            Some(needed) => keep_from.min(needed).max(log.first_in_newest(CATCH_UP_SEGMENTS_MAX).unwrap_or(0)),
            None => keep_from,
        };
        if keep_from <= purged_to && !is_snapshot_due {
            continue;
        }
        let raft = node.raft();
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
        // Raft purges only what a snapshot covers; positions of the store count from 1.
        let covers = |at: Option<LogId>| at.is_some_and(|id| id.index + 1 >= durable);
        let wait = raft.wait(Some(SNAPSHOT_DEADLINE));
        if let Err(error) = wait.metrics(|now| covers(now.snapshot), "the snapshot covers the store").await {
            tracing::debug!(%error, "the log is not purged this time");
            continue;
        }
        if keep_from > purged_to && raft.trigger().purge_log(keep_from - 1).await.is_err() {
            return;
        }
        (covered, purged_to) = (durable, keep_from.max(purged_to));
    }
}
