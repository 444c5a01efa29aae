//! Corrects the `:authority` of clients that put a URL or a path there.
//!
//! grpc-go as of etcd 3.4 uses the endpoint as it was given: `etcdctl endpoint status` and `defrag` send
//! `:authority: http://127.0.0.1:2379`, and calls over a Unix socket send its path. etcd takes that; the HTTP/2
//! implementation below hyper refuses the stream as malformed. So `socket` shows the bytes of each HTTP/2 connection
//! to an [`AuthorityFilter`] until the first HEADERS frame has passed. If nothing was wrong, the filter is dropped
//! and the connection is read without it; otherwise it stays and corrects this and all later HEADERS frames.
//!
//! Whatever the filter does not understand it hands on unchanged, for hyper to judge. Header blocks with
//! CONTINUATION frames are among that: these clients' headers are some hundred bytes.

use super::hpack::{find_authority, put_string};
use tokio::io::ReadBuf;

const FRAME_HEAD_BYTES: usize = 9;
/// The default, and we announce no other.
const MAX_FRAME_BYTES: usize = 16_384;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
/// For values without one, that is, Unix sockets. Short, because it must not be longer than the value.
const NO_AUTHORITY: &[u8] = b"unix";

/// Follows the frames that a client sends. Holds at most one HEADERS frame besides the bytes of one read.
#[derive(Debug, Default)]
pub(super) struct AuthorityFilter {
    /// Bytes of the current frame that pass unseen.
    skipping: usize,
    /// The beginning of a frame: of its head, or of a HEADERS frame.
    held: Vec<u8>,
    /// What may be read, and how much of it has been.
    ready: Vec<u8>,
    taken: usize,
    mode: Mode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// No HEADERS frame has passed.
    #[default]
    Looking,
    /// The first authority was wrong. More follow when the client's table of headers has dropped the one before.
    Correcting,
    /// There is nothing to correct.
    Done,
}

impl AuthorityFilter {
    /// Takes the next bytes of the client, which follow the preface.
    pub(super) fn feed(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.mode == Mode::Done {
                self.ready.extend_from_slice(data);
                return;
            }
            if self.skipping > 0 {
                let passing = self.skipping.min(data.len());
                self.ready.extend_from_slice(&data[..passing]);
                self.skipping -= passing;
                data = &data[passing..];
                continue;
            }
            let wanted = FrameHead::of(&self.held).map_or(0, |head| head.length) + FRAME_HEAD_BYTES;
            let more = (wanted - self.held.len()).min(data.len());
            self.held.extend_from_slice(&data[..more]);
            data = &data[more..];
            if self.held.len() == wanted {
                self.pass_held();
            }
        }
    }

    /// Acts on a complete frame head or a complete HEADERS frame.
    fn pass_held(&mut self) {
        let Some(head) = FrameHead::of(&self.held) else { return };
        let is_whole = self.held.len() == FRAME_HEAD_BYTES + head.length;
        if head.kind == HEADERS && head.is_readable() {
            if !is_whole {
                return;
            }
            if let Some(corrected) = correct(&self.held, head) {
                self.held = corrected;
                self.mode = Mode::Correcting;
            } else if self.mode == Mode::Looking {
                self.mode = Mode::Done;
            }
        } else {
            self.skipping = head.length;
            if head.kind == HEADERS && self.mode == Mode::Looking {
                self.mode = Mode::Done;
            }
        }
        self.ready.append(&mut self.held);
    }

    /// The client sends no more: a frame that is not complete passes as it is.
    pub(super) fn finish(&mut self) {
        self.ready.append(&mut self.held);
        self.mode = Mode::Done;
    }

    /// Hands on what may be read. False if there is nothing yet.
    pub(super) fn read(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let ready = &self.ready[self.taken..];
        let len = ready.len().min(buf.remaining());
        buf.put_slice(&ready[..len]);
        self.taken += len;
        if self.taken == self.ready.len() {
            self.ready.clear();
            self.taken = 0;
        }
        len > 0
    }

    /// Whether the rest of the connection can do without the filter.
    pub(super) fn is_over(&self) -> bool {
        self.mode == Mode::Done && self.ready.is_empty()
    }
}

#[derive(Clone, Copy, Debug)]
struct FrameHead {
    length: usize,
    kind: u8,
    flags: u8,
}

impl FrameHead {
    /// None if it is not complete.
    fn of(frame: &[u8]) -> Option<Self> {
        let [high, middle, low, kind, flags, ..] = *frame.get(..FRAME_HEAD_BYTES)? else { return None };
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        Some(Self { length, kind, flags })
    }

    /// Whether a HEADERS frame holds all of its header block, within the bound.
    fn is_readable(self) -> bool {
        self.flags & END_HEADERS != 0 && self.length <= MAX_FRAME_BYTES
    }
}

/// The frame with the right authority; None if nothing is wrong with it or something is malformed.
///
/// The representation stays what it was. If the client indexes the header, hyper's table gets the corrected one, and
/// later references to it are right. That entry is smaller than the client believes, so hyper's table drops old
/// entries later than the client's, never earlier: the client's table is always the newer part of hyper's.
fn correct(frame: &[u8], head: FrameHead) -> Option<Vec<u8>> {
    let mut start = FRAME_HEAD_BYTES;
    let mut padding = 0;
    if head.flags & PADDED != 0 {
        padding = usize::from(*frame.get(start)?);
        start += 1;
    }
    if head.flags & PRIORITY != 0 {
        start += PRIORITY_BYTES;
    }
    let block = frame.get(start..frame.len().checked_sub(padding)?)?;
    let found = find_authority(block)?;
    let authority = authority_in(&found.value)?;
    let mut corrected = Vec::with_capacity(frame.len() + authority.len());
    corrected.extend_from_slice(&frame[..start + found.place.start]);
    put_string(&mut corrected, authority);
    corrected.extend_from_slice(&frame[start + found.place.end..]);
    // Not always shorter: the value may have been Huffman coded.
    let length = corrected.len() - FRAME_HEAD_BYTES;
    if length > MAX_FRAME_BYTES {
        return None;
    }
    corrected[..3].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
    Some(corrected)
}

/// None if the value may be an authority already, or stays wrong.
fn authority_in(value: &[u8]) -> Option<&[u8]> {
    let rest = if value.starts_with(b"/") { value } else { after_scheme(value)? };
    let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
    let authority = if end == 0 { NO_AUTHORITY } else { &rest[..end] };
    // Invariant: an entry in the table of headers never grows.
    (authority.len() <= value.len()).then_some(authority)
}

fn after_scheme(url: &[u8]) -> Option<&[u8]> {
    let colon = url.windows(3).position(|three| three == b"://")?;
    let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    (colon > 0 && url[..colon].iter().all(is_scheme)).then_some(&url[colon + 3..])
}

#[cfg(test)]
mod tests;
