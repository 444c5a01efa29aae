//! The interval of keys that a request names, with etcd's conventions.

use std::ops::Bound;

/// Keys from `key` up to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange<'a> {
    /// The first key.
    pub key: &'a [u8],
    /// Where the range ends.
    pub end: RangeEnd<'a>,
}

/// The end of a [`KeyRange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeEnd<'a> {
    /// Only the key itself.
    Single,
    /// Every key from the first on (`range_end` is one zero byte).
    Open,
    /// Up to this key, which is not included.
    Before(&'a [u8]),
}

impl<'a> KeyRange<'a> {
    /// Reads a request's `key` and `range_end`.
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        let end = match range_end {
            [] => RangeEnd::Single,
            [0] => RangeEnd::Open,
            end => RangeEnd::Before(end),
        };
        Self { key, end }
    }

    /// True when `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self.end {
            RangeEnd::Single => key == self.key,
            RangeEnd::Open => key >= self.key,
            RangeEnd::Before(end) => key >= self.key && key < end,
        }
    }

    /// True when no key can lie in the range.
    pub fn is_empty(&self) -> bool {
        matches!(self.end, RangeEnd::Before(end) if end <= self.key)
    }

    /// The bounds for a sorted map, or `None` for an empty range. Not for single keys.
    pub(crate) fn bounds(&self) -> Option<(Bound<&'a [u8]>, Bound<&'a [u8]>)> {
        let end = match self.end {
            RangeEnd::Single => Bound::Included(self.key),
            RangeEnd::Open => Bound::Unbounded,
            RangeEnd::Before(end) => Bound::Excluded(end),
        };
        (!self.is_empty()).then_some((Bound::Included(self.key), end))
    }
}

#[cfg(test)]
mod tests {
    use super::KeyRange;

    #[test]
    fn conventions() {
        for (key, end, inside, outside) in [
            (&b"b"[..], &b""[..], &["b"][..], &["a", "c", "b\0"][..]),
            (b"b", b"\0", &["b", "c", "\u{7f}"], &["a"]),
            (b"b", b"d", &["b", "c", "c\0"], &["a", "d"]),
            (b"b", b"b", &[], &["b"]),
            (b"b", b"a", &[], &["a", "b"]),
        ] {
            let range = KeyRange::new(key, end);
            assert!(inside.iter().all(|k| range.contains(k.as_bytes())), "{range:?}");
            assert!(!outside.iter().any(|k| range.contains(k.as_bytes())), "{range:?}");
            assert_eq!(range.is_empty(), inside.is_empty(), "{range:?}");
        }
    }
}
