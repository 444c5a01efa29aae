//! One file of the log: its name, header and how its bytes are read.
//!
//! A segment is renamed to its final name only when its header is durable and the whole file is written and durable: a
//! broken header, or a file that ends early, is damage and never the trace of a crash. Behind the header stand zeros, or
//! the records of an earlier life, which no checksum of this one fits.

use std::io;
use std::path::PathBuf;

use super::disk::DiskFile;

/// Bytes before the first record.
pub(super) const HEADER_BYTES: usize = 64;
/// Written into every header; a segment of another version is refused.
pub(super) const FORMAT_VERSION: u32 = 1;

/// Entries hold values and passwords: only the member's user reads them.
pub(super) const FILE_MODE: u32 = 0o600;
/// The same for the log's directory.
pub(super) const DIR_MODE: u32 = 0o700;

const MAGIC: &[u8; 8] = b"CLEATWAL";
const CHECK: usize = 60;
/// How much is read or zeroed at once.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

/// A segment of the log, open for reading (and writing, when it is the last one).
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: DiskFile,
    pub(super) path: PathBuf,
    pub(super) sequence: u64,
    /// Checksum of the header: seeds the segment's checksums, so that no record of another segment,
    /// or of another life of this file, can pass for one of this segment.
    pub(super) salt: u32,
}

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) sequence: u64,
    /// Index that the next entry had when the segment was begun.
    pub(super) first_index: u64,
    /// Chain value at the end of the segment before.
    pub(super) previous_chain: u32,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.previous_chain.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_index.to_le_bytes());
        let check = crc32c::crc32c(&bytes[..CHECK]);
        bytes[CHECK..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads a header and its checksum, the segment's salt.
    ///
    /// # Errors
    /// A text that says what is wrong.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, u32), String> {
        let bytes: &[u8; HEADER_BYTES] = bytes.try_into().map_err(|_| "shorter than a segment header".to_owned())?;
        if &bytes[..8] != MAGIC {
            return Err("not a segment of this log".to_owned());
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("invariant: four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("invariant: eight bytes"));
        let check = u32_at(CHECK);
        if check != crc32c::crc32c(&bytes[..CHECK]) {
            return Err("wrong checksum of the segment header".to_owned());
        }
        if u32_at(8) != FORMAT_VERSION {
            return Err(format!("format version {} (this program reads {FORMAT_VERSION})", u32_at(8)));
        }
        Ok((Self { sequence: u64_at(16), first_index: u64_at(24), previous_chain: u32_at(12) }, check))
    }
}

/// `<sequence>-<first index>.wal`, both as 16 hexadecimal digits.
pub(super) fn file_name(header: &SegmentHeader) -> String {
    format!("{:016x}-{:016x}.wal", header.sequence, header.first_index)
}

/// Sequence and first index of a segment's file name.
pub(super) fn parse_file_name(name: &str) -> Option<(u64, u64)> {
    let (sequence, index) = name.strip_suffix(".wal")?.split_once('-')?;
    let number = |text: &str| {
        let is_plain = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        is_plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
    };
    Some((number(sequence)?, number(index)?))
}

/// Overwrites `from..to` with zeros and makes them durable piece by piece, so that a large dirty
/// range does not hold up the log's own small syncs.
pub(super) fn zero(file: &DiskFile, from: u64, to: u64) -> io::Result<()> {
    const SYNC_EVERY: u64 = 4;
    let zeros = vec![0; CHUNK_BYTES];
    let mut at = from;
    let mut pieces = 0;
    while at < to {
        let len = (to - at).min(CHUNK_BYTES as u64);
        file.write_all_at(&zeros[..len as usize], at)?;
        at += len;
        pieces += 1;
        if pieces % SYNC_EVERY == 0 {
            file.sync_data()?;
        }
    }
    file.sync_all()
}

/// Reads a file in large pieces, whatever lengths its content claims.
pub(super) struct Window<'a> {
    file: &'a DiskFile,
    file_len: u64,
    start: u64,
    buf: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a DiskFile) -> io::Result<Self> {
        // Offsets are 32 bits wide: nothing is written beyond, so nothing is read there.
        let file_len = file.len()?.min(u64::from(u32::MAX));
        Ok(Self { file, file_len, start: 0, buf: Vec::new() })
    }

    pub(super) fn file_len(&self) -> u64 {
        self.file_len
    }

    /// The bytes at `offset`, or `None` when the file ends before `offset + len`.
    pub(super) fn get(&mut self, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let end = offset.saturating_add(len as u64);
        if end > self.file_len {
            return Ok(None);
        }
        if offset < self.start || end > self.start + self.buf.len() as u64 {
            let available = self.file_len - offset;
            self.buf.resize(available.min(len.max(CHUNK_BYTES) as u64) as usize, 0);
            self.start = offset;
            if let Err(e) = self.file.read_exact_at(&mut self.buf, offset) {
                self.buf.clear();
                return Err(e);
            }
        }
        let at = (offset - self.start) as usize;
        Ok(Some(&self.buf[at..at + len]))
    }

    /// The rest of the piece that holds `offset`; empty at the end of the file.
    pub(super) fn piece(&mut self, offset: u64) -> io::Result<&[u8]> {
        let len = self.file_len.saturating_sub(offset).min(CHUNK_BYTES as u64) as usize;
        Ok(self.get(offset, len)?.unwrap_or_default())
    }
}
