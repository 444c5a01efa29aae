//! Heads of simple requests, and of answers.

use axum::body::Body;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use httparse::{EMPTY_HEADER, Status};
use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

/// Lines of the largest head that is simple. With more it is hyper's.
const MAX_LINES: usize = 32;

/// A request that has nothing but a head.
pub(super) struct Simple {
    pub(super) request: Request<Body>,
    pub(super) is_head: bool,
    /// The client asks for nothing more on this connection.
    pub(super) is_last: bool,
}

/// What some bytes are.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment, and almost always it is the large one")]
pub(super) enum Parsed {
    /// A request, and how many of the bytes it has.
    Simple(Simple, usize),
    /// The begin of a request, perhaps.
    Partial,
    /// Neither a simple request nor the begin of one.
    Other,
}

/// Reads the head of a request, by hyper's parser.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    // One copy, which the path and all values of headers share.
    let bytes = Bytes::copy_from_slice(bytes);
    let mut lines = [EMPTY_HEADER; MAX_LINES];
    let mut head = httparse::Request::new(&mut lines);
    let length = match head.parse(&bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Other,
    };
    match simple(&head, &bytes) {
        Some(simple) => Parsed::Simple(simple, length),
        None => Parsed::Other,
    }
}

fn simple(head: &httparse::Request<'_, '_>, bytes: &Bytes) -> Option<Simple> {
    let (method, is_head) = match head.method? {
        "GET" => (Method::GET, false),
        "HEAD" => (Method::HEAD, true),
        _ => return None,
    };
    let path = head.path.filter(|path| path.starts_with('/') && head.version == Some(1))?;
    let uri = Uri::from_maybe_shared(bytes.slice_ref(path.as_bytes())).ok()?;
    let mut is_last = false;
    let mut headers = HeaderMap::with_capacity(head.headers.len());
    for line in &*head.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        if name == CONNECTION {
            is_last |= line.value.eq_ignore_ascii_case(b"close");
            if !is_last && !line.value.eq_ignore_ascii_case(b"keep-alive") {
                return None;
            }
        }
        if name == TRANSFER_ENCODING || name == CONTENT_LENGTH || name == EXPECT || name == UPGRADE {
            return None;
        }
        headers.append(name, HeaderValue::from_maybe_shared(bytes.slice_ref(line.value)).ok()?);
    }
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    Some(Simple { request, is_head, is_last })
}

/// True for an answer that may have a body.
pub(super) fn has_body(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

/// True for an answer that is to be the last.
pub(super) fn closes(headers: &HeaderMap) -> bool {
    headers.get(CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// Writes the head of an answer. `length` is that of its body; a body of unknown length comes in chunks. Who asks for the
/// head alone is told of neither an empty nor an unknown one.
pub(super) fn encode(parts: &Parts, length: Option<u64>, is_head: bool, is_last: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(parts.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(parts.status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in &parts.headers {
        line(&mut out, name, value.as_bytes());
    }
    if has_body(parts.status) && !parts.headers.contains_key(CONTENT_LENGTH) {
        match length {
            Some(0) | None if is_head => {}
            Some(length) => line(&mut out, &CONTENT_LENGTH, length.to_string().as_bytes()),
            None => line(&mut out, &TRANSFER_ENCODING, b"chunked"),
        }
    }
    if is_last && !parts.headers.contains_key(CONNECTION) {
        line(&mut out, &CONNECTION, b"close");
    }
    if !parts.headers.contains_key(DATE) {
        with_date(|date| line(&mut out, &DATE, date.as_bytes()));
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// A line of a head, its name as Go writes it.
fn line(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    let mut is_first = true;
    for byte in name.as_str().bytes() {
        out.push(if is_first { byte.to_ascii_uppercase() } else { byte });
        is_first = byte == b'-';
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The date, which is made once a second.
fn with_date(write: impl FnOnce(&str)) {
    thread_local! {
        static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(made, text)| {
        if *made != second || text.is_empty() {
            *made = second;
            *text = DateTime::<Utc>::from(now).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        }
        write(text);
    });
}
