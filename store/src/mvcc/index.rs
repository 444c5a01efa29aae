//! The key index: for every key, when it changed.
//!
//! One sorted map in memory, rebuilt at start from the revisions table. It answers which revision of a key is
//! visible at a store revision; key-values themselves are in the tail, in the cache slots of this index, or on disk.
//!
//! A key's history is its last change, with what the next put needs to know (creation and version), and the older
//! changes in ascending order. A tombstone among them separates etcd's generations.

use super::key_range::{KeyRange, RangeEnd};
use super::revision::Revision;
use api::encoded::{KeyValue, KeyValueFields};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};

/// One change of a key. The tombstone flag shares a word with the sub revision: the index is the largest part of
/// the process's memory. Packed: 12 bytes instead of 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(Rust, packed(4))]
pub(crate) struct Stamp {
    main: i64,
    sub_and_flag: u32,
}

const TOMBSTONE: u32 = 1 << 31;

impl Stamp {
    pub(crate) fn new(revision: Revision, tombstone: bool) -> Self {
        debug_assert!(revision.sub < TOMBSTONE, "a transaction is bounded far below 2^31 changes");
        Self { main: revision.main, sub_and_flag: revision.sub | if tombstone { TOMBSTONE } else { 0 } }
    }

    pub(crate) fn revision(self) -> Revision {
        Revision { main: self.main, sub: self.sub_and_flag & !TOMBSTONE }
    }

    pub(crate) fn is_tombstone(self) -> bool {
        self.sub_and_flag & TOMBSTONE != 0
    }
}

/// What the index knows of one key.
#[derive(Debug)]
pub(crate) struct KeyEntry {
    last: Stamp,
    /// Creation revision of the current incarnation.
    created: i64,
    /// Puts in the current incarnation, 0 after a delete.
    version: i64,
    /// Older changes, ascending. Boxed: most keys have none.
    #[allow(clippy::box_collection, reason = "8 bytes instead of 24 in every entry")]
    older: Option<Box<Vec<Stamp>>>,
    /// The key-value of `last`, when it is in memory.
    cached: Option<KeyValue>,
    /// Set by readers, cleared by the eviction hand: a second chance.
    touched: AtomicBool,
}

impl KeyEntry {
    pub(crate) fn last(&self) -> Stamp {
        self.last
    }

    pub(crate) fn is_live(&self) -> bool {
        !self.last.is_tombstone()
    }

    /// The change that is visible at store revision `at`, unless the key does not exist then.
    pub(crate) fn at(&self, at: i64) -> Option<Stamp> {
        let stamp = if self.last.main <= at {
            self.last
        } else {
            let older = self.older.as_deref()?;
            *older.get(older.partition_point(|s| s.main <= at).checked_sub(1)?)?
        };
        (!stamp.is_tombstone()).then_some(stamp)
    }

    /// The cached key-value, when `stamp` is the last change.
    pub(crate) fn cached(&self, stamp: Stamp) -> Option<&KeyValue> {
        let cached = self.cached.as_ref().filter(|_| stamp == self.last)?;
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
        Some(cached)
    }

    /// An entry of one stored change.
    fn stored(revision: Revision, fields: &KeyValueFields<'_>) -> Self {
        Self {
            // A put always has a revision.
            last: Stamp::new(revision, fields.mod_revision == 0),
            created: fields.create_revision,
            version: fields.version,
            older: None,
            cached: None,
            touched: AtomicBool::new(false),
        }
    }

    fn push(&mut self, stamp: Stamp) {
        debug_assert!(self.last.revision() < stamp.revision(), "revisions only grow");
        self.older.get_or_insert_default().push(self.last);
        self.last = stamp;
    }

    /// Appends a later part of the key's history.
    fn extend(&mut self, later: &mut Self) {
        for stamp in later.older.take().into_iter().flat_map(|older| *older) {
            self.push(stamp);
        }
        self.push(later.last);
        (self.created, self.version) = (later.created, later.version);
    }

    /// True when the key exists at `at` and this is the change that made it what it is.
    pub(crate) fn is_visible(&self, revision: Revision, at: i64) -> bool {
        self.at(at).is_some_and(|stamp| stamp.revision() == revision)
    }
}

/// Memory that a cached key-value takes: its bytes, the counters of what shares it, and what the allocator rounds up.
fn cost(kv: &KeyValue) -> usize {
    let len = kv.as_bytes().len();
    len + 16 + len / 16
}

#[derive(Default)]
pub(crate) struct Index {
    keys: BTreeMap<Box<[u8]>, KeyEntry>,
    /// Memory of cached key-values, see [`cost`].
    cached_bytes: usize,
    /// Where the eviction stopped.
    hand: Box<[u8]>,
    /// Number of keys that exist.
    live: usize,
}

impl Index {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&KeyEntry> {
        self.keys.get(key)
    }

    pub(crate) fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    /// Entries of a range in key order, dead keys included, from `after` on (exclusive) when given.
    pub(crate) fn range<'a>(
        &'a self,
        range: KeyRange<'_>,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = (&'a [u8], &'a KeyEntry)> {
        let bounds = range.bounds().and_then(|(start, end)| match after {
            Some(after) if matches!(end, Bound::Excluded(end) if end <= after) => None,
            Some(after) => Some((Bound::Excluded(after), end)),
            None => Some((start, end)),
        });
        // A single key must not pay for a range; both arms have the same item type through `Option`s.
        let (single, bounds) = match range.end {
            RangeEnd::Single => (self.keys.get_key_value(range.key).filter(|_| after.is_none()), None),
            _ => (None, bounds),
        };
        single
            .into_iter()
            .chain(bounds.map(|bounds| self.keys.range::<[u8], _>(bounds)).into_iter().flatten())
            .map(|(key, entry)| (&**key, entry))
    }

    /// Records a put, with its key-value built by `encode(created, version)`.
    pub(crate) fn put(
        &mut self,
        key: &[u8],
        revision: Revision,
        encode: impl FnOnce(i64, i64) -> KeyValue,
    ) -> KeyValue {
        let stamp = Stamp::new(revision, false);
        if let Some(entry) = self.keys.get_mut(key) {
            if entry.is_live() {
                entry.version += 1;
            } else {
                entry.created = revision.main;
                entry.version = 1;
                self.live += 1;
            }
            entry.push(stamp);
            let kv = encode(entry.created, entry.version);
            self.cached_bytes += cost(&kv);
            self.cached_bytes -= entry.cached.replace(kv.clone()).map_or(0, |old| cost(&old));
            return kv;
        }
        let kv = encode(revision.main, 1);
        self.live += 1;
        self.cached_bytes += cost(&kv);
        let entry = KeyEntry {
            last: stamp,
            created: revision.main,
            version: 1,
            older: None,
            cached: Some(kv.clone()),
            touched: AtomicBool::new(false),
        };
        self.keys.insert(key.into(), entry);
        kv
    }

    /// Records the delete of a key that exists.
    pub(crate) fn tombstone(&mut self, key: &[u8], revision: Revision) {
        let Some(entry) = self.keys.get_mut(key).filter(|e| e.is_live()) else { return };
        entry.push(Stamp::new(revision, true));
        entry.version = 0;
        self.live -= 1;
        self.cached_bytes -= entry.cached.take().map_or(0, |old| cost(&old));
    }

    /// Puts a key-value read from disk into its cache slot, unless the key changed since.
    pub(crate) fn fill(&mut self, revision: Revision, kv: KeyValue) {
        let Ok(fields) = kv.fields() else { return };
        if let Some(entry) = self.keys.get_mut(fields.key)
            && entry.last.revision() == revision
            && entry.cached.is_none()
        {
            self.cached_bytes += cost(&kv);
            entry.cached = Some(kv);
        }
    }

    /// Empties cache slots until at most `bound` bytes are cached, visiting at most `steps` entries.
    /// Slots that were read since the last visit get a second chance.
    pub(crate) fn evict(&mut self, bound: usize, steps: usize) {
        if self.cached_bytes <= bound {
            return;
        }
        let mut last = None;
        let mut visited = 0;
        for (key, entry) in self.keys.range_mut::<[u8], _>((Bound::Excluded(&*self.hand), Bound::Unbounded)).take(steps)
        {
            visited += 1;
            if self.cached_bytes <= bound {
                last = Some(key.clone());
                break;
            }
            if visited == steps {
                last = Some(key.clone());
            }
            if entry.cached.is_some() && !entry.touched.swap(false, Ordering::Relaxed) {
                self.cached_bytes -= entry.cached.take().map_or(0, |old| cost(&old));
            }
        }
        // The end was reached: start over next time.
        self.hand = last.unwrap_or_default();
    }

    /// Drops the history of up to `keys` keys after `cursor` that a compaction at `at` makes unreadable, and returns
    /// the dropped revisions and the next cursor (`None` when the whole index was visited).
    pub(crate) fn compact(&mut self, at: i64, cursor: &[u8], keys: usize) -> (Vec<Revision>, Option<Box<[u8]>>) {
        let mut dropped = Vec::new();
        let mut dead = Vec::new();
        let mut last = None;
        let mut visited = 0;
        for (key, entry) in self.keys.range_mut::<[u8], _>((Bound::Excluded(cursor), Bound::Unbounded)).take(keys) {
            visited += 1;
            if visited == keys {
                last = Some(key.clone());
            }
            if entry.last.main <= at && entry.last.is_tombstone() && entry.last.main < at {
                dropped.extend(entry.older.iter().flat_map(|o| o.iter()).map(|s| s.revision()));
                dropped.push(entry.last.revision());
                dead.push(key.clone());
                continue;
            }
            let Some(older) = entry.older.as_deref_mut() else { continue };
            // Everything before the newest change at or below `at` goes, and that change too when it is a tombstone
            // below `at`. A tombstone exactly at `at` stays, so that a watch from `at` still sees the delete.
            let mut cut = older.partition_point(|s| s.main <= at);
            if entry.last.main > at && cut > 0 && !(older[cut - 1].is_tombstone() && older[cut - 1].main < at) {
                cut -= 1;
            }
            dropped.extend(older.drain(..cut).map(Stamp::revision));
            if older.is_empty() {
                entry.older = None;
            }
        }
        for key in dead {
            self.keys.remove(&key);
        }
        (dropped, last)
    }

    /// Builds the index from every stored change. Every change of `later` is younger than those of `earlier`.
    /// `attach` gets every key with the lease of its last change.
    pub(crate) fn rebuild(earlier: Sorted, later: Sorted, mut attach: impl FnMut(&[u8], i64)) -> Self {
        let same_order = earlier.common == later.common;
        let mut records = earlier.records;
        if !later.records.is_empty() {
            records.extend(later.records);
            // Stable, and two sorted runs: one merge, in which changes of one key stay in revision order.
            if same_order {
                records.sort_by(|a, b| a.order.cmp(&b.order).then_with(|| a.key.cmp(&b.key)));
            } else {
                records.sort_by(|a, b| a.key.cmp(&b.key));
            }
            merge_histories(&mut records);
        }
        let mut live = 0;
        for record in &records {
            live += usize::from(record.entry.is_live());
            attach(&record.key, record.lease);
        }
        // From sorted input the nodes of the map are full, and the records' memory is used again.
        Self { keys: records.into_iter().map(|record| (record.key, record.entry)).collect(), live, ..Self::default() }
    }
}

/// A stored change; in [`Sorted`], all changes of a key.
struct Record {
    /// Bytes of the key after what all keys have in common: most comparisons end here, without a look at the key.
    order: u64,
    key: Box<[u8]>,
    entry: KeyEntry,
    lease: i64,
}

/// Changes for which room is made because they are expected, and not because half of them are there.
const BELIEVED: usize = 1 << 20;

/// Stored changes as they come: in revision order.
#[derive(Default)]
pub(crate) struct Records {
    list: Vec<Record>,
    /// Stored bytes of these, and what they will be in the end.
    bytes: u64,
    expected: u64,
}

impl Records {
    /// For changes that are expected to take this many stored bytes in the end.
    pub(crate) fn expecting(bytes: u64) -> Self {
        Self { expected: bytes, ..Self::default() }
    }

    /// Takes a change that takes `bytes` of storage.
    pub(crate) fn push(&mut self, revision: Revision, fields: &KeyValueFields<'_>, bytes: u64) {
        let len = self.list.len();
        if len == self.list.capacity() {
            // As many as there will be if all are like these. The expectation may be wrong.
            let all = (len as u64).saturating_mul(self.expected / self.bytes.max(1) + 1) as usize;
            let most = (2 * len).max(BELIEVED);
            self.list.reserve_exact(all.clamp((len + len / 8).max(1024), most) - len);
        }
        self.bytes += bytes;
        self.list.push(Record {
            order: 0,
            key: fields.key.into(),
            entry: KeyEntry::stored(revision, fields),
            lease: fields.lease,
        });
    }
}

/// Stored changes by key, one record for each key.
#[derive(Default)]
pub(crate) struct Sorted {
    records: Vec<Record>,
    /// What all keys begin with.
    common: Vec<u8>,
}

/// Sorts changes by key.
pub(crate) fn sort(records: Records) -> Sorted {
    let mut records = records.list;
    let mut common = records.first().map_or_else(Vec::new, |record| record.key.to_vec());
    for record in &records {
        let len = record.key.iter().zip(&common).take_while(|(a, b)| a == b).count();
        common.truncate(len);
    }
    for record in &mut records {
        let rest = &record.key[common.len()..];
        let mut order = [0; 8];
        let len = rest.len().min(order.len());
        order[..len].copy_from_slice(&rest[..len]);
        record.order = u64::from_be_bytes(order);
    }
    records.sort_unstable_by(|a, b| {
        let revision = |record: &Record| record.entry.last.revision();
        a.order.cmp(&b.order).then_with(|| a.key.cmp(&b.key)).then_with(|| revision(a).cmp(&revision(b)))
    });
    merge_histories(&mut records);
    Sorted { records, common }
}

/// Moves the changes of a key into its first record. Records are sorted by key, then by revision.
fn merge_histories(records: &mut Vec<Record>) {
    records.dedup_by(|next, kept| {
        let same = next.key == kept.key;
        if same {
            kept.entry.extend(&mut next.entry);
            kept.lease = next.lease;
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(main: i64) -> Revision {
        Revision::first(main)
    }

    fn put(index: &mut Index, key: &[u8], main: i64) {
        index.put(key, revision(main), |create_revision, version| {
            KeyValueFields { key, create_revision, mod_revision: main, version, ..Default::default() }.encode()
        });
    }

    fn history() -> Index {
        let mut index = Index::default();
        put(&mut index, b"k", 2);
        put(&mut index, b"k", 3);
        index.tombstone(b"k", revision(4));
        put(&mut index, b"k", 6);
        index
    }

    #[test]
    fn visible_change_at_every_revision() {
        let index = history();
        let entry = index.get(b"k").unwrap();
        let seen: Vec<_> = (1..=7).map(|at| entry.at(at).map(|s| s.main)).collect();
        assert_eq!(seen, [None, Some(2), Some(3), None, None, Some(6), Some(6)]);
        assert_eq!((entry.created, entry.version), (6, 1));
    }

    #[test]
    fn compaction_keeps_what_is_readable() {
        for (at, dropped, left) in
            [(2, vec![], 4), (3, vec![2], 3), (4, vec![2, 3], 2), (5, vec![2, 3, 4], 1), (6, vec![2, 3, 4], 1)]
        {
            let mut index = history();
            let (revisions, next) = index.compact(at, b"", 10);
            assert_eq!(revisions.iter().map(|r| r.main).collect::<Vec<_>>(), dropped, "at {at}");
            assert!(next.is_none());
            let entry = index.get(b"k").unwrap();
            assert_eq!(1 + entry.older.as_ref().map_or(0, |o| o.len()), left, "at {at}");
        }
    }

    #[test]
    fn compaction_forgets_dead_keys() {
        let mut index = Index::default();
        put(&mut index, b"k", 2);
        index.tombstone(b"k", revision(3));
        assert!(index.compact(3, b"", 10).0.len() == 1 && index.get(b"k").is_some());
        assert_eq!(index.compact(4, b"", 10).0, [revision(3)]);
        assert!(index.get(b"k").is_none());
    }

    #[test]
    fn eviction_keeps_to_the_bound_and_gives_a_second_chance() {
        let mut index = Index::default();
        for i in 0..100u8 {
            put(&mut index, &[b'a', i], 2 + i64::from(i));
        }
        let per_key = index.cached_bytes() / 100;
        let entry = index.get(&[b'a', 0]).unwrap();
        assert!(entry.cached(entry.last()).is_some());
        index.evict(50 * per_key, 1000);
        assert!(index.cached_bytes() <= 50 * per_key);
        assert!(index.get(&[b'a', 0]).unwrap().cached.is_some());
        assert!(index.get(&[b'a', 1]).unwrap().cached.is_none());
    }
}
