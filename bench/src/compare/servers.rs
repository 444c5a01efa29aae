//! Starts and stops the servers that are compared: fresh directories, free loopback ports, the same flags for both.
//!
//! A [`Server`] kills its process and removes its directory when it is dropped, whatever ended the comparison.

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use api::etcdserverpb::{RangeRequest, RangeResponse};
use bytes::Bytes;
use prost::Message as _;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::connection::{CallError, Connection, Endpoint, Method, frame};

/// How often a starting server is asked: the resolution of restart times.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long one question to a starting server may take.
const POLL_DEADLINE: Duration = Duration::from_secs(2);
/// How long a server may take to end after SIGTERM before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// How much of a log is shown when its server fails.
const LOG_LINES: usize = 5;

/// How a server is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// SIGTERM: the server may finish what it does.
    Terminate,
    /// SIGKILL: it may not.
    Kill,
}

/// A running server.
pub(crate) struct Server {
    binary: PathBuf,
    arguments: Vec<String>,
    endpoint: Endpoint,
    child: Child,
    start_timeout: Duration,
    // Dropped last: the process is dead by then.
    dir: TempDir,
}

impl Server {
    /// Starts `binary` with a fresh directory below `parent` and waits until it serves reads.
    ///
    /// # Errors
    /// The binary cannot be started, ends, or does not serve within `start_timeout`.
    pub(crate) async fn start(binary: &Path, parent: &Path, start_timeout: Duration) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("cleat-bench-")
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a directory in {} (choose another with --dir)", parent.display()))?;
        let (client, peer) = free_ports().context("cannot find free ports on 127.0.0.1")?;
        let arguments = arguments(&dir.path().join("data"), client, peer);
        let child = spawn(binary, &arguments, dir.path())?;
        let endpoint = format!("127.0.0.1:{client}").parse().map_err(anyhow::Error::msg)?;
        let mut server = Self { binary: binary.to_owned(), arguments, endpoint, child, start_timeout, dir };
        server.await_read(None).await?;
        Ok(server)
    }

    /// Where it serves clients.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns an error with the end of its log when the process has ended.
    pub(crate) fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}{}", self.binary.display(), self.log_end()),
        }
    }

    /// Ends the process and waits for it.
    pub(crate) async fn end(&mut self, ending: Ending) -> anyhow::Result<ExitStatus> {
        if ending == Ending::Kill {
            self.child.kill()?;
            return Ok(self.child.wait()?);
        }
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("a process has a positive id")?;
        kill_process(pid, Signal::TERM).context("cannot send SIGTERM")?;
        let end = Instant::now() + STOP_DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("{} did not end within {STOP_DEADLINE:?} after SIGTERM", self.binary.display());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Starts the ended process again and returns how long it took until a linearizable read found `key`.
    pub(crate) async fn restart(&mut self, key: Bytes) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        self.child = spawn(&self.binary, &self.arguments, self.dir.path())?;
        self.await_read(Some(key)).await?;
        Ok(begin.elapsed())
    }

    /// Bytes of the blocks that the data directory has on disk.
    pub(crate) fn disk_bytes(&self) -> anyhow::Result<u64> {
        Ok(allocated_bytes(&self.dir.path().join("data"))?)
    }

    /// Asks until a linearizable read is served, and finds `key` if one is given.
    async fn await_read(&mut self, key: Option<Bytes>) -> anyhow::Result<()> {
        let end = Instant::now() + self.start_timeout;
        loop {
            self.check_alive()?;
            let attempt = tokio::time::timeout(POLL_DEADLINE, read(&self.endpoint, key.as_ref())).await;
            let why = match attempt {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {POLL_DEADLINE:?}"),
            };
            if Instant::now() > end {
                bail!(
                    "{} did not serve reads on {} within {:?} (see --start-timeout): {why}{}",
                    self.binary.display(),
                    self.endpoint,
                    self.start_timeout,
                    self.log_end()
                );
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        if last.is_empty() { String::new() } else { format!("; its log ends with:\n  {}", last.join("\n  ")) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One linearizable read.
async fn read(endpoint: &Endpoint, key: Option<&Bytes>) -> Result<(), CallError> {
    let connection = Connection::open(endpoint).await?;
    let method = Method::new(endpoint, "/etcdserverpb.KV/Range");
    let asked = key.cloned().unwrap_or_else(|| Bytes::from_static(b"cleat-bench-ready"));
    let reply = connection.call(&method, frame(&RangeRequest { key: asked, ..Default::default() })).await?;
    let response = RangeResponse::decode(reply).map_err(|error| CallError::Unexpected(error.to_string()))?;
    if key.is_some() && response.kvs.is_empty() {
        return Err(CallError::Unexpected("the server lost a key over its restart".to_owned()));
    }
    Ok(())
}

fn arguments(data: &Path, client: u16, peer: u16) -> Vec<String> {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let flags = [
        ("--name", "bench".to_owned()),
        ("--data-dir", data.display().to_string()),
        ("--listen-client-urls", client.clone()),
        ("--advertise-client-urls", client),
        ("--listen-peer-urls", peer.clone()),
        ("--initial-advertise-peer-urls", peer.clone()),
        ("--initial-cluster", format!("bench={peer}")),
    ];
    flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

fn spawn(binary: &Path, arguments: &[String], dir: &Path) -> anyhow::Result<Child> {
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log"))?;
    let mut command = Command::new(binary);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Both servers read these; only the flags above shall count.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
        command.env_remove(name);
    }
    // An interrupt from the terminal reaches this program alone, which then ends the servers in order.
    command.process_group(0);
    command
        .spawn()
        .with_context(|| format!("cannot start {}: give the binary's path with --cleat or --etcd", binary.display()))
}

/// Two ports that nothing listens on now.
fn free_ports() -> io::Result<(u16, u16)> {
    let (one, two) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok((one.local_addr()?.port(), two.local_addr()?.port()))
}

/// Bytes of all blocks below `path`; holes do not count, preallocated space does.
fn allocated_bytes(path: &Path) -> io::Result<u64> {
    const BLOCK_BYTES: u64 = 512;
    let metadata = std::fs::symlink_metadata(path)?;
    let mut total = metadata.blocks() * BLOCK_BYTES;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            total += allocated_bytes(&entry?.path())?;
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_binary_that_ends_is_reported_with_its_log() {
        let parent = tempfile::tempdir().expect("a directory");
        let echo = Path::new("/bin/echo");
        let error = Server::start(echo, parent.path(), Duration::from_secs(10)).await.err().expect("echo is no server");
        let text = format!("{error:#}");
        assert!(text.contains("ended with") && text.contains("--data-dir"), "{text}");
        assert_eq!(std::fs::read_dir(parent.path()).expect("readable").count(), 0, "the directory is removed");
        let missing = Server::start(Path::new("/nonexistent"), parent.path(), Duration::from_secs(1)).await.err();
        assert!(format!("{:#}", missing.expect("no such binary")).contains("--etcd"));
    }

    #[test]
    fn disk_use_counts_blocks() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("file"), vec![1; 100_000]).expect("writable");
        let sparse = std::fs::File::create(dir.path().join("sparse")).expect("writable");
        sparse.set_len(1 << 30).expect("a hole");
        let bytes = allocated_bytes(dir.path()).expect("readable");
        assert!((100_000..1 << 20).contains(&bytes), "{bytes}");
    }
}
