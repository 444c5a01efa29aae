//! gRPC calls on one connection to an endpoint, at the lowest cost.
//!
//! The generator shares its machine with the server it measures, so a call costs a copy into the output buffer and
//! nothing is decoded: the caller gets the message bytes, or only their length, and reads what its workload needs. A call
//! ends with its trailers, never before. Nothing here retries; deadlines are the caller's (see [`crate::workload`]),
//! except for connecting.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message;
use tokio::net::TcpStream;

use crate::http2::driver::{self, Shared};

/// How long connecting and the exchange of settings may take together.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
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

impl Endpoint {
    /// Host and port.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
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
    /// No connection could be made.
    Unreachable(String),
    /// The connection cannot be used any more.
    Lost(String),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status { code, message } if message.is_empty() => write!(f, "gRPC code {code}"),
            Self::Status { code, message } => write!(f, "{message} (gRPC code {code})"),
            Self::Unexpected(what) | Self::Unreachable(what) => f.write_str(what),
            Self::Deadline(after) => write!(f, "no answer within {after:?}"),
            Self::Lost(why) => write!(f, "connection lost: {why}"),
        }
    }
}

impl std::error::Error for CallError {}

/// The headers of one gRPC method on one endpoint.
#[derive(Clone)]
pub(crate) struct Method {
    headers: Arc<[(&'static str, Bytes)]>,
}

impl Method {
    /// Returns the headers for `path`, such as `/etcdserverpb.KV/Put`.
    pub(crate) fn new(endpoint: &Endpoint, path: &'static str) -> Self {
        let fixed = |text: &'static str| Bytes::from_static(text.as_bytes());
        let headers = [
            // The first one tells methods apart.
            (":path", fixed(path)),
            (":authority", Bytes::copy_from_slice(endpoint.authority.as_bytes())),
            ("content-type", fixed("application/grpc")),
            ("user-agent", fixed(concat!("cleat-bench/", env!("CARGO_PKG_VERSION")))),
            ("te", fixed("trailers")),
        ];
        Self { headers: Arc::new(headers) }
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

/// One HTTP/2 connection; clones share it, on the runtime's one thread.
#[derive(Clone)]
pub(crate) struct Connection {
    user: Arc<User>,
}

/// Ends the connection when the last clone and the last stream are dropped.
struct User {
    shared: Arc<Shared>,
}

impl Drop for User {
    fn drop(&mut self) {
        self.shared.lock().abandon();
    }
}

impl Connection {
    /// Connects and exchanges settings; the task that drives the connection runs on the current runtime until it ends.
    pub(crate) async fn open(endpoint: &Endpoint) -> Result<Self, CallError> {
        let remedy = "is the server running, and is this its client URL (without TLS)?";
        let failed = |why: &dyn std::fmt::Display| CallError::Unreachable(format!("{endpoint}: {why}; {remedy}"));
        let connect = async {
            let socket = TcpStream::connect(&*endpoint.authority).await.map_err(|error| failed(&error))?;
            socket.set_nodelay(true).map_err(|error| failed(&error))?;
            let user = Arc::new(User { shared: driver::start(socket) });
            let ready = poll_fn(|cx| user.shared.lock().poll_ready(cx.waker())).await;
            ready.map_err(|error| failed(&error))?;
            Ok(Self { user })
        };
        let late = |_| failed(&format!("no HTTP/2 settings within {CONNECT_DEADLINE:?}"));
        tokio::time::timeout(CONNECT_DEADLINE, connect).await.map_err(late)?
    }

    async fn start(&self, method: &Method, body: &Bytes, is_last: bool, is_kept: bool) -> Result<Call, CallError> {
        let open = |cx: &mut std::task::Context<'_>| {
            self.user.shared.lock().poll_open(cx.waker(), &method.headers, body, is_last, is_kept)
        };
        let id = poll_fn(open).await?;
        Ok(Call { user: self.user.clone(), id })
    }

    /// Sends one message and returns the answer's message once the trailers say that the call succeeded.
    pub(crate) async fn call(&self, method: &Method, body: Bytes) -> Result<Bytes, CallError> {
        let (message, _) = self.finish(method, &body, true).await?;
        if message.len() < PREFIX_BYTES {
            return Err(CallError::Unexpected("the answer has no message".to_owned()));
        }
        Ok(Bytes::from(message).slice(PREFIX_BYTES..))
    }

    /// Like [`Self::call`], but returns only the length of the answer's message.
    pub(crate) async fn call_for_length(&self, method: &Method, body: Bytes) -> Result<usize, CallError> {
        let (_, length) = self.finish(method, &body, false).await?;
        Ok(length.saturating_sub(PREFIX_BYTES))
    }

    async fn finish(&self, method: &Method, body: &Bytes, is_kept: bool) -> Result<(Vec<u8>, usize), CallError> {
        let call = self.start(method, body, true, is_kept).await?;
        poll_fn(|cx| self.user.shared.lock().poll_end(cx.waker(), call.id)).await
    }

    /// Opens a stream in both directions and sends its first message.
    pub(crate) async fn stream(&self, method: &Method, first: Bytes) -> Result<MessageStream, CallError> {
        let call = self.start(method, &first, false, true).await?;
        Ok(MessageStream { call, buffer: Vec::new() })
    }
}

/// An open stream; dropping it cancels the call if it has not ended.
struct Call {
    user: Arc<User>,
    id: u32,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.user.shared.lock().close(self.id);
    }
}

/// A stream of messages in both directions.
pub(crate) struct MessageStream {
    call: Call,
    buffer: Vec<u8>,
}

impl MessageStream {
    /// Sends a message.
    pub(crate) fn send(&self, message: Bytes) {
        self.call.user.shared.lock().send(self.call.id, message, false);
    }

    /// Waits for the next bytes and passes every whole message in them to `each`; false at the end of the stream.
    pub(crate) async fn receive(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), CallError>,
    ) -> Result<bool, CallError> {
        let Self { call, buffer } = self;
        if !poll_fn(|cx| call.user.shared.lock().poll_body(cx.waker(), call.id, buffer)).await? {
            return Ok(false);
        }
        let used = split_messages(buffer, &mut each)?;
        buffer.drain(..used);
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
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

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
    fn a_frame_has_its_length_in_front() {
        let request = api::etcdserverpb::LeaseRevokeRequest { id: 1 };
        assert_eq!(frame(&request), &[0, 0, 0, 0, 2, 8, 1][..]);
    }

    /// Answers by path with the `h2` crate, with settings that make the client wait: few streams and small windows.
    async fn serve(listener: TcpListener) {
        let (socket, _) = listener.accept().await.expect("a client");
        socket.set_nodelay(true).expect("a socket");
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(2).initial_window_size(1_000).initial_connection_window_size(70_000);
        let mut connection = builder.handshake::<_, Bytes>(socket).await.expect("a handshake");
        while let Some(request) = connection.accept().await {
            let Ok((request, respond)) = request else { return };
            tokio::spawn(answer(request, respond));
        }
    }

    async fn answer(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
        let path = request.uri().path().to_owned();
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let mut body = request.into_body();
        let response = || http::Response::new(());
        let trailers = |code: &'static str, message: &'static str| {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static(code));
            trailers.insert("grpc-message", http::HeaderValue::from_static(message));
            trailers
        };
        match &*path {
            "/echo" | "/stream" => {
                let mut stream = respond.send_response(response(), false).expect("open");
                while let Some(chunk) = body.data().await {
                    let chunk = chunk.expect("data");
                    body.flow_control().release_capacity(chunk.len()).expect("capacity");
                    stream.send_data(chunk, false).expect("open");
                }
                stream.send_trailers(trailers("0", "")).expect("open");
            }
            "/error" => {
                let mut refusal = response();
                *refusal.headers_mut() = trailers("8", "100%25 full");
                respond.send_response(refusal, true).expect("open");
            }
            "/reset" => respond.send_reset(h2::Reason::INTERNAL_ERROR),
            "/plain" => drop(respond.send_response(response(), true).expect("open")),
            _ => std::future::pending().await,
        }
    }

    async fn connect() -> (Endpoint, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint: Endpoint = listener.local_addr().expect("bound").to_string().parse().expect("an address");
        tokio::spawn(serve(listener));
        let connection = Connection::open(&endpoint).await.expect("a server");
        (endpoint, connection)
    }

    fn framed(length: usize) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u8(0);
        bytes.put_u32(length as u32);
        bytes.extend((0..length).map(|position| position as u8));
        bytes.freeze()
    }

    #[tokio::test]
    async fn calls_wait_for_streams_and_windows() {
        let (endpoint, connection) = connect().await;
        let echo = Method::new(&endpoint, "/echo");
        let other = Method::new(&endpoint, "/stream");
        let lengths = [0, 1, 9_995, 16_384, 200_000, 20];
        let calls = lengths.into_iter().cycle().take(40).enumerate().map(|(number, length)| {
            let (connection, method) = (connection.clone(), if number % 3 == 0 { &other } else { &echo });
            async move {
                let reply = connection.call(method, framed(length)).await.expect("an echo");
                assert_eq!(reply, framed(length).slice(PREFIX_BYTES..), "call {number}");
                assert_eq!(connection.call_for_length(method, framed(length)).await, Ok(length));
            }
        });
        let all = futures::future::join_all(calls);
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("no call hangs");
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        let (endpoint, connection) = connect().await;
        for _ in 0..3 {
            let call = |path| {
                let (connection, method) = (connection.clone(), Method::new(&endpoint, path));
                async move { connection.call(&method, framed(3)).await }
            };
            let full = CallError::Status { code: 8, message: "100% full".to_owned() };
            assert_eq!(call("/error").await, Err(full));
            let reset = call("/reset").await;
            assert!(matches!(&reset, Err(CallError::Status { code: 14, .. })), "{reset:?}");
            let plain = call("/plain").await;
            assert!(matches!(&plain, Err(CallError::Unexpected(_))), "{plain:?}");
            // More calls than the server's two streams: given up, each must free its own.
            let hang = tokio::time::timeout(Duration::from_millis(20), call("/hang")).await;
            assert!(hang.is_err());
        }
        let echo = Method::new(&endpoint, "/echo");
        assert_eq!(connection.call_for_length(&echo, framed(3)).await, Ok(3));
    }

    #[tokio::test]
    async fn streams_carry_messages_both_ways() {
        let (endpoint, connection) = connect().await;
        let method = Method::new(&endpoint, "/stream");
        let mut stream = connection.stream(&method, framed(5)).await.expect("a stream");
        for length in [70_000, 1, 2] {
            stream.send(framed(length));
        }
        let mut seen = Vec::new();
        while seen.len() < 4 {
            let open = stream.receive(|message| {
                seen.push(message.len());
                Ok(())
            });
            assert_eq!(open.await, Ok(true));
        }
        assert_eq!(seen, [5, 70_000, 1, 2]);
    }

    #[tokio::test]
    async fn a_peer_that_is_no_server_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint: Endpoint = listener.local_addr().expect("bound").to_string().parse().expect("an address");
        let peer = async {
            let (mut socket, _) = listener.accept().await.expect("a client");
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("written");
            socket
        };
        let (opened, _socket) = tokio::join!(Connection::open(&endpoint), peer);
        let error = opened.err().expect("not HTTP/2").to_string();
        assert!(error.contains(&endpoint.to_string()) && error.contains("without TLS"), "{error}");
        drop(listener);
        let refused = Connection::open(&endpoint).await.err().expect("nobody listens").to_string();
        assert!(refused.contains("refused") && refused.contains("is the server running"), "{refused}");
    }
}
