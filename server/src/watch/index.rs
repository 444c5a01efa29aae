//! From a key to the watchers that it concerns: a hash map of single keys beside [`Intervals`] of ranges.
//!
//! Watchers are small numbers, slots, whose meaning the owner of the index knows.

use super::intervals::{End, Intervals};
use std::collections::HashMap;
use std::sync::Arc;
use store::{KeyEvent, KeyRange, RangeEnd, RevisionEvents};

/// The keys of one watcher, in the form that the wire gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchedRange {
    pub(crate) key: Arc<[u8]>,
    pub(crate) end: WatchedEnd,
}

/// Where a [`WatchedRange`] ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WatchedEnd {
    /// Only the key.
    Single,
    /// Up to an end, or without one.
    Range(End),
}

impl WatchedRange {
    /// Reads a request's `key` and `range_end`; none when no key can lie between them.
    pub(crate) fn new(key: &[u8], range_end: &[u8]) -> Option<Self> {
        // As in etcd, an empty key is the smallest one.
        let key = if key.is_empty() { &[0][..] } else { key };
        let end = match range_end {
            [] => WatchedEnd::Single,
            [0] => WatchedEnd::Range(None),
            end if end <= key => return None,
            end => WatchedEnd::Range(Some(end.into())),
        };
        Some(Self { key: key.into(), end })
    }

    /// The interval that was asked for.
    pub(crate) fn as_asked(&self) -> KeyRange<'_> {
        let end = match &self.end {
            WatchedEnd::Single => RangeEnd::Single,
            WatchedEnd::Range(None) => RangeEnd::Open,
            WatchedEnd::Range(Some(end)) => RangeEnd::Before(end),
        };
        KeyRange { key: &self.key, end }
    }
}

/// A set of slots that usually has one element.
#[derive(Debug)]
pub(crate) enum Slots {
    One(u32),
    Many(Vec<u32>),
}

impl Slots {
    pub(crate) fn one(slot: u32) -> Self {
        Self::One(slot)
    }

    pub(crate) fn push(&mut self, slot: u32) {
        match self {
            Self::One(first) => *self = Self::Many(vec![*first, slot]),
            Self::Many(slots) => slots.push(slot),
        }
    }

    /// Takes a slot out; true when none is left.
    pub(crate) fn remove(&mut self, slot: u32) -> bool {
        match self {
            Self::One(only) => *only == slot,
            Self::Many(slots) => {
                if let Some(at) = slots.iter().position(|s| *s == slot) {
                    slots.swap_remove(at);
                }
                slots.is_empty()
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        let slots = match self {
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Many(slots) => slots,
        };
        slots.iter().copied()
    }
}

#[derive(Default)]
pub(crate) struct Index {
    single: HashMap<Arc<[u8]>, Slots>,
    ranges: Intervals,
    len: usize,
}

impl Index {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn insert(&mut self, range: &WatchedRange, slot: u32) {
        self.len += 1;
        match &range.end {
            WatchedEnd::Single => match self.single.get_mut(&range.key) {
                Some(slots) => slots.push(slot),
                None => {
                    self.single.insert(Arc::clone(&range.key), Slots::one(slot));
                }
            },
            WatchedEnd::Range(end) => self.ranges.insert(&range.key, end, slot),
        }
    }

    /// Takes out what was inserted with the same range and slot.
    pub(crate) fn remove(&mut self, range: &WatchedRange, slot: u32) {
        self.len -= 1;
        match &range.end {
            WatchedEnd::Single => {
                if self.single.get_mut(&range.key).is_some_and(|slots| slots.remove(slot)) {
                    self.single.remove(&range.key);
                }
            }
            WatchedEnd::Range(end) => self.ranges.remove(&range.key, end.as_deref(), slot),
        }
    }

    /// Fills `matched` with pairs of watcher and position of the event, sorted, for every event of a change that
    /// concerns a watcher and that it wants.
    pub(crate) fn matches(
        &self,
        change: &RevisionEvents,
        matched: &mut Vec<(u32, u32)>,
        mut wants: impl FnMut(u32, &KeyEvent) -> bool,
    ) {
        matched.clear();
        for (position, event) in change.events.iter().enumerate() {
            self.watching(event.key(), |slot| {
                if wants(slot, event) {
                    matched.push((slot, position as u32));
                }
            });
        }
        if change.events.len() > 1 {
            // So that all events of one revision reach a watcher together.
            matched.sort_unstable();
        }
    }

    /// Calls `found` for every watcher of the key.
    fn watching(&self, key: &[u8], mut found: impl FnMut(u32)) {
        if let Some(slots) = self.single.get(key) {
            slots.iter().for_each(&mut found);
        }
        self.ranges.holding(key, &mut found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_the_wire_conventions() {
        assert_eq!(WatchedRange::new(b"b", b"a"), None);
        assert_eq!(WatchedRange::new(b"b", b"b"), None);
        assert_eq!(WatchedRange::new(b"", b"").unwrap().key.as_ref(), b"\0");
        let mut index = Index::default();
        let ranges: Vec<_> = [(&b"b"[..], &b""[..]), (b"b", b"\0"), (b"b", b"d"), (b"", b"\0"), (b"", b"")]
            .map(|(key, end)| WatchedRange::new(key, end).unwrap())
            .into();
        for (slot, range) in ranges.iter().enumerate() {
            index.insert(range, slot as u32);
        }
        for (key, expected) in
            [(&b"a"[..], &[3][..]), (b"b", &[0, 1, 2, 3]), (b"c", &[1, 2, 3]), (b"d", &[1, 3]), (b"\0", &[3, 4])]
        {
            let mut found = Vec::new();
            index.watching(key, |slot| found.push(slot));
            found.sort_unstable();
            assert_eq!(found, expected, "{key:?}");
        }
        for (slot, range) in ranges.iter().enumerate() {
            index.remove(range, slot as u32);
        }
        assert!(index.is_empty());
    }
}
