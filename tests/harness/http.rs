//! Plain HTTP requests to a server under test.

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, Request, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::convert::Infallible;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

const DEADLINE: Duration = Duration::from_secs(20);

/// Asks `http://host:port` for a path. Returns the status, the head and the body of the answer.
///
/// # Errors
/// The server cannot be reached, does not answer in time, or not in HTTP.
pub async fn get(url: &str, path: &str) -> Result<(u16, String, String)> {
    let address = url.strip_prefix("http://").context("a URL without TLS")?;
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        // The old version, so that the body comes in one piece and the end of the connection is its end.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(DEADLINE, exchange).await.context("no answer in time")??;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer in HTTP: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.with_context(|| format!("no status: {head}"))?, head.to_owned(), body.to_owned()))
}

/// An answer over HTTP/1.1.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// All of the body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {self:?}"))
    }

    /// A header as text, empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A request body.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A body that is there at once.
pub fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed_unsync()
}

/// A body that comes piece by piece, and ends with its sender.
pub fn pieces() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel(8);
    let frames = ReceiverStream::new(receiver).map(|piece| Ok(Frame::data(piece)));
    (sender, StreamBody::new(frames).boxed_unsync())
}

/// Sends a request to `host:port` on a connection of its own, and waits for the whole answer.
///
/// # Errors
/// The server cannot be reached, does not answer in time, or not in HTTP.
pub async fn send(address: &str, request: Request<Body>) -> Result<Answer> {
    let exchange = async {
        let opened = open(address, request).await?;
        let (status, headers) = (opened.status, opened.headers);
        let body = opened.lines.body.collect().await?.to_bytes();
        Ok(Answer { status, headers, body })
    };
    tokio::time::timeout(DEADLINE, exchange).await.context("no answer in time")?
}

/// Posts a body.
///
/// # Errors
/// As [`send`].
pub async fn post(address: &str, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
    send(address, Request::post(path).body(full(body))?).await
}

/// An answer whose body goes on.
#[derive(Debug)]
pub struct Opened {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The lines of the body.
    pub lines: Lines,
}

/// The lines of a body that goes on. The connection ends with it.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    arrived: Vec<u8>,
    _connection: AbortOnDropHandle<()>,
}

/// Sends a request and returns with the head of the answer.
///
/// # Errors
/// As [`send`].
pub async fn open(address: &str, mut request: Request<Body>) -> Result<Opened> {
    if !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, address.parse()?);
    }
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Its errors show in the exchange.
        let connection = AbortOnDropHandle::new(tokio::spawn(async { drop(connection.await) }));
        let (head, body) = sender.send_request(request).await?.into_parts();
        let lines = Lines { body, arrived: Vec::new(), _connection: connection };
        Ok(Opened { status: head.status.as_u16(), headers: head.headers, lines })
    };
    tokio::time::timeout(DEADLINE, exchange).await.context("no answer in time")?
}

impl Lines {
    /// The rest of the body.
    ///
    /// # Errors
    /// It does not end in time, or the connection breaks.
    pub async fn rest(mut self) -> Result<Bytes> {
        let rest = async {
            while let Some(frame) = self.body.frame().await {
                self.arrived.extend_from_slice(frame?.data_ref().map_or(&[], |data| data));
            }
            anyhow::Ok(self.arrived.into())
        };
        tokio::time::timeout(DEADLINE, rest).await.context("the body does not end")?
    }

    /// The next line as JSON, whole or not; none when the body is over.
    ///
    /// # Errors
    /// It does not come in time, the connection breaks, or it is no JSON.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        self.line().await?.map(|line| Ok(serde_json::from_slice(&line)?)).transpose()
    }

    /// The next line with its end, if it has one; none when the body is over.
    ///
    /// # Errors
    /// It does not come in time, or the connection breaks.
    pub async fn line(&mut self) -> Result<Option<Vec<u8>>> {
        let line = async {
            loop {
                if let Some(end) = self.arrived.iter().position(|byte| *byte == b'\n') {
                    return anyhow::Ok(Some(self.arrived.drain(..=end).collect()));
                }
                match self.body.frame().await {
                    None if self.arrived.is_empty() => return Ok(None),
                    // Etcd does not end the line of an error.
                    None => return Ok(Some(std::mem::take(&mut self.arrived))),
                    Some(frame) => self.arrived.extend_from_slice(frame?.data_ref().map_or(&[], |data| data)),
                }
            }
        };
        tokio::time::timeout(DEADLINE, line).await.context("no line in time")?
    }
}
