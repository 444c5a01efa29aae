//! Ranges whose answer is too large to be built: what is in it is found first, and read while it is sent.
//!
//! An answer begins with its length, so every key-value is looked at twice: once for its size, once for its bytes. In
//! between a range keeps 40 bytes for each key, the views of the disk in which they were found, and what was in the tail.

use super::key_range::KeyRange;
use super::range::{RESTARTS, keeps, pushed_down_limit, revision_to_read, without_value};
use super::revision::Revision;
use super::state::{RANGE_CHUNK, Revisions, Shared, fields};
use crate::error::{Fault, ReadError, Rejection};
use api::encoded::{KeyValue, KeyValueFields};
use api::etcdserverpb::RangeRequest;
use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use bytes::BufMut;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::sync::Arc;

/// The field of `RangeResponse` that has the key-values.
const KVS: u32 = 2;

/// One key of the answer.
struct Found {
    revision: Revision,
    /// Of the encoded key-value as it is sent.
    size: u32,
    /// Which view of the disk has it.
    view: u32,
    /// The key-value, when the disk did not have it yet.
    in_tail: Option<KeyValue>,
}

/// The answer to a range, to be read piece by piece. Blocking: it reads the disk.
pub struct LargeRange {
    found: Vec<Found>,
    views: Vec<Arc<Revisions>>,
    keys_only: bool,
    next: usize,
    /// Keys in the range, before filters and limit.
    pub count: i64,
    /// True when the limit cut the answer.
    pub more: bool,
    /// The store revision that the range was read at.
    pub revision: i64,
}

impl std::fmt::Debug for LargeRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LargeRange").field("keys", &self.found.len()).field("next", &self.next).finish_non_exhaustive()
    }
}

impl LargeRange {
    /// Bytes of all key-values, as the field of a `RangeResponse`.
    pub fn encoded_len(&self) -> u64 {
        let key_value = |found: &Found| 1 + encoded_len_varint(u64::from(found.size)) as u64 + u64::from(found.size);
        self.found.iter().map(key_value).sum()
    }

    /// Appends the next key-values to `out`, as the field of a `RangeResponse`, until it has `bytes` or there are no more.
    /// False at the end.
    ///
    /// # Errors
    /// A fault.
    pub fn read(&mut self, bytes: usize, out: &mut Vec<u8>) -> Result<bool, Fault> {
        while out.len() < bytes {
            let Some(found) = self.found.get(self.next) else { return Ok(false) };
            let kv = self.key_value(found)?;
            encode_key(KVS, WireType::LengthDelimited, out);
            encode_varint(kv.as_bytes().len() as u64, out);
            out.put_slice(kv.as_bytes());
            self.next += 1;
        }
        Ok(true)
    }

    fn key_value(&self, found: &Found) -> Result<KeyValue, Fault> {
        let kv = self.stored(found)?;
        if self.keys_only { without_value(&kv) } else { Ok(kv) }
    }

    fn stored(&self, found: &Found) -> Result<KeyValue, Fault> {
        match (&found.in_tail, self.views.get(found.view as usize)) {
            (Some(kv), _) => Ok(kv.clone()),
            (None, Some(view)) => view.get(found.revision),
            // Invariant: what was not in the tail has a view.
            (None, None) => Err(crate::schema::damaged(found.revision, "was not looked for on disk")),
        }
    }

    /// Learns the sizes, leaves out what the request's filters leave out, and orders the rest.
    fn shape(&mut self, request: &RangeRequest) -> Result<(), Fault> {
        let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
        let mut shaped = Vec::with_capacity(self.found.len());
        for mut found in std::mem::take(&mut self.found) {
            let kv = self.stored(&found)?;
            let fields = fields(kv.as_bytes())?;
            if !keeps(request, &fields) {
                continue;
            }
            found.size = if self.keys_only {
                KeyValueFields { value: &[], ..fields }.encode().as_bytes().len() as u32
            } else {
                kv.as_bytes().len() as u32
            };
            let order = match target {
                SortTarget::Version => fields.version,
                SortTarget::Create => fields.create_revision,
                SortTarget::Mod => fields.mod_revision,
                SortTarget::Key | SortTarget::Value => shaped.len() as i64,
            };
            shaped.push((order, found));
        }
        // Stable, as the order of a range that is built.
        if request.sort_order == SortOrder::Descend as i32 {
            shaped.sort_by_key(|(order, _)| std::cmp::Reverse(*order));
        } else {
            shaped.sort_by_key(|(order, _)| *order);
        }
        self.found = shaped.into_iter().map(|(_, found)| found).collect();
        if request.limit > 0 && self.found.len() as i64 > request.limit {
            self.found.truncate(request.limit as usize);
            self.more = true;
        }
        Ok(())
    }
}

impl Shared {
    /// Finds the keys of a range, and learns how large the answer is. None for one that is to be sorted by value: that needs
    /// all values at once.
    ///
    /// # Errors
    /// A compacted or future revision, or a broken database.
    pub(crate) fn large_range(&self, request: &RangeRequest) -> Result<Option<LargeRange>, ReadError> {
        if request.sort_target == SortTarget::Value as i32 {
            return Ok(None);
        }
        for _ in 0..RESTARTS {
            match self.find(request) {
                // The latest revision is never compacted when the range starts, so a compaction overtook it.
                Err(ReadError::Rejected(Rejection::Compacted)) if request.revision <= 0 => {}
                Ok(None) => {}
                Ok(Some(mut large)) => {
                    large.shape(request)?;
                    return Ok(Some(large));
                }
                Err(error) => return Err(error),
            }
        }
        Err(Rejection::Compacted.into())
    }

    /// None when an installed snapshot took the state's place meanwhile.
    fn find(&self, request: &RangeRequest) -> Result<Option<LargeRange>, ReadError> {
        let range = KeyRange::new(&request.key, &request.range_end);
        let limit = pushed_down_limit(request);
        let mut large = LargeRange {
            found: Vec::new(),
            views: Vec::new(),
            keys_only: request.keys_only,
            next: 0,
            count: 0,
            more: false,
            revision: 0,
        };
        let mut cursor: Option<Box<[u8]>> = None;
        let mut begun = None;
        loop {
            let state = self.state.read();
            let (current, generation) = *begun.get_or_insert((state.revision, state.generation));
            if generation != state.generation {
                return Ok(None);
            }
            large.revision = current;
            let at = revision_to_read(request.revision, current, state.compacted)?;
            let view = self.revisions();
            if large.views.last().is_none_or(|last| !Arc::ptr_eq(last, &view)) {
                large.views.push(view);
            }
            let mut next = None;
            for (visited, (key, entry)) in state.index.range(range, cursor.as_deref()).enumerate() {
                if let Some(stamp) = entry.at(at) {
                    large.count += 1;
                    if large.found.len() < limit {
                        let revision = stamp.revision();
                        let in_tail = state.tail.get(revision).map(|record| record.kv.clone());
                        large.found.push(Found { revision, size: 0, view: large.views.len() as u32 - 1, in_tail });
                    }
                }
                if visited + 1 == RANGE_CHUNK {
                    next = Some(key.into());
                    break;
                }
            }
            if next.is_none() {
                return Ok(Some(large));
            }
            cursor = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::command::{Entry, Position};
    use crate::{Options, Reader, Writer, open};
    use api::cleatpb::Command;
    use api::cleatpb::command::Op;
    use api::encoded::RangeResponse;
    use api::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest};
    use prost::Message;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    const KEYS: usize = 3000;

    fn apply(writer: &mut Writer, index: &mut u64, op: Op) {
        *index += 1;
        let (position, commands) = (Position { term: 1, index: *index }, [Command { header: None, op: Some(op) }]);
        writer.apply([Entry { position, commands: &commands, membership: None }]).unwrap();
    }

    fn change(writer: &mut Writer, index: &mut u64, rng: &mut StdRng) {
        let key = format!("{:04}", rng.random_range(0..KEYS)).into_bytes();
        let op = if rng.random_bool(0.1) {
            Op::DeleteRange(DeleteRangeRequest { key: key.into(), ..Default::default() })
        } else {
            let value = vec![b'v'; rng.random_range(0..300)];
            Op::Put(PutRequest { key: key.into(), value: value.into(), ..Default::default() })
        };
        apply(writer, index, op);
    }

    /// The whole answer, put together from pieces.
    fn read(reader: &Reader, request: &RangeRequest, piece: usize) -> Vec<u8> {
        let mut large = reader.large_range(request).unwrap().unwrap();
        let (len, mut all) = (large.encoded_len(), Vec::new());
        let mut more = true;
        while more {
            let mut out = Vec::new();
            more = large.read(piece, &mut out).unwrap();
            all.extend(out);
        }
        assert_eq!(len, all.len() as u64);
        RangeResponse { more: large.more, count: large.count, ..Default::default() }.encode(&mut all).unwrap();
        all
    }

    #[test]
    fn a_large_range_is_the_answer_that_would_be_built() {
        let mut rng = StdRng::seed_from_u64(7);
        let directory = tempfile::tempdir().unwrap();
        // Nothing stays in memory that is on disk.
        let options = Options { cache_bytes: 0, ..Options::default() };
        let (mut writer, mut flusher, reader) = open(&directory.path().join("db"), options).unwrap();
        let mut index = 0;
        for turn in 0..3 {
            for _ in 0..2 * KEYS {
                change(&mut writer, &mut index, &mut rng);
            }
            if turn < 2 {
                flusher.flush().unwrap();
            }
        }
        let whole = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
        let revision = reader.revision();
        for turn in 0..60 {
            let mut request = whole.clone();
            request.keys_only = rng.random_bool(0.3);
            request.limit = *[0, 0, 1, 100, 10_000].get(rng.random_range(0..5)).unwrap();
            request.sort_order = rng.random_range(0..3);
            // Not by value.
            request.sort_target = rng.random_range(0..4);
            if rng.random_bool(0.3) {
                request.revision = rng.random_range(revision / 2..revision);
            }
            if rng.random_bool(0.3) {
                request.min_mod_revision = revision / 2;
                request.max_create_revision = revision - 10;
            }
            let (built, _) = reader.range(&request).unwrap();
            let mut expected = Vec::new();
            built.encode(&mut expected).unwrap();
            assert!(read(&reader, &request, 1 + turn * 100) == expected, "{request:?}");
        }
        let by_value = RangeRequest { sort_target: 4, ..whole.clone() };
        assert!(reader.large_range(&by_value).unwrap().is_none());
        let built = reader.range(&whole).unwrap();
        let bytes: usize = built.0.kvs.iter().map(|kv| kv.as_bytes().len()).sum();
        assert_eq!(reader.range_up_to(&whole, bytes).unwrap(), Some(built));
        assert_eq!(reader.range_up_to(&whole, bytes - 1).unwrap(), None);
    }

    /// What was found stays there until it was read, whatever happens to the store.
    #[test]
    fn a_large_range_outlives_what_it_was_read_from() {
        let mut rng = StdRng::seed_from_u64(8);
        let directory = tempfile::tempdir().unwrap();
        let options = Options { cache_bytes: 0, ..Options::default() };
        let (mut writer, mut flusher, reader) = open(&directory.path().join("db"), options).unwrap();
        let mut index = 0;
        for flushed in [true, false] {
            for _ in 0..KEYS {
                change(&mut writer, &mut index, &mut rng);
            }
            if flushed {
                flusher.flush().unwrap();
            }
        }
        let whole = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
        let mut expected = Vec::new();
        reader.range(&whole).unwrap().0.encode(&mut expected).unwrap();
        let mut large = reader.large_range(&whole).unwrap().unwrap();
        for _ in 0..3 * KEYS {
            change(&mut writer, &mut index, &mut rng);
        }
        let revision = reader.revision();
        apply(&mut writer, &mut index, Op::Compaction(CompactionRequest { revision, physical: false }));
        while flusher.compact_step(1000) || flusher.flush().unwrap().more {}
        flusher.flush().unwrap();
        flusher.defragment().unwrap().unwrap();
        let mut all = Vec::new();
        while large.read(usize::MAX, &mut all).unwrap() {}
        RangeResponse { more: large.more, count: large.count, ..Default::default() }.encode(&mut all).unwrap();
        assert!(all == expected);
    }
}
