//! Connections without TLS, as long as their requests are simple: reads that have no body. Most connections have no others.
//!
//! hyper keeps two buffers of 8 KiB for each connection; many thousand clients wait here at once, and one that waits has no
//! buffer. Whatever is not simple is hyper's: the connection goes over to it, with what has been read.

use super::head::{self, Parsed, Simple};
use super::{HEAD_DEADLINE, WRITE_DEADLINE};
use axum::body::{Body, HttpBody as _};
use bytes::{Buf as _, Bytes};
use futures::FutureExt as _;
use http::{Request, Response};
use hyper::body::Frame;
use socket::Progress;
use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Bytes that are read at once, and of the largest head that is looked at here.
const READ_BYTES: usize = 4 << 10;
/// Bytes of a body that are copied to the head, which is quicker than a vector of two.
const COPIED_BYTES: usize = 4 << 10;
/// Pieces of a body that are written at once.
const MAX_PIECES: usize = 32;

/// A connection that is not simple any more.
pub(super) struct Rest {
    pub(super) stream: TcpStream,
    /// What was read and not answered.
    pub(super) unread: Vec<u8>,
}

/// What a connection has told.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment, and almost always it is the large one")]
enum Told {
    Request(Simple),
    /// Something for hyper.
    Other,
    /// It has ended, or has to.
    End,
}

/// Serves a connection until it ends, or goes over to hyper.
pub(super) async fn serve<A, F>(stream: TcpStream, answer: A, stop: &CancellationToken) -> Option<Rest>
where
    A: Fn(Request<Body>) -> F,
    F: Future<Output = Response<Body>>,
{
    let mut connection = Plain { stream, unread: Vec::new(), progress: Progress::within(WRITE_DEADLINE) };
    let mut stopped = pin!(stop.cancelled());
    let mut idle = pin!(sleep_until(Instant::now() + HEAD_DEADLINE));
    loop {
        let deadline = Instant::now() + HEAD_DEADLINE;
        let told = std::future::poll_fn(|cx| {
            connection.poll_request(cx).or_else_ended(|| {
                let is_over = stopped.as_mut().poll(cx).is_ready() || is_after(idle.as_mut(), deadline, cx);
                if is_over { Poll::Ready(Told::End) } else { Poll::Pending }
            })
        });
        let Simple { request, is_head, is_last } = match told.await {
            Told::Request(simple) => simple,
            Told::Other => return Some(Rest { stream: connection.stream, unread: connection.unread }),
            Told::End => return None,
        };
        let response = connection.while_there(answer(request)).await?;
        let is_last = is_last || stop.is_cancelled() || head::closes(response.headers());
        let is_written = connection.write(response, is_head, is_last).await;
        if is_written.is_none() || is_last {
            // The client may have gone before.
            drop(connection.stream.shutdown().await);
            return None;
        }
    }
}

/// True once it is after a time. The timer is not set anew for each request.
fn is_after(mut timer: Pin<&mut Sleep>, deadline: Instant, cx: &mut Context<'_>) -> bool {
    while timer.as_mut().poll(cx).is_ready() {
        if timer.deadline() >= deadline {
            return true;
        }
        timer.as_mut().reset(deadline);
    }
    false
}

/// Tries something else while there is nothing.
trait OrElse {
    fn or_else_ended(self, other: impl FnOnce() -> Self) -> Self;
}

impl<T> OrElse for Poll<T> {
    fn or_else_ended(self, other: impl FnOnce() -> Self) -> Self {
        if self.is_pending() { other() } else { self }
    }
}

struct Plain {
    stream: TcpStream,
    /// What was read and not looked at; of a client that waits for its answers it is nothing.
    unread: Vec<u8>,
    progress: Progress,
}

impl Plain {
    /// Reads a request.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Told> {
        if let Some(told) = self.parse(&[]) {
            return Poll::Ready(told);
        }
        loop {
            let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
            let mut read = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.stream).poll_read(cx, &mut read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Told::End),
            }
            if let Some(told) = self.parse(read.filled()) {
                return Poll::Ready(told);
            }
        }
    }

    /// A request from what is there and what has come. None if there must be more.
    fn parse(&mut self, read: &[u8]) -> Option<Told> {
        if !self.unread.is_empty() {
            self.unread.extend_from_slice(read);
        }
        let bytes = if self.unread.is_empty() { read } else { &self.unread };
        if bytes.is_empty() {
            return None;
        }
        match head::parse(bytes) {
            Parsed::Simple(simple, length) => {
                let rest = &bytes[length..];
                self.unread = if rest.is_empty() { Vec::new() } else { rest.to_vec() };
                Some(Told::Request(simple))
            }
            parsed => {
                if self.unread.is_empty() {
                    self.unread = read.to_vec();
                }
                let is_other = matches!(parsed, Parsed::Other) || self.unread.len() >= READ_BYTES;
                is_other.then_some(Told::Other)
            }
        }
    }

    /// Waits for something, but no longer than the client is there: None if it has gone.
    async fn while_there<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(done) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            self.poll_gone(cx).map(|()| None)
        })
        .await
    }

    /// Ready when the client has gone. What it sends until then is kept for later.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // With more than that it is there, and waits itself.
        while self.unread.len() < READ_BYTES {
            let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
            let mut read = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.stream).poll_read(cx, &mut read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !read.filled().is_empty() => self.unread.extend_from_slice(read.filled()),
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Writes an answer; None if the client has gone, or takes nothing.
    async fn write(&mut self, response: Response<Body>, is_head: bool, is_last: bool) -> Option<()> {
        let (parts, mut body) = response.into_parts();
        let length = body.size_hint().exact();
        let mut begin = head::encode(&parts, length, is_head, is_last);
        if is_head || body.is_end_stream() || !head::has_body(parts.status) {
            return self.write_only(&begin).await;
        }
        let is_chunked = length.is_none();
        let mut pieces = VecDeque::new();
        loop {
            // What is there is written together, and before more is waited for.
            let ready = if pieces.len() < MAX_PIECES { frame(&mut body).now_or_never() } else { None };
            let next = if let Some(next) = ready {
                next
            } else {
                pieces.push_front(std::mem::take(&mut begin).into());
                self.write_all(&mut pieces).await?;
                self.while_there(frame(&mut body)).await?
            };
            // A body that breaks off must not look like one that has ended.
            let Some(frame) = next.transpose().ok()? else { break };
            let Some(data) = frame.into_data().ok().filter(|data| !data.is_empty()) else { continue };
            if is_chunked {
                pieces.extend([format!("{:X}\r\n", data.len()).into(), data, Bytes::from_static(b"\r\n")]);
            } else if pieces.is_empty() && begin.len() + data.len() <= COPIED_BYTES {
                begin.extend_from_slice(&data);
            } else {
                pieces.push_back(data);
            }
        }
        if is_chunked {
            pieces.push_back(Bytes::from_static(b"0\r\n\r\n"));
        }
        if pieces.is_empty() {
            return self.write_only(&begin).await;
        }
        pieces.push_front(begin.into());
        self.write_all(&mut pieces).await
    }

    /// Writes one piece, as almost all answers are.
    async fn write_only(&mut self, mut piece: &[u8]) -> Option<()> {
        while !piece.is_empty() {
            let written = std::future::poll_fn(|cx| {
                let written = Pin::new(&mut self.stream).poll_write(cx, piece);
                self.progress.judge(cx, written)
            });
            let written = written.await.ok().filter(|written| *written > 0)?;
            piece = &piece[written..];
        }
        Some(())
    }

    async fn write_all(&mut self, pieces: &mut VecDeque<Bytes>) -> Option<()> {
        loop {
            while pieces.front().is_some_and(Bytes::is_empty) {
                pieces.pop_front();
            }
            if pieces.is_empty() {
                return Some(());
            }
            let mut written = std::future::poll_fn(|cx| {
                let written = poll_write(Pin::new(&mut self.stream), cx, pieces);
                self.progress.judge(cx, written)
            })
            .await
            .ok()
            .filter(|written| *written > 0)?;
            while written > 0 {
                let first = pieces.front_mut()?;
                let length = written.min(first.len());
                first.advance(length);
                written -= length;
                if first.is_empty() {
                    pieces.pop_front();
                }
            }
        }
    }
}

async fn frame(body: &mut Body) -> Option<Result<Frame<Bytes>, axum::Error>> {
    std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

fn poll_write(stream: Pin<&mut TcpStream>, cx: &mut Context<'_>, pieces: &VecDeque<Bytes>) -> Poll<io::Result<usize>> {
    if let (Some(only), 1) = (pieces.front(), pieces.len()) {
        return stream.poll_write(cx, only);
    }
    let mut slices = [IoSlice::new(&[]); MAX_PIECES];
    for (slice, piece) in slices.iter_mut().zip(pieces) {
        *slice = IoSlice::new(piece);
    }
    stream.poll_write_vectored(cx, &slices[..pieces.len().min(MAX_PIECES)])
}
