//! Starts and stops the processes that are compared, each with a fresh directory.
//!
//! Which belong together, and with which flags they run, is for [`super::cluster`] to say. A [`Server`] kills its process and removes its directory when it is dropped, whatever ended the comparison.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;

use super::probe;
use crate::connection::Endpoint;

/// How often a starting server is asked: the resolution of restart times.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(5);
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

/// A process and its directory: a server of its own or a member of a cluster.
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
    /// Starts `binary` with `flags` and a fresh directory below `parent`, and does not wait for it.
    ///
    /// # Errors
    /// The directory cannot be made or the binary cannot be started.
    pub(crate) fn spawn(
        binary: &Path,
        parent: &Path,
        start_timeout: Duration,
        endpoint: Endpoint,
        flags: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("cleat-bench-")
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a directory in {} (choose another with --dir)", parent.display()))?;
        let data = [("--data-dir", dir.path().join("data").display().to_string())];
        let arguments: Vec<String> = data.iter().chain(flags).map(|(flag, value)| format!("{flag}={value}")).collect();
        let child = spawn(binary, &arguments, dir.path())?;
        Ok(Self { binary: binary.to_owned(), arguments, endpoint, child, start_timeout, dir })
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
        self.respawn()?;
        self.await_read(Some(key)).await?;
        Ok(begin.elapsed())
    }

    /// Starts the ended process again and does not wait for it.
    pub(crate) fn respawn(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.binary, &self.arguments, self.dir.path())?;
        Ok(())
    }

    /// Bytes of the blocks that the data directory has on disk.
    pub(crate) fn disk_bytes(&self) -> anyhow::Result<u64> {
        Ok(allocated_bytes(&self.dir.path().join("data"))?)
    }

    /// Asks until a linearizable read is served, and finds `key` if one is given.
    pub(crate) async fn await_read(&mut self, key: Option<Bytes>) -> anyhow::Result<()> {
        let end = Instant::now() + self.start_timeout;
        loop {
            self.check_alive()?;
            let why = match probe::read(&self.endpoint, key.as_ref()).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
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
