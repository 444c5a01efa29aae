//! Where each entry stands: `(segment, offset)` of every entry that is not purged, in memory.
//!
//! Kept by the writer in the order of the stream, after the bytes are durable. 16 bytes an entry.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::super::types::Entry;
use super::record;
use super::segment::{Segment, Window};

/// Place of one record, and the chain value before it, with which it can be checked on its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Location {
    pub(super) sequence: u64,
    pub(super) offset: u32,
    pub(super) previous_chain: u32,
}

/// Locations of the entries `first..first + locations.len()`, and the open segments.
#[derive(Debug, Default)]
pub(super) struct EntryIndex {
    first: u64,
    locations: VecDeque<Location>,
    /// Invariant: holds every segment that a location names, and the one being written.
    segments: BTreeMap<u64, Arc<Segment>>,
}

impl EntryIndex {
    pub(super) fn add_segment(&mut self, segment: Arc<Segment>) {
        self.segments.insert(segment.sequence, segment);
    }

    /// Index of the first entry, when there is one.
    pub(super) fn first(&self) -> Option<u64> {
        (!self.locations.is_empty()).then_some(self.first)
    }

    /// The index that the next entry must have; any, while there is none.
    pub(super) fn expected(&self) -> Option<u64> {
        self.first().map(|first| first + self.locations.len() as u64)
    }

    pub(super) fn push(&mut self, index: u64, location: Location) {
        if self.locations.is_empty() {
            self.first = index;
        }
        self.locations.push_back(location);
    }

    /// Forgets the entries from `index` on.
    pub(super) fn truncate_from(&mut self, index: u64) {
        self.locations.truncate(index.saturating_sub(self.first) as usize);
    }

    /// Forgets the entries before `index`.
    pub(super) fn purge_before(&mut self, index: u64) {
        let count = index.saturating_sub(self.first).min(self.locations.len() as u64);
        self.locations.drain(..count as usize);
        self.first += count;
    }

    /// Takes out the segments that hold no entry any more, oldest first.
    pub(super) fn take_obsolete(&mut self) -> Vec<Arc<Segment>> {
        let Some(last) = self.segments.keys().next_back().copied() else { return Vec::new() };
        let oldest_needed = self.locations.front().map_or(last, |location| location.sequence);
        let needed = self.segments.split_off(&oldest_needed);
        std::mem::replace(&mut self.segments, needed).into_values().collect()
    }

    /// Index of the first entry in the newest `count` segments, when they hold one.
    pub(super) fn first_in_newest(&self, count: u64) -> Option<u64> {
        let oldest = (*self.segments.keys().next_back()? + 1).saturating_sub(count);
        let before = self.locations.partition_point(|location| location.sequence < oldest);
        (before < self.locations.len()).then_some(self.first + before as u64)
    }

    /// Where the entries of `range` are. Holds the segments open until it is dropped.
    pub(super) fn locate(&self, range: Range<u64>) -> Located {
        let from = range.start.saturating_sub(self.first).min(self.locations.len() as u64) as usize;
        let to = range.end.saturating_sub(self.first).min(self.locations.len() as u64) as usize;
        let mut located = Located { segments: Vec::new() };
        for (i, location) in self.locations.range(from..to.max(from)).enumerate() {
            if located.segments.last().is_none_or(|(segment, _)| segment.sequence != location.sequence) {
                let segment = self.segments.get(&location.sequence).expect("invariant: located segments are open");
                located.segments.push((Arc::clone(segment), Vec::new()));
            }
            let index = self.first + (from + i) as u64;
            if let Some((_, places)) = located.segments.last_mut() {
                places.push((index, *location));
            }
        }
        located
    }
}

/// Entries of one segment, with their indexes.
type InSegment = (Arc<Segment>, Vec<(u64, Location)>);

/// Entries on disk, found but not yet read.
pub(in crate::raft) struct Located {
    segments: Vec<InSegment>,
}

impl Located {
    /// Reads the entries until `max_bytes` are exceeded, at least one. Blocks.
    ///
    /// # Errors
    /// When the disk fails, or what it returns is not what was written: a fault.
    pub(in crate::raft) fn read(&self, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (segment, places) in &self.segments {
            let mut window = Window::new(&segment.file)?;
            for (index, location) in places {
                let (entry, len) = read_entry(segment, &mut window, *index, location)?;
                bytes += len;
                if bytes > max_bytes && !entries.is_empty() {
                    return Ok(entries);
                }
                entries.push(entry);
            }
        }
        Ok(entries)
    }
}

fn read_entry(
    segment: &Segment,
    window: &mut Window<'_>,
    index: u64,
    location: &Location,
) -> io::Result<(Entry, usize)> {
    let damaged = |what: &str| {
        let place = format!("{} at offset {}", segment.path.display(), location.offset);
        io::Error::new(io::ErrorKind::InvalidData, format!("{place}: entry {index}: {what}"))
    };
    let offset = u64::from(location.offset);
    let header = window.get(offset, record::HEADER_BYTES)?;
    let header = header.and_then(|bytes| record::parse(bytes, segment.salt, location.offset));
    let header = header.ok_or_else(|| damaged("the record is gone"))?;
    let bytes = window.get(offset, header.record_len())?.ok_or_else(|| damaged("the file is cut"))?;
    if !record::follows(bytes, location.previous_chain) || header.index != index {
        return Err(damaged("wrong checksum"));
    }
    let entry = record::decode_entry(&header, &bytes[record::HEADER_BYTES..]).map_err(|what| damaged(&what))?;
    Ok((entry, header.record_len()))
}
