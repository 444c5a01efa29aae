//! The write-ahead log: what makes a write durable, and the only thing on its path that syncs.
//!
//! ```text
//! append, vote, truncate, purge ──> queue ──> writer thread ──> segment ──> one sync ──> callbacks
//!                                               │    ▲
//!                                 obsolete segments  │ zero-filled spare
//!                                               ▼    │
//!                                            spare thread
//! ```
//!
//! Entries, votes and positions are records of one stream, so the disk sees them in the order in which
//! raft asked for them. [`log_store`](super::log_store) drives it and keeps the entries in memory; the
//! files are described in `docs/format.md`.
//!
//! A torn end, the trace of a crash, is cut when the log is opened. Damage anywhere else is an error and
//! nothing is changed. An error of a write or a sync ends the log: it is reported once, to every waiting
//! and later call and to the member, which stops.

mod disk;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz_target;
mod index;
mod inspect;
mod output;
mod record;
mod recover;
mod segment;
mod spare;
mod stats;
#[cfg(test)]
mod tests;
mod walk;
mod work;
mod writer;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::types::{Entry, IoFlushed, LogId, Vote};
use crate::data_dir::remedy;
pub use disk::Disk;
use disk::Lock;
use index::EntryIndex;
pub(super) use index::Located;
pub use inspect::{RecordInfo, Summary, inspect};
use record::Kind;
use stats::Watchdog;
pub use stats::{SyncObserver, WalStats};
use work::Worker;
use writer::{Desk, Queue, Waiting};

/// Told once when the log fails; the member must stop.
pub type FaultObserver = Box<dyn Fn(&WalError) + Send + Sync>;

/// Why the log cannot be opened or has ended.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The disk or the file system refused.
    #[error("raft log {path}: {source}{}", remedy(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
    },
    /// Another process has the log open.
    #[error("raft log {0} is in use by another process: stop that one first, or name another directory with --wal-dir")]
    Locked(PathBuf),
    /// Something that was durable cannot be read. Nothing was changed.
    #[error(
        "raft log {file} is damaged at offset {offset}: {reason}; the member cannot vouch for what it acknowledged: \
         put the data directory back from an intact copy, or remove the member from the cluster and add it again \
         with an empty data directory (a cluster of one member: restore a snapshot)"
    )]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Where in the segment.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// There is a database, and no log that goes with it.
    #[error(
        "raft log {dir} does not go with the database {database}: {reason}; put the log back (with --wal-dir if it is \
         elsewhere), or remove the member from the cluster and add it again with an empty data directory (with \
         --initial-cluster-state=auto: delete both, and it finds its place; a cluster of one member: restore a snapshot)"
    )]
    Foreign {
        /// The log's directory.
        dir: PathBuf,
        /// The database.
        database: PathBuf,
        /// What contradicts.
        reason: String,
    },
}

impl WalError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    fn damaged(file: &Path, offset: u64, reason: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), offset, reason: reason.into() }
    }
}

/// True when `dir` holds a log, or the start of one. Looks at names only.
///
/// # Errors
/// The directory is there and cannot be listed.
pub(super) fn exists(dir: &Path) -> Result<bool, WalError> {
    match walk::list(&Disk::default(), dir) {
        Err(WalError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        // A name that is none is reported by whoever reads the log.
        Err(WalError::Damaged { .. }) => Ok(true),
        listed => Ok(!listed?.is_empty()),
    }
}

/// How a log is kept.
pub struct WalOptions {
    /// Where the log is kept.
    pub disk: Disk,
    /// Size of a segment; a single larger entry makes its segment larger.
    pub segment_bytes: u64,
    /// False acknowledges what the disk does not hold yet: a crash of the machine loses it.
    pub sync: bool,
    /// Told the duration of every sync.
    pub on_sync: SyncObserver,
    /// Told the duration of every write.
    pub on_write: SyncObserver,
    /// Told when the log fails.
    pub on_fault: FaultObserver,
}

impl Default for WalOptions {
    /// Segments of 8 MiB; nobody is told anything. Smaller ones would be begun many times a second under load; larger
    /// ones take longer until the first is recycled, and until then every byte is written twice.
    fn default() -> Self {
        let disk = Disk::default();
        Self {
            disk,
            segment_bytes: 8 << 20,
            sync: true,
            on_sync: Box::new(|_| ()),
            on_write: Box::new(|_| ()),
            on_fault: Box::new(|_| ()),
        }
    }
}

/// What a log held when it was opened.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Opened {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    /// Index of the first entry that is held.
    pub(super) first: Option<u64>,
}

/// State of the log that its threads and readers share.
struct Shared {
    queue: Queue,
    index: Mutex<EntryIndex>,
    /// Position in the stream up to which everything is durable and in the index.
    flushed: AtomicU64,
    stats: Arc<WalStats>,
    /// See [`WalOptions::sync`].
    sync: bool,
    /// Small records may be written by whoever appends them: nobody else needs that task meanwhile.
    writes_inline: AtomicBool,
    #[cfg(test)]
    fails_syncs: AtomicBool,
}

/// An open log. Dropping it writes what is queued and ends its threads, which blocks.
pub(super) struct Wal {
    shared: Arc<Shared>,
    /// Held by whoever writes.
    desk: Arc<Mutex<Desk>>,
    disk: Disk,
    worker: Worker,
    /// A simulation has none.
    _watchdog: Option<Watchdog>,
    /// Locked for as long as the log is open.
    _lock: Lock,
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.shared.queue.stop();
        self.worker.join();
    }
}

impl Wal {
    /// Waits until there is room in the queue.
    pub(super) async fn room(&self) -> io::Result<()> {
        self.shared.queue.room().await
    }

    /// Queues entries, the first with the index `next` unless that is `None`, and tells `done` when they
    /// are durable. For every entry, `placed` learns its encoded length and the stream position after which the entry
    /// can be read from disk.
    ///
    /// # Errors
    /// After the log has failed; when the entries would leave a hole, or one is larger than a record can
    /// be.
    pub(super) fn append(
        &self,
        entries: impl IntoIterator<Item = Entry>,
        mut next: Option<u64>,
        done: IoFlushed,
        mut placed: impl FnMut(Entry, usize, u64),
    ) -> io::Result<Queued<'_>> {
        let mut queued = self.shared.queue.lock();
        queued.check()?;
        let start = queued.len();
        for entry in entries {
            let len = queued.add(|buf| record::encode_entry(buf, &entry));
            let index = entry.log_id.index;
            if len > record::MAX_PAYLOAD_BYTES || next.is_some_and(|next| next != index) {
                queued.undo(start);
                let text = format!("entry {index} of {len} bytes cannot follow the log's end at {next:?}");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            next = Some(index + 1);
            placed(entry, len, queued.position());
        }
        let is_fast = self.shared.writes_inline.load(Ordering::Relaxed)
            && self.shared.stats.last_sync() <= writer::FAST_SYNC
            && self.disk.answers_at_once();
        let own = self.shared.queue.submit_own(queued, Waiting::Append(done), is_fast);
        Ok(Queued { unwritten: own.map(|bytes| (self, bytes)) })
    }

    /// Queues a vote; the receiver is told when it is durable.
    pub(super) fn vote(&self, vote: &Vote) -> io::Result<oneshot::Receiver<io::Result<()>>> {
        let (done, durable) = oneshot::channel();
        let mut queued = self.shared.queue.lock();
        queued.check()?;
        queued.add(|buf| record::encode_vote(buf, vote));
        self.shared.queue.submit(queued, Some(Waiting::Vote(done)));
        Ok(durable)
    }

    /// Remembers the committed position; it is written with the next record.
    pub(super) fn committed(&self, id: LogId) -> io::Result<()> {
        let mut queued = self.shared.queue.lock();
        queued.check()?;
        queued.set_committed(id);
        Ok(())
    }

    /// Queues the end of the log: entries after `last` are gone. Written with the next record, which
    /// is enough, because it stands before it.
    pub(super) fn truncate_after(&self, last: Option<LogId>) -> io::Result<()> {
        let mut queued = self.shared.queue.lock();
        queued.check()?;
        queued.add(|buf| match last {
            Some(id) => record::encode_position(buf, Kind::Truncate, id),
            None => record::encode_position(buf, Kind::Clear, super::types::log_id(0, 0)),
        });
        Ok(())
    }

    /// Queues a purge up to `id`; segments without live entries go once it is durable.
    pub(super) fn purge(&self, id: LogId) -> io::Result<()> {
        let mut queued = self.shared.queue.lock();
        queued.check()?;
        queued.add(|buf| record::encode_position(buf, Kind::Purge, id));
        self.shared.queue.submit(queued, None);
        Ok(())
    }

    pub(super) fn stats(&self) -> Arc<WalStats> {
        Arc::clone(&self.shared.stats)
    }

    /// Access for readers, which may outlive the log's threads.
    pub(super) fn reader(&self) -> WalReader {
        WalReader(Arc::clone(&self.shared))
    }
}

/// Entries in the queue, which the writer thread may not know of.
#[must_use = "entries are written once somebody is told"]
pub(super) struct Queued<'a> {
    /// The log and the bytes, if the writer thread was not told.
    unwritten: Option<(&'a Wal, usize)>,
}

impl Queued<'_> {
    /// Sees to it that the entries are written: by the writer thread, or now, which blocks as long as a fast disk takes.
    pub(super) fn write(self) {
        let Some((wal, bytes)) = self.unwritten else { return };
        match wal.desk.try_lock() {
            Some(mut desk) if desk.has_room(bytes) => {
                // The end of the log is the thread's business.
                desk.turn();
            }
            _ => wal.shared.queue.wake(),
        }
    }
}

/// Finds entries on disk.
#[derive(Clone)]
pub(super) struct WalReader(Arc<Shared>);

impl WalReader {
    /// Stream position up to which entries can be located.
    pub(super) fn flushed(&self) -> u64 {
        self.0.flushed.load(Ordering::Acquire)
    }

    /// Lets whoever appends write small records, or leaves all to the writer.
    pub(super) fn set_writes_inline(&self, writes_inline: bool) {
        self.0.writes_inline.store(writes_inline, Ordering::Relaxed);
    }

    /// See [`EntryIndex::first_in_newest`].
    pub(super) fn first_in_newest(&self, segments: u64) -> Option<u64> {
        self.0.index.lock().first_in_newest(segments)
    }

    /// Where the entries of `range` are. Does not read.
    pub(super) fn locate(&self, range: Range<u64>) -> Located {
        self.0.index.lock().locate(range)
    }
}
