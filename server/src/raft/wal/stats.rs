//! What the writer tells of itself: bytes, syncs, and the sync that is in flight.
//!
//! A disk that hangs answers nothing, so the sync in flight is visible while it lasts: the watchdog
//! warns about it, and health checks may ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use super::work::Worker;

/// A sync that takes longer is worth a warning, as in etcd.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// Called with the duration of every sync or write, by whoever waited for it.
pub type SyncObserver = Box<dyn Fn(Duration) + Send + Sync>;

/// Counters of one log. Reading them never blocks.
pub struct WalStats {
    started: Instant,
    bytes_written: AtomicU64,
    syncs: AtomicU64,
    /// Microseconds that the last sync took.
    last_sync: AtomicU64,
    /// Microseconds between `started` and the start of the sync in flight, plus one; 0 when idle.
    in_flight: AtomicU64,
    on_sync: SyncObserver,
    on_write: SyncObserver,
}

impl WalStats {
    pub(super) fn new(on_sync: SyncObserver, on_write: SyncObserver) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            started: Instant::now(),
            bytes_written: zero(),
            syncs: zero(),
            last_sync: zero(),
            in_flight: zero(),
            on_sync,
            on_write,
        }
    }

    /// Bytes written to segments since the log was opened.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Relaxed)
    }

    /// Syncs finished since the log was opened.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Relaxed)
    }

    /// How long the last sync took; 0 before the first.
    pub(super) fn last_sync(&self) -> Duration {
        Duration::from_micros(self.last_sync.load(Relaxed))
    }

    /// How long the sync in flight has been waiting for the disk, if there is one.
    pub fn sync_in_flight(&self) -> Option<Duration> {
        let since = Duration::from_micros(self.in_flight.load(Relaxed).checked_sub(1)?);
        Some(self.started.elapsed().saturating_sub(since))
    }

    /// Runs `write` and records its bytes and how long it took.
    pub(super) fn write<E>(&self, bytes: usize, write: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let begin = Instant::now();
        write()?;
        (self.on_write)(begin.elapsed());
        self.bytes_written.fetch_add(bytes as u64, Relaxed);
        Ok(())
    }

    /// Runs `sync` and records how long it took.
    pub(super) fn time<T>(&self, sync: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let since = begin.duration_since(self.started).as_micros() as u64;
        self.in_flight.store(since + 1, Relaxed);
        let result = sync();
        self.in_flight.store(0, Relaxed);
        self.syncs.fetch_add(1, Relaxed);
        let took = begin.elapsed();
        self.last_sync.store(took.as_micros() as u64, Relaxed);
        (self.on_sync)(took);
        if took > SLOW_SYNC {
            tracing::warn!(took_ms = took.as_millis() as u64, expected_ms = 1000, "slow fdatasync");
        }
        result
    }
}

/// Warns while a sync hangs. Looks once a second; stops and is joined when dropped.
pub(super) struct Watchdog {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Worker,
}

impl Watchdog {
    pub(super) fn start(stats: Arc<WalStats>) -> std::io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let watched = Arc::clone(&stop);
        let thread = Worker::thread("wal-watchdog", move || {
            let (stop, wake) = &*watched;
            let mut is_stopping = stop.lock();
            while !*is_stopping {
                wake.wait_for(&mut is_stopping, SLOW_SYNC);
                if let Some(waiting) = stats.sync_in_flight().filter(|waiting| *waiting > SLOW_SYNC) {
                    tracing::warn!(waiting_ms = waiting.as_millis() as u64, "slow fdatasync, still in flight");
                }
            }
        })?;
        Ok(Self { stop, thread })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        self.thread.join();
    }
}
