//! Ranges: which keys, at which revision, in which order.
//!
//! etcd's order of evaluation: keys of the range at the revision, then the revision filters, then sorting, then the
//! limit. Without sorting and filters the limit is pushed down.

use super::index::Stamp;
use super::key_range::KeyRange;
use super::revision::Revision;
use super::state::{RANGE_CHUNK, Shared, State, fields};
use crate::error::{Fault, ReadError, Rejection};
use api::encoded::{KeyValue, KeyValueFields, RangeResponse};
use api::etcdserverpb::RangeRequest;
use api::etcdserverpb::range_request::{SortOrder, SortTarget};

/// How often a range of the latest revision starts over when a compaction overtakes it.
pub(crate) const RESTARTS: usize = 3;

/// A range's answer before the request's limit and shape were applied.
#[derive(Default)]
struct Found {
    kvs: Vec<KeyValue>,
    count: i64,
    /// Bytes of the key-values.
    bytes: usize,
}

/// Key-values that were found by revision but are not in memory.
#[derive(Default)]
struct Misses(Vec<(usize, Revision)>);

/// What to gather of a range.
struct Query<'a> {
    range: KeyRange<'a>,
    at: i64,
    limit: usize,
    values: bool,
    /// False to end at the limit, without a count of what follows.
    count: bool,
}

impl Query<'_> {
    /// Visits up to `chunk` entries after `cursor`; returns the next cursor unless the range is done.
    fn gather(
        &self,
        state: &State,
        cursor: Option<&[u8]>,
        chunk: usize,
        found: &mut Found,
        misses: &mut Misses,
    ) -> Option<Box<[u8]>> {
        for (visited, (key, entry)) in state.index.range(self.range, cursor).enumerate() {
            if let Some(stamp) = entry.at(self.at) {
                found.count += 1;
                if self.values && found.kvs.len() < self.limit {
                    Self::push(state, entry.cached(stamp), stamp, found, misses);
                }
            }
            if !self.count && found.kvs.len() >= self.limit {
                return None;
            }
            if visited + 1 == chunk {
                return Some(key.into());
            }
        }
        None
    }

    fn push(state: &State, cached: Option<&KeyValue>, stamp: Stamp, found: &mut Found, misses: &mut Misses) {
        let kv = cached.or_else(|| state.tail.get(stamp.revision()).map(|record| &record.kv));
        if kv.is_none() {
            misses.0.push((found.kvs.len(), stamp.revision()));
        }
        found.bytes += kv.map_or(0, |kv| kv.as_bytes().len());
        found.kvs.push(kv.cloned().unwrap_or_default());
    }
}

/// The limit that is pushed down: one more than asked, to learn whether there is more.
pub(crate) fn pushed_down_limit(request: &RangeRequest) -> usize {
    // etcd pushes the limit down for a sort target without an order too, and sorts what is left. Kept: clients see it.
    if request.limit <= 0 || is_filtered(request) || request.sort_order != SortOrder::None as i32 {
        return usize::MAX;
    }
    usize::try_from(request.limit).map_or(usize::MAX, |limit| limit.saturating_add(1))
}

/// Checks a range's revision against the store: `Ok` is the revision to read at.
pub(crate) fn revision_to_read(asked: i64, current: i64, compacted: i64) -> Result<i64, Rejection> {
    let at = if asked <= 0 { current } else { asked };
    if at > current {
        return Err(Rejection::FutureRevision);
    }
    if at < compacted {
        return Err(Rejection::Compacted);
    }
    Ok(at)
}

fn is_filtered(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

/// Whether the filters of a request let a key-value pass.
pub(crate) fn keeps(request: &RangeRequest, kv: &KeyValueFields<'_>) -> bool {
    let at_most = |bound, revision| bound == 0 || revision <= bound;
    let at_least = |bound, revision| bound == 0 || revision >= bound;
    at_most(request.max_mod_revision, kv.mod_revision)
        && at_least(request.min_mod_revision, kv.mod_revision)
        && at_most(request.max_create_revision, kv.create_revision)
        && at_least(request.min_create_revision, kv.create_revision)
}

pub(crate) fn without_value(kv: &KeyValue) -> Result<KeyValue, Fault> {
    Ok(KeyValueFields { value: &[], ..fields(kv.as_bytes())? }.encode())
}

/// Filters, sorts and cuts what was found, as the request asks.
fn shape(request: &RangeRequest, found: Found) -> Result<RangeResponse, Fault> {
    let Found { mut kvs, count, .. } = found;
    if is_filtered(request) {
        // Invariant: a key-value that does not decode was refused when it was read.
        kvs.retain(|kv| kv.fields().is_ok_and(|fields| keeps(request, &fields)));
    }
    sort(&mut kvs, request);
    let mut more = false;
    if request.limit > 0 && kvs.len() as i64 > request.limit {
        kvs.truncate(request.limit as usize);
        more = true;
    }
    if request.keys_only {
        for kv in &mut kvs {
            *kv = without_value(kv)?;
        }
    }
    Ok(RangeResponse { header: None, kvs, more, count })
}

fn sort(kvs: &mut [KeyValue], request: &RangeRequest) {
    let by_key = request.sort_target == SortTarget::Key as i32;
    let descending = request.sort_order == SortOrder::Descend as i32;
    // Key order is how keys come; any other target sorts ascending even without an order.
    if by_key && !descending {
        return;
    }
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    kvs.sort_by(|a, b| {
        // Invariant: as in `shape`.
        let (a, b) = (a.fields().unwrap_or_default(), b.fields().unwrap_or_default());
        let order = match target {
            SortTarget::Key => a.key.cmp(b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(b.value),
        };
        if descending { order.reverse() } else { order }
    });
}

/// How one walk through a range ended.
enum Attempt {
    Answer((RangeResponse, i64)),
    TooLarge,
    /// An installed snapshot took the state's place between two chunks.
    Overtaken,
}

impl Shared {
    /// Answers a range from this member's state and returns the store revision that it was read at. Without `count`
    /// the count is left out, and the keys after the limit are not visited.
    ///
    /// # Errors
    /// A compacted or future revision, or a broken database.
    pub(crate) fn range(&self, request: &RangeRequest, count: bool) -> Result<(RangeResponse, i64), ReadError> {
        Ok(self.range_within(request, count, usize::MAX)?.unwrap_or_default())
    }

    /// As [`Self::range`]; none when the key-values of the answer take more than `bytes`.
    pub(crate) fn range_within(
        &self,
        request: &RangeRequest,
        count: bool,
        bytes: usize,
    ) -> Result<Option<(RangeResponse, i64)>, ReadError> {
        for _ in 0..RESTARTS {
            match self.range_in_chunks(request, count, RANGE_CHUNK, bytes) {
                // The latest revision is never compacted when the range starts, so a compaction overtook it.
                Err(ReadError::Rejected(Rejection::Compacted)) if request.revision <= 0 => {}
                Ok(Attempt::Overtaken) => {}
                Ok(Attempt::Answer(answer)) => return Ok(Some(answer)),
                Ok(Attempt::TooLarge) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        // Under one hold of the lock nothing can overtake it.
        match self.range_in_chunks(request, count, usize::MAX, bytes)? {
            Attempt::Answer(answer) => Ok(Some(answer)),
            Attempt::TooLarge | Attempt::Overtaken => Ok(None),
        }
    }

    fn range_in_chunks(
        &self,
        request: &RangeRequest,
        count: bool,
        chunk: usize,
        bytes: usize,
    ) -> Result<Attempt, ReadError> {
        let range = KeyRange::new(&request.key, &request.range_end);
        let mut found = Found::default();
        let mut cursor: Option<Box<[u8]>> = None;
        let mut query = Query { range, at: 0, limit: pushed_down_limit(request), values: !request.count_only, count };
        let mut begun = None;
        loop {
            let mut misses = Misses::default();
            let (on_disk, current, generation);
            {
                let state = self.state.read();
                (current, generation) = *begun.get_or_insert((state.revision, state.generation));
                if generation != state.generation {
                    return Ok(Attempt::Overtaken);
                }
                query.at = revision_to_read(request.revision, current, state.compacted)?;
                cursor = query.gather(&state, cursor.as_deref(), chunk, &mut found, &mut misses);
                on_disk = if misses.0.is_empty() { None } else { Some(self.revisions()) };
            }
            if let Some(on_disk) = on_disk {
                self.read_misses(&on_disk, misses, &mut found, generation, bytes)?;
            }
            if found.bytes > bytes {
                return Ok(Attempt::TooLarge);
            }
            if cursor.is_none() {
                if !count {
                    found.count = 0;
                }
                return Ok(Attempt::Answer((shape(request, found)?, current)));
            }
        }
    }

    fn read_misses(
        &self,
        on_disk: &super::state::Revisions,
        mut misses: Misses,
        found: &mut Found,
        generation: u64,
        bytes: usize,
    ) -> Result<(), Fault> {
        // Ascending, so that neighbours on disk are read together.
        misses.0.sort_unstable_by_key(|(_, revision)| *revision);
        for (slot, revision) in &misses.0 {
            let kv = on_disk.get(*revision)?;
            fields(kv.as_bytes())?;
            found.bytes += kv.as_bytes().len();
            found.kvs[*slot] = kv;
            if found.bytes > bytes {
                return Ok(());
            }
        }
        // Not worth waiting for: the next reader tries again.
        if let Some(mut state) = self.state.try_write().filter(|state| state.generation == generation) {
            for (slot, revision) in misses.0.into_iter().take(RANGE_CHUNK) {
                state.index.fill(revision, found.kvs[slot].clone());
            }
            // A range may bring in more than it may leave cached.
            state.index.evict(self.options.cache_bytes, 2 * RANGE_CHUNK);
        }
        Ok(())
    }

    /// Answers a range while the caller holds the lock: inside a transaction. `current` is the store revision as the
    /// transaction sees it.
    pub(crate) fn range_locked(
        &self,
        state: &State,
        request: &RangeRequest,
        current: i64,
    ) -> Result<RangeResponse, ReadError> {
        let at = revision_to_read(request.revision, current, state.compacted)?;
        let query = Query {
            range: KeyRange::new(&request.key, &request.range_end),
            at,
            limit: pushed_down_limit(request),
            values: !request.count_only,
            count: true,
        };
        let mut found = Found::default();
        let mut misses = Misses::default();
        query.gather(state, None, usize::MAX, &mut found, &mut misses);
        if !misses.0.is_empty() {
            let on_disk = self.revisions();
            for (slot, revision) in misses.0 {
                found.kvs[slot] = on_disk.get(revision)?;
                fields(found.kvs[slot].as_bytes())?;
            }
        }
        Ok(shape(request, found)?)
    }
}
