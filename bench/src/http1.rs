//! HTTP/1.1 on one connection, one request at a time, at the lowest cost: for etcd's v2 API and whatever else speaks it.
//!
//! An answer is only looked through for its status and its end. Nothing here retries; deadlines are the caller's, except
//! for connecting, and after one the connection is of no use any more.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::connection::{CallError, Endpoint};

/// How long connecting may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Room that is made for what is read next; almost all answers fit.
const READ_BYTES: usize = 1 << 10;
/// The largest answer that is accepted.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// How much of the body of an error is shown.
const SHOWN_BYTES: usize = 200;

/// One connection.
pub(crate) struct Connection {
    socket: TcpStream,
    buffer: BytesMut,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there, or not in time.
    pub(crate) async fn open(endpoint: &Endpoint) -> Result<Self, CallError> {
        let failed = |why: &dyn std::fmt::Display| CallError::Unreachable(format!("{endpoint}: {why}"));
        let connect = TcpStream::connect(endpoint.authority());
        let late = |_| failed(&format!("no connection within {CONNECT_DEADLINE:?}"));
        let connected = tokio::time::timeout(CONNECT_DEADLINE, connect).await.map_err(late)?;
        let socket = connected.map_err(|error| failed(&error))?;
        socket.set_nodelay(true).map_err(|error| failed(&error))?;
        Ok(Self { socket, buffer: BytesMut::new() })
    }

    /// Sends a whole request.
    ///
    /// # Errors
    /// The connection is lost.
    pub(crate) async fn send(&mut self, request: &[u8]) -> Result<(), CallError> {
        self.socket.write_all(request).await.map_err(|error| CallError::Lost(error.to_string()))
    }

    /// Reads the whole answer.
    ///
    /// # Errors
    /// It has another status than 2xx or is no HTTP, or the connection is lost.
    pub(crate) async fn answer(&mut self) -> Result<(), CallError> {
        self.buffer.clear();
        loop {
            self.buffer.reserve(READ_BYTES);
            let read = self.socket.read_buf(&mut self.buffer).await;
            if read.map_err(|error| CallError::Lost(error.to_string()))? == 0 {
                return Err(CallError::Lost("closed by the server".to_owned()));
            }
            if let Some(answer) = parse(&self.buffer)? {
                return answer.check(&self.buffer);
            }
            if self.buffer.len() > MAX_ANSWER_BYTES {
                return Err(CallError::Lost(format!("an answer of more than {MAX_ANSWER_BYTES} bytes")));
            }
        }
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// As for [`Self::send`] and [`Self::answer`].
    pub(crate) async fn call(&mut self, request: &[u8]) -> Result<(), CallError> {
        self.send(request).await?;
        self.answer().await
    }
}

/// A request with what every request needs.
pub(crate) fn request(method: &str, endpoint: &Endpoint, path: &str, content_type: &str, body: &str) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let content = match body.len() {
        0 => String::new(),
        length => format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n"),
    };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {endpoint}\r\nUser-Agent: cleat-bench/{version}\r\n");
    [head, content, "\r\n".to_owned(), body.to_owned()].concat().into_bytes()
}

/// An answer that is there as a whole.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// Where its body begins.
    body: usize,
}

impl Answer {
    fn check(&self, bytes: &[u8]) -> Result<(), CallError> {
        if (200..300).contains(&self.status) {
            return Ok(());
        }
        let body = String::from_utf8_lossy(&bytes[self.body..]);
        let shown: String = body.trim().chars().take(SHOWN_BYTES).collect();
        Err(CallError::Unexpected(format!("HTTP status {}: {shown}", self.status)))
    }
}

/// What ends an answer's body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// So many bytes.
    Length(usize),
    /// The last chunk.
    Chunks,
}

/// The answer that `bytes` are; none if there must be more of them.
fn parse(bytes: &[u8]) -> Result<Option<Answer>, CallError> {
    let broken = |what: &str| CallError::Lost(format!("no HTTP/1.1 answer: {what}"));
    let (mut at, mut status, mut end) = (0, None, End::Length(0));
    loop {
        let Some(length) = bytes[at..].iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let line = bytes[at..at + length].trim_ascii_end();
        at += length + 1;
        if status.is_none() {
            let digits = line.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
            let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|text| text.parse().ok());
            status = Some(number.ok_or_else(|| broken("a status line is missing"))?);
        } else if line.is_empty() {
            break;
        } else if let Some(value) = header(line, b"content-length") {
            let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            end = End::Length(length.ok_or_else(|| broken("a length is no number"))?);
        } else if header(line, b"transfer-encoding").is_some() {
            end = End::Chunks;
        }
    }
    let status = status.unwrap_or_default();
    let body = &bytes[at..];
    let is_whole = match end {
        _ if status == 204 || status == 304 => true,
        End::Length(length) => body.len() >= length,
        End::Chunks => has_last_chunk(body).ok_or_else(|| broken("a chunk has no length"))?,
    };
    Ok(is_whole.then_some(Answer { status, body: at }))
}

fn header<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (begin, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    begin.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

/// Whether the last chunk is there; none if these are no chunks.
fn has_last_chunk(mut body: &[u8]) -> Option<bool> {
    loop {
        let Some(length) = body.iter().position(|byte| *byte == b'\n') else { return Some(false) };
        let digits = std::str::from_utf8(body[..length].trim_ascii_end()).ok()?;
        let size = usize::from_str_radix(digits, 16).ok()?;
        // The chunk and the end of its line; the last one is empty, and there are no trailers.
        let Some(rest) = body.get(size.checked_add(length + 3)?..) else { return Some(false) };
        if size == 0 {
            return Some(true);
        }
        body = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"HTTP/1.1 201 Created\r\nX-Etcd-Index: 7\r\ncontent-length:  2\r\n\r\n{}";
    const CHUNKED: &[u8] =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\na\r\n0123456789\r\n0\r\n\r\n";

    #[test]
    fn answers_end_where_they_say() {
        for (bytes, status) in [(PLAIN, 201), (CHUNKED, 200), (b"HTTP/1.1 204 No Content\r\n\r\n", 204)] {
            for length in 0..bytes.len() {
                assert_eq!(parse(&bytes[..length]), Ok(None), "{length} of {bytes:?}");
            }
            assert_eq!(parse(bytes).map(|answer| answer.map(|answer| answer.status)), Ok(Some(status)));
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bytes in [
            &b"SSH-2.0\r\n"[..],
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        ] {
            assert!(matches!(parse(bytes), Err(CallError::Lost(_))), "{bytes:?}");
        }
    }

    #[test]
    fn errors_show_what_the_server_says() {
        let bytes = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone";
        let error = parse(bytes).expect("HTTP").expect("whole").check(bytes).expect_err("not found");
        assert_eq!(error.to_string(), "HTTP status 404: gone");
    }
}
