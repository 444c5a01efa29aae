//! The entries of a log behind an index, without those that later ones have replaced.
//!
//! The log is read twice: [`Log::open`] checks all of it and takes note of where entries were replaced,
//! [`Log::entries`] gives out those that count. So memory does not grow with the log.

use super::message::{HardState, Metadata, Payload, RawEntry, SnapshotRecord};
use super::record::{CRC, ENTRY, Located, LogFault, METADATA, Records, SNAPSHOT, STATE, Segment, segments};
use crate::error::Error;
use prost::Message;
use std::path::{Path, PathBuf};

/// Times that entries were replaced; each needs a leader that was not followed by a majority.
const MAX_REPLACED: usize = 1_000_000;

/// The log of a member that does not run, behind an index.
#[derive(Debug)]
pub struct Log {
    directory: PathBuf,
    segments: Vec<Segment>,
    metadata: Metadata,
    bounds: Bounds,
    torn: Option<Torn>,
    replaced: Vec<Replaced>,
}

/// How far a log goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// What the caller has; entries up to here are left out.
    pub after: u64,
    /// The last entry, committed or not; `after` when there is none behind it.
    pub last: u64,
    /// Term, vote and the last index that was noted as committed.
    pub state: HardState,
    /// The last snapshot up to the committed index.
    pub snapshot: u64,
}

/// A last write that a crash has cut off. Nobody was told that it was durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub path: PathBuf,
    /// Where the write begins that does not count.
    pub offset: u64,
}

/// An entry took the place of another one, and of all behind it.
#[derive(Clone, Copy, Debug)]
struct Replaced {
    /// Place of the new entry among all entries that were read.
    ordinal: u64,
    /// The smallest index that was replaced then or later.
    index: u64,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogEntry {
    /// Its raft index.
    pub index: u64,
    /// Its raft term.
    pub term: u64,
    /// What it asks for.
    pub payload: Payload,
}

/// What is known while the log is read for the first time.
struct Scan {
    metadata: Option<Metadata>,
    bounds: Bounds,
    /// The last index, of whichever entry.
    last: Option<u64>,
    snapshots: Vec<u64>,
    ordinal: u64,
    replaced: Vec<Replaced>,
}

impl Log {
    /// Reads and checks the log from the segment on that holds the entry behind `after`.
    ///
    /// # Errors
    /// When that segment was purged, or the log is damaged or ends before what it says is committed. A last write that was cut off is none: see
    /// [`Log::torn`].
    pub fn open(directory: &Path, after: u64) -> Result<Self, Error> {
        let segments = segments(directory, after.saturating_add(1))?;
        let bounds = Bounds { after, last: after, ..Bounds::default() };
        let mut scan =
            Scan { metadata: None, bounds, last: None, snapshots: Vec::new(), ordinal: 0, replaced: Vec::new() };
        let mut records = Records::new(&segments);
        while let Some(located) = records.next()? {
            let fail = Error::log(&segments[located.segment].path);
            scan.record(&located).map_err(fail)?;
        }
        let torn = records.torn.zip(segments.last());
        let torn = torn.map(|(offset, segment)| Torn { path: segment.path.clone(), offset });
        let Scan { metadata, mut bounds, last, snapshots, mut replaced, .. } = scan;
        let (last, commit) = (last.unwrap_or(0).max(after), bounds.state.commit);
        if last < commit {
            return Err(Error::log(directory)(LogFault::EndsEarly { last, commit }));
        }
        bounds.snapshot = snapshots.into_iter().filter(|index| *index <= bounds.state.commit).max().unwrap_or(0);
        // What counts of each place is the smallest index that was replaced there or later.
        let mut smallest = u64::MAX;
        for place in replaced.iter_mut().rev() {
            smallest = smallest.min(place.index);
            place.index = smallest;
        }
        let metadata = metadata.unwrap_or_default();
        Ok(Self { directory: directory.to_owned(), segments, metadata, bounds, torn, replaced })
    }

    /// Whose log it is.
    pub fn metadata(&self) -> Metadata {
        self.metadata
    }

    /// How far it goes.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The last write, if a crash has cut it off.
    pub fn torn(&self) -> Option<&Torn> {
        self.torn.as_ref()
    }

    /// The entries behind [`Bounds::after`] up to an index, in order and without a gap.
    pub fn entries(&self, last: u64) -> Entries<'_> {
        let records = Records::new(&self.segments);
        Entries { log: self, records, ordinal: 0, replaced: 0, next: self.bounds.after.saturating_add(1), last }
    }
}

impl Scan {
    fn record(&mut self, located: &Located) -> Result<(), LogFault> {
        let offset = located.offset;
        let undecodable = |source| LogFault::Decode { offset, source };
        let data = &located.record.data;
        match located.record.kind {
            ENTRY => self.entry(&RawEntry::decode(data.clone()).map_err(undecodable)?, offset)?,
            STATE => self.bounds.state = HardState::decode(data.clone()).map_err(undecodable)?,
            METADATA => {
                let metadata = Metadata::decode(data.clone()).map_err(undecodable)?;
                if *self.metadata.get_or_insert(metadata) != metadata {
                    return Err(LogFault::Metadata { offset });
                }
            }
            SNAPSHOT => {
                let snapshot = SnapshotRecord::decode(data.clone()).map_err(undecodable)?;
                // A snapshot from the leader takes the place of entries that never came.
                self.last = self.last.max(Some(snapshot.index));
                // Only the last one up to the commit counts, which grows: older ones need not be kept.
                let commit = self.bounds.state.commit;
                if snapshot.index <= commit {
                    self.snapshots.retain(|index| *index > commit);
                }
                self.snapshots.push(snapshot.index);
            }
            CRC => {}
            kind => return Err(LogFault::Kind { offset, kind }),
        }
        Ok(())
    }

    fn entry(&mut self, entry: &RawEntry, offset: u64) -> Result<(), LogFault> {
        let (found, after) = (entry.index, self.bounds.after);
        // Before the first entry there is what the caller has, or older ones that it does not ask for.
        let last = self.last.unwrap_or(found.saturating_sub(1).min(after)).max(after.min(found.saturating_sub(1)));
        if found > last.saturating_add(1) {
            return Err(LogFault::Gap { offset, found, last });
        }
        if found <= last {
            // The type of a record is not in its checksum: a commit that is read as an entry would replace one.
            let commit = self.bounds.state.commit;
            if found <= commit {
                return Err(LogFault::CommittedReplaced { offset, found, commit });
            }
            if self.replaced.len() == MAX_REPLACED {
                return Err(LogFault::TooManyReplaced { limit: MAX_REPLACED });
            }
            self.replaced.push(Replaced { ordinal: self.ordinal, index: found });
        }
        self.last = Some(found);
        self.bounds.last = found.max(after);
        self.ordinal += 1;
        Ok(())
    }
}

/// Entries that count, in order. Ends after the first error.
pub struct Entries<'a> {
    log: &'a Log,
    records: Records<'a>,
    /// How many entries were read.
    ordinal: u64,
    /// The first place in [`Log::replaced`] that is behind the current entry.
    replaced: usize,
    /// The index that has to come.
    next: u64,
    last: u64,
}

impl Entries<'_> {
    fn advance(&mut self) -> Result<LogEntry, Error> {
        while let Some(Located { record, segment, offset }) = self.records.next()? {
            if record.kind != ENTRY {
                continue;
            }
            let fail = Error::log(&self.log.segments[segment].path);
            let undecodable = |source| LogFault::Decode { offset, source };
            let entry = RawEntry::decode(record.data).map_err(undecodable).map_err(&fail)?;
            let ordinal = self.ordinal;
            self.ordinal += 1;
            let replaced = &self.log.replaced;
            while replaced.get(self.replaced).is_some_and(|place| place.ordinal <= ordinal) {
                self.replaced += 1;
            }
            let was_replaced = replaced.get(self.replaced).is_some_and(|place| place.index <= entry.index);
            if was_replaced || entry.index < self.next {
                continue;
            }
            if entry.index > self.next {
                return Err(fail(LogFault::Gap { offset, found: entry.index, last: self.next - 1 }));
            }
            let payload = Payload::decode(entry.kind, &entry.data).map_err(undecodable).map_err(&fail)?;
            let kind = i64::from(entry.kind);
            let payload = payload.ok_or(LogFault::Kind { offset, kind }).map_err(&fail)?;
            self.next += 1;
            return Ok(LogEntry { index: entry.index, term: entry.term, payload });
        }
        let (last, commit) = (self.next - 1, self.last);
        Err(Error::log(&self.log.directory)(LogFault::EndsEarly { last, commit }))
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<LogEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next > self.last {
            return None;
        }
        let entry = self.advance();
        if entry.is_err() {
            self.last = 0;
        }
        Some(entry)
    }
}
