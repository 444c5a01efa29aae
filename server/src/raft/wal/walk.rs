//! Reads a log from its first record to its last, and tells a torn end from damage.
//!
//! Used by recovery and by [`inspect`](super::inspect); it changes nothing on disk.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::WalError;
use super::disk::Disk;
use super::record::{self, Header};
use super::segment::{self, Segment, SegmentHeader, Window};

/// One record where it was found.
pub(super) struct Found<'a> {
    pub(super) segment: &'a Arc<Segment>,
    /// Index that the next entry had when the segment was begun.
    pub(super) first_index: u64,
    pub(super) offset: u32,
    pub(super) previous_chain: u32,
    pub(super) header: Header,
    pub(super) payload: &'a [u8],
}

/// Where the log ends.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) segment: Arc<Segment>,
    pub(super) offset: u32,
    /// Where the last write began that left records in this segment.
    pub(super) group: u32,
    pub(super) chain: u32,
    /// A record of this segment stands after the end: the trace of a write that was cut off.
    pub(super) is_torn: bool,
    /// Header of the first segment, which need not be number 1 once the log was purged.
    pub(super) first: SegmentHeader,
}

/// Whoever makes the last write once more reads from where it began.
const BEFORE_ITS_WRITE: &str = "a record that stands before the write that it is a part of";

/// Visits every record in order, opening the segments for writing if asked. `None` when there is no segment.
///
/// # Errors
/// [`WalError::Damaged`] when a record that was durable cannot be read, a segment is missing or
/// foreign, or `visit` finds a contradiction.
pub(super) fn walk(
    disk: &Disk,
    dir: &Path,
    writable: bool,
    mut visit: impl FnMut(&Found<'_>) -> Result<(), String>,
) -> Result<Option<Tail>, WalError> {
    let mut before: Option<Tail> = None;
    for (named, path) in list(disk, dir)? {
        let (segment, header) = open(disk, &path, named, writable)?;
        if let Some(before) = &before {
            if before.segment.sequence.checked_add(1) != Some(header.sequence) {
                let reason = match header.sequence.checked_sub(1).filter(|missing| *missing > before.segment.sequence) {
                    Some(missing) => format!("segment {missing:016x} before it is missing"),
                    None => format!("there is another segment {:016x}", header.sequence),
                };
                return Err(WalError::damaged(&path, 0, reason));
            }
            if before.chain != header.previous_chain {
                let reason = "records that the next segment follows are unreadable";
                return Err(WalError::damaged(&before.segment.path, before.offset.into(), reason));
            }
        }
        let first = before.map_or(header, |tail| tail.first);
        before = Some(scan(Arc::new(segment), &header, first, &mut visit)?);
    }
    let Some(mut tail) = before else { return Ok(None) };
    tail.is_torn = examine_end(&tail)?;
    Ok(Some(tail))
}

/// The segments by what their names say: sequence and first index.
pub(super) fn list(disk: &Disk, dir: &Path) -> Result<BTreeMap<(u64, u64), PathBuf>, WalError> {
    let mut found = BTreeMap::new();
    for path in disk.list(dir).map_err(WalError::io(dir))? {
        if path.extension().is_none_or(|extension| extension != "wal") {
            continue;
        }
        let named = path.file_name().and_then(|name| segment::parse_file_name(name.to_str()?));
        let named = named.ok_or_else(|| WalError::damaged(&path, 0, "not the name of a segment"))?;
        found.insert(named, path);
    }
    Ok(found)
}

fn open(
    disk: &Disk,
    path: &Path,
    (sequence, first_index): (u64, u64),
    writable: bool,
) -> Result<(Segment, SegmentHeader), WalError> {
    let file = disk.open(path, writable).map_err(WalError::io(path))?;
    let mut window = Window::new(&file).map_err(WalError::io(path))?;
    let bytes = window.get(0, segment::HEADER_BYTES).map_err(WalError::io(path))?.unwrap_or_default();
    let (header, salt) = SegmentHeader::decode(bytes).map_err(|reason| WalError::damaged(path, 0, reason))?;
    if (header.sequence, header.first_index) != (sequence, first_index) {
        return Err(WalError::damaged(path, 0, "the header belongs to another file name"));
    }
    Ok((Segment { file, path: path.to_owned(), sequence, salt }, header))
}

/// Visits the records of one segment up to the first that is not one.
fn scan(
    segment: Arc<Segment>,
    own: &SegmentHeader,
    first: SegmentHeader,
    visit: &mut impl FnMut(&Found<'_>) -> Result<(), String>,
) -> Result<Tail, WalError> {
    let mut window = Window::new(&segment.file).map_err(WalError::io(&segment.path))?;
    let mut offset = segment::HEADER_BYTES as u32;
    let (mut group, mut chain) = (offset, segment.salt);
    while let Some((header, bytes)) = next(&mut window, &segment, offset, chain).map_err(WalError::io(&segment.path))? {
        let payload = &bytes[record::HEADER_BYTES..];
        let found =
            Found { segment: &segment, first_index: own.first_index, offset, previous_chain: chain, header, payload };
        let visited = if header.group > offset { Err(BEFORE_ITS_WRITE.to_owned()) } else { visit(&found) };
        visited.map_err(|reason| WalError::damaged(&segment.path, offset.into(), reason))?;
        (group, chain) = (header.group, header.chain);
        offset += header.record_len() as u32;
    }
    Ok(Tail { segment, offset, group, chain, is_torn: false, first })
}

fn next<'w>(
    window: &'w mut Window<'_>,
    segment: &Segment,
    offset: u32,
    chain: u32,
) -> io::Result<Option<(Header, &'w [u8])>> {
    let header = window.get(offset.into(), record::HEADER_BYTES)?;
    let Some(header) = header.and_then(|bytes| record::parse(bytes, segment.salt, offset)) else { return Ok(None) };
    let bytes = window.get(offset.into(), header.record_len())?;
    Ok(bytes.filter(|bytes| record::follows(bytes, chain)).map(|bytes| (header, bytes)))
}

/// Looks at what stands after the last record: zeros, or what a recycled file held before, which no checksum of this
/// segment fits. True when there are records of a torn write.
///
/// A crash may leave any part of the last write, also records without those before them, but all of
/// them name the start of that write. A record whose write began after the first unreadable one
/// proves that the unreadable one was durable once.
fn examine_end(tail: &Tail) -> Result<bool, WalError> {
    let segment = &tail.segment;
    let mut window = Window::new(&segment.file).map_err(WalError::io(&segment.path))?;
    let mut is_torn = false;
    let mut at = u64::from(tail.offset);
    loop {
        let piece = window.piece(at).map_err(WalError::io(&segment.path))?;
        if piece.is_empty() {
            return Ok(is_torn);
        }
        if piece.iter().any(|byte| *byte != 0) {
            let starts = 0..piece.len().saturating_sub(record::HEADER_BYTES - 1);
            for start in starts {
                let offset = at as u32 + start as u32;
                let Some(header) = record::parse(&piece[start..], segment.salt, offset) else { continue };
                is_torn = true;
                if header.group > tail.offset && header.group <= offset {
                    let reason = format!("unreadable record, followed by a later write at offset {offset}");
                    return Err(WalError::damaged(&segment.path, tail.offset.into(), reason));
                }
            }
        }
        let is_last = at + piece.len() as u64 >= window.file_len();
        if is_last {
            return Ok(is_torn);
        }
        // The next piece begins a header's length earlier: a header may stand across the border.
        at += (segment::CHUNK_BYTES - (record::HEADER_BYTES - 1)) as u64;
    }
}
