//! The queue of records, and who writes them.
//!
//! The writer thread takes everything that is queued, seals it, writes it, syncs once and completes it: while
//! one sync runs, the next group gathers. There is no timer. A small record that finds the queue empty, the thread
//! idle and the disk fast is written by the one who appends it: handing it over and back takes two wake-ups, which
//! cost more than the write. An error of a write or a sync is final: the kernel may have dropped the dirty pages, so
//! trying again could report success for lost data.
//!
//! Lock order: the desk, then the queue.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::super::types::{IoFlushed, LogId, Vote};
use super::disk::Disk;
use super::index::Location;
use super::output::Output;
use super::record::{self, Header, Kind};
use super::segment::{self, Segment, SegmentHeader};
use super::spare::{Spare, Spares};
use super::work::Bell;
use super::{FaultObserver, Shared, WalError};

/// What may wait for the writer. When it is full, appending waits: a disk that cannot follow slows
/// raft down instead of filling the memory. Large enough for several groups of full-size requests.
const QUEUE_BYTES: usize = 32 << 20;
/// Records up to this size may be written by the one who appends them.
const SMALL_BYTES: usize = 16 << 10;
/// A sync that took longer is waited for by the writer thread only: whoever appends would be held up.
pub(super) const FAST_SYNC: Duration = Duration::from_micros(250);
/// Buffers that grew beyond this are given back after use.
const KEPT_BUFFER_BYTES: usize = 4 << 20;

/// Who waits for a group to be durable.
pub(super) enum Waiting {
    Append(IoFlushed),
    Vote(oneshot::Sender<io::Result<()>>),
}

impl Waiting {
    fn fail(self, error: &io::Error) {
        match self {
            Self::Append(done) => done.io_completed(Err(repeat(error))),
            // The caller gave up waiting.
            Self::Vote(done) => drop(done.send(Err(repeat(error)))),
        }
    }
}

/// The same error for another receiver.
fn repeat(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// Records on their way to the writer.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<Queued>,
    work: Bell,
    room: Notify,
}

/// What is queued. Held locked while entries are encoded into it.
#[derive(Default)]
pub(super) struct Queued {
    records: Vec<u8>,
    waiting: Vec<Waiting>,
    /// Only the latest is worth a record; written with the next one, never for its own sake.
    committed: Option<LogId>,
    /// Position in the stream: bytes queued since the log was opened.
    position: u64,
    is_urgent: bool,
    is_stopping: bool,
    failure: Option<io::Error>,
}

impl Queued {
    /// Encodes records with `encode`, which returns what it likes.
    pub(super) fn add<T>(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let before = self.records.len();
        if let Some(id) = self.committed.take() {
            record::encode_position(&mut self.records, Kind::Committed, id);
        }
        let result = encode(&mut self.records);
        self.position += (self.records.len() - before) as u64;
        result
    }

    /// The error that ended the log, if one has.
    pub(super) fn check(&self) -> io::Result<()> {
        self.failure.as_ref().map_or(Ok(()), |error| Err(repeat(error)))
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Takes back everything after `len`.
    pub(super) fn undo(&mut self, len: usize) {
        self.position -= (self.records.len() - len) as u64;
        self.records.truncate(len);
    }

    /// The writer has something to do, if only to end.
    fn has_work(&self) -> bool {
        self.is_urgent || self.is_stopping || self.failure.is_some()
    }

    pub(super) fn set_committed(&mut self, id: LogId) {
        self.committed = Some(id);
    }
}

impl Queue {
    /// Waits until there is room for more records.
    pub(super) async fn room(&self) -> io::Result<()> {
        loop {
            let freed = self.room.notified();
            {
                let state = self.state.lock();
                state.check()?;
                if state.records.len() < QUEUE_BYTES {
                    return Ok(());
                }
            }
            freed.await;
        }
    }

    /// Queues what stands at the start of every segment.
    pub(super) fn add_positions(&self, positions: &Positions) {
        let mut state = self.state.lock();
        state.add(|buf| positions.encode(buf));
        self.submit(state, None);
    }

    /// Locks the queue for adding.
    pub(super) fn lock(&self) -> parking_lot::MutexGuard<'_, Queued> {
        self.state.lock()
    }

    /// Wakes the writer; `waiting` is told when everything queued so far is durable.
    pub(super) fn submit(&self, mut state: parking_lot::MutexGuard<'_, Queued>, waiting: Option<Waiting>) {
        state.waiting.extend(waiting);
        state.is_urgent = true;
        drop(state);
        self.work.ring();
    }

    /// Lets the writer finish what is queued and end.
    pub(super) fn stop(&self) {
        self.state.lock().is_stopping = true;
        self.work.ring();
    }

    /// Like [`Self::submit`], but for someone who may write by himself: then nobody is woken, and the bytes that are
    /// queued are returned.
    pub(super) fn submit_own(
        &self,
        mut state: parking_lot::MutexGuard<'_, Queued>,
        waiting: Waiting,
        is_fast: bool,
    ) -> Option<usize> {
        let is_small = state.waiting.is_empty() && state.len() <= SMALL_BYTES;
        if !is_small || !is_fast {
            self.submit(state, Some(waiting));
            return None;
        }
        state.waiting.push(waiting);
        state.is_urgent = true;
        Some(state.len())
    }

    /// Wakes the writer.
    pub(super) fn wake(&self) {
        self.work.ring();
    }

    /// Waits for work, or for the end.
    fn wait(&self) {
        let mut state = self.state.lock();
        while !state.has_work() {
            self.work.wait(&mut state);
        }
    }

    /// The same for a task.
    #[cfg(test)]
    async fn wait_as_task(&self) {
        while !self.state.lock().has_work() {
            self.work.heard().await;
        }
    }

    /// Swaps what is queued with the emptied buffers of `group`; false at the end.
    fn take(&self, group: &mut Group) -> bool {
        let mut state = self.state.lock();
        if state.failure.is_some() {
            return false;
        }
        if state.is_stopping {
            state.add(|_| ());
        }
        state.is_urgent = false;
        std::mem::swap(&mut state.records, &mut group.records);
        std::mem::swap(&mut state.waiting, &mut group.waiting);
        group.position = state.position;
        let is_last = state.is_stopping && group.is_empty();
        drop(state);
        self.room.notify_waiters();
        !is_last
    }

    fn fail(&self, error: &io::Error) -> Vec<Waiting> {
        let mut state = self.state.lock();
        state.failure = Some(repeat(error));
        state.records = Vec::new();
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.room.notify_waiters();
        self.work.ring_all();
        waiting
    }
}

/// What one sync makes durable.
#[derive(Default)]
struct Group {
    records: Vec<u8>,
    waiting: Vec<Waiting>,
    position: u64,
    /// For the entry index, once durable: the records in order, with their places.
    placed: Vec<(Header, Location)>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.waiting.is_empty()
    }
}

/// The writer and what it works with: whoever holds it writes.
pub(super) struct Desk {
    pub(super) writer: Writer,
    pub(super) on_fault: FaultObserver,
    group: Group,
}

impl Desk {
    pub(super) fn new(writer: Writer, on_fault: FaultObserver) -> Self {
        Self { writer, on_fault, group: Group::default() }
    }

    /// True if so many bytes go into the segment: to begin another one waits for a spare, and syncs twice.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        // In a simulation a group may be written and not yet be complete.
        self.group.is_empty() && u64::from(self.writer.offset) + bytes as u64 <= self.writer.segment_bytes
    }

    /// Writes what is queued, if anything is, and tells those who wait. False when the log has ended.
    pub(super) fn turn(&mut self) -> bool {
        let goes_on = self.write();
        self.complete();
        goes_on
    }

    /// Tells those who wait for the group that was written.
    fn complete(&mut self) {
        // After a failure, and when somebody else wrote what was queued, there is none.
        if !self.group.is_empty() {
            self.writer.complete(&mut self.group);
        }
    }

    /// Writes what is queued, if anything is. False when the log has ended.
    fn write(&mut self) -> bool {
        let Self { writer, on_fault, group } = self;
        if !writer.shared.queue.take(group) {
            return false;
        }
        if group.is_empty() {
            // Somebody else wrote it.
            return true;
        }
        if let Err(source) = writer.write(group) {
            let queued = writer.shared.queue.fail(&source);
            // First the report that names the file: raft's own says less.
            on_fault(&WalError::Io { path: writer.segment.path.clone(), source: repeat(&source) });
            for waiting in group.waiting.drain(..).chain(queued) {
                waiting.fail(&source);
            }
            group.records.clear();
            return false;
        }
        true
    }
}

/// The writer thread: writes until the queue is stopped or the disk fails.
pub(super) fn run(desk: &Mutex<Desk>, shared: &Shared) {
    loop {
        shared.queue.wait();
        if !desk.lock().turn() {
            return;
        }
    }
}

/// The writer as a task: the disk takes the writes at once, and they count when it has settled.
#[cfg(test)]
pub(super) async fn run_as_task(desk: &Mutex<Desk>, shared: &Shared, disk: &crate::simulation::disk::SimulatedDisk) {
    loop {
        shared.queue.wait_as_task().await;
        let goes_on = desk.lock().write();
        if disk.acknowledges_early() {
            desk.lock().complete();
        }
        if !disk.settled().await {
            return;
        }
        desk.lock().complete();
        if !goes_on {
            return;
        }
    }
}

/// What the log holds, as of the last record: repeated at the start of every segment, so that a
/// segment can go without taking a vote or a position with it.
#[derive(Debug, Default, Clone)]
pub(super) struct Positions {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    /// Index that the next entry has.
    pub(super) next: u64,
}

impl Positions {
    /// Follows one record.
    ///
    /// # Errors
    /// When the record makes no sense.
    pub(super) fn apply(&mut self, header: &Header, payload: &[u8]) -> Result<(), String> {
        let id = header.log_id();
        // A vote's is the id of a member.
        if id.index == u64::MAX && header.kind != Kind::Vote {
            return Err(format!("{} record with an index that nothing can follow", header.kind.name()));
        }
        match header.kind {
            Kind::Blank | Kind::Commands | Kind::Membership | Kind::Truncate => self.end_at(Some(id)),
            Kind::Clear => self.end_at(None),
            Kind::Committed => self.committed = Some(id),
            Kind::Vote => {
                let vote = record::decode_vote(header, payload).ok_or("malformed vote")?;
                self.vote = Some(vote);
            }
            Kind::Purge => {
                self.purged = Some(id);
                if self.next <= id.index {
                    self.end_at(Some(id));
                }
            }
        }
        Ok(())
    }

    fn end_at(&mut self, last: Option<LogId>) {
        self.last = last;
        self.next = last.map_or(0, |id| id.index + 1);
    }

    fn encode(&self, buf: &mut Vec<u8>) {
        if let Some(vote) = &self.vote {
            record::encode_vote(buf, vote);
        }
        if let Some(id) = self.committed {
            record::encode_position(buf, Kind::Committed, id);
        }
        if let Some(id) = self.purged {
            record::encode_position(buf, Kind::Purge, id);
        }
    }
}

/// Where the next record goes.
pub(super) struct Writer {
    pub(super) disk: Disk,
    pub(super) dir: PathBuf,
    pub(super) segment_bytes: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) spares: Spares,
    pub(super) positions: Positions,
    pub(super) segment: Arc<Segment>,
    pub(super) output: Output,
    pub(super) offset: u32,
    /// Where the first record of the segment goes, after the repeated positions. A record that is
    /// larger than a whole segment makes its segment larger, instead of asking for another one.
    pub(super) empty_end: u32,
    pub(super) chain: u32,
}

impl Writer {
    fn write(&mut self, group: &mut Group) -> io::Result<()> {
        let records = std::mem::take(&mut group.records);
        let result = self.write_records(records, group);
        // The buffer returns to the group even after an error, which ends the writer anyway.
        result.map(|records| group.records = records)
    }

    fn write_records(&mut self, mut records: Vec<u8>, group: &mut Group) -> io::Result<Vec<u8>> {
        // One write, unless the group crosses into another segment.
        let mut run = 0;
        let mut run_offset = self.offset;
        let mut group_offset = self.offset;
        let mut at = 0;
        while at < records.len() {
            let len = record::trusted(&records[at..]).record_len();
            if u64::from(self.offset) + len as u64 > self.segment_bytes && self.offset > self.empty_end {
                self.put(&records[run..at], run_offset)?;
                group_offset = self.rotate()?;
                run = at;
                run_offset = self.offset;
            }
            let record = &mut records[at..at + len];
            let location =
                Location { sequence: self.segment.sequence, offset: self.offset, previous_chain: self.chain };
            self.chain = record::seal(record, group_offset, self.offset, self.segment.salt, self.chain);
            let header = record::trusted(record);
            let applied = self.positions.apply(&header, &record[record::HEADER_BYTES..]);
            applied.expect("invariant: the queue holds records of this process");
            group.placed.push((header, location));
            self.offset += len as u32;
            at += len;
        }
        if !records.is_empty() {
            self.put(&records[run..], run_offset)?;
            self.sync()?;
        }
        Ok(records)
    }

    fn put(&mut self, bytes: &[u8], offset: u32) -> io::Result<()> {
        let (output, segment, shared) = (&mut self.output, &self.segment, &self.shared);
        shared.stats.write(bytes.len(), || {
            // A direct write is durable.
            if output.is_direct() {
                shared.stats.time(|| output.write(segment, bytes, offset.into()))
            } else {
                output.write(segment, bytes, offset.into())
            }
        })
    }

    /// Makes what was written durable; a direct write is already.
    fn sync(&self) -> io::Result<()> {
        if self.output.is_direct() { self.check_sync() } else { self.shared.stats.time(|| self.sync_file()) }
    }

    fn sync_file(&self) -> io::Result<()> {
        self.check_sync()?;
        if self.shared.sync { self.segment.file.sync_data() } else { Ok(()) }
    }

    /// Where tests let a sync fail.
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "the test build's half uses both")]
    fn check_sync(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.shared.fails_syncs.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::Error::other("injected"));
        }
        Ok(())
    }

    /// Ends the segment and begins the next; returns the offset at which its first group begins.
    fn rotate(&mut self) -> io::Result<u32> {
        self.sync()?;
        let spare = self.spares.take()?;
        let header = SegmentHeader {
            sequence: self.segment.sequence + 1,
            first_index: self.positions.next,
            previous_chain: self.chain,
        };
        self.segment = Arc::new(begin(&self.disk, &self.dir, spare, &header)?);
        self.output = Output::open(&self.disk, &self.segment, segment::HEADER_BYTES as u64, self.shared.sync)?;
        self.shared.index.lock().add_segment(Arc::clone(&self.segment));
        self.chain = self.segment.salt;
        let start = segment::HEADER_BYTES as u32;
        self.offset = start;

        let mut repeated = Vec::new();
        self.positions.encode(&mut repeated);
        let mut at = 0;
        while at < repeated.len() {
            let len = record::trusted(&repeated[at..]).record_len();
            let record = &mut repeated[at..at + len];
            self.chain = record::seal(record, start, self.offset, self.segment.salt, self.chain);
            self.offset += len as u32;
            at += len;
        }
        self.put(&repeated, start)?;
        self.empty_end = self.offset;
        Ok(start)
    }

    /// Publishes where the group stands, then tells everyone who waits.
    fn complete(&mut self, group: &mut Group) {
        let mut purges = false;
        {
            let mut index = self.shared.index.lock();
            for (header, location) in group.placed.drain(..) {
                purges |= header.kind == Kind::Purge;
                index.apply(&header, location);
            }
        }
        self.shared.flushed.store(group.position, std::sync::atomic::Ordering::Release);
        group.records.clear();
        group.records.shrink_to(KEPT_BUFFER_BYTES);

        // openraft reads these as a watermark: the last says all, and telling each costs a wake-up.
        let mut watermark = None;
        for waiting in group.waiting.drain(..) {
            match waiting {
                Waiting::Append(done @ IOFlushed::Notify(_)) => watermark = Some(done),
                Waiting::Append(done) => done.io_completed(Ok(())),
                // The caller gave up waiting.
                Waiting::Vote(done) => drop(done.send(Ok(()))),
            }
        }
        if let Some(done) = watermark {
            done.io_completed(Ok(()));
        }
        if purges {
            self.retire();
        }
    }

    fn retire(&self) {
        let obsolete = self.shared.index.lock().take_obsolete();
        self.spares.retire(obsolete);
    }
}

/// Turns a spare into the segment that `header` describes: header first, name last.
pub(super) fn begin(disk: &Disk, dir: &Path, spare: Spare, header: &SegmentHeader) -> io::Result<Segment> {
    let bytes = header.encode();
    spare.file.write_all_at(&bytes, 0)?;
    spare.file.sync_data()?;
    let path = dir.join(segment::file_name(header));
    disk.rename(&spare.path, &path)?;
    disk.sync_dir(dir)?;
    let (_, salt) = SegmentHeader::decode(&bytes).map_err(io::Error::other)?;
    Ok(Segment { file: spare.file, path, sequence: header.sequence, salt })
}
