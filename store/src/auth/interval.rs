//! Sets of keys as intervals: what a user may read, and what it may write.
//!
//! Intervals that touch are one, so that `[a, c)` and `[c, e)` together allow `[a, e)`, as in etcd.

use crate::mvcc::key_range::{KeyRange, RangeEnd};

/// Disjoint intervals, ascending, with a gap between each two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intervals(Vec<Interval>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Interval {
    begin: Box<[u8]>,
    /// The first key behind it; none when it is open.
    end: Option<Box<[u8]>>,
}

impl Interval {
    fn of(range: KeyRange<'_>) -> Self {
        let end = match range.end {
            // The next key after `k` is `k\0`.
            RangeEnd::Single => Some([range.key, &[0]].concat().into()),
            RangeEnd::Open => None,
            RangeEnd::Before(end) => Some(end.into()),
        };
        Self { begin: range.key.into(), end }
    }

    fn ends_before(&self, key: &[u8]) -> bool {
        self.end.as_ref().is_some_and(|end| **end < *key)
    }

    fn reaches(&self, end: Option<&[u8]>) -> bool {
        match (&self.end, end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(end)) => **own >= *end,
        }
    }
}

impl Intervals {
    /// The union of ranges. Those that no key lies in count for nothing.
    pub(crate) fn of<'a>(ranges: impl Iterator<Item = KeyRange<'a>>) -> Self {
        let mut all: Vec<_> = ranges.filter(|range| !range.is_empty()).map(Interval::of).collect();
        all.sort_by(|a, b| a.begin.cmp(&b.begin));
        let mut merged: Vec<Interval> = Vec::with_capacity(all.len());
        for next in all {
            match merged.last_mut() {
                Some(last) if !last.ends_before(&next.begin) => {
                    if !last.reaches(next.end.as_deref()) {
                        last.end = next.end;
                    }
                }
                _ => merged.push(next),
            }
        }
        Self(merged)
    }

    /// True if every key of the range lies in the set. Of a range the wrong way round, which has none, its first key must:
    /// so etcd has it.
    pub(crate) fn contains(&self, range: KeyRange<'_>) -> bool {
        let after = self.0.partition_point(|interval| *interval.begin <= *range.key);
        let Some(interval) = after.checked_sub(1).map(|at| &self.0[at]) else { return false };
        let begins_inside = interval.end.as_ref().is_none_or(|end| *range.key < **end);
        begins_inside
            && match range.end {
                RangeEnd::Single => true,
                RangeEnd::Open => interval.end.is_none(),
                RangeEnd::Before(end) => interval.reaches(Some(end)),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::Intervals;
    use crate::mvcc::key_range::KeyRange;

    fn range(text: &str) -> KeyRange<'_> {
        match text.split_once("..") {
            None => KeyRange::new(text.as_bytes(), b""),
            Some((key, "")) => KeyRange::new(key.as_bytes(), b"\0"),
            Some((key, end)) => KeyRange::new(key.as_bytes(), end.as_bytes()),
        }
    }

    #[test]
    fn what_is_contained() {
        for (granted, inside, outside) in [
            (&["a"][..], &["a"][..], &["b", "a\0", "a..b", "a..", "\0.."][..]),
            (
                &["a..c"],
                &["a", "b", "b\u{7f}", "a..c", "a..b", "b..c", "b..\0\0"],
                &["c", "a..d", "a..", "\0..b", "\0"],
            ),
            (&["a..c", "c..e"], &["a..e", "b..d"], &["a..f", "e"]),
            (&["a..d", "b..c"], &["a..d", "c..d"], &["a..e"]),
            (&["a..c", "d..e"], &["a..c", "d..e"], &["a..e", "c", "b..d"]),
            (&["m.."], &["m", "z", "m..", "n..z"], &["a", "a..z", "\0.."]),
            (&["\0.."], &["\0", "a", "\0..", "a..z"], &[]),
            (&["a", "a\0"], &["a..a\0\0", "a..a\0"], &["a..a\0\0\0", "a..b"]),
            (&["c..a"], &[], &["a", "b", "c", "a..b"]),
            (&["a..c", "b.."], &["a..", "a..z"], &["\0.."]),
            // The wrong way round.
            (&["b..d"], &["c..bb", "b..a", "c..a"], &["a..a", "d..c", "e..a"]),
            (&[], &[], &["a", "a..", "\0.."]),
        ] {
            let set = Intervals::of(granted.iter().map(|text| range(text)));
            for text in inside {
                assert!(set.contains(range(text)), "{granted:?} allows {text:?}: {set:?}");
            }
            for text in outside {
                assert!(!set.contains(range(text)), "{granted:?} does not allow {text:?}: {set:?}");
            }
        }
    }
}
