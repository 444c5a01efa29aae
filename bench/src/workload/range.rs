//! Ranges of one key or of many, linearizable or serializable.

use api::etcdserverpb::RangeRequest;
use bytes::Bytes;
use rand::rngs::SmallRng;

use super::keys::KeySpace;
use super::unary::{Check, RequestSource};
use crate::connection::{CallError, frame};
use crate::wire;

/// `RangeResponse.kvs`.
const KVS_FIELD: u32 = 2;
/// Up to so many keys are counted in every reply; of longer ones only the length is checked.
const COUNTED_KEYS: u64 = 16;

/// Makes range requests.
pub(crate) struct Range {
    /// Which keys; they must exist.
    pub(crate) keys: KeySpace,
    /// How many keys one request asks for.
    pub(crate) limit: u64,
    /// Whether any member may answer from what it has.
    pub(crate) is_serializable: bool,
}

impl RequestSource for Range {
    fn path(&self) -> &'static str {
        "/etcdserverpb.KV/Range"
    }

    fn request(&self, call: u64, random: &mut SmallRng) -> Bytes {
        let chosen = self.keys.choose(call, random);
        // A longer range starts early enough to find all the keys it asks for.
        let first = chosen.min(self.keys.count.saturating_sub(self.limit));
        let (range_end, limit) = match self.limit {
            1 => (Bytes::new(), 0),
            limit => (prefix_end(&self.keys.prefix), limit as i64),
        };
        let key = self.keys.key(first);
        frame(&RangeRequest { key, range_end, limit, serializable: self.is_serializable, ..Default::default() })
    }

    fn check(&self) -> Check<'_> {
        if self.limit <= COUNTED_KEYS {
            return Check::Message(Box::new(|message: Bytes| {
                let found = wire::fields(&message).filter(|(field, _)| *field == KVS_FIELD).count();
                if found as u64 == self.limit { Ok(()) } else { Err(self.lacks_keys()) }
            }));
        }
        // Keys have one size: fewer bytes cannot hold the keys, and nothing needs to be kept or decoded.
        let asked = self.limit as usize * self.keys.key_size;
        Check::Length(Box::new(move |length| if length >= asked { Ok(()) } else { Err(self.lacks_keys()) }))
    }
}

impl Range {
    fn lacks_keys(&self) -> CallError {
        let total = self.keys.count;
        CallError::Unexpected(format!(
            "the range found too few keys; fill the key space first: put --sequential --keys {total} --total {total}"
        ))
    }
}

/// The end of the range of all keys that start with `prefix`.
fn prefix_end(prefix: &Bytes) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    // No end: all keys from the first on.
    Bytes::from_static(&[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_after_their_last_key() {
        assert_eq!(prefix_end(&Bytes::from_static(b"ab")), &b"ac"[..]);
        assert_eq!(prefix_end(&Bytes::from_static(b"a\xff")), &b"b"[..]);
        assert_eq!(prefix_end(&Bytes::from_static(b"\xff")), &b"\0"[..]);
    }
}
