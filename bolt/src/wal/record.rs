//! The segments of a log as one sequence of records, each checked against the checksum of all before it.

use super::message::Record;
use crate::error::Error;
use bytes::{Bytes, BytesMut};
use prost::{DecodeError, Message};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

pub(crate) const METADATA: i64 = 1;
pub(crate) const ENTRY: i64 = 2;
pub(crate) const STATE: i64 = 3;
pub(crate) const CRC: i64 = 4;
pub(crate) const SNAPSHOT: i64 = 5;

/// Bytes of the word before a record.
const FRAME: u64 = 8;
const LENGTH: u64 = (1 << 56) - 1;
/// Most bytes of a record, which is read into memory. etcd's own limit is that of a request, 1.5 MiB.
const MAX_RECORD: u64 = 512 << 20;
/// What a disk writes as a whole: a torn write leaves one of them without anything.
const SECTOR: u64 = 512;
/// Segments of a log that are read; etcd keeps 5 of 64 MB unless told otherwise.
const MAX_SEGMENTS: usize = 100_000;
const READ_BUFFER: usize = 1 << 16;

/// What is wrong with the log.
#[derive(Debug, thiserror::Error)]
pub enum LogFault {
    /// No segment that goes far enough back.
    #[error("no segment holds index {0}: the log was purged behind what the database has")]
    Purged(u64),
    /// A directory with too many segments.
    #[error("more than {limit} segments")]
    TooManySegments {
        /// How many are read.
        limit: usize,
    },
    /// A segment between two others is not there.
    #[error("segment {0:016x} is missing")]
    MissingSegment(u64),
    /// A record's length is not possible.
    #[error("offset {offset}: a record of {len} bytes, more than there are or the limit of {limit}")]
    Length {
        /// Where.
        offset: u64,
        /// What it says.
        len: u64,
        /// Most bytes.
        limit: u64,
    },
    /// Not the checksum of what was read.
    #[error("offset {offset}: the checksum does not match")]
    Checksum {
        /// Where.
        offset: u64,
    },
    /// No record, or no message in it.
    #[error("offset {offset}: cannot be decoded: {source}")]
    Decode {
        /// Where.
        offset: u64,
        /// Why.
        source: DecodeError,
    },
    /// A record or entry of a kind that etcd does not write, or not without data.
    #[error("offset {offset}: etcd writes no record of kind {kind} like this one")]
    Kind {
        /// Where.
        offset: u64,
        /// What it says.
        kind: i64,
    },
    /// Segments of different members or clusters.
    #[error("offset {offset}: another member's log goes on here")]
    Metadata {
        /// Where.
        offset: u64,
    },
    /// An entry is missing.
    #[error("offset {offset}: index {found} follows on {last}")]
    Gap {
        /// Where.
        offset: u64,
        /// The index of the entry.
        found: u64,
        /// The index before it.
        last: u64,
    },
    /// An entry takes the place of one that cannot change any more.
    #[error("offset {offset}: index {found} is replaced, and {commit} was committed")]
    CommittedReplaced {
        /// Where.
        offset: u64,
        /// The index of the entry.
        found: u64,
        /// The last committed index.
        commit: u64,
    },
    /// More entries were replaced than leaders change.
    #[error("more than {limit} times entries were replaced by others")]
    TooManyReplaced {
        /// Most times.
        limit: usize,
    },
    /// The log ends before what it says is committed.
    #[error("the log ends at index {last}, and {commit} was committed")]
    EndsEarly {
        /// The last entry.
        last: u64,
        /// The last committed index.
        commit: u64,
    },
    /// The log is another one than a moment ago.
    #[error("the log changed while it was read: a member is running")]
    Changed,
}

/// A file of the log.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    sequence: u64,
    /// The index of the entry that follows when it begins.
    index: u64,
}

/// The segments from the one on that holds an index, in order.
pub(crate) fn segments(directory: &Path, index: u64) -> Result<Vec<Segment>, Error> {
    let (io, fail) = (Error::io(directory), Error::log(directory));
    let mut all = Vec::new();
    for file in std::fs::read_dir(directory).map_err(&io)? {
        let path = file.map_err(&io)?.path();
        if let Some((sequence, index)) = path.file_name().and_then(|name| name.to_str()).and_then(parse_name) {
            all.push(Segment { path, sequence, index });
        }
        if all.len() > MAX_SEGMENTS {
            return Err(fail(LogFault::TooManySegments { limit: MAX_SEGMENTS }));
        }
    }
    all.sort_by_key(|segment| segment.sequence);
    let first = all.iter().rposition(|segment| segment.index <= index);
    let needed = all.split_off(first.ok_or_else(|| fail(LogFault::Purged(index)))?);
    let gap = needed.windows(2).find(|pair| pair[1].sequence != pair[0].sequence + 1);
    match gap {
        Some(pair) => Err(fail(LogFault::MissingSegment(pair[0].sequence + 1))),
        None => Ok(needed),
    }
}

/// Sequence and index of a segment; other files in the directory have other names.
fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (sequence, index) = name.strip_suffix(".wal")?.split_once('-')?;
    let number = |text: &str| (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
    Some((number(sequence)?, number(index)?))
}

/// A record and where it was.
pub(crate) struct Located {
    pub(crate) record: Record,
    /// Which of the segments.
    pub(crate) segment: usize,
    pub(crate) offset: u64,
}

/// Reads records one after the other.
pub(crate) struct Records<'a> {
    segments: &'a [Segment],
    /// The one that is open.
    segment: usize,
    file: Option<BufReader<File>>,
    len: u64,
    offset: u64,
    crc: u32,
    /// Where the last write was cut off.
    pub(crate) torn: Option<u64>,
}

impl<'a> Records<'a> {
    pub(crate) fn new(segments: &'a [Segment]) -> Self {
        Self { segments, segment: 0, file: None, len: 0, offset: 0, crc: 0, torn: None }
    }

    /// The next record; none at the end, which may be a torn write.
    pub(crate) fn next(&mut self) -> Result<Option<Located>, Error> {
        while let Some(segment) = self.segments.get(self.segment) {
            let io = Error::io(&segment.path);
            let file = match &mut self.file {
                Some(file) => file,
                none => {
                    let file = File::open(&segment.path).map_err(&io)?;
                    self.len = file.metadata().map_err(&io)?.len();
                    self.offset = 0;
                    none.insert(BufReader::with_capacity(READ_BUFFER, file))
                }
            };
            let rest = self.len.saturating_sub(self.offset);
            let mut word = [0; FRAME as usize];
            if rest >= FRAME {
                file.read_exact(&mut word).map_err(&io)?;
            }
            match u64::from_le_bytes(word) {
                // Also a word that a crash has cut.
                0 => {
                    if self.segment + 1 == self.segments.len() && !is_zero_to_end(file).map_err(&io)? {
                        return Ok(self.tear());
                    }
                    (self.segment, self.file) = (self.segment + 1, None);
                }
                word => return self.record(word, rest - FRAME),
            }
        }
        Ok(None)
    }

    fn record(&mut self, word: u64, rest: u64) -> Result<Option<Located>, Error> {
        let Self { segment, offset, .. } = *self;
        let path = &self.segments[segment].path;
        let fail = Error::log(path);
        let len = word & LENGTH;
        let padding = if word >> 63 == 1 { word >> 56 & 0b111 } else { 0 };
        let Some(file) = &mut self.file else { return Ok(None) };
        if len > MAX_RECORD || len + padding > rest {
            // A file that was cut inside its last record: what etcd repairs by cutting it at the last whole record.
            if self.is_last() && len <= MAX_RECORD {
                return Ok(self.tear());
            }
            return Err(fail(LogFault::Length { offset, len, limit: MAX_RECORD.min(rest) }));
        }
        let mut bytes = BytesMut::zeroed((len + padding) as usize);
        file.read_exact(&mut bytes).map_err(Error::io(path))?;
        let bytes = bytes.freeze();
        let record = match Record::decode(bytes.slice(..len as usize)) {
            Ok(record) => record,
            Err(_) if self.is_torn(&bytes) => return Ok(self.tear()),
            Err(source) => return Err(fail(LogFault::Decode { offset, source })),
        };
        if record.kind == CRC {
            // The first one says where the sum begins, as what was before it was not read.
            if (segment, offset) != (0, 0) && record.crc != self.crc {
                return Err(fail(LogFault::Checksum { offset }));
            }
            self.crc = record.crc;
        } else {
            let crc = crc32c::crc32c_append(self.crc, &record.data);
            if crc != record.crc {
                if self.is_torn(&bytes) {
                    return Ok(self.tear());
                }
                return Err(fail(LogFault::Checksum { offset }));
            }
            self.crc = crc;
        }
        self.offset += FRAME + len + padding;
        Ok(Some(Located { record, segment, offset }))
    }

    fn is_last(&self) -> bool {
        self.segment + 1 == self.segments.len()
    }

    /// True when a sector of the record was never written: a crash cut the last write off. etcd decides so.
    fn is_torn(&self, bytes: &Bytes) -> bool {
        let first = (SECTOR - (self.offset + FRAME) % SECTOR) as usize;
        let (first, rest) = bytes.split_at(first.min(bytes.len()));
        let is_zero = |sector: &[u8]| !sector.is_empty() && sector.iter().all(|byte| *byte == 0);
        self.is_last() && (is_zero(first) || rest.chunks(SECTOR as usize).any(is_zero))
    }

    /// The log ends here, and what a write left behind this place does not count.
    fn tear(&mut self) -> Option<Located> {
        self.torn = Some(self.offset);
        self.segment = self.segments.len();
        None
    }
}

/// False when something is left behind the end of the log: a write whose first sector is missing.
fn is_zero_to_end(file: &mut impl BufRead) -> std::io::Result<bool> {
    loop {
        let bytes = file.fill_buf()?;
        if bytes.is_empty() {
            return Ok(true);
        }
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        let len = bytes.len();
        file.consume(len);
    }
}
