//! Names and client URLs that members published, and the ids of those that were removed. Peer URLs and votes are in
//! raft's membership.

use api::cleatpb::MemberAttributes;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub(crate) struct Members {
    published: BTreeMap<u64, MemberAttributes>,
    /// Never forgotten: an id must not come back, a member that was away may still believe that it is one.
    removed: BTreeSet<u64>,
    changed: BTreeSet<u64>,
}

/// What the flush writes of one member.
pub(crate) enum MemberChange {
    Published(MemberAttributes),
    Removed(u64),
}

impl Members {
    /// Takes what a member publishes; a removed one has nothing to say.
    pub(crate) fn publish(&mut self, attributes: MemberAttributes) {
        if self.removed.contains(&attributes.member_id) {
            return;
        }
        self.changed.insert(attributes.member_id);
        self.published.insert(attributes.member_id, attributes);
    }

    pub(crate) fn remove(&mut self, member_id: u64) {
        if self.removed.insert(member_id) {
            self.published.remove(&member_id);
            self.changed.insert(member_id);
        }
    }

    pub(crate) fn get(&self, member_id: u64) -> Option<&MemberAttributes> {
        self.published.get(&member_id)
    }

    pub(crate) fn is_removed(&self, member_id: u64) -> bool {
        self.removed.contains(&member_id)
    }

    /// The ids of removed members, ascending.
    pub(crate) fn removed(&self) -> impl Iterator<Item = u64> {
        self.removed.iter().copied()
    }

    pub(crate) fn take_changed(&mut self) -> Vec<MemberChange> {
        let change = |id| match self.published.get(&id) {
            Some(attributes) => MemberChange::Published(attributes.clone()),
            None => MemberChange::Removed(id),
        };
        std::mem::take(&mut self.changed).into_iter().map(change).collect()
    }

    pub(crate) fn restore(&mut self, attributes: MemberAttributes) {
        self.published.insert(attributes.member_id, attributes);
    }

    pub(crate) fn restore_removed(&mut self, member_id: u64) {
        self.removed.insert(member_id);
    }
}
