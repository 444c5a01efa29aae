//! Opening a log: lock, walk, cut the torn end, make the rest durable, start the threads.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::Mutex;

use super::disk::{Disk, Lock};
use super::index::{EntryIndex, Location};
use super::output::Output;
use super::record::{Header, Kind};
use super::segment::{self, SegmentHeader};
use super::spare::Spares;
use super::stats::{WalStats, Watchdog};
use super::walk::{Tail, walk};
use super::work::Worker;
use super::writer::{self, Desk, Positions, Queue, Writer};
use super::{Opened, Shared, Wal, WalError, WalOptions};

/// Offsets are 32 bits wide, and the last record may be one of the largest.
const MAX_SEGMENT_BYTES: u64 = 1 << 30;

impl Wal {
    /// Opens the log in `dir`, creating it when there is none. Blocks.
    ///
    /// # Errors
    /// [`WalError`]; nothing is changed when the log is damaged or in use.
    pub(in crate::raft) fn open(dir: &Path, options: WalOptions) -> Result<(Self, Opened), WalError> {
        let disk = options.disk;
        create_dir(&disk, dir)?;
        let lock = lock(&disk, dir)?;
        let mut positions = Positions::default();
        let mut index = EntryIndex::default();
        let segment_bytes = options.segment_bytes.min(MAX_SEGMENT_BYTES);
        let tail = replay(&disk, dir, &mut positions, &mut index)?;
        if let Some(tail) = &tail {
            check_start(tail, &positions, &index)?;
            check_len(tail, segment_bytes)?;
            cut(tail)?;
            if options.sync {
                write_again(&disk, dir, tail)?;
            }
        }
        let spares = Spares::start(&disk, dir, segment_bytes).map_err(WalError::io(dir))?;
        let queue = Queue::default();
        let (segment, offset, chain) = if let Some(tail) = tail {
            // A crash may have cut off the positions at the start of the last segment, so they are
            // repeated before any earlier segment may go.
            queue.add_positions(&positions);
            (tail.segment, tail.offset, tail.chain)
        } else {
            let first = SegmentHeader { sequence: 1, first_index: 0, previous_chain: 0 };
            let begun = spares.take().and_then(|spare| writer::begin(&disk, dir, spare, &first));
            let segment = begun.map_err(WalError::io(dir))?;
            let chain = segment.salt;
            (Arc::new(segment), segment::HEADER_BYTES as u32, chain)
        };
        index.add_segment(Arc::clone(&segment));
        let opened = Opened {
            vote: positions.vote,
            committed: positions.committed,
            purged: positions.purged,
            last: positions.last.or(positions.purged),
            first: index.first(),
        };

        let stats = Arc::new(WalStats::new(options.on_sync, options.on_write));
        let shared = Arc::new(Shared {
            queue,
            index: Mutex::new(index),
            flushed: AtomicU64::new(0),
            stats: Arc::clone(&stats),
            sync: options.sync,
            writes_inline: AtomicBool::new(true),
            #[cfg(test)]
            fails_syncs: AtomicBool::new(false),
        });
        let output = Output::open(&disk, &segment, offset.into(), options.sync).map_err(WalError::io(&segment.path))?;
        let writer = Writer {
            output,
            disk: disk.clone(),
            dir: dir.to_owned(),
            segment_bytes,
            shared: Arc::clone(&shared),
            spares,
            positions,
            segment,
            offset,
            empty_end: offset,
            chain,
        };
        let desk = Arc::new(Mutex::new(Desk::new(writer, options.on_fault)));
        let (written, queued) = (Arc::clone(&desk), Arc::clone(&shared));
        #[cfg(test)]
        if let Some(simulated) = disk.simulated().cloned() {
            let worker = Worker::task(async move { writer::run_as_task(&written, &queued, &simulated).await });
            return Ok((Self { shared, desk, disk, worker, _watchdog: None, _lock: lock }, opened));
        }
        let watchdog = Watchdog::start(stats).map_err(WalError::io(dir))?;
        let worker = Worker::thread("wal-writer", move || writer::run(&written, &queued)).map_err(WalError::io(dir))?;
        Ok((Self { shared, desk, disk, worker, _watchdog: Some(watchdog), _lock: lock }, opened))
    }
}

/// Creates the directory and makes it and its new parents durable.
fn create_dir(disk: &Disk, dir: &Path) -> Result<(), WalError> {
    if disk.is_dir(dir) {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_dir(disk, parent)?;
    match disk.create_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(WalError::io(dir)(error)),
        Ok(()) | Err(_) => disk.sync_dir(parent).map_err(WalError::io(parent)),
    }
}

fn lock(disk: &Disk, dir: &Path) -> Result<Lock, WalError> {
    disk.lock(dir).map_err(WalError::io(dir))?.ok_or_else(|| WalError::Locked(dir.to_owned()))
}

pub(super) fn replay(
    disk: &Disk,
    dir: &Path,
    positions: &mut Positions,
    index: &mut EntryIndex,
) -> Result<Option<Tail>, WalError> {
    let mut is_empty = true;
    let tail = walk(disk, dir, true, |found| {
        if is_empty {
            is_empty = false;
            positions.next = found.first_index;
        }
        let header = &found.header;
        if let Some(expected) = index.expected().filter(|expected| header.kind.is_entry() && *expected != header.index)
        {
            return Err(format!("entry {} where entry {expected} must be", header.index));
        }
        positions.apply(header, found.payload)?;
        index.add_segment(Arc::clone(found.segment));
        let sequence = found.segment.sequence;
        index.apply(header, Location { sequence, offset: found.offset, previous_chain: found.previous_chain });
        Ok(())
    })?;
    if let Some(tail) = tail.as_ref().filter(|_| is_empty) {
        positions.next = tail.first.first_index;
    }
    Ok(tail)
}

/// Segments at the start may be missing only when all their entries were purged.
pub(super) fn check_start(tail: &Tail, positions: &Positions, index: &EntryIndex) -> Result<(), WalError> {
    let purged_to = positions.purged.map_or(0, |id| id.index + 1);
    let first = index.first().unwrap_or(positions.next);
    if tail.first.sequence > 1 && first > purged_to {
        let reason = format!(
            "the log begins with entry {first}, but only those before {purged_to} were purged: earlier segments are missing"
        );
        return Err(WalError::damaged(&tail.segment.path, 0, reason));
    }
    Ok(())
}

/// A segment has its whole size before it has its name. A shorter one was cut by somebody, perhaps by a copy that did
/// not come to its end, and what was in the rest is unknown. In earlier segments the next one's chain value shows it.
fn check_len(tail: &Tail, segment_bytes: u64) -> Result<(), WalError> {
    let segment = &tail.segment;
    let len = segment.file.len().map_err(WalError::io(&segment.path))?;
    if len < segment_bytes {
        let reason = format!("the file ends here, it should have {segment_bytes} bytes");
        return Err(WalError::damaged(&segment.path, len, reason));
    }
    Ok(())
}

/// Zeroes a torn end, so that what it left can never be taken for a record of a later write.
pub(super) fn cut(tail: &Tail) -> Result<(), WalError> {
    if !tail.is_torn {
        return Ok(());
    }
    let segment = &tail.segment;
    tracing::warn!(segment = %segment.path.display(), offset = tail.offset, "cutting the torn end of the raft log");
    let len = segment.file.len().map_err(WalError::io(&segment.path))?;
    segment::zero(&segment.file, tail.offset.into(), len).map_err(WalError::io(&segment.path))
}

/// Makes durable what was read, before anybody vouches for it: a process that was killed, or that ended because a sync
/// failed, may have left it in the page cache alone. Pages that the kernel could not write it takes for clean, so the
/// next sync succeeds and promises nothing: the last write is made once more. What stands before it was durable when it
/// began.
pub(super) fn write_again(disk: &Disk, dir: &Path, tail: &Tail) -> Result<(), WalError> {
    let file = &tail.segment.file;
    let mut bytes = vec![0; (tail.offset - tail.group) as usize];
    let written = file
        .read_exact_at(&mut bytes, tail.group.into())
        .and_then(|()| file.write_all_at(&bytes, tail.group.into()))
        .and_then(|()| file.sync_data());
    written.map_err(WalError::io(&tail.segment.path))?;
    disk.sync_dir(dir).map_err(WalError::io(dir))
}

impl EntryIndex {
    /// Follows one durable record.
    pub(super) fn apply(&mut self, header: &Header, location: Location) {
        match header.kind {
            Kind::Blank | Kind::Commands | Kind::Membership => self.push(header.index, location),
            Kind::Truncate => self.truncate_from(header.index + 1),
            Kind::Clear => self.truncate_from(0),
            Kind::Purge => self.purge_before(header.index + 1),
            Kind::Vote | Kind::Committed => {}
        }
    }
}
