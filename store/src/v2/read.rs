//! What a [`Reader`] tells of the tree.

use super::node::is_hidden;
use super::{Count, Found, Read, Refusal, Scan, Stats};
use crate::Reader;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Reader {
    /// What is at a path, a clean one with its namespace. `recursive` says what for, and is only counted. `now` is what TTLs
    /// are counted from, nanoseconds since 1970.
    pub fn v2_get(&self, path: &[u8], recursive: bool, now: i64) -> Read {
        let read = self.v2_get_again(path, now);
        let [all, vain] = &self.shared.gauges.v2_gets[usize::from(recursive)];
        all.fetch_add(1, Ordering::Relaxed);
        vain.fetch_add(u64::from(read.result.is_err()), Ordering::Relaxed);
        read
    }

    /// As [`Self::v2_get`], for a request that was counted.
    pub fn v2_get_again(&self, path: &[u8], now: i64) -> Read {
        let state = self.shared.state.read();
        let result = state.v2.find(path).map(|node| Found::new(path, node, now));
        Read { result, index: state.v2.index(), applied: state.applied.index }
    }

    /// True if there is something at a path. For the server itself: it is not counted.
    pub fn v2_exists(&self, path: &[u8]) -> bool {
        self.shared.state.read().v2.find(path).is_ok()
    }

    /// The value of a file, for the server itself: it is not counted.
    pub fn v2_value(&self, path: &[u8]) -> Option<Bytes> {
        self.shared.state.read().v2.find(path).ok()?.value().cloned()
    }

    /// The names of what is in a directory, but for hidden ones, for the server itself: it is not counted.
    pub fn v2_names(&self, path: &[u8]) -> Vec<Arc<[u8]>> {
        let state = self.shared.state.read();
        let children = state.v2.find(path).ok().and_then(|node| node.children());
        children.into_iter().flat_map(|children| children.keys()).filter(|name| !is_hidden(name)).cloned().collect()
    }

    /// The first event from `since` on that a watcher of `key` wants, 0 for what comes next. Whoever finds none and waits
    /// must know of every event behind the index that is returned.
    ///
    /// # Errors
    /// [`super::Code::HistoryCleared`] for an index that is forgotten.
    pub fn v2_scan(&self, key: &[u8], recursive: bool, since: u64) -> Result<Scan, Refusal> {
        let state = self.shared.state.read();
        state.v2.scan(key, recursive, since, state.applied.index)
    }

    /// The index of the v2 API's tree.
    pub fn v2_index(&self) -> u64 {
        self.shared.state.read().v2.index()
    }

    /// When the next node expires, nanoseconds since 1970; `i64::MAX` if none does. Without the lock.
    pub fn v2_next_expiration(&self) -> i64 {
        self.shared.gauges.v2_expiration.load(Ordering::Relaxed)
    }

    /// Whether requests of the v2 API need a user, and a number that grows with every change of its users and roles.
    /// Without the lock.
    pub fn v2_auth(&self) -> (bool, u64) {
        let both = self.shared.gauges.v2_auth.load(Ordering::Acquire);
        (both & 1 == 1, both >> 1)
    }

    /// How often what was done since the member started.
    pub fn v2_stats(&self) -> Stats {
        let mut stats = self.shared.state.read().v2.stats();
        let read = |recursive: usize| {
            let [all, vain] = &self.shared.gauges.v2_gets[recursive];
            let failed = vain.load(Ordering::Relaxed);
            Count { succeeded: all.load(Ordering::Relaxed).saturating_sub(failed), failed }
        };
        (stats.gets, stats.recursive_gets) = (read(0), read(1));
        stats
    }
}
