//! A socket on which writing must make progress.

use server::listen::Progress;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Fails a write when nothing has been taken for a while: the client does not read, and what is kept for it would be
/// kept for ever. It stands below TLS, so handshakes are bounded as well.
#[derive(Debug)]
pub(crate) struct Progressing<S> {
    socket: S,
    progress: Progress,
}

impl<S> Progressing<S> {
    pub(crate) fn new(socket: S, limit: Duration) -> Self {
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
    use tokio::time::{Instant, sleep};

    const LIMIT: Duration = Duration::from_secs(30);

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
