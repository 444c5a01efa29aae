//! Disaster recovery: makes a member the only one of its cluster, before raft starts (`--force-new-cluster`).
//!
//! For a cluster that lost its majority for good. All of this member's log stays: how far it is committed is written down
//! only with the next record, so the end of the log may hold what was acknowledged. etcd drops that end. What was not
//! acknowledged may take effect, as after any crash. The entry that makes this the only member is of a term of its own, so
//! that no leader of the old cluster can have written another one in its place.

use super::log_store::LogStore;
use super::state_machine::raft_state;
use super::types::{Entry, EntryContent, IoFlushed, Membership, Peer, Vote, log_id};
use openraft::storage::{RaftLogReader as _, RaftLogStorage as _};
use std::collections::{BTreeMap, BTreeSet};
use store::Reader;

/// Writes the membership of `member_id` alone into the log. It keeps its peer URLs; `peer_urls` are for one that has none.
///
/// # Errors
/// The log or the store cannot be read or written; or there is nothing to go on with.
pub(crate) async fn force(
    log: &mut LogStore,
    reader: &Reader,
    member_id: u64,
    peer_urls: Vec<String>,
) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let (position, membership) = reader.applied();
    let (applied, stored) = raft_state(position, &membership).map_err(text)?;
    let state = log.get_log_state().await.map_err(text)?;
    if applied.is_none() && state.last_log_id.is_none() {
        return Err(
            "--force-new-cluster: this member has no data to make a cluster of; start it without that flag".to_owned()
        );
    }
    // Invariant: `LogStore::follow` has made the log end where the store does, or behind it.
    let last = state.last_log_id;
    let term = log.get_log_reader().await.read_vote().await.map_err(text)?.map_or(0, |vote| vote.leader_id.term) + 1;
    log.save_vote(&Vote::new_committed(term, member_id)).await.map_err(text)?;
    let peer = stored.membership().get_node(&member_id).cloned();
    let peer = peer.unwrap_or(Peer { peer_urls, joins_as_voter: true });
    let alone = Membership::new(vec![BTreeSet::from([member_id])], BTreeMap::from([(member_id, peer)]));
    let alone = alone.map_err(|error| error.to_string())?;
    let index = last.map_or(0, |id| id.index + 1);
    let entry = Entry { log_id: log_id(term, index), payload: EntryContent::Membership(alone) };
    log.append([entry], IoFlushed::noop()).await.map_err(text)?;
    tracing::warn!(
        member_id = format_args!("{member_id:x}"),
        "forced: this member is the only one of its cluster now; add the others again with empty data directories"
    );
    Ok(())
}
