//! The task that moves bytes between a connection's state and its socket.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use super::state::{MAX_FRAME_BYTES, State};

/// Room for what is read at once, several frames.
const READ_BYTES: usize = 4 * MAX_FRAME_BYTES;

/// A connection's state, shared by its driver and its users on one thread: the lock is never contended.
pub(crate) struct Shared(Mutex<State>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts driving `socket` on the current runtime. The task ends when the connection is lost or abandoned.
pub(crate) fn start(socket: TcpStream) -> Arc<Shared> {
    let shared = Arc::new(Shared(Mutex::new(State::new())));
    let mut driver = Driver {
        shared: shared.clone(),
        socket,
        read: vec![0; READ_BYTES],
        filled: 0,
        writing: Vec::new(),
        written: 0,
    };
    tokio::spawn(async move {
        let why = poll_fn(|cx| driver.poll(cx)).await;
        driver.shared.lock().lose(&why);
    });
    shared
}

struct Driver {
    shared: Arc<Shared>,
    socket: TcpStream,
    read: Vec<u8>,
    filled: usize,
    writing: Vec<u8>,
    written: usize,
}

impl Driver {
    /// Reads, then writes, as far as the socket goes; ready with the reason when the connection has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        if let Poll::Ready(why) = self.poll_read(cx) {
            return Poll::Ready(why);
        }
        self.poll_write(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        loop {
            let mut buffer = ReadBuf::new(&mut self.read[self.filled..]);
            let outcome = ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer));
            let count = buffer.filled().len();
            match outcome {
                Err(error) => return Poll::Ready(error.to_string()),
                Ok(()) if count == 0 => return Poll::Ready("closed by the server".to_owned()),
                Ok(()) => self.filled += count,
            }
            match self.shared.lock().receive(&self.read[..self.filled]) {
                Err(why) => return Poll::Ready(why),
                Ok(used) => {
                    // A frame is smaller than the buffer, so there is room for more after this.
                    self.read.copy_within(used..self.filled, 0);
                    self.filled -= used;
                }
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        loop {
            if self.written == self.writing.len() {
                self.writing.clear();
                self.written = 0;
                let mut state = self.shared.lock();
                if !state.take_output(&mut self.writing, cx.waker()) {
                    return if state.is_abandoned() {
                        Poll::Ready("not used any more".to_owned())
                    } else {
                        Poll::Pending
                    };
                }
            }
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.writing[self.written..])) {
                Ok(count) => self.written += count,
                Err(error) => return Poll::Ready(error.to_string()),
            }
        }
    }
}
