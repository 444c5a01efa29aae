//! One HTTP request at a time, each over a connection of its own: discovery needs ten of them in its life.
//!
//! Plain or TLS, directly or through an HTTP proxy; bounded in time, in size and in redirects. Used by `url` alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use client::without_user;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, LOCATION, PROXY_AUTHORIZATION};
use http::uri::{Authority, Uri};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Name, TCP, proxy and TLS together.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
/// A listing of all members is some kilobytes.
const MAX_BODY_BYTES: usize = 1 << 20;
const MAX_PROXY_HEAD_BYTES: usize = 8 << 10;
const MAX_REDIRECTS: usize = 5;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A server, and who we are to it.
#[derive(Clone)]
pub(crate) struct Server {
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
    pub(crate) fn parse(url: &str) -> Result<(Self, String), String> {
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
                let mut value = HeaderValue::try_from(format!("Basic {}", BASE64.encode(user)))
                    .map_err(|_| "its user and password cannot be sent")?;
                value.set_sensitive(true);
                (Some(value), host.parse().map_err(|_| "it has no host")?)
            }
        };
        let path = uri.path_and_query().map_or_else(String::new, |path| path.as_str().to_owned());
        Ok((Self { is_tls, authority, credentials }, path))
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

/// What to send.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    /// A body in the form of HTML forms.
    pub(crate) form: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// `X-Etcd-Index`.
    pub(crate) index: Option<u64>,
    pub(crate) body: Bytes,
}

/// No answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("no connection to {server}: {reason}")]
    Connect { server: String, reason: String },
    #[error("{server} ended the exchange: {reason}")]
    Exchange { server: String, reason: String },
    #[error("no answer from {server} within {limit:?}")]
    Deadline { server: String, limit: Duration },
    #[error("{0}")]
    Redirect(String),
}

/// Sends requests to one server.
#[derive(Debug)]
pub(crate) struct Http {
    server: Server,
    proxy: Option<Server>,
    /// Made when it is first needed: an `http` service works on a system without certificates.
    tls: Option<Arc<ClientConfig>>,
}

impl Http {
    pub(crate) fn new(server: Server, proxy: Option<Server>) -> Self {
        Self { server, proxy, tls: None }
    }

    /// Sends a request and follows where it is sent to. Dropping the future closes the connection.
    pub(crate) async fn send(&mut self, call: &Call, limit: Duration) -> Result<Answer, HttpError> {
        let late = HttpError::Deadline { server: self.server.to_string(), limit };
        tokio::time::timeout(limit + CONNECT_DEADLINE, self.follow(call, limit)).await.unwrap_or(Err(late))
    }

    async fn follow(&mut self, call: &Call, limit: Duration) -> Result<Answer, HttpError> {
        let (mut server, mut call) = (self.server.clone(), call.clone());
        for _ in 0..=MAX_REDIRECTS {
            let response = self.exchange(&server, &call, limit).await?;
            let Some(location) = redirect(&response) else {
                let index = response.headers().get("x-etcd-index").and_then(|index| index.to_str().ok()?.parse().ok());
                return Ok(Answer { status: response.status(), index, body: response.into_body() });
            };
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
            (server, call.path) = (next, path);
        }
        Err(HttpError::Redirect(format!("{server} redirects more than {MAX_REDIRECTS} times")))
    }

    async fn exchange(&mut self, server: &Server, call: &Call, limit: Duration) -> Result<Response<Bytes>, HttpError> {
        let connect_error = |reason: String| HttpError::Connect { server: server.to_string(), reason };
        let trust = self.trust(server).await.map_err(connect_error)?;
        let connecting = connect(server.clone(), self.proxy.clone(), trust);
        let stream = match tokio::time::timeout(CONNECT_DEADLINE, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(reason)) => return Err(connect_error(reason)),
            Err(_) => return Err(connect_error(format!("it took longer than {CONNECT_DEADLINE:?}"))),
        };
        let request = self.request(server, call).map_err(|error| connect_error(error.to_string()))?;
        match tokio::time::timeout(limit, exchange(stream, request)).await {
            Ok(exchanged) => {
                exchanged.map_err(|error| HttpError::Exchange { server: server.to_string(), reason: error.to_string() })
            }
            Err(_) => Err(HttpError::Deadline { server: server.to_string(), limit }),
        }
    }

    fn request(&self, server: &Server, call: &Call) -> Result<Request<Full<Bytes>>, http::Error> {
        // A proxy of a plain connection reads the whole URL; in every other case the path is enough.
        let through = self.proxy.as_ref().filter(|_| !server.is_tls);
        let target = if through.is_some() { format!("{server}{}", call.path) } else { call.path.clone() };
        let mut request = Request::builder().method(call.method.clone()).uri(target);
        request = request.header(HOST, server.authority.as_str()).header("connection", "close");
        if let Some(credentials) = &server.credentials {
            request = request.header(AUTHORIZATION, credentials);
        }
        if let Some(credentials) = through.and_then(|proxy| proxy.credentials.as_ref()) {
            request = request.header(PROXY_AUTHORIZATION, credentials);
        }
        if call.form.is_some() {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        request.body(Full::from(call.form.clone().unwrap_or_default()))
    }

    /// What TLS trusts, if TLS is needed on the way.
    async fn trust(&mut self, server: &Server) -> Result<Option<Arc<ClientConfig>>, String> {
        if !server.is_tls && !self.proxy.as_ref().is_some_and(|proxy| proxy.is_tls) {
            return Ok(None);
        }
        if self.tls.is_none() {
            let read = tokio::task::spawn_blocking(trust_the_system).await.map_err(|error| error.to_string())?;
            self.tls = Some(Arc::new(read?));
        }
        Ok(self.tls.clone())
    }
}

/// Connects to a server, through the proxy if there is one.
async fn connect(
    server: Server,
    proxy: Option<Server>,
    trust: Option<Arc<ClientConfig>>,
) -> Result<Box<dyn Stream>, String> {
    let first = proxy.as_ref().unwrap_or(&server).host_and_port();
    let stream = TcpStream::connect(first).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut stream: Box<dyn Stream> = Box::new(stream);
    if let Some(proxy) = proxy {
        if proxy.is_tls {
            stream = encrypt(stream, proxy.host().to_owned(), trust.clone()).await?;
        }
        if server.is_tls {
            stream = tunnel(stream, proxy, server.host_and_port()).await?;
        }
    }
    if server.is_tls { encrypt(stream, server.host().to_owned(), trust).await } else { Ok(stream) }
}

async fn encrypt(
    stream: Box<dyn Stream>,
    host: String,
    trust: Option<Arc<ClientConfig>>,
) -> Result<Box<dyn Stream>, String> {
    let trust = trust.ok_or("no certificates were read")?;
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(trust).connect(name, stream).await.map_err(|error| error.to_string())?;
    Ok(Box::new(stream))
}

/// Where a response sends the request, which stays what it is.
fn redirect(response: &Response<Bytes>) -> Option<String> {
    let moved = matches!(response.status().as_u16(), 301 | 302 | 307 | 308);
    let location = response.headers().get(LOCATION).filter(|_| moved)?;
    Some(location.to_str().ok()?.to_owned())
}

/// Sends one request over a connection.
fn exchange(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
) -> BoxFuture<'static, Result<Response<Bytes>, BoxError>> {
    Box::pin(async move {
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        let answer = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, MAX_BODY_BYTES).collect().await?;
            Ok::<_, BoxError>(Response::from_parts(head, body.to_bytes()))
        };
        drive(answer, connection).await
    })
}

/// Drives a connection for as long as the exchange over it takes. The connection ends first when the server closes it behind the answer, which is whole by then.
async fn drive<T>(exchange: impl Future<Output = T>, connection: impl Future) -> T {
    let mut exchange = pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        _ = connection => exchange.await,
    }
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

fn trust_the_system() -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    // Some of the system's may be too old for rustls; the others count.
    let system = rustls_native_certs::load_native_certs();
    if roots.add_parsable_certificates(system.certs).0 == 0 {
        return Err(
            "the system has no certificate authorities; install ca-certificates or set SSL_CERT_FILE".to_owned()
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth())
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
        let call = Call { method: Method::GET, path, form: None };
        let mut http = Http::new(server, None);
        tokio::select! {
            answer = http.send(&call, Duration::from_secs(10)) => answer,
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
        assert_eq!((answer.status, answer.index, answer.body.as_ref()), (StatusCode::OK, Some(7), b"yes".as_slice()));
        let error = served(vec![moved("/again"); MAX_REDIRECTS + 1]).await.unwrap_err().to_string();
        assert!(error.ends_with("redirects more than 5 times"), "{error}");
        assert!(matches!(served(vec![moved("ftp://a/")]).await, Err(HttpError::Redirect(_))));
        let large = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(MAX_BODY_BYTES + 1));
        assert!(matches!(served(vec![large]).await, Err(HttpError::Exchange { .. })));
        assert!(matches!(served(vec![String::new()]).await, Err(HttpError::Exchange { .. })));
    }
}
