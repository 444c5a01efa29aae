//! Granted leases and the keys attached to them. No timers: when a lease expires is the leader's decision
//! (`server/src/lessor.rs`), and arrives here as a revocation.

use std::collections::{BTreeMap, BTreeSet};

/// A granted lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// The granted time to live, seconds.
    pub ttl: i64,
    /// Seconds that were left at the last checkpoint, 0 when there was none.
    pub remaining_ttl: i64,
}

#[derive(Default)]
pub(crate) struct Leases {
    granted: BTreeMap<i64, (Lease, BTreeSet<Box<[u8]>>)>,
    attached: BTreeMap<Box<[u8]>, i64>,
    /// Leases to write or remove at the next flush.
    changed: BTreeSet<i64>,
}

impl Leases {
    pub(crate) fn get(&self, id: i64) -> Option<&Lease> {
        self.granted.get(&id).map(|(lease, _)| lease)
    }

    /// The attached keys in key order.
    pub(crate) fn keys(&self, id: i64) -> impl Iterator<Item = &[u8]> {
        self.granted.get(&id).into_iter().flat_map(|(_, keys)| keys).map(|key| &**key)
    }

    /// Every key that is attached to a lease.
    pub(crate) fn attached_keys(&self) -> impl Iterator<Item = &[u8]> {
        self.attached.keys().map(|key| &**key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.granted.iter().map(|(id, (lease, _))| (*id, lease))
    }

    pub(crate) fn len(&self) -> usize {
        self.granted.len()
    }

    pub(crate) fn grant(&mut self, id: i64, lease: Lease) {
        self.granted.insert(id, (lease, BTreeSet::new()));
        self.changed.insert(id);
    }

    /// Forgets a lease; its keys must have been deleted before.
    pub(crate) fn revoke(&mut self, id: i64) {
        if let Some((_, keys)) = self.granted.remove(&id) {
            for key in keys {
                self.attached.remove(&key);
            }
            self.changed.insert(id);
        }
    }

    pub(crate) fn checkpoint(&mut self, id: i64, remaining_ttl: i64) -> bool {
        let Some((lease, _)) = self.granted.get_mut(&id) else { return false };
        lease.remaining_ttl = remaining_ttl;
        self.changed.insert(id);
        true
    }

    /// Attaches a key to a lease, or to none (0), and detaches it from the one it had.
    pub(crate) fn attach(&mut self, key: &[u8], id: i64) {
        if self.attached.is_empty() && id == 0 {
            return;
        }
        if let Some(old) = self.attached.get(key).copied() {
            if old == id {
                return;
            }
            self.attached.remove(key);
            if let Some((_, keys)) = self.granted.get_mut(&old) {
                keys.remove(key);
            }
        }
        if let Some((_, keys)) = self.granted.get_mut(&id) {
            keys.insert(key.into());
            self.attached.insert(key.into(), id);
        }
    }

    /// The changes since the last call: id, and the lease unless it was revoked.
    pub(crate) fn take_changed(&mut self) -> Vec<(i64, Option<Lease>)> {
        std::mem::take(&mut self.changed).into_iter().map(|id| (id, self.get(id).cloned())).collect()
    }

    /// Takes a lease read at start, without marking it changed.
    pub(crate) fn restore(&mut self, id: i64, lease: Lease) {
        self.granted.insert(id, (lease, BTreeSet::new()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_lease() {
        let mut leases = Leases::default();
        leases.grant(1, Lease { ttl: 5, remaining_ttl: 0 });
        leases.grant(2, Lease { ttl: 5, remaining_ttl: 0 });
        leases.attach(b"k", 1);
        leases.attach(b"k", 2);
        assert_eq!((leases.keys(1).count(), leases.keys(2).count()), (0, 1));
        leases.attach(b"k", 0);
        assert_eq!(leases.keys(2).count(), 0);
        leases.revoke(1);
        assert_eq!(leases.take_changed().len(), 2);
        assert!(leases.take_changed().is_empty());
    }
}
