//! The stream cut into frames again, from pieces of any size.
//!
//! Knows lengths and checksums, not rows. Memory: one frame, and never more than has arrived.

use super::{FRAME_BYTES_MAX, FRAME_HEAD, HEADER, MAGIC, PADDING, VERSION};
use crate::error::Fault;
use std::borrow::Cow;

#[derive(Clone, Copy, Debug)]
enum Stage {
    Header,
    Head,
    Rows {
        len: usize,
        sum: u32,
    },
    /// Zeros that are left.
    Padding(u64),
}

/// Reads frames from a stream.
pub(crate) struct Frames {
    stage: Stage,
    /// What has arrived of the piece at hand.
    buffer: Vec<u8>,
    /// Checksum of the rows of all whole frames.
    crc: u32,
    /// Whole frames of rows, and the bytes of the stream up to their end.
    whole: u64,
    bytes: u64,
}

impl Frames {
    pub(crate) fn new() -> Self {
        Self { stage: Stage::Header, buffer: Vec::new(), crc: 0, whole: 0, bytes: 0 }
    }

    /// Whole frames so far, the bytes up to the end of the last, and the checksum of their rows.
    pub(crate) fn whole(&self) -> (u64, u64, u32) {
        (self.whole, self.bytes, self.crc)
    }

    /// Forgets what follows the last whole frame; without one, everything.
    pub(crate) fn rewind(&mut self) {
        self.buffer.clear();
        self.stage = Stage::Head;
        if self.whole == 0 {
            *self = Self::new();
        }
    }

    /// True once the end has arrived; what can follow are zeros.
    pub(crate) fn ended(&self) -> bool {
        matches!(self.stage, Stage::Padding(_))
    }

    /// True once the last byte has arrived.
    pub(crate) fn complete(&self) -> bool {
        matches!(self.stage, Stage::Padding(0))
    }

    /// Bytes that the piece at hand still needs.
    pub(crate) fn missing(&self) -> usize {
        let piece = match self.stage {
            Stage::Header => HEADER,
            Stage::Head => FRAME_HEAD,
            Stage::Rows { len, .. } => len,
            Stage::Padding(left) => return left as usize,
        };
        piece - self.buffer.len()
    }

    /// Takes bytes off `input`, until a frame is whole: then its rows; or until there are no more.
    ///
    /// # Errors
    /// [`Fault::Snapshot`]. Nothing more can be read then.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, Fault> {
        loop {
            let (taken, rest) = input.split_at(self.missing().min(input.len()));
            *input = rest;
            if let Stage::Padding(left) = self.stage {
                return self.pad(taken, left, rest).map(|()| None);
            }
            let piece = if self.buffer.is_empty() && taken.len() == self.missing() {
                Cow::Borrowed(taken)
            } else {
                // Grows with what really arrives: a damaged length must not allocate a gigabyte.
                self.buffer.extend_from_slice(taken);
                if self.missing() > 0 {
                    return Ok(None);
                }
                Cow::Owned(std::mem::take(&mut self.buffer))
            };
            match self.stage {
                Stage::Header => self.header(&piece)?,
                Stage::Head => self.head(&piece)?,
                Stage::Rows { len, sum } => {
                    self.crc = check(self.crc, &piece, sum)?;
                    self.whole += 1;
                    self.bytes += (if self.whole == 1 { HEADER } else { 0 } + FRAME_HEAD + len) as u64;
                    self.stage = Stage::Head;
                    return Ok(Some(piece));
                }
                Stage::Padding(_) => {}
            }
        }
    }

    fn header(&mut self, header: &[u8]) -> Result<(), Fault> {
        let Some(version) = header.strip_prefix(MAGIC) else {
            return Err(Fault::Snapshot("it does not begin like a snapshot of Cleat".into()));
        };
        if version != VERSION.to_be_bytes() {
            return Err(Fault::Snapshot(format!("version {version:?} is not known to this release")));
        }
        self.stage = Stage::Head;
        Ok(())
    }

    fn head(&mut self, head: &[u8]) -> Result<(), Fault> {
        let int = |bytes: &[u8]| bytes.iter().fold(0_u32, |int, byte| int << 8 | u32::from(*byte));
        let (len, sum) = (int(&head[..4]), int(&head[4..]));
        if len > FRAME_BYTES_MAX {
            return Err(Fault::Snapshot(format!("a frame of {len} bytes is not plausible")));
        }
        self.stage = if len > 0 {
            Stage::Rows { len: len as usize, sum }
        } else {
            check(self.crc, &[], sum)?;
            let end = self.bytes.max(HEADER as u64) + FRAME_HEAD as u64;
            Stage::Padding(end.next_multiple_of(PADDING) - end)
        };
        Ok(())
    }

    fn pad(&mut self, zeros: &[u8], left: u64, rest: &[u8]) -> Result<(), Fault> {
        if !rest.is_empty() || zeros.iter().any(|byte| *byte != 0) {
            return Err(Fault::Snapshot("something follows its end".into()));
        }
        self.stage = Stage::Padding(left - zeros.len() as u64);
        Ok(())
    }
}

fn check(crc: u32, rows: &[u8], sum: u32) -> Result<u32, Fault> {
    let crc = crc32c::crc32c_append(crc, rows);
    if crc == sum {
        return Ok(crc);
    }
    Err(Fault::Snapshot("a checksum is wrong: a frame is damaged, missing or out of place".into()))
}
