//! Revisions and the bytes that stand for them on disk and in hashes.

/// When a key changed: the main revision of the write transaction, and the place within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The store revision of the write transaction.
    pub main: i64,
    /// 0 for its first change, 1 for the second, and so on.
    pub sub: u32,
}

impl Revision {
    /// The key of the revisions table: big endian, so that byte order is revision order.
    pub(crate) fn to_key(self) -> [u8; 12] {
        let mut key = [0; 12];
        key[..8].copy_from_slice(&self.main.to_be_bytes());
        key[8..].copy_from_slice(&self.sub.to_be_bytes());
        key
    }

    pub(crate) fn from_key(key: &[u8; 12]) -> Self {
        let (main, sub) = key.split_at(8);
        // Invariant: both halves have the lengths of their integers.
        Self {
            main: i64::from_be_bytes(main.try_into().expect("invariant: 8 bytes")),
            sub: u32::from_be_bytes(sub.try_into().expect("invariant: 4 bytes")),
        }
    }

    /// The first revision of a write transaction.
    pub(crate) fn first(main: i64) -> Self {
        Self { main, sub: 0 }
    }

    /// The bytes that etcd stores for this revision and that its `HashKV` covers:
    /// main, `_`, sub (8 bytes), and `t` for a tombstone.
    pub fn etcd_key(self, tombstone: bool) -> ([u8; 18], usize) {
        let mut key = [0; 18];
        key[..8].copy_from_slice(&self.main.to_be_bytes());
        key[8] = b'_';
        key[9..17].copy_from_slice(&u64::from(self.sub).to_be_bytes());
        key[17] = b't';
        (key, if tombstone { 18 } else { 17 })
    }
}

#[cfg(test)]
mod tests {
    use super::Revision;

    #[test]
    fn keys_sort_like_revisions() {
        let a = Revision { main: 1, sub: u32::MAX };
        let b = Revision { main: 2, sub: 0 };
        assert!(a < b && a.to_key() < b.to_key());
        assert_eq!(Revision::from_key(&a.to_key()), a);
    }
}
