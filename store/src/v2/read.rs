//! What a [`Reader`] tells of the tree.

use super::{NodeView, Read, Refusal, Scan, Stats};
use crate::Reader;
use std::sync::atomic::Ordering;

impl Reader {
    /// What is at a path, a clean one with its namespace: a directory with one level of what is in it, or all of it.
    /// `now` is what TTLs are counted from, nanoseconds since 1970.
    pub fn v2_get(&self, path: &[u8], recursive: bool, now: i64) -> Read {
        let read = {
            let state = self.shared.state.read();
            let result = state.v2.get(path, recursive, now);
            Read { result, index: state.v2.index(), applied: state.applied.index }
        };
        let [all, vain] = &self.shared.gauges.v2_gets;
        all.fetch_add(1, Ordering::Relaxed);
        vain.fetch_add(u64::from(read.result.is_err()), Ordering::Relaxed);
        read
    }

    /// As [`Self::v2_get`] of a single node, for the server itself: it is not counted.
    ///
    /// # Errors
    /// There is none.
    pub fn v2_look(&self, path: &[u8]) -> Result<NodeView, Refusal> {
        self.shared.state.read().v2.get(path, false, 0)
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
        let [all, vain] = &self.shared.gauges.v2_gets;
        stats.gets.failed = vain.load(Ordering::Relaxed);
        stats.gets.succeeded = all.load(Ordering::Relaxed).saturating_sub(stats.gets.failed);
        stats
    }
}
