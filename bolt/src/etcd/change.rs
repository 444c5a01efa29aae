//! Bucket `key`: the history, one record for each put and each deletion.

use super::{Record, RecordFault};
use api::encoded::{KeyValue, KeyValueFields, fields};
use bytes::{Buf, BufMut, Bytes};

/// When a key changed: the main revision of the write transaction, and the place within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The store revision of the write transaction.
    pub main: i64,
    /// 0 for its first change, 1 for the second, and so on.
    pub sub: i64,
}

/// Main, `_` and sub.
const REVISION_BYTES: usize = 17;
const SEPARATOR: u8 = b'_';
/// Follows the revision of a deletion.
const TOMBSTONE: u8 = b't';

impl Revision {
    /// The bytes that etcd keeps for a revision.
    pub(crate) fn encode(self) -> [u8; REVISION_BYTES] {
        let mut out = [0; REVISION_BYTES];
        let mut rest = &mut out[..];
        rest.put_i64(self.main);
        rest.put_u8(SEPARATOR);
        rest.put_i64(self.sub);
        out
    }

    /// None when the bytes are no revision.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() != REVISION_BYTES {
            return None;
        }
        let (main, separator, sub) = (bytes.get_i64(), bytes.get_u8(), bytes.get_i64());
        (main >= 0 && separator == SEPARATOR && sub >= 0).then_some(Self { main, sub })
    }
}

/// A put or a deletion.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub revision: Revision,
    /// True for a deletion, which has only a key.
    pub is_tombstone: bool,
    /// The encoded `mvccpb.KeyValue`, checked.
    stored: Bytes,
}

impl Change {
    /// The stored bytes, a slice of the page that they were read from.
    pub fn stored(&self) -> &Bytes {
        &self.stored
    }

    /// The key-value, without copying.
    pub fn fields(&self) -> KeyValueFields<'_> {
        fields(&self.stored).expect("invariant: the bytes were decoded before")
    }

    /// The key-value as the store keeps it; a copy.
    pub fn to_stored(&self) -> KeyValue {
        KeyValue::from_stored(&self.stored)
    }

    /// True for what a restore with `--bump-revision` leaves: a revision at which nothing changed.
    pub fn is_bump(&self) -> bool {
        self.stored.is_empty()
    }
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys and values are secrets: only the size is shown.
        let mut out = f.debug_struct("Change");
        out.field("revision", &self.revision).field("is_tombstone", &self.is_tombstone);
        out.field("stored", &self.stored.len()).finish()
    }
}

impl Record for Change {
    const BUCKET: &'static str = "key";

    fn from_entry(key: &Bytes, value: &Bytes) -> Result<Self, RecordFault> {
        let is_tombstone = match key.len().checked_sub(REVISION_BYTES) {
            Some(0) => false,
            Some(1) if key[REVISION_BYTES] == TOMBSTONE => true,
            Some(1) => return Err(RecordFault::Key("revision")),
            _ => return Err(RecordFault::KeyLength(key.len())),
        };
        let revision = Revision::decode(&key[..REVISION_BYTES]).ok_or(RecordFault::Key("revision"))?;
        let kv = fields(value)?;
        let has_no_key = kv.key.is_empty();
        if has_no_key && (is_tombstone || !value.is_empty()) {
            return Err(RecordFault::Value { what: "key-value without a key", len: value.len() });
        }
        if !is_tombstone && !has_no_key && (kv.mod_revision != revision.main || kv.create_revision > revision.main) {
            return Err(RecordFault::Mismatch("revisions"));
        }
        Ok(Self { revision, is_tombstone, stored: value.clone() })
    }

    fn to_entry(&self) -> (Bytes, Bytes) {
        let mut key = self.revision.encode().to_vec();
        if self.is_tombstone {
            key.push(TOMBSTONE);
        }
        (key.into(), self.stored.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(main: i64, fields: &KeyValueFields<'_>) -> (Bytes, Bytes) {
        let key = Revision { main, sub: 3 }.encode();
        (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(fields.encode().as_bytes()))
    }

    #[test]
    fn a_change_is_read_and_written_as_it_was() {
        let kv = KeyValueFields { key: b"a", create_revision: 5, mod_revision: 9, version: 2, value: b"v", lease: 7 };
        let (key, value) = put(9, &kv);
        let change = Change::from_entry(&key, &value).unwrap();
        assert_eq!((change.revision, change.is_tombstone), (Revision { main: 9, sub: 3 }, false));
        assert_eq!((change.fields().key, change.fields().lease), (&b"a"[..], 7));
        assert_eq!(change.to_entry(), (key.clone(), value));

        let (_, value) = put(9, &KeyValueFields { key: b"a", ..Default::default() });
        let key: Bytes = [&key[..], b"t"].concat().into();
        let change = Change::from_entry(&key, &value).unwrap();
        assert!(change.is_tombstone);
        assert_eq!(change.to_entry(), (key, value));
    }

    #[test]
    fn what_etcd_does_not_write_is_refused() {
        let kv = KeyValueFields { key: b"a", create_revision: 5, mod_revision: 9, version: 2, ..Default::default() };
        let (key, value) = put(9, &kv);
        let (other, _) = put(10, &kv);
        let (_, unborn) = put(9, &KeyValueFields { create_revision: 10, ..kv });
        let (_, nameless) = put(9, &KeyValueFields { key: b"", ..kv });
        let negative = Bytes::copy_from_slice(&Revision { main: -1, sub: 0 }.encode());
        let with = |end: &[u8]| Bytes::from([&key[..], end].concat());
        let refused = [
            (&other, &value),
            (&key, &unborn),
            (&key, &nameless),
            (&negative, &value),
            (&with(b"x"), &value),
            (&with(b"tt"), &value),
            (&key.slice(..16), &value),
            (&key, &value.slice(..value.len() - 1)),
            (&with(b"t"), &Bytes::new()),
        ];
        for (at, (key, value)) in refused.into_iter().enumerate() {
            assert!(Change::from_entry(key, value).is_err(), "case {at}");
        }
        assert!(Change::from_entry(&key, &Bytes::new()).unwrap().is_bump());
    }
}
