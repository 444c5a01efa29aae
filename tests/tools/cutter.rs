//! Proxies in front of a server: one that loses answers, so that the server does what it is asked and the client does not
//! hear of it, one that holds a request back, and one that ends connections after so many bytes.

use anyhow::{Context as _, Result};
use harness::Server;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

/// What a request has in it whose answer is lost.
pub(crate) const MARK: &str = "lose-the-answer";

/// Passes bytes on. What comes behind the first request with [`MARK`] ends its connection instead; after that, everything
/// passes.
pub(crate) struct Cutter {
    pub(crate) endpoint: String,
    task: JoinHandle<Result<()>>,
}

impl Cutter {
    pub(crate) async fn before(server: &Server) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let target = server.endpoint();
        let task = tokio::spawn(async move {
            let (mut connections, has_cut) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
            loop {
                let (down, _) = listener.accept().await?;
                let up = TcpStream::connect(&target).await?;
                connections.spawn(pass(down, up, Arc::clone(&has_cut)));
            }
        });
        Ok(Self { endpoint, task })
    }
}

async fn pass(mut down: TcpStream, mut up: TcpStream, has_cut: Arc<AtomicBool>) -> std::io::Result<()> {
    let (mut down_read, mut down_write) = down.split();
    let (mut up_read, mut up_write) = up.split();
    let is_marked = AtomicBool::new(false);
    let requests = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = down_read.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            up_write.write_all(&buffer[..read]).await?;
            if buffer[..read].windows(MARK.len()).any(|window| window == MARK.as_bytes()) {
                is_marked.store(!has_cut.swap(true, Ordering::SeqCst), Ordering::SeqCst);
            }
        }
    };
    let answers = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = up_read.read(&mut buffer).await?;
            if read == 0 || is_marked.load(Ordering::SeqCst) {
                return Ok(());
            }
            down_write.write_all(&buffer[..read]).await?;
        }
    };
    // The end of either ends both.
    tokio::select! {
        ended = requests => ended,
        ended = answers => ended,
    }
}

/// Passes bytes on, but the second request with a mark waits: what is done meanwhile is done between two requests.
pub(crate) struct Holder {
    pub(crate) endpoint: String,
    gate: Arc<Gate>,
    task: JoinHandle<Result<()>>,
}

struct Gate {
    mark: String,
    /// Requests with the mark.
    seen: AtomicUsize,
    is_held: Notify,
    is_open: Notify,
}

impl Holder {
    pub(crate) async fn before(server: &Server, mark: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let gate =
            Gate { mark: mark.to_owned(), seen: AtomicUsize::new(0), is_held: Notify::new(), is_open: Notify::new() };
        let (target, gate) = (server.endpoint(), Arc::new(gate));
        let task = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move {
                let mut connections = JoinSet::new();
                loop {
                    let (down, _) = listener.accept().await?;
                    let up = TcpStream::connect(&target).await?;
                    connections.spawn(pass_behind(down, up, Arc::clone(&gate)));
                }
            }
        });
        Ok(Self { endpoint, gate, task })
    }

    /// Waits until the request is there.
    pub(crate) async fn holds(&self, limit: Duration) -> Result<()> {
        tokio::time::timeout(limit, self.gate.is_held.notified()).await.context("there is no second request")
    }

    /// Lets it pass.
    pub(crate) fn release(&self) {
        self.gate.is_open.notify_one();
    }
}

async fn pass_behind(mut down: TcpStream, mut up: TcpStream, gate: Arc<Gate>) -> std::io::Result<()> {
    let (mut down_read, mut down_write) = down.split();
    let (mut up_read, mut up_write) = up.split();
    let requests = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = down_read.read(&mut buffer).await?;
            if read == 0 {
                return Ok(0);
            }
            let has_mark = buffer[..read].windows(gate.mark.len()).any(|window| window == gate.mark.as_bytes());
            if has_mark && gate.seen.fetch_add(1, Ordering::SeqCst) == 1 {
                gate.is_held.notify_one();
                gate.is_open.notified().await;
            }
            up_write.write_all(&buffer[..read]).await?;
        }
    };
    tokio::select! {
        ended = requests => ended.map(drop),
        ended = tokio::io::copy(&mut up_read, &mut down_write) => ended.map(drop),
    }
}

/// What becomes of a connection once it has carried its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It breaks.
    Cut,
    /// Nothing moves any more.
    Stall,
}

/// Passes bytes on, but of the first connections only so many from the server. Those after them pass, or are refused.
pub(crate) struct Limiter {
    pub(crate) endpoint: String,
    task: JoinHandle<Result<()>>,
}

impl Limiter {
    pub(crate) async fn before(server: &Server, limits: &[(usize, Fate)], refuses_then: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let (target, limits) = (server.endpoint(), limits.to_vec());
        let task = tokio::spawn(async move {
            let (mut connections, mut limits) = (JoinSet::new(), limits.into_iter());
            loop {
                let (down, _) = listener.accept().await?;
                let limit = limits.next();
                if limit.is_none() && refuses_then {
                    continue;
                }
                let up = TcpStream::connect(&target).await?;
                connections.spawn(pass_some(down, up, limit));
            }
        });
        Ok(Self { endpoint, task })
    }
}

async fn pass_some(mut down: TcpStream, mut up: TcpStream, limit: Option<(usize, Fate)>) -> std::io::Result<()> {
    let (mut down_read, mut down_write) = down.split();
    let (mut up_read, mut up_write) = up.split();
    let requests = tokio::io::copy(&mut down_read, &mut up_write);
    let answers = async {
        let Some((bytes, fate)) = limit else { return tokio::io::copy(&mut up_read, &mut down_write).await };
        tokio::io::copy(&mut (&mut up_read).take(bytes as u64), &mut down_write).await?;
        if fate == Fate::Cut {
            // All of it arrives first: a connection that is dropped takes back what is on its way.
            down_write.shutdown().await?;
        }
        // The client ends the connection, or is ended.
        std::future::pending().await
    };
    tokio::select! {
        ended = requests => ended.map(drop),
        ended = answers => ended.map(drop),
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}
