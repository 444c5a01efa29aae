//! Counts of the watch subsystem. The hub and the streams write them, the metrics read them; nothing decides by them.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, n: usize) {
        self.0.fetch_sub(n as u64, Ordering::Relaxed);
    }

    /// The current value.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The watch subsystem in numbers.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Open streams.
    pub(crate) streams: Gauge,
    /// Watchers, synced or not.
    pub(crate) watchers: Gauge,
    /// Watchers that start in the past or fell behind and are not caught up yet.
    pub(crate) unsynced: Gauge,
    /// Events that were put into responses since the start, each counted once for each watcher.
    pub(crate) events: Gauge,
    /// Events in mailboxes.
    pub(crate) pending: Gauge,
}
