//! Names and client URLs that members published. Peer URLs and votes are in raft's membership.

use api::cleatpb::MemberAttributes;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub(crate) struct Members {
    published: BTreeMap<u64, MemberAttributes>,
    changed: BTreeSet<u64>,
}

impl Members {
    pub(crate) fn publish(&mut self, attributes: MemberAttributes) {
        self.changed.insert(attributes.member_id);
        self.published.insert(attributes.member_id, attributes);
    }

    pub(crate) fn get(&self, member_id: u64) -> Option<&MemberAttributes> {
        self.published.get(&member_id)
    }

    pub(crate) fn take_changed(&mut self) -> Vec<MemberAttributes> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter_map(|id| self.published.get(&id).cloned()).collect()
    }

    pub(crate) fn restore(&mut self, attributes: MemberAttributes) {
        self.published.insert(attributes.member_id, attributes);
    }
}
