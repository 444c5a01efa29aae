//! The thread that writes the database behind apply: flushes, compaction steps, defragmentation.
//!
//! Apply never waits for it. It wakes every flush interval, earlier when the tail has grown large, and between
//! flushes walks a compaction in small steps. A fault ends the thread and, through [`FaultSender`], the member.

use crate::data_dir::remedy;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use store::{Fault, Flushed, Flusher};
use tokio::sync::{mpsc, oneshot, watch};

/// Requests that wait for the thread; more are refused, the callers are rare (operators, snapshots).
const REQUESTS_WAITING: usize = 64;

/// Tail size at which a flush does not wait for its interval: what it writes should fit in the half of the database's
/// cache that holds unwritten pages, or they are written twice.
pub(crate) const FLUSH_EARLY_BYTES: usize = 6 << 20;

/// Where a broken part of the member reports; the first report stops the process.
pub(crate) type FaultSender = mpsc::Sender<String>;

/// How the thread works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Longest time between applying and flushing.
    pub(crate) flush_interval: Duration,
    /// Keys visited in one step of a compaction.
    pub(crate) compaction_keys: usize,
    /// Pause between steps.
    pub(crate) compaction_pause: Duration,
}

/// Called after every flush with what it did and how long it took.
pub(crate) type FlushObserver = Box<dyn Fn(&Flushed, Duration) + Send>;

/// The database cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("database {}: {fault}{}", path.display(), fault.io_error().map_or("", remedy))]
pub struct DatabaseFailure {
    path: PathBuf,
    fault: Fault,
}

impl DatabaseFailure {
    pub(crate) fn new(path: &Path, fault: Fault) -> Self {
        Self { path: path.to_owned(), fault }
    }
}

enum Request {
    FlushSoon,
    Flush(oneshot::Sender<()>),
    Defragment(oneshot::Sender<Result<Duration, String>>),
    Stop,
}

/// The handle on the thread.
#[derive(Clone)]
pub(crate) struct Storage {
    requests: SyncSender<Request>,
    /// The last finished compaction.
    compacted: watch::Receiver<i64>,
}

impl Storage {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub(crate) fn start(
        flusher: Flusher,
        database: &Path,
        pace: Pace,
        observer: FlushObserver,
        faults: FaultSender,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (requests, waiting) = sync_channel(REQUESTS_WAITING);
        let (finished, compacted) = watch::channel(-1);
        let worker = Worker { flusher, pace, observer, finished, waiting };
        let database = database.to_owned();
        let thread = std::thread::Builder::new().name("storage".into()).spawn(move || {
            if let Err(fault) = worker.run() {
                let failure = DatabaseFailure::new(&database, fault);
                // Nobody takes reports from a member that is stopping.
                tracing::error!(error = %failure, "the database failed");
                // A report that does not fit joins one that is being handled.
                drop(faults.try_send(failure.to_string()));
            }
        })?;
        Ok((Self { requests, compacted }, thread))
    }

    /// Asks for a flush without waiting for it.
    pub(crate) fn flush_soon(&self) {
        // A full queue holds a flush already.
        drop(self.requests.try_send(Request::FlushSoon));
    }

    /// Waits until everything applied before the call is in the database. False when it can not be.
    pub(crate) async fn flush(&self) -> bool {
        let (done, flushed) = oneshot::channel();
        self.requests.try_send(Request::Flush(done)).is_ok() && flushed.await.is_ok()
    }

    /// Rewrites the database without its free space, online. Returns how long it took.
    ///
    /// # Errors
    /// Why it was not done, for the caller to read. The database is as it was.
    pub(crate) async fn defragment(&self) -> Result<Duration, String> {
        let (done, answer) = oneshot::channel();
        self.requests.try_send(Request::Defragment(done)).map_err(|error| match error {
            TrySendError::Full(_) => "too many requests wait for the storage thread".to_owned(),
            TrySendError::Disconnected(_) => "the member is stopping".to_owned(),
        })?;
        answer.await.unwrap_or_else(|_| Err("the member is stopping".to_owned()))
    }

    /// Waits until history up to `revision` is removed. False when the member stops first.
    pub(crate) async fn compaction_finished(&self, revision: i64) -> bool {
        self.compacted.clone().wait_for(|finished| *finished >= revision).await.is_ok()
    }

    /// Flushes a last time and ends the thread.
    pub(crate) fn stop(&self) {
        // A dead thread needs no telling.
        drop(self.requests.send(Request::Stop));
    }
}

struct Worker {
    flusher: Flusher,
    pace: Pace,
    observer: FlushObserver,
    finished: watch::Sender<i64>,
    waiting: Receiver<Request>,
}

impl Worker {
    fn run(mut self) -> Result<(), Fault> {
        let mut next_flush = Instant::now() + self.pace.flush_interval;
        let mut compacting = false;
        loop {
            let until_flush = next_flush.saturating_duration_since(Instant::now());
            let wait = if compacting { until_flush.min(self.pace.compaction_pause) } else { until_flush };
            let mut flush_now = false;
            match self.waiting.recv_timeout(wait) {
                Ok(Request::FlushSoon) => flush_now = true,
                Ok(Request::Flush(done)) => {
                    self.flush()?;
                    // The caller may be gone.
                    done.send(()).ok();
                }
                Ok(Request::Defragment(done)) => {
                    // Brings pending deletes into the file before it is copied without its free space.
                    self.flush()?;
                    let started = Instant::now();
                    let result = self.flusher.defragment()?.map(|()| started.elapsed());
                    drop(done.send(result.map_err(|fault| fault.to_string())));
                }
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.flush()?;
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            compacting = self.flusher.compact_step(self.pace.compaction_keys);
            if flush_now || Instant::now() >= next_flush {
                self.flush()?;
                next_flush = Instant::now() + self.pace.flush_interval;
            }
        }
    }

    fn flush(&mut self) -> Result<(), Fault> {
        let started = Instant::now();
        let flushed = self.flusher.flush()?;
        (self.observer)(&flushed, started.elapsed());
        if let Some(revision) = flushed.compaction_finished {
            tracing::info!(compact_revision = revision, "finished scheduled compaction");
            self.finished.send_replace(revision);
        }
        Ok(())
    }
}
