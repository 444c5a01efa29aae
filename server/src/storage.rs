//! The thread that writes the database behind apply: flushes, compaction steps, defragmentation.
//!
//! Apply never waits for it. It flushes every flush interval, earlier when much has changed, and later when all that has
//! changed is the v2 API's tree. Between flushes it walks a compaction in small steps. A fault ends the thread and, through [`FaultSender`], the member.
//!
//! A snapshot that is received ([`Receiving`]) goes to a file of its own and does not meet the thread. Installing it waits
//! for a flush under way at most; what the thread does afterwards is about the new content, without its being told.

use crate::data_dir::remedy;
use crate::sync::watch;
use bytes::Bytes;
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::sync::mpsc::TryRecvError;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use store::{Fault, Flushed, Flusher, Import, Progress, Received};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Requests that wait for the thread; more are refused, the callers are rare (operators, snapshots).
const REQUESTS_WAITING: usize = 64;

/// Tail size at which a flush does not wait for its interval: what it writes should fit in the half of the database's
/// cache that holds unwritten pages, or they are written twice.
pub(crate) const FLUSH_EARLY_BYTES: usize = 6 << 20;

/// The same for nodes of the v2 API's tree: so much is kept in memory for the sake of few pages.
pub(crate) const TREE_FLUSH_EARLY_BYTES: usize = 16 << 20;

/// How long a flush waits for more when only the v2 API's tree has changed: of 20,000 writes a second to
/// 100,000 keys each costs 1.5 KiB on the disk then, and 3.9 when nothing waits. A restart applies as much of the log again.
const TREE_FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Where a broken part of the member reports; the first report stops the process.
pub(crate) type FaultSender = mpsc::Sender<String>;

/// How the thread works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Longest time between applying and flushing, unless only the v2 API's tree has changed.
    pub(crate) flush_interval: Duration,
    /// Keys visited in one step of a compaction.
    pub(crate) compaction_keys: usize,
    /// Pause between steps.
    pub(crate) compaction_pause: Duration,
}

/// Called after every flush with what it did and how long it took.
pub(crate) type FlushObserver = Box<dyn Fn(&Flushed, Duration) + Send>;

/// Called after every step of a compaction with how long it took.
pub(crate) type StepObserver = Box<dyn Fn(Duration) + Send>;

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
        observers: (FlushObserver, StepObserver),
        faults: FaultSender,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (storage, worker) = Self::new(flusher, pace, observers);
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
        Ok((storage, thread))
    }

    fn new(flusher: Flusher, pace: Pace, observers: (FlushObserver, StepObserver)) -> (Self, Worker) {
        let (requests, waiting) = sync_channel(REQUESTS_WAITING);
        let (finished, compacted) = watch::channel(-1);
        let last_flush = Instant::now();
        let next_flush = last_flush + pace.flush_interval;
        let worker = Worker { flusher, pace, observers, finished, waiting, last_flush, next_flush, compacting: false };
        (Self { requests, compacted }, worker)
    }

    /// Does the same in a task of the simulation, which takes its time before it flushes.
    #[cfg(test)]
    pub(crate) fn simulate(
        flusher: Flusher,
        pace: Pace,
        observers: (FlushObserver, StepObserver),
        disk: crate::simulation::disk::SimulatedDisk,
        faults: FaultSender,
    ) -> Self {
        let (storage, mut worker) = Self::new(flusher, pace, observers);
        tokio::spawn(async move {
            loop {
                // Requests are looked for, because nothing wakes a task that waits for a thread's channel.
                tokio::time::sleep(worker.until_work().min(Duration::from_millis(5))).await;
                if worker.until_work().is_zero() {
                    disk.pause().await;
                }
                let request = worker.waiting.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                });
                match worker.turn(request) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(fault) => return drop(faults.try_send(format!("the database: {fault}"))),
                }
            }
        });
        storage
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

/// A snapshot on its way in, fed from a task: each piece is written on a blocking thread. Dropped before it is finished,
/// it leaves nothing behind. Not cancellation safe: a call that is given up ends the import.
pub(crate) struct Receiving {
    import: Option<Import>,
}

impl Receiving {
    /// Begins a new file beside the database.
    ///
    /// # Errors
    /// The file can not be created.
    pub(crate) async fn begin(database: &Path, options: store::Options) -> Result<Self, Fault> {
        let database = database.to_owned();
        let import = blocking(move || Import::create(&database, &options)).await?;
        Ok(Self { import: Some(import) })
    }

    /// Takes the next piece of the stream.
    ///
    /// # Errors
    /// [`Fault::Snapshot`] when the stream is not one: this import is over. Any other fault is about the new file.
    pub(crate) async fn feed(&mut self, piece: Bytes) -> Result<(), Fault> {
        let mut import = self.import.take().ok_or_else(given_up)?;
        let import = blocking(move || import.feed(&piece).map(|()| import)).await?;
        self.import = Some(import);
        Ok(())
    }

    /// Forgets what came of a frame that is not whole; the sender goes on behind the answer.
    ///
    /// # Errors
    /// The import is over.
    pub(crate) fn rewind(&mut self) -> Result<Progress, Fault> {
        self.import.as_mut().map(Import::rewind).ok_or_else(given_up)
    }

    /// True once the last byte has arrived.
    #[cfg(test)]
    pub(crate) fn is_complete(&self) -> bool {
        self.import.as_ref().is_some_and(Import::is_complete)
    }

    /// Makes what was received durable.
    ///
    /// # Errors
    /// [`Fault::Snapshot`] for a stream that is not complete; any other fault is about the new file.
    pub(crate) async fn finish(mut self) -> Result<Received, Fault> {
        let import = self.import.take().ok_or_else(given_up)?;
        blocking(move || import.finish()).await
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        // Gives back a transaction and removes a file.
        if let Some(import) = self.import.take() {
            crate::blocking::detach(move || drop(import));
        }
    }
}

fn given_up() -> Fault {
    Fault::Snapshot("receiving it was given up".into())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    match crate::blocking::run(work).await {
        Ok(result) => result,
        // A panic of redb goes on; else the runtime stops.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(given_up()),
        },
    }
}

struct Worker {
    flusher: Flusher,
    pace: Pace,
    observers: (FlushObserver, StepObserver),
    finished: watch::Sender<i64>,
    waiting: Receiver<Request>,
    last_flush: Instant,
    next_flush: Instant,
    compacting: bool,
}

impl Worker {
    fn run(mut self) -> Result<(), Fault> {
        loop {
            let request = self.waiting.recv_timeout(self.until_work());
            if !self.turn(request)? {
                return Ok(());
            }
        }
    }

    /// How long nothing has to be done, unless somebody asks.
    fn until_work(&self) -> Duration {
        let until_flush = self.next_flush.saturating_duration_since(Instant::now());
        if self.compacting { until_flush.min(self.pace.compaction_pause) } else { until_flush }
    }

    /// Does what was asked for, and what is due; false at the end.
    fn turn(&mut self, request: Result<Request, RecvTimeoutError>) -> Result<bool, Fault> {
        let mut flush_now = false;
        match request {
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
                return Ok(false);
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        self.compact_step();
        if flush_now || self.is_due() {
            self.flush()?;
        }
        Ok(true)
    }

    /// Whether it is time to flush what nobody has asked for.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        if now < self.next_flush {
            return false;
        }
        let may_wait = now < self.last_flush + TREE_FLUSH_INTERVAL && self.flusher.may_wait();
        if may_wait {
            self.next_flush = now + self.pace.flush_interval;
        }
        !may_wait
    }

    fn compact_step(&mut self) {
        let started = Instant::now();
        let is_under_way = self.flusher.compact_step(self.pace.compaction_keys);
        if std::mem::replace(&mut self.compacting, is_under_way) || is_under_way {
            (self.observers.1)(started.elapsed());
        }
    }

    fn flush(&mut self) -> Result<(), Fault> {
        let started = Instant::now();
        let flushed = self.flusher.flush()?;
        (self.observers.0)(&flushed, started.elapsed());
        self.last_flush = Instant::now();
        self.next_flush = self.last_flush + self.pace.flush_interval;
        if let Some(revision) = flushed.compaction_finished {
            // Here, or where an installed snapshot comes from.
            tracing::info!(compact_revision = revision, "finished scheduled compaction");
            self.finished.send_replace(revision);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
