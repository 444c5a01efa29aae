//! One HTTP/2 connection to an endpoint, and gRPC calls over it at the lowest cost that `h2` allows.
//!
//! The generator shares its machine with the server it measures, so a request costs one cloned header map, one DATA
//! frame and no decoding: the caller gets the message bytes and reads what its workload needs. A call ends with its
//! trailers, never before. Nothing here retries; deadlines are the caller's (see [`crate::workload`]), except for
//! connecting.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Uri};
use prost::Message;
use tokio::net::TcpStream;

/// How long connecting and the HTTP/2 handshake may take together.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Receive window of a stream and of a connection: large enough that the generator never holds a server back.
const WINDOW_BYTES: u32 = 64 << 20;
/// Length of the prefix of a gRPC message: one flag byte and four bytes of length.
const PREFIX_BYTES: usize = 5;
/// The largest message that is accepted; a longer length means that the stream is not gRPC.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Where a server listens for clients: a host and a port, without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    authority: Arc<str>,
}

impl std::str::FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err(format!("{text}: TLS is not supported; give a plain client URL such as http://127.0.0.1:2379"));
        }
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let port = authority.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) {
            return Err(format!("{text}: an endpoint is HOST:PORT or http://HOST:PORT, such as 127.0.0.1:2379"));
        }
        Ok(Self { authority: Arc::from(authority) })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.authority)
    }
}

/// Why a call or a connection failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    /// The server answered with a gRPC error.
    Status {
        /// The gRPC code, 2 (unknown) when the server sent none.
        code: u16,
        /// The text of `grpc-message`.
        message: String,
    },
    /// The answer is not what the request asked for.
    Unexpected(String),
    /// The deadline passed.
    Deadline(Duration),
    /// The connection cannot be used any more.
    Lost(String),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status { code, message } if message.is_empty() => write!(f, "gRPC code {code}"),
            Self::Status { code, message } => write!(f, "{message} (gRPC code {code})"),
            Self::Unexpected(what) => f.write_str(what),
            Self::Deadline(after) => write!(f, "no answer within {after:?}"),
            Self::Lost(why) => write!(f, "connection lost: {why}"),
        }
    }
}

impl std::error::Error for CallError {}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        // A reset of one stream leaves the others usable; anything else ends the connection.
        if error.is_reset() {
            return Self::Status { code: 14, message: format!("stream reset by the server: {error}") };
        }
        Self::Lost(error.to_string())
    }
}

/// The headers of one gRPC method on one endpoint, built once and cloned for each request.
#[derive(Clone)]
pub(crate) struct Method {
    request: Request<()>,
}

impl Method {
    /// Returns the headers for `path`, such as `/etcdserverpb.KV/Put`.
    pub(crate) fn new(endpoint: &Endpoint, path: &'static str) -> Result<Self, CallError> {
        let uri = Uri::builder().scheme("http").authority(&*endpoint.authority).path_and_query(path);
        let build = || {
            Request::post(uri.build()?)
                .version(http::Version::HTTP_2)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("user-agent", concat!("cleat-bench/", env!("CARGO_PKG_VERSION")))
                .body(())
        };
        build().map(|request| Self { request }).map_err(|error| CallError::Unexpected(format!("{endpoint}: {error}")))
    }
}

/// Encodes `message` behind its gRPC prefix.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + length);
    buffer.put_u8(0);
    buffer.put_u32(length as u32);
    message.encode(&mut buffer).expect("invariant: the buffer holds encoded_len bytes");
    buffer.freeze()
}

/// One HTTP/2 connection; clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
}

impl Connection {
    /// Connects and shakes hands; the task that drives the connection runs on the current runtime until it ends.
    pub(crate) async fn open(endpoint: &Endpoint) -> Result<Self, CallError> {
        let handshake = async {
            let socket = TcpStream::connect(&*endpoint.authority).await?;
            socket.set_nodelay(true)?;
            h2::client::Builder::new()
                .initial_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .initial_max_send_streams(1 << 20)
                .max_send_buffer_size(16 << 20)
                .enable_push(false)
                .handshake::<_, Bytes>(socket)
                .await
                .map_err(io::Error::other)
        };
        let remedy = "is the server running, and is this its client URL (without TLS)?";
        let (requests, connection) = tokio::time::timeout(CONNECT_DEADLINE, handshake)
            .await
            .map_err(|_| CallError::Lost(format!("{endpoint}: no connection within {CONNECT_DEADLINE:?}; {remedy}")))?
            .map_err(|error| CallError::Lost(format!("{endpoint}: {error}; {remedy}")))?;
        // Every call on the connection reports its end; the driver has nothing to add.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { requests })
    }

    /// Starts a call whose first message is `body`.
    async fn start(
        &mut self,
        method: &Method,
        body: Bytes,
        end: bool,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), CallError> {
        poll_fn(|cx| self.requests.poll_ready(cx)).await?;
        let (response, mut stream) = self.requests.send_request(method.request.clone(), false)?;
        stream.send_data(body, end)?;
        Ok((response, stream))
    }

    /// Sends one message and returns the answer's message once the trailers say that the call succeeded.
    pub(crate) async fn call(&mut self, method: &Method, body: Bytes) -> Result<Reply, CallError> {
        let (response, _stream) = self.start(method, body, true).await?;
        let (head, mut incoming) = response.await?.into_parts();
        let mut reply = Reply::default();
        while let Some(chunk) = poll_fn(|cx| incoming.poll_data(cx)).await {
            let chunk = chunk?;
            incoming.flow_control().release_capacity(chunk.len())?;
            reply.push(chunk);
        }
        let trailers = poll_fn(|cx| incoming.poll_trailers(cx)).await?;
        check_status(head.status, trailers.as_ref().unwrap_or(&head.headers))?;
        Ok(reply)
    }

    /// Opens a stream in both directions and sends its first message.
    pub(crate) async fn stream(
        &mut self,
        method: &Method,
        first: Bytes,
    ) -> Result<(SendStream<Bytes>, Incoming), CallError> {
        let (response, stream) = self.start(method, first, false).await?;
        let (head, body) = response.await?.into_parts();
        if head.headers.contains_key("grpc-status") {
            check_status(head.status, &head.headers)?;
        }
        Ok((stream, Incoming { body, buffer: BytesMut::new() }))
    }
}

/// Returns the error that `headers` carry, if any.
fn check_status(status: http::StatusCode, headers: &HeaderMap) -> Result<(), CallError> {
    match headers.get("grpc-status").map(http::HeaderValue::as_bytes) {
        Some(b"0") => Ok(()),
        Some(code) => Err(CallError::Status {
            code: std::str::from_utf8(code).ok().and_then(|code| code.parse().ok()).unwrap_or(2),
            message: headers
                .get("grpc-message")
                .and_then(|text| text.to_str().ok())
                .map(percent_decode)
                .unwrap_or_default(),
        }),
        None => Err(CallError::Unexpected(format!("not a gRPC answer (HTTP status {status}, no grpc-status)"))),
    }
}

/// Undoes gRPC's percent encoding of error texts.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
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

/// The message of a finished call, as the DATA frames that carried it.
#[derive(Default)]
pub(crate) struct Reply {
    first: Bytes,
    rest: Vec<Bytes>,
}

impl Reply {
    fn push(&mut self, chunk: Bytes) {
        if self.first.is_empty() {
            self.first = chunk;
        } else {
            self.rest.push(chunk);
        }
    }

    /// Length of the message without its prefix.
    pub(crate) fn len(&self) -> usize {
        (self.first.len() + self.rest.iter().map(Bytes::len).sum::<usize>()).saturating_sub(PREFIX_BYTES)
    }

    /// The message in one piece; copies only when it came in several frames.
    pub(crate) fn message(&self) -> Result<Bytes, CallError> {
        let whole = if self.rest.is_empty() {
            self.first.clone()
        } else {
            let mut whole = BytesMut::from(&*self.first);
            self.rest.iter().for_each(|chunk| whole.extend_from_slice(chunk));
            whole.freeze()
        };
        if whole.len() < PREFIX_BYTES {
            return Err(CallError::Unexpected("the answer has no message".to_owned()));
        }
        Ok(whole.slice(PREFIX_BYTES..))
    }
}

/// The receiving half of a stream.
pub(crate) struct Incoming {
    body: RecvStream,
    buffer: BytesMut,
}

impl Incoming {
    /// Waits for the next bytes and passes every whole message in them to `each`; false at the end of the stream.
    pub(crate) async fn receive(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), CallError>,
    ) -> Result<bool, CallError> {
        let Some(chunk) = poll_fn(|cx| self.body.poll_data(cx)).await else {
            let trailers = poll_fn(|cx| self.body.poll_trailers(cx)).await?;
            check_status(http::StatusCode::OK, &trailers.unwrap_or_default())?;
            return Ok(false);
        };
        let chunk = chunk?;
        self.body.flow_control().release_capacity(chunk.len())?;
        if self.buffer.is_empty() {
            let used = split_messages(&chunk, &mut each)?;
            self.buffer.extend_from_slice(&chunk[used..]);
        } else {
            self.buffer.extend_from_slice(&chunk);
            let used = split_messages(&self.buffer, &mut each)?;
            drop(self.buffer.split_to(used));
        }
        Ok(true)
    }
}

/// Passes every whole message of `bytes` to `each` and returns how many bytes they took.
fn split_messages(bytes: &[u8], each: &mut impl FnMut(&[u8]) -> Result<(), CallError>) -> Result<usize, CallError> {
    let mut used = 0;
    while let Some((prefix, rest)) = bytes[used..].split_first_chunk::<PREFIX_BYTES>() {
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if prefix[0] != 0 || length > MAX_MESSAGE_BYTES {
            return Err(CallError::Unexpected("the stream does not carry plain gRPC messages".to_owned()));
        }
        let Some(message) = rest.get(..length) else { break };
        each(message)?;
        used += PREFIX_BYTES + length;
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_host_and_port() {
        for (text, expected) in [
            ("127.0.0.1:2379", Some("127.0.0.1:2379")),
            ("http://localhost:2379/", Some("localhost:2379")),
            ("[::1]:2379", Some("[::1]:2379")),
            ("https://127.0.0.1:2379", None),
            ("127.0.0.1", None),
            (":2379", None),
            ("host:port", None),
        ] {
            let parsed = text.parse::<Endpoint>();
            assert_eq!(parsed.as_ref().ok().map(ToString::to_string).as_deref(), expected, "{text}");
            if let Err(error) = parsed {
                assert!(error.contains(text) && error.contains("127.0.0.1:2379"), "{error}");
            }
        }
    }

    #[test]
    fn messages_are_found_across_chunks() {
        let bytes = [0, 0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, b'c'];
        let mut seen = Vec::new();
        let used = split_messages(&bytes, &mut |message| {
            seen.push(message.to_vec());
            Ok(())
        });
        assert_eq!(used, Ok(12));
        assert_eq!(seen, [b"ab".to_vec(), Vec::new()]);
        assert!(split_messages(&[1, 0, 0, 0, 0], &mut |_| Ok(())).is_err(), "compressed messages are refused");
    }

    #[test]
    fn error_texts_are_decoded() {
        assert_eq!(percent_decode("etcdserver: 100%25 full"), "etcdserver: 100% full");
        assert_eq!(percent_decode("50% of"), "50% of");
        let mut headers = HeaderMap::new();
        assert!(matches!(check_status(http::StatusCode::OK, &headers), Err(CallError::Unexpected(_))));
        headers.insert("grpc-status", http::HeaderValue::from_static("8"));
        headers.insert("grpc-message", http::HeaderValue::from_static("mvcc: database space exceeded"));
        assert_eq!(
            check_status(http::StatusCode::OK, &headers),
            Err(CallError::Status { code: 8, message: "mvcc: database space exceeded".to_owned() })
        );
    }

    #[test]
    fn a_frame_has_its_length_in_front() {
        let request = api::etcdserverpb::LeaseRevokeRequest { id: 1 };
        assert_eq!(frame(&request), &[0, 0, 0, 0, 2, 8, 1][..]);
    }
}
