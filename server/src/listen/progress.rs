//! Ends connections whose client does not read.
//!
//! HTTP/2 has pings for that, HTTP/1 has nothing: a stream that is written to a client that does not read would hold what
//! is kept for it, and a connection, for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

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
