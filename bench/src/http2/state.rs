//! A connection without its socket: [`State::receive`] takes what was read, [`State::take_output`] gives what is to be
//! written, and calls open, feed and end streams in between.
//!
//! Both directions obey flow control: what exceeds the peer's windows waits in the stream, and the peer gets credit for
//! what was read. A protocol error loses the connection with all its streams.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Poll, Waker};

use bytes::Bytes;

use super::hpack::{Decoder, Encoder, TABLE_BYTES};
use crate::connection::CallError;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's header: length, type, flags, stream.
const FRAME_HEADER_BYTES: usize = 9;
/// The largest frame that is accepted, the protocol's default.
pub(super) const MAX_FRAME_BYTES: usize = 16_384;
/// The window that every stream and connection has at first.
const DEFAULT_WINDOW: i64 = 65_535;
/// Our window: large enough never to hold a server back. Credit is given for a quarter of it at a time.
const WINDOW: u32 = 64 << 20;
const CREDIT_STEP: usize = WINDOW as usize / 4;
/// Stream numbers are 31 bits.
const LAST_STREAM: u32 = (1 << 31) - 1;
/// The longest header block that is put together from several frames.
const MAX_BLOCK_BYTES: usize = 1 << 20;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

mod flag {
    /// Of DATA and HEADERS.
    pub(super) const END_STREAM: u8 = 1;
    /// Of SETTINGS and PING.
    pub(super) const ACK: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
    pub(super) const PADDED: u8 = 8;
    pub(super) const PRIORITY: u8 = 32;
}

mod setting {
    pub(super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(super) const ENABLE_PUSH: u16 = 2;
    pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(super) const MAX_FRAME_SIZE: u16 = 5;
}

/// `CANCEL`: the stream is not needed any more.
const CANCEL: u32 = 8;

/// One call.
#[derive(Default)]
pub(crate) struct Stream {
    /// Whether the body is kept, or only its length.
    is_kept: bool,
    /// What came and was not taken.
    body: Vec<u8>,
    /// Length of all that came.
    length: usize,
    /// Not credited yet.
    uncredited: usize,
    http_status: Option<u16>,
    grpc_status: Option<u16>,
    grpc_message: Bytes,
    is_ended: bool,
    /// Why the peer or the connection ended it.
    error: Option<CallError>,
    waker: Option<Waker>,
    send_window: i64,
    /// What the peer's windows do not allow to send yet.
    unsent: VecDeque<Bytes>,
    /// Whether the stream ends with what is unsent.
    ends_after: bool,
}

impl Stream {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn fail(&mut self, error: CallError) {
        if !self.is_ended {
            self.is_ended = true;
            self.error = Some(error);
            self.wake();
        }
    }

    /// What the call's trailers say.
    fn outcome(&mut self) -> Result<(), CallError> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        match self.grpc_status {
            Some(0) => Ok(()),
            Some(code) => Err(CallError::Status { code, message: percent_decode(&self.grpc_message) }),
            None => {
                let status = self.http_status.unwrap_or(0);
                Err(CallError::Unexpected(format!("not a gRPC answer (HTTP status {status}, no grpc-status)")))
            }
        }
    }
}

/// A header block that comes in several frames.
struct PartialBlock {
    stream: u32,
    ends_stream: bool,
    bytes: Vec<u8>,
}

/// The connection's state.
pub(crate) struct State {
    output: Vec<u8>,
    /// Of the driver's task.
    driver: Option<Waker>,
    /// Why the connection cannot be used any more.
    lost: Option<String>,
    /// Whether nobody uses the connection any more.
    is_abandoned: bool,
    streams: BTreeMap<u32, Stream>,
    next_stream: u32,
    max_streams: usize,
    /// Calls that wait for the settings or for a free stream.
    waiting: VecDeque<Waker>,
    send_window: i64,
    initial_send_window: i64,
    max_frame_bytes: usize,
    /// Streams with something unsent, in the order in which they may go on.
    blocked: VecDeque<u32>,
    uncredited: usize,
    /// Exists once the peer's settings are known.
    encoder: Option<Encoder>,
    /// Header blocks of methods as they were encoded last.
    blocks: Vec<(Bytes, Vec<u8>)>,
    decoder: Decoder,
    partial: Option<PartialBlock>,
}

impl State {
    pub(super) fn new() -> Self {
        let mut state = Self {
            output: PREFACE.to_vec(),
            driver: None,
            lost: None,
            is_abandoned: false,
            streams: BTreeMap::new(),
            next_stream: 1,
            max_streams: usize::MAX,
            waiting: VecDeque::new(),
            send_window: DEFAULT_WINDOW,
            initial_send_window: DEFAULT_WINDOW,
            max_frame_bytes: MAX_FRAME_BYTES,
            blocked: VecDeque::new(),
            uncredited: 0,
            encoder: None,
            blocks: Vec::new(),
            decoder: Decoder::default(),
            partial: None,
        };
        let settings = [(setting::ENABLE_PUSH, 0), (setting::INITIAL_WINDOW_SIZE, WINDOW)];
        let length = settings.len() * 6;
        write_frame_header(&mut state.output, length, kind::SETTINGS, 0, 0);
        for (name, value) in settings {
            state.output.extend_from_slice(&name.to_be_bytes());
            state.output.extend_from_slice(&value.to_be_bytes());
        }
        state.credit(0, WINDOW - DEFAULT_WINDOW as u32);
        state
    }

    /// Waits for the peer's settings.
    pub(crate) fn poll_ready(&mut self, waker: &Waker) -> Poll<Result<(), CallError>> {
        if let Some(why) = &self.lost {
            return Poll::Ready(Err(CallError::Lost(why.clone())));
        }
        if self.encoder.is_some() {
            return Poll::Ready(Ok(()));
        }
        self.waiting.push_back(waker.clone());
        Poll::Pending
    }

    /// Opens a stream with its first message, when the peer allows one more; `is_kept` keeps the answer's bytes.
    pub(crate) fn poll_open(
        &mut self,
        waker: &Waker,
        headers: &[(&'static str, Bytes)],
        body: &Bytes,
        is_last: bool,
        is_kept: bool,
    ) -> Poll<Result<u32, CallError>> {
        if let Some(why) = &self.lost {
            return Poll::Ready(Err(CallError::Lost(why.clone())));
        }
        let Some(encoder) = self.encoder.as_mut().filter(|_| self.streams.len() < self.max_streams) else {
            self.waiting.push_back(waker.clone());
            return Poll::Pending;
        };
        let id = self.next_stream;
        if id > LAST_STREAM {
            return Poll::Ready(Err(CallError::Lost("all stream numbers are used".to_owned())));
        }
        self.next_stream += 2;
        // The path tells the methods apart; the other headers are the same on one connection.
        let path = &headers[0].1;
        if let Some((_, block)) = self.blocks.iter().find(|(known, _)| known == path) {
            write_frame_header(&mut self.output, block.len(), kind::HEADERS, flag::END_HEADERS, id);
            self.output.extend_from_slice(block);
        } else {
            let entries = encoder.entries();
            let mut encode = || {
                let mut block = Vec::new();
                encoder.encode(headers.iter().map(|(name, value)| (*name, value)), &mut block);
                block
            };
            // The first encoding fills the peer's table, the second is the one to repeat.
            let (first, repeated) = (encode(), encode());
            write_frame_header(&mut self.output, first.len(), kind::HEADERS, flag::END_HEADERS, id);
            self.output.extend_from_slice(&first);
            if encoder.entries() != entries {
                // New entries move the numbers of the old ones.
                self.blocks.clear();
            }
            self.blocks.push((path.clone(), repeated));
        }
        let stream = Stream { is_kept, send_window: self.initial_send_window, ..Stream::default() };
        self.streams.insert(id, stream);
        self.send(id, body.clone(), is_last);
        Poll::Ready(Ok(id))
    }

    /// Sends a message on an open stream, or keeps it until the windows allow it.
    pub(crate) fn send(&mut self, id: u32, body: Bytes, is_last: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.unsent.push_back(body);
        stream.ends_after = is_last;
        if stream.unsent.len() == 1 {
            self.flush_stream(id);
        }
        self.wake_driver();
    }

    /// Writes what the windows allow of a stream's unsent bytes; the rest makes it blocked.
    fn flush_stream(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        while let Some(body) = stream.unsent.front_mut() {
            let window = stream.send_window.min(self.send_window).max(0) as usize;
            let length = body.len().min(window).min(self.max_frame_bytes);
            if length == 0 && !body.is_empty() {
                self.blocked.push_back(id);
                return;
            }
            let part = body.split_to(length);
            let is_sent = body.is_empty();
            if is_sent {
                stream.unsent.pop_front();
            }
            let is_last = is_sent && stream.unsent.is_empty() && stream.ends_after;
            let flags = if is_last { flag::END_STREAM } else { 0 };
            write_frame_header(&mut self.output, length, kind::DATA, flags, id);
            self.output.extend_from_slice(&part);
            stream.send_window -= length as i64;
            self.send_window -= length as i64;
        }
    }

    fn flush_blocked(&mut self) {
        // Every stream gets one try; those that stay blocked go to the end of the queue.
        for _ in 0..self.blocked.len() {
            if let Some(id) = self.blocked.pop_front() {
                self.flush_stream(id);
            }
        }
    }

    /// Waits until a call has ended; its stream is gone then.
    pub(crate) fn poll_end(&mut self, waker: &Waker, id: u32) -> Poll<Result<(Vec<u8>, usize), CallError>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(CallError::Lost(self.lost.clone().unwrap_or_default())));
        };
        if !stream.is_ended {
            set_waker(&mut stream.waker, waker);
            return Poll::Pending;
        }
        let outcome = stream.outcome();
        let (body, length) = (std::mem::take(&mut stream.body), stream.length);
        self.close(id);
        Poll::Ready(outcome.map(|()| (body, length)))
    }

    /// Waits for bytes of a stream, and moves them to the end of `buffer`; false when the peer has ended it well.
    pub(crate) fn poll_body(&mut self, waker: &Waker, id: u32, buffer: &mut Vec<u8>) -> Poll<Result<bool, CallError>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(CallError::Lost(self.lost.clone().unwrap_or_default())));
        };
        if stream.body.is_empty() {
            if stream.is_ended {
                return Poll::Ready(stream.outcome().map(|()| false));
            }
            set_waker(&mut stream.waker, waker);
            return Poll::Pending;
        }
        if buffer.is_empty() {
            std::mem::swap(buffer, &mut stream.body);
        } else {
            buffer.append(&mut stream.body);
        }
        if stream.uncredited >= CREDIT_STEP {
            let credit = std::mem::take(&mut stream.uncredited) as u32;
            self.credit(id, credit);
            self.wake_driver();
        }
        Poll::Ready(Ok(true))
    }

    /// Forgets a stream; the peer is told when it is still open.
    pub(crate) fn close(&mut self, id: u32) {
        let Some(stream) = self.streams.remove(&id) else { return };
        if !(stream.is_ended && stream.unsent.is_empty()) && self.lost.is_none() {
            write_frame_header(&mut self.output, 4, kind::RST_STREAM, 0, id);
            self.output.extend_from_slice(&CANCEL.to_be_bytes());
            self.wake_driver();
        }
        // All of them: the first may have given up meanwhile.
        self.waiting.drain(..).for_each(Waker::wake);
    }

    /// The last user of the connection is gone.
    pub(crate) fn abandon(&mut self) {
        self.is_abandoned = true;
        self.wake_driver();
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned
    }

    /// Swaps the output with an empty buffer, or remembers the driver's waker when there is none.
    pub(super) fn take_output(&mut self, empty: &mut Vec<u8>, waker: &Waker) -> bool {
        if self.output.is_empty() {
            set_waker(&mut self.driver, waker);
            return false;
        }
        std::mem::swap(&mut self.output, empty);
        true
    }

    /// Fails all streams: the connection is gone.
    pub(super) fn lose(&mut self, why: &str) {
        self.lost.get_or_insert_with(|| why.to_owned());
        self.streams.values_mut().for_each(|stream| stream.fail(CallError::Lost(why.to_owned())));
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    /// Allows the peer to send more.
    fn credit(&mut self, stream: u32, bytes: u32) {
        write_frame_header(&mut self.output, 4, kind::WINDOW_UPDATE, 0, stream);
        self.output.extend_from_slice(&bytes.to_be_bytes());
    }

    /// Takes all whole frames at the front of `bytes` and returns how many bytes they are.
    ///
    /// # Errors
    /// Says what the peer did wrong; the connection must be given up.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let mut used = 0;
        while let Some((header, rest)) = bytes[used..].split_first_chunk::<FRAME_HEADER_BYTES>() {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            if length > MAX_FRAME_BYTES {
                return Err(format!("a frame of {length} bytes: the server does not speak HTTP/2 without TLS"));
            }
            let Some(payload) = rest.get(..length) else { break };
            let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]) & LAST_STREAM;
            self.frame(header[3], header[4], stream, payload)?;
            used += FRAME_HEADER_BYTES + length;
        }
        Ok(used)
    }

    fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) -> Result<(), String> {
        if self.partial.is_some() != (kind == kind::CONTINUATION) {
            return Err("the server mixed a header block with other frames".to_owned());
        }
        if self.encoder.is_none() && kind != kind::SETTINGS {
            return Err("the server does not begin with its settings".to_owned());
        }
        match kind {
            kind::DATA => self.data(flags, id, payload),
            kind::HEADERS => {
                let mut block = unpad(flags, payload)?;
                if flags & flag::PRIORITY != 0 {
                    block = block.get(5..).ok_or("a priority is cut off")?;
                }
                let partial =
                    PartialBlock { stream: id, ends_stream: flags & flag::END_STREAM != 0, bytes: block.to_vec() };
                self.headers(flags, partial)
            }
            kind::CONTINUATION => {
                let Some(mut partial) = self.partial.take().filter(|partial| partial.stream == id) else {
                    return Err("a header block goes on in another stream".to_owned());
                };
                partial.bytes.extend_from_slice(payload);
                if partial.bytes.len() > MAX_BLOCK_BYTES {
                    return Err("a header block is too long".to_owned());
                }
                self.headers(flags, partial)
            }
            kind::RST_STREAM => {
                let code = number(payload)?;
                if let Some(stream) = self.streams.get_mut(&id) {
                    let message = format!("stream reset by the server (HTTP/2 code {code})");
                    stream.fail(CallError::Status { code: 14, message });
                }
                Ok(())
            }
            kind::SETTINGS if flags & flag::ACK == 0 => self.settings(payload),
            kind::PING if flags & flag::ACK == 0 => {
                write_frame_header(&mut self.output, payload.len(), kind::PING, flag::ACK, 0);
                self.output.extend_from_slice(payload);
                Ok(())
            }
            kind::GOAWAY => {
                let code = payload.get(4..8).map_or(Ok(0), number)?;
                let text = String::from_utf8_lossy(payload.get(8..).unwrap_or_default());
                Err(format!("the server closes the connection (HTTP/2 code {code}) {text}").trim_end().to_owned())
            }
            kind::WINDOW_UPDATE => {
                let credit = i64::from(number(payload)? & LAST_STREAM);
                match self.streams.get_mut(&id) {
                    _ if id == 0 => self.send_window += credit,
                    Some(stream) => stream.send_window += credit,
                    None => {}
                }
                self.flush_blocked();
                Ok(())
            }
            kind::PUSH_PROMISE => Err("the server pushes, which was not allowed".to_owned()),
            _ => Ok(()),
        }
    }

    fn data(&mut self, flags: u8, id: u32, payload: &[u8]) -> Result<(), String> {
        let body = unpad(flags, payload)?;
        self.uncredited += payload.len();
        if self.uncredited >= CREDIT_STEP {
            let credit = std::mem::take(&mut self.uncredited) as u32;
            self.credit(0, credit);
        }
        // A stream that is not known was given up.
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        stream.length += body.len();
        stream.uncredited += payload.len();
        if stream.is_kept {
            stream.body.extend_from_slice(body);
            stream.wake();
        } else if stream.uncredited >= CREDIT_STEP {
            let credit = std::mem::take(&mut stream.uncredited) as u32;
            self.credit(id, credit);
        }
        if flags & flag::END_STREAM != 0 {
            self.end(id);
        }
        Ok(())
    }

    /// A header block, whole or to be continued.
    fn headers(&mut self, flags: u8, partial: PartialBlock) -> Result<(), String> {
        if flags & flag::END_HEADERS == 0 {
            self.partial = Some(partial);
            return Ok(());
        }
        let mut ignored = Stream::default();
        let stream = self.streams.get_mut(&partial.stream).unwrap_or(&mut ignored);
        // The block must be decoded even for a stream that was given up: it may change the table.
        let decoded = self.decoder.decode(&partial.bytes, |name, value| {
            let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            match name {
                b":status" => stream.http_status = number(),
                b"grpc-status" => stream.grpc_status = Some(number().unwrap_or(2)),
                b"grpc-message" => stream.grpc_message = Bytes::copy_from_slice(value),
                _ => {}
            }
        });
        decoded.ok_or("a header block is malformed")?;
        if partial.ends_stream {
            self.end(partial.stream);
        }
        Ok(())
    }

    fn end(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.is_ended = true;
            stream.wake();
        }
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), String> {
        let mut table_bytes = TABLE_BYTES;
        for entry in payload.chunks(6) {
            let Some((name, value)) = entry.split_first_chunk::<2>() else { return Err("settings are cut off".into()) };
            let value = number(value)?;
            match u16::from_be_bytes(*name) {
                setting::HEADER_TABLE_SIZE => table_bytes = value as usize,
                setting::MAX_CONCURRENT_STREAMS => self.max_streams = value as usize,
                setting::INITIAL_WINDOW_SIZE => {
                    let change = i64::from(value) - self.initial_send_window;
                    self.initial_send_window = i64::from(value);
                    self.streams.values_mut().for_each(|stream| stream.send_window += change);
                }
                setting::MAX_FRAME_SIZE => self.max_frame_bytes = (value as usize).max(MAX_FRAME_BYTES),
                _ => {}
            }
        }
        write_frame_header(&mut self.output, 0, kind::SETTINGS, flag::ACK, 0);
        if self.encoder.is_none() {
            self.encoder = Some(Encoder::new(table_bytes));
        } else if table_bytes < TABLE_BYTES {
            return Err("the server changed its header table, which is not supported".to_owned());
        }
        self.waiting.drain(..).for_each(Waker::wake);
        self.flush_blocked();
        Ok(())
    }
}

fn set_waker(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(known) => known.clone_from(waker),
        None => *slot = Some(waker.clone()),
    }
}

fn write_frame_header(output: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [_, high, middle, low] = (length as u32).to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    output.extend_from_slice(&[high, middle, low, kind, flags, a, b, c, d]);
}

/// Removes the padding of a DATA or HEADERS frame.
fn unpad(flags: u8, payload: &[u8]) -> Result<&[u8], String> {
    if flags & flag::PADDED == 0 {
        return Ok(payload);
    }
    let unpadded = payload.split_first().and_then(|(padding, rest)| {
        let length = rest.len().checked_sub(usize::from(*padding))?;
        rest.get(..length)
    });
    unpadded.ok_or_else(|| "a frame has more padding than bytes".to_owned())
}

fn number(bytes: &[u8]) -> Result<u32, String> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)).ok_or_else(|| "a frame is cut off".to_owned())
}

/// Undoes gRPC's percent encoding of error texts.
fn percent_decode(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_frame_header(&mut bytes, payload.len(), kind, flags, stream);
        bytes.extend_from_slice(payload);
        bytes
    }

    /// A state with one open stream, number 1, and nothing to be written.
    fn opened() -> State {
        let mut state = State::new();
        assert_eq!(state.receive(&frame(kind::SETTINGS, 0, 0, &[])), Ok(9));
        let headers = [(":path", Bytes::from_static(b"/a"))];
        let opened = state.poll_open(Waker::noop(), &headers, &Bytes::from_static(b"hi"), true, true);
        assert_eq!(opened, Poll::Ready(Ok(1)));
        assert!(state.output.starts_with(PREFACE));
        state.output.clear();
        state
    }

    #[test]
    fn frames_are_taken_whole_in_pieces_and_padded() {
        let mut state = opened();
        // ":status 200", then "grpc-status 0" as a literal in two frames.
        let trailer = [&[0x00, 11][..], b"grpc-status", &[1, b'0']].concat();
        let bytes = [
            frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x88]),
            frame(kind::DATA, flag::PADDED, 1, &[2, b'x', b'y', 0, 0]),
            frame(kind::HEADERS, flag::END_STREAM, 1, &trailer[..5]),
            frame(kind::CONTINUATION, flag::END_HEADERS, 1, &trailer[5..]),
        ]
        .concat();
        let mut pending = Vec::new();
        for byte in bytes {
            assert_eq!(state.poll_end(Waker::noop(), 1), Poll::Pending);
            pending.push(byte);
            let used = state.receive(&pending).expect("valid frames");
            pending.drain(..used);
        }
        assert_eq!(state.poll_end(Waker::noop(), 1), Poll::Ready(Ok((b"xy".to_vec(), 2))));
        assert!(state.output.is_empty(), "an ended stream is not reset");
    }

    #[test]
    fn a_stream_that_is_given_up_is_reset() {
        let mut state = opened();
        state.close(1);
        assert_eq!(state.output, frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]));
        state.output.clear();
        assert_eq!(state.receive(&frame(kind::DATA, 0, 1, b"late")), Ok(13), "what was on its way is ignored");
    }

    #[test]
    fn sending_obeys_both_windows() {
        let mut state = opened();
        state.send_window = 3;
        let headers = [(":path", Bytes::from_static(b"/a"))];
        let opened = state.poll_open(Waker::noop(), &headers, &Bytes::from_static(b"12345"), true, true);
        assert_eq!(opened, Poll::Ready(Ok(3)));
        assert!(state.output.ends_with(&frame(kind::DATA, 0, 3, b"123")));
        state.output.clear();
        state.receive(&frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 9])).expect("a valid frame");
        assert_eq!(state.output, frame(kind::DATA, flag::END_STREAM, 3, b"45"));
    }

    #[test]
    fn pings_are_answered_and_errors_lose_the_connection() {
        let mut state = opened();
        state.receive(&frame(kind::PING, 0, 0, b"12345678")).expect("a valid frame");
        assert_eq!(state.output, frame(kind::PING, flag::ACK, 0, b"12345678"));
        for wrong in [
            frame(kind::GOAWAY, 0, 0, &[0; 8]),
            frame(kind::CONTINUATION, 0, 1, &[]),
            frame(kind::DATA, flag::PADDED, 1, &[9]),
            frame(kind::HEADERS, flag::END_HEADERS, 1, &[0xff]),
            frame(kind::WINDOW_UPDATE, 0, 0, &[1]),
            vec![1, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert!(opened_and(&wrong).is_err(), "{wrong:?}");
        }
        state.lose("gone");
        let ended = state.poll_end(Waker::noop(), 1);
        assert_eq!(ended, Poll::Ready(Err(CallError::Lost("gone".to_owned()))));
        assert!(matches!(state.poll_ready(Waker::noop()), Poll::Ready(Err(CallError::Lost(_)))));
    }

    fn opened_and(bytes: &[u8]) -> Result<usize, String> {
        opened().receive(bytes)
    }
}
