//! A connection that sends exactly the given bytes, and reads answers of HTTP/1.1 piece by piece.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf as _, BytesMut};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// No head is longer.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How the end of a body shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// So many bytes are left.
    Length(usize),
    Chunked,
    /// The end of the connection is the end of the body.
    Connection,
    /// There is no more.
    Ended,
}

/// Status line and headers.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of a name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    arrived: BytesMut,
    framing: Framing,
    /// The server ends the connection behind the answer.
    pub(crate) closes: bool,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, arrived: BytesMut::new(), framing: Framing::Ended, closes: false })
    }

    /// Sends a request and reads the head of the answer.
    pub(crate) async fn send(&mut self, request: &[u8]) -> Result<Head> {
        self.stream.write_all(request).await?;
        let is_head = request.starts_with(b"HEAD ");
        let end = loop {
            if let Some(end) = self.arrived.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            ensure!(self.arrived.len() < MAX_HEAD_BYTES, "a head without an end");
            ensure!(self.fill().await? > 0, "the connection ended before an answer");
        };
        let text = String::from_utf8(self.arrived.split_to(end).to_vec()).context("the head is no text")?;
        self.arrived.advance(4);
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let status = status.with_context(|| format!("no status line: {text}"))?;
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let headers = lines.map(header).collect::<Option<Vec<_>>>().with_context(|| format!("no header: {text}"))?;
        let head = Head { status, headers };
        self.closes = head.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        self.framing = if is_head || matches!(status, 100..200 | 204 | 304) {
            Framing::Ended
        } else if head.header("transfer-encoding") == Some("chunked") {
            Framing::Chunked
        } else if let Some(length) = head.header("content-length") {
            Framing::Length(length.parse().with_context(|| format!("content-length: {length}"))?)
        } else {
            Framing::Connection
        };
        Ok(head)
    }

    /// True when the whole body has been taken.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.framing, Framing::Ended | Framing::Length(0))
    }

    /// Takes what comes of the body until there is no more, or nothing for so long. Cancel safe.
    pub(crate) async fn take(&mut self, into: &mut Vec<u8>, quiet: Duration) -> Result<()> {
        loop {
            self.unpack(into)?;
            if self.is_over() {
                return Ok(());
            }
            match tokio::time::timeout(quiet, self.fill()).await {
                Err(_) => return Ok(()),
                Ok(Err(_) | Ok(0)) => {
                    if self.framing != Framing::Connection {
                        // An end that no server should make shows in what is compared.
                        into.extend_from_slice(b"(the connection ended)");
                    }
                    self.closes = true;
                    self.framing = Framing::Ended;
                }
                Ok(Ok(_)) => {}
            }
        }
    }

    async fn fill(&mut self) -> Result<usize> {
        Ok(self.stream.read_buf(&mut self.arrived).await?)
    }

    /// Moves what has arrived of the body.
    fn unpack(&mut self, into: &mut Vec<u8>) -> Result<()> {
        loop {
            match self.framing {
                Framing::Ended => return Ok(()),
                Framing::Connection => {
                    into.extend_from_slice(&self.arrived.split());
                    return Ok(());
                }
                Framing::Length(left) => {
                    let part = self.arrived.split_to(left.min(self.arrived.len()));
                    into.extend_from_slice(&part);
                    self.framing = Framing::Length(left - part.len());
                    return Ok(());
                }
                Framing::Chunked => {
                    let Some(line) = self.arrived.windows(2).position(|window| window == b"\r\n") else {
                        return Ok(());
                    };
                    let digits = std::str::from_utf8(&self.arrived[..line])?;
                    let Ok(length) = usize::from_str_radix(digits, 16) else {
                        bail!("no length of a chunk: {digits:?}")
                    };
                    if self.arrived.len() < line + 4 + length {
                        return Ok(());
                    }
                    into.extend_from_slice(&self.arrived[line + 2..line + 2 + length]);
                    self.arrived.advance(line + 4 + length);
                    if length == 0 {
                        self.framing = Framing::Ended;
                    }
                }
            }
        }
    }
}
