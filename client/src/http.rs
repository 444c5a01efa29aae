//! One HTTP/1.1 request at a time, each over a connection of its own: a request never meets a connection that the server
//! is about to close, so what failed says whether it was sent.
//!
//! Plain or TLS, directly or through an HTTP proxy; bounded in time, in size and in redirects. The client of the v2 API
//! ([`crate::v2`]) and discovery URLs are asked with it.

use crate::endpoint::without_user;
use crate::error::innermost;
use crate::options::TlsOptions;
use crate::tls;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, PROXY_AUTHORIZATION,
};
use http::uri::{Authority, Uri};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const MAX_PROXY_HEAD_BYTES: usize = 8 << 10;
const MAX_REDIRECTS: usize = 5;
/// After this time without a byte the system asks whether the other end is there, and so often before it is not:
/// who waits for an answer has nothing to send, and would not notice.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A server, and who we are to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    is_tls: bool,
    authority: Authority,
    /// `Basic ...`, from `user:password@` in the URL.
    credentials: Option<HeaderValue>,
}

/// Without credentials.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// `scheme://host:port`, without credentials.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_tls { "https" } else { "http" }, self.authority)
    }
}

impl Server {
    /// The server of a URL, and the path and query behind it.
    ///
    /// # Errors
    /// What is wrong with the text, without it.
    pub fn parse(url: &str) -> Result<(Self, String), String> {
        let uri: Uri = url.parse().map_err(|error| format!("it is not a URL: {error}"))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("the scheme must be http or https".to_owned()),
        };
        let authority = uri.authority().ok_or("it has no host")?;
        let (credentials, authority) = match authority.as_str().rsplit_once('@') {
            None => (None, authority.clone()),
            Some((user, host)) => {
                let user = percent_encoding::percent_decode_str(user).collect::<Vec<u8>>();
                (Some(basic(&user)?), host.parse().map_err(|_| "it has no host")?)
            }
        };
        let path = uri.path_and_query().map_or_else(String::new, |path| path.as_str().to_owned());
        Ok((Self { is_tls, authority, credentials }, path))
    }

    /// The same server, asked by a user.
    ///
    /// # Errors
    /// Name and password cannot be sent.
    pub fn with_user(mut self, name: &str, password: &str) -> Result<Self, String> {
        self.credentials = Some(basic(format!("{name}:{password}").as_bytes())?);
        Ok(self)
    }

    /// True for `https`.
    pub(crate) fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// True if both are the same place, whoever asks.
    pub(crate) fn is_at(&self, other: &Self) -> bool {
        self.is_tls == other.is_tls && self.host().eq_ignore_ascii_case(other.host()) && self.port() == other.port()
    }

    /// Host and port as they are in the URL, which is what the header `Host` says.
    pub fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// Without the brackets of an IPv6 address.
    fn host(&self) -> &str {
        let host = self.authority.host();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.is_tls { 443 } else { 80 })
    }

    fn host_and_port(&self) -> String {
        format!("{}:{}", self.authority.host(), self.port())
    }
}

/// The header of a user and password, `NAME:PASSWORD`.
fn basic(user: &[u8]) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64.encode(user)))
        .map_err(|_| "its user and password cannot be sent")?;
    value.set_sensitive(true);
    Ok(value)
}

/// What to send.
#[derive(Clone, Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// A body in the form of HTML forms; JSON if the headers say so.
    pub form: Option<String>,
    /// Headers beside those that every request has.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Call {
    /// A request with JSON.
    pub fn json(method: Method, path: &str, body: String) -> Self {
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        Self { method, path: path.to_owned(), form: Some(body), headers }
    }

    /// A request for a path, without a body.
    pub fn get(path: &str) -> Self {
        Self::new(Method::GET, path.to_owned(), None)
    }

    /// A request without headers of its own.
    pub fn new(method: Method, path: String, form: Option<String>) -> Self {
        Self { method, path, form, headers: Vec::new() }
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// All of the body.
    pub body: Bytes,
}

impl Answer {
    /// A header with a number, as `X-Etcd-Index`.
    pub fn number(&self, header: &str) -> Option<u64> {
        self.headers.get(header)?.to_str().ok()?.parse().ok()
    }
}

/// An answer whose body is still to come. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
    /// Drives the connection; ends with this value.
    _connection: JoinSet<()>,
}

/// No answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The request provably did not leave this process.
    #[error("no connection to {server}: {reason}")]
    Connect {
        /// Where it was to go.
        server: String,
        /// Why it did not.
        reason: String,
    },
    /// The connection broke after the request was given to it.
    #[error("{server} ended the exchange: {reason}")]
    Exchange {
        /// Where it went.
        server: String,
        /// How it ended.
        reason: String,
    },
    /// There was no answer in time.
    #[error("no answer from {server} within {limit:?}")]
    Deadline {
        /// Where it went.
        server: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The answer sends the request to where it cannot go.
    #[error("{0}")]
    Redirect(String),
    /// The answer is longer than what is taken.
    #[error("{server} answers with more than {max_bytes} bytes")]
    TooLong {
        /// Who answered.
        server: String,
        /// [`Http::max_body_bytes`].
        max_bytes: usize,
    },
}

/// How requests are sent.
#[derive(Clone, Debug)]
pub struct Http {
    /// A proxy to go through.
    pub proxy: Option<Server>,
    /// Certificates of `https`; read for every connection.
    pub tls: TlsOptions,
    /// Longest time for name, TCP, proxy and TLS together.
    pub connect_timeout: Duration,
    /// Longest body of an answer.
    pub max_body_bytes: usize,
}

impl Http {
    /// Sends a request to a server and follows where it is sent to. Dropping the future closes the connection.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn send(&self, server: &Server, call: &Call, limit: Duration) -> Result<Answer, HttpError> {
        let late = || HttpError::Deadline { server: server.to_string(), limit };
        let whole = async {
            let opened = self.open(server, call, limit, &[]).await?;
            self.collect(server, opened).await
        };
        timeout(limit + self.connect_timeout, whole).await.unwrap_or_else(|_| Err(late()))
    }

    /// Reads all of a body.
    pub(crate) async fn collect(&self, server: &Server, opened: Opened) -> Result<Answer, HttpError> {
        let Opened { status, headers, body, _connection } = opened;
        let body = Limited::new(body, self.max_body_bytes).collect().await.map_err(|error| {
            let server = server.to_string();
            if error.is::<LengthLimitError>() {
                return HttpError::TooLong { server, max_bytes: self.max_body_bytes };
            }
            HttpError::Exchange { server, reason: error.to_string() }
        })?;
        Ok(Answer { status, headers, body: body.to_bytes() })
    }

    /// Sends a request and returns with the head of the answer. A redirect to one of the `friends` is followed in their
    /// name; whoever else it goes to is not told who asks.
    pub(crate) async fn open(
        &self,
        server: &Server,
        call: &Call,
        limit: Duration,
        friends: &[Server],
    ) -> Result<Opened, HttpError> {
        let (mut server, mut call) = (server.clone(), call.clone());
        for _ in 0..=MAX_REDIRECTS {
            let opened = self.exchange(&server, &call, limit).await?;
            let Some(location) = redirect(&opened) else { return Ok(opened) };
            if location.starts_with('/') {
                call.path = location;
                continue;
            }
            let (next, path) = Server::parse(&location).map_err(|reason| {
                HttpError::Redirect(format!("{server} redirects to {:?}: {reason}", without_user(&location)))
            })?;
            if server.is_tls && !next.is_tls {
                return Err(HttpError::Redirect(format!("{server} redirects to {next}, which has no TLS")));
            }
            let known = friends.iter().chain([&server]).find(|known| known.is_at(&next));
            (server, call.path) = (known.cloned().unwrap_or(next), path);
        }
        Err(HttpError::Redirect(format!("{server} redirects more than {MAX_REDIRECTS} times")))
    }

    /// Sends a request with the caller's own headers and body, and follows no redirect. Its URI is a path with a query.
    /// For HTTP APIs that are not etcd's. Dropping the future closes the connection.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn ask(&self, server: &Server, request: Request<Bytes>, limit: Duration) -> Result<Answer, HttpError> {
        let (mut head, body) = request.into_parts();
        let unfit = |reason: String| HttpError::Connect { server: server.to_string(), reason };
        if self.proxy.as_ref().is_some_and(|_| !server.is_tls) {
            let absolute = format!("{server}{}", head.uri);
            head.uri = absolute.parse().map_err(|error| unfit(format!("{error}")))?;
        }
        let host = HeaderValue::from_str(server.authority.as_str()).map_err(|error| unfit(error.to_string()))?;
        head.headers.insert(HOST, host);
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let whole = async {
            let opened = self.exchange_request(server, Request::from_parts(head, Full::from(body)), limit).await?;
            self.collect(server, opened).await
        };
        let late = || HttpError::Deadline { server: server.to_string(), limit };
        timeout(limit + self.connect_timeout, whole).await.unwrap_or_else(|_| Err(late()))
    }

    async fn exchange(&self, server: &Server, call: &Call, limit: Duration) -> Result<Opened, HttpError> {
        let connect_error = |reason: String| HttpError::Connect { server: server.to_string(), reason };
        let request = self.request(server, call).map_err(|error| connect_error(error.to_string()))?;
        self.exchange_request(server, request, limit).await
    }

    async fn exchange_request(
        &self,
        server: &Server,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Opened, HttpError> {
        let connect_error = |reason: String| HttpError::Connect { server: server.to_string(), reason };
        let connecting = async {
            let trust = self.trust(server).await?;
            connect(server.clone(), self.proxy.clone(), trust).await
        };
        let stream = match timeout(self.connect_timeout, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(reason)) => return Err(connect_error(reason)),
            Err(_) => return Err(connect_error(format!("it took longer than {:?}", self.connect_timeout))),
        };
        match timeout(limit, exchange(stream, request)).await {
            Ok(exchanged) => {
                exchanged.map_err(|error| HttpError::Exchange { server: server.to_string(), reason: innermost(&error) })
            }
            Err(_) => Err(HttpError::Deadline { server: server.to_string(), limit }),
        }
    }

    fn request(&self, server: &Server, call: &Call) -> Result<Request<Full<Bytes>>, http::Error> {
        // A proxy of a plain connection reads the whole URL; in every other case the path is enough.
        let through = self.proxy.as_ref().filter(|_| !server.is_tls);
        let target = if through.is_some() { format!("{server}{}", call.path) } else { call.path.clone() };
        let mut request = Request::builder().method(call.method.clone()).uri(target);
        request = request.header(HOST, server.authority.as_str()).header(CONNECTION, "close");
        if let Some(credentials) = &server.credentials {
            request = request.header(AUTHORIZATION, credentials);
        }
        if let Some(credentials) = through.and_then(|proxy| proxy.credentials.as_ref()) {
            request = request.header(PROXY_AUTHORIZATION, credentials);
        }
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        if call.form.is_some() && !call.headers.iter().any(|(name, _)| name == CONTENT_TYPE) {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        request.body(Full::from(call.form.clone().unwrap_or_default()))
    }

    /// What TLS trusts, if TLS is needed on the way.
    async fn trust(&self, server: &Server) -> Result<Option<Trust>, String> {
        if !server.is_tls && !self.proxy.as_ref().is_some_and(|proxy| proxy.is_tls) {
            return Ok(None);
        }
        let (options, server_name) = (self.tls.clone(), self.tls.server_name.clone());
        let load = tokio::task::spawn_blocking(move || tls::load(&options, &[b"http/1.1"]));
        let config = load.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        Ok(Some(Trust { config: Arc::new(config), server_name }))
    }
}

/// What a TLS connection trusts.
#[derive(Clone)]
struct Trust {
    config: Arc<ClientConfig>,
    /// Instead of the server's host.
    server_name: Option<String>,
}

/// Connects to a server, through the proxy if there is one.
async fn connect(server: Server, proxy: Option<Server>, trust: Option<Trust>) -> Result<Box<dyn Stream>, String> {
    let first = proxy.as_ref().unwrap_or(&server).host_and_port();
    let stream = TcpStream::connect(first).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    keep_alive(&stream).map_err(|error| error.to_string())?;
    let mut stream: Box<dyn Stream> = Box::new(stream);
    if let Some(proxy) = proxy {
        if proxy.is_tls {
            // The name is the server's alone.
            let trust = trust.clone().map(|trust| Trust { server_name: None, ..trust });
            stream = encrypt(stream, proxy.host().to_owned(), trust).await?;
        }
        if server.is_tls {
            stream = tunnel(stream, proxy, server.host_and_port()).await?;
        }
    }
    if server.is_tls { encrypt(stream, server.host().to_owned(), trust).await } else { Ok(stream) }
}

/// Lets the system notice an end that vanished silently.
fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    use rustix::net::sockopt;
    // The times first: turning it on starts with them.
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    sockopt::set_socket_keepalive(stream, true)
}

async fn encrypt(stream: Box<dyn Stream>, host: String, trust: Option<Trust>) -> Result<Box<dyn Stream>, String> {
    let trust = trust.ok_or("no certificates were read")?;
    let name = ServerName::try_from(trust.server_name.unwrap_or(host)).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(trust.config).connect(name, stream).await.map_err(|error| error.to_string())?;
    Ok(Box::new(stream))
}

/// Where an answer sends the request, which stays what it is.
fn redirect(opened: &Opened) -> Option<String> {
    let moved = matches!(opened.status.as_u16(), 301 | 302 | 307 | 308);
    let location = opened.headers.get(LOCATION).filter(|_| moved)?;
    Some(location.to_str().ok()?.to_owned())
}

/// Sends one request over a connection.
async fn exchange(stream: Box<dyn Stream>, request: Request<Full<Bytes>>) -> hyper::Result<Opened> {
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let mut driver = JoinSet::new();
    // Its errors show in the exchange.
    driver.spawn(async { drop(connection.await) });
    let (head, body) = Response::into_parts(sender.send_request(request).await?);
    Ok(Opened { status: head.status, headers: head.headers, body, _connection: driver })
}

/// Asks the proxy for a connection to the server. What follows the head of its answer is the server's.
async fn tunnel(mut stream: Box<dyn Stream>, proxy: Server, target: String) -> Result<Box<dyn Stream>, String> {
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(credentials) = &proxy.credentials {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(credentials.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let failed = |error: std::io::Error| format!("the proxy {proxy} ended the connection: {error}");
    stream.write_all(&head).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_PROXY_HEAD_BYTES {
            return Err(format!("the proxy {proxy} does not speak HTTP"));
        }
        answer.push(stream.read_u8().await.map_err(failed)?);
    }
    let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    if status.is_some_and(|status| status.len() == 3 && status.starts_with('2')) {
        Ok(stream)
    } else {
        Err(format!("the proxy {proxy} answers {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn urls_have_a_server_and_a_path() {
        let (server, path) = Server::parse("https://u:p%20w@[::1]/a/b?c").unwrap();
        assert_eq!((server.host(), server.port(), path.as_str()), ("::1", 443, "/a/b?c"));
        assert_eq!((server.to_string(), server.host_and_port()), ("https://[::1]".to_owned(), "[::1]:443".to_owned()));
        assert_eq!(server.credentials.as_ref().map(HeaderValue::as_bytes), Some(b"Basic dTpwIHc=".as_slice()));
        assert!(!format!("{server:?}").contains("dTp"), "{server:?}");
        for bad in ["", "a", "a:1", "/a", "ftp://a", "http://"] {
            assert!(Server::parse(bad).is_err(), "{bad}");
        }
    }

    /// Asks a proxy that answers with these bytes and then lets the stream be the server's.
    async fn through(answer: &'static [u8]) -> Result<u8, String> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (proxy, _) = Server::parse("http://u:p@proxy:1").unwrap();
        let asked = async {
            let mut stream = tunnel(Box::new(ours), proxy, "a:443".to_owned()).await?;
            stream.read_u8().await.map_err(|error| error.to_string())
        };
        let answered = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(theirs.read_u8().await.unwrap());
            }
            theirs.write_all(answer).await.unwrap();
            drop(theirs);
            String::from_utf8(head).unwrap()
        };
        let (asked, head) = tokio::join!(asked, answered);
        assert!(
            head.starts_with("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nProxy-Authorization: Basic dTpw\r\n"),
            "{head}"
        );
        asked
    }

    #[tokio::test]
    async fn a_proxy_opens_a_tunnel_or_says_why_not() {
        assert_eq!(through(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n7").await, Ok(b'7'));
        let refused = through(b"HTTP/1.1 407 Who\r\n\r\n").await;
        assert_eq!(refused, Err("the proxy http://proxy:1 answers \"HTTP/1.1 407 Who\"".to_owned()));
        assert!(through(b"HTTP/1.1 200").await.unwrap_err().contains("ended the connection"));
        assert!(through(&[b'x'; 10_000]).await.unwrap_err().contains("does not speak HTTP"));
    }

    const MAX_BODY_BYTES: usize = 1 << 20;

    fn plain() -> Http {
        Http {
            proxy: None,
            tls: TlsOptions::default(),
            connect_timeout: Duration::from_secs(20),
            max_body_bytes: MAX_BODY_BYTES,
        }
    }

    /// Serves these answers, one for each connection, and returns what a request for `/` gives.
    async fn served(answers: Vec<String>) -> Result<Answer, HttpError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (server, path) = Server::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let serve = async {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                // The client may have had enough before the end.
                drop(stream.write_all(answer.as_bytes()).await);
            }
            std::future::pending::<()>().await;
        };
        let call = Call::new(Method::GET, path, None);
        let http = plain();
        tokio::select! {
            answer = http.send(&server, &call, Duration::from_secs(10)) => answer,
            () = serve => unreachable!("it never ends"),
        }
    }

    fn moved(to: &str) -> String {
        format!("HTTP/1.1 307 Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
    }

    #[tokio::test]
    async fn redirects_and_bodies_are_bounded() {
        let good = "HTTP/1.1 200 OK\r\nX-Etcd-Index: 7\r\n\r\nyes".to_owned();
        let answer = served(vec![moved("/other"), good]).await.unwrap();
        assert_eq!(
            (answer.status, answer.number("x-etcd-index"), answer.body.as_ref()),
            (StatusCode::OK, Some(7), b"yes".as_slice())
        );
        let error = served(vec![moved("/again"); MAX_REDIRECTS + 1]).await.unwrap_err().to_string();
        assert!(error.ends_with("redirects more than 5 times"), "{error}");
        assert!(matches!(served(vec![moved("ftp://a/")]).await, Err(HttpError::Redirect(_))));
        let large = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MAX_BODY_BYTES + 1));
        assert!(matches!(served(vec![large]).await, Err(HttpError::TooLong { max_bytes: MAX_BODY_BYTES, .. })));
        assert!(matches!(served(vec![String::new()]).await, Err(HttpError::Exchange { .. })));
    }
}
