//! A proxy that loses answers: the server does what it is asked, and the client does not hear of it.

use anyhow::Result;
use harness::Server;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
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

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}
