//! openraft's log storage: recent entries in memory, all of them in the [`wal`](super::wal).
//!
//! Appending returns as soon as the entries are queued and readable; the callback follows when they are
//! durable. Replication and apply read the newest entries from memory and do not touch the disk; a slow
//! follower's older entries are read from their segments, on a blocking thread.
//!
//! Lock order: entries, then the log's own queue or index.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::Path;
use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt};
use openraft::storage::RaftLogStorage;
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;

use super::types::{Entry, IoFlushed, LogId, LogState, TypeConfig, Vote};
use super::wal::{self, Disk, FaultObserver, Located, SyncObserver, Wal, WalError, WalOptions, WalReader, WalStats};

/// What one read from disk, or one message of replication, may hold (beyond its first entry).
pub(crate) const MAX_READ_BYTES: usize = 1 << 20;
/// What an entry in memory costs beside its encoded bytes: allocations and decoded fields.
const ENTRY_OVERHEAD_BYTES: usize = 200;

/// How a log store is kept.
pub struct LogStoreOptions {
    /// Where the log is kept.
    pub disk: Disk,
    /// Size of a segment of the log.
    pub segment_bytes: u64,
    /// Entries kept in memory, as encoded. Entries that are not durable yet are kept beyond it.
    pub memory_bytes: usize,
    /// See [`WalOptions::sync`].
    pub sync: bool,
    /// Told the duration of every sync.
    pub on_sync: SyncObserver,
    /// Told the duration of every write.
    pub on_write: SyncObserver,
    /// Told when the log fails; the member must stop.
    pub on_fault: FaultObserver,
}

impl Default for LogStoreOptions {
    /// 16 MiB in memory: what is applied is read again by slow followers only. Nobody is told anything.
    fn default() -> Self {
        let WalOptions { disk, segment_bytes, sync, on_sync, on_write, on_fault } = WalOptions::default();
        Self { disk, segment_bytes, memory_bytes: 16 << 20, sync, on_sync, on_write, on_fault }
    }
}

/// The raft log of this member.
pub struct LogStore {
    wal: Wal,
    log: Arc<Log>,
}

/// Reads the log, from any task.
#[derive(Clone)]
pub struct LogReader {
    log: Arc<Log>,
}

/// How far the log reaches back, in segments.
#[derive(Clone)]
pub struct LogExtent(WalReader);

impl LogExtent {
    /// Lets raft's own task write a small entry when the disk is fast, which saves two wake-ups. Not for a member with
    /// peers: it has to send the entry meanwhile, and its heartbeats must not wait for a disk that stalls.
    pub fn set_writes_inline(&self, writes_inline: bool) {
        self.0.set_writes_inline(writes_inline);
    }

    /// Index of the first entry in the newest `segments`; `None` while they hold no entry.
    pub fn first_in_newest(&self, segments: u64) -> Option<u64> {
        self.0.first_in_newest(segments)
    }
}

struct Log {
    recent: Mutex<Recent>,
    disk: WalReader,
}

/// What the log holds, and its newest entries.
struct Recent {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Index of the first entry that is not purged; means nothing while there is none.
    first: u64,
    /// The entries `next() - entries.len()..next()`.
    entries: VecDeque<Kept>,
    bytes: usize,
    max_bytes: usize,
}

struct Kept {
    entry: Entry,
    bytes: usize,
    /// Stream position after which the entry is on disk.
    position: u64,
}

impl LogStore {
    /// Opens the log in `dir` (created when missing). Blocks.
    ///
    /// # Errors
    /// [`WalError`]: the log is damaged, in use, or the disk failed.
    pub fn open(dir: &Path, options: LogStoreOptions) -> Result<Self, WalError> {
        let LogStoreOptions { disk, segment_bytes, memory_bytes, sync, on_sync, on_write, on_fault } = options;
        let (wal, opened) = Wal::open(dir, WalOptions { disk, segment_bytes, sync, on_sync, on_write, on_fault })?;
        let recent = Recent {
            vote: opened.vote,
            committed: opened.committed,
            purged: opened.purged,
            last: opened.last,
            first: opened.first.unwrap_or_else(|| opened.last.map_or(0, |id| id.index + 1)),
            entries: VecDeque::new(),
            bytes: 0,
            max_bytes: memory_bytes,
        };
        let log = Arc::new(Log { recent: Mutex::new(recent), disk: wal.reader() });
        Ok(Self { wal, log })
    }

    /// Refuses a directory without a log when there is a database: what was acknowledged last was in the log alone.
    /// Call before [`LogStore::open`], which would begin a new one.
    ///
    /// # Errors
    /// [`WalError::Foreign`]; the directory cannot be listed.
    pub fn check_exists(dir: &Path, database: &Path) -> Result<(), WalError> {
        if !database.exists() || wal::exists(dir)? {
            return Ok(());
        }
        Err(WalError::Foreign {
            dir: dir.to_owned(),
            database: database.to_owned(),
            reason: "there is no log".to_owned(),
        })
    }

    /// Refuses a log that cannot be the one that the database was filled from. openraft takes either for granted and
    /// panics.
    ///
    /// # Errors
    /// [`WalError::Foreign`].
    pub fn check_follows(&self, dir: &Path, database: &Path, applied: Option<LogId>) -> Result<(), WalError> {
        let recent = self.log.recent.lock();
        let term = recent.vote.map_or(0, |vote| vote.leader_id.term);
        let applied_term = applied.map_or(0, |id| id.leader_id.term);
        let applied_to = applied.map_or(0, |id| id.index + 1);
        let purged_to = recent.purged.map_or(0, |id| id.index + 1);
        let reason = if applied_term > term {
            format!("its last vote is of term {term}, the database has entries of term {applied_term}")
        } else if purged_to > applied_to {
            format!("it begins with entry {purged_to}, the database ends before entry {applied_to}")
        } else {
            return Ok(());
        };
        Err(WalError::Foreign { dir: dir.to_owned(), database: database.to_owned(), reason })
    }

    /// Drops a log that ends before `applied`, the position of the database, or has another entry there, and goes on behind
    /// that position. Raft applies what is committed without waiting for this member's own disk, and a snapshot brings
    /// what the log never had, so a crash may leave the end of the log that a later leader had already replaced. What
    /// is applied is committed, so no entry that contradicts it, and none behind such a one, ever counts.
    ///
    /// Call before raft starts: it takes a log like that for corrupted.
    ///
    /// # Errors
    /// The log cannot be read or written.
    pub async fn follow(&mut self, applied: Option<LogId>) -> io::Result<()> {
        let Some(applied) = applied else { return Ok(()) };
        let (last, is_purged) = {
            let recent = self.log.recent.lock();
            (recent.last, recent.purged.is_some_and(|purged| purged.index >= applied.index))
        };
        // Invariant: `check_follows` has found that no more is purged than was applied.
        if is_purged {
            return Ok(());
        }
        let mut reader = LogReader { log: Arc::clone(&self.log) };
        let there = reader.try_get_log_entries(applied.index..=applied.index).await?;
        if there.first().is_some_and(|entry| entry.log_id == applied) {
            return Ok(());
        }
        tracing::info!(?last, ?applied, "the database is ahead of the raft log, which goes on behind it");
        self.truncate_after(None).await?;
        self.purge(applied).await
    }

    /// Tells where the newest part of the log begins.
    pub fn extent(&self) -> LogExtent {
        LogExtent(self.wal.reader())
    }

    /// Counters of the log, for metrics and health.
    pub fn stats(&self) -> Arc<WalStats> {
        self.wal.stats()
    }
}

impl Recent {
    /// Index that the next entry has, when there is a log or was one.
    fn next(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1)
    }

    fn first_kept(&self) -> u64 {
        self.next() - self.entries.len() as u64
    }

    fn push(&mut self, entry: Entry, len: usize, position: u64) {
        if self.last.is_none() {
            // A log begins with index 0, except for one that openraft's test suite builds.
            self.first = entry.log_id.index;
        }
        self.last = Some(entry.log_id);
        let bytes = len + ENTRY_OVERHEAD_BYTES;
        self.bytes += bytes;
        self.entries.push_back(Kept { entry, bytes, position });
    }

    /// Lets go of the oldest entries that can be read from disk, down to the bound.
    fn shrink(&mut self, flushed: u64) {
        while self.bytes > self.max_bytes && self.entries.front().is_some_and(|kept| kept.position <= flushed) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(kept) = self.entries.pop_front() {
            self.bytes -= kept.bytes;
        }
    }

    /// Removes the entries from `index` on; true when there were any. The last position becomes
    /// `last`.
    fn truncate_from(&mut self, index: u64, last: Option<LogId>) {
        let keep = index.saturating_sub(self.first_kept());
        while self.entries.len() as u64 > keep {
            if let Some(kept) = self.entries.pop_back() {
                self.bytes -= kept.bytes;
            }
        }
        self.last = last;
    }

    fn purge(&mut self, id: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= id.index) {
            return;
        }
        self.purged = Some(id);
        let next = self.next();
        if id.index >= next {
            self.entries.clear();
            self.bytes = 0;
            self.last = Some(id);
        } else {
            while !self.entries.is_empty() && self.first_kept() <= id.index {
                self.pop_front();
            }
        }
        self.first = self.first.max(id.index + 1);
    }

    /// The part of `range` that the log holds.
    fn clip(&self, range: &impl RangeBounds<u64>) -> Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        start.max(self.first)..end.min(self.next())
    }

    fn kept(&self, range: Range<u64>) -> impl Iterator<Item = &Kept> {
        let first = self.first_kept();
        let from = range.start.saturating_sub(first) as usize;
        let to = range.end.saturating_sub(first) as usize;
        self.entries.range(from.min(to)..to)
    }
}

impl Log {
    /// Takes `range` as it is now: what is on disk only, and what is in memory.
    fn view(&self, range: &impl RangeBounds<u64>) -> (Option<Located>, Range<u64>, Vec<Entry>) {
        let recent = self.recent.lock();
        let range = recent.clip(range);
        if range.is_empty() {
            return (None, range, Vec::new());
        }
        let border = recent.first_kept().clamp(range.start, range.end);
        let located = (range.start < border).then(|| self.disk.locate(range.start..border));
        let entries = recent.kept(border..range.end).map(|kept| kept.entry.clone()).collect();
        (located, range.start..border, entries)
    }

    /// Takes the start of `range`: entries in memory up to the bound of one read, or places on disk.
    fn start_of(&self, range: &Range<u64>) -> Result<Vec<Entry>, Located> {
        let recent = self.recent.lock();
        let range = recent.clip(range);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let first_kept = recent.first_kept();
        if range.start < first_kept {
            return Err(self.disk.locate(range.start..range.end.min(first_kept)));
        }
        let mut bytes = 0;
        let within = |kept: &&Kept| {
            let is_first = bytes == 0;
            bytes += kept.bytes;
            is_first || bytes <= MAX_READ_BYTES
        };
        Ok(recent.kept(range).take_while(within).map(|kept| kept.entry.clone()).collect())
    }

    async fn read_start(&self, range: &Range<u64>) -> io::Result<Vec<Entry>> {
        match self.start_of(range) {
            Ok(entries) => Ok(entries),
            Err(located) => read(located, MAX_READ_BYTES).await,
        }
    }
}

async fn read(located: Located, max_bytes: usize) -> io::Result<Vec<Entry>> {
    crate::blocking::run(move || located.read(max_bytes)).await.map_err(io::Error::other)?
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (located, on_disk, entries) = self.log.view(&range);
        let Some(located) = located else { return Ok(entries) };
        let mut all = read(located, usize::MAX).await?;
        if all.len() as u64 != on_disk.end - on_disk.start {
            let text = format!("entries {on_disk:?} of the raft log cannot be located");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        all.extend(entries);
        Ok(all)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.recent.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.log.read_start(&(start..end)).await
    }

    /// Reads piece by piece, so that a long range to apply is never in memory as a whole.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let range = self.log.recent.lock().clip(&range);
        let pieces = stream::unfold((Arc::clone(&self.log), range), |(log, rest)| async move {
            if rest.is_empty() {
                return None;
            }
            let piece = log.read_start(&rest).await;
            // After an error, or where the log ends early, there is no rest.
            let next = piece.as_ref().ok().and_then(|entries| entries.last()).map_or(rest.end, |e| e.log_id.index + 1);
            Some((piece, (log, next..rest.end)))
        });
        let entries = pieces.flat_map(|piece| {
            let (entries, error) = match piece {
                Ok(entries) => (entries, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            stream::iter(entries.into_iter().map(Ok).chain(error))
        });
        Box::pin(entries)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState, io::Error> {
        let recent = self.log.recent.lock();
        Ok(LogState { last_purged_log_id: recent.purged, last_log_id: recent.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { log: Arc::clone(&self.log) }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let durable = self.wal.vote(vote)?;
        durable.await.map_err(io::Error::other)??;
        self.log.recent.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(id) = committed else { return Ok(()) };
        self.wal.committed(id)?;
        self.log.recent.lock().committed = Some(id);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.recent.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IoFlushed) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.wal.room().await?;
        let queued = {
            let mut recent = self.log.recent.lock();
            let next = recent.last.map(|id| id.index + 1);
            let queued =
                self.wal.append(entries, next, callback, |entry, len, position| recent.push(entry, len, position));
            recent.shrink(self.log.disk.flushed());
            queued?
        };
        // Without the lock: whoever reads entries must not wait for the disk.
        queued.write();
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let mut recent = self.log.recent.lock();
        let index = last_log_id.map_or(0, |id| id.index + 1);
        if index >= recent.next() {
            return Ok(());
        }
        // What is purged cannot be truncated.
        let last = if index > recent.first { last_log_id } else { recent.purged };
        self.wal.truncate_after(last)?;
        recent.truncate_from(index, last);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let mut recent = self.log.recent.lock();
        self.wal.purge(log_id)?;
        recent.purge(log_id);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
