//! Ends connections whose client does not read, and asks the system for as many as there may be.
//!
//! HTTP/2 has pings for that, HTTP/1 has nothing: a stream that is written to a client that does not read would hold what
//! is kept for it, and a connection, for ever.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Descriptors that the process may have, after it has asked for so many. Many systems allow 1,024 and far more to who asks;
/// Go's runtime always does.
#[must_use]
pub fn descriptors(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX).min(wanted);
    match limit.current {
        Some(current) if current < most => {
            let more = Rlimit { current: Some(most), maximum: limit.maximum };
            if setrlimit(Resource::Nofile, more).is_ok() { most } else { current }
        }
        current => current.unwrap_or(u64::MAX),
    }
}

/// Watches the writes of one connection.
#[derive(Debug)]
pub struct Progress {
    limit: Duration,
    /// Runs while the socket takes nothing. Boxed once for each time that this happens.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Progress {
    /// The socket may take nothing for `limit`.
    #[must_use]
    pub fn within(limit: Duration) -> Self {
        Self { limit, stalled: None }
    }

    /// Passes the outcome of a write on. Fails one that has waited for too long.
    pub fn judge(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        stalled.as_mut().poll(cx).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

/// A socket with its [`Progress`]. It stands below TLS, so handshakes are bounded as well.
#[derive(Debug)]
pub struct Progressing<S> {
    socket: S,
    progress: Progress,
}

impl<S> Progressing<S> {
    /// Its client may take nothing for `limit`.
    #[must_use]
    pub fn new(socket: S, limit: Duration) -> Self {
        Self { socket, progress: Progress::within(limit) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Progressing<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Progressing<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.progress.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.progress.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    // What was written is the kernel's, so neither of these waits.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::Instant;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn the_limit_of_descriptors_is_raised_to_what_is_allowed() {
        let limit = getrlimit(Resource::Nofile);
        let most = limit.maximum.unwrap_or(u64::MAX).min(4096);
        let few = Rlimit { current: Some(most / 2), ..limit };
        setrlimit(Resource::Nofile, few).unwrap();
        assert_eq!((descriptors(most / 4), descriptors(4096)), (most / 2, most));
        assert_eq!(getrlimit(Resource::Nofile).current, Some(most));
        setrlimit(Resource::Nofile, limit).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_may_be_slow_and_not_stand_still() {
        let (socket, mut client) = duplex(100);
        let mut socket = Progressing::new(socket, LIMIT);
        let reading = tokio::spawn(async move {
            let mut received = [0; 100];
            for _ in 0..10 {
                sleep(LIMIT.mul_f64(0.9)).await;
                client.read_exact(&mut received).await.unwrap();
            }
            client
        });
        socket.write_all(&[0; 1100]).await.unwrap();
        let _client = reading.await.unwrap();
        let begun = Instant::now();
        let error = socket.write_all(&[0; 1]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, LIMIT));
    }
}
