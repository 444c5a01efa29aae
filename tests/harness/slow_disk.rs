//! A slow disk for one process: every sync of a file takes longer.
//!
//! `strace` attaches to the process and delays the end of fsync and fdatasync. Needs the package `strace` and the right
//! to trace. The delay ends on drop, and by itself after a limit.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A test that hangs does not leave a traced process behind.
const LIMIT_SECONDS: &str = "60";
const ATTACH_DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// A process whose syncs are slow while this value lives.
#[derive(Debug)]
pub struct SlowDisk {
    strace: Child,
}

impl SlowDisk {
    /// Delays each sync of a process.
    pub async fn attach(pid: Pid, delay: Duration) -> Result<Self> {
        let pid = pid.as_raw_nonzero().to_string();
        let inject = format!("inject=fdatasync,fsync:delay_exit={}", delay.as_micros());
        let strace = Command::new("timeout")
            .args(["--signal=TERM", LIMIT_SECONDS, "strace", "-f", "-qq", "-o", "/dev/null"])
            .args(["-e", "trace=fdatasync,fsync", "-e", &inject, "-p", &pid])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("run strace; install it with `scripts/check tools`")?;
        let mut slow = Self { strace };
        let deadline = Instant::now() + ATTACH_DEADLINE;
        while !is_traced(&pid)? {
            if let Some(status) = slow.strace.try_wait()? {
                bail!("strace ended with {status}: it needs the package strace and the right to trace");
            }
            ensure!(Instant::now() < deadline, "strace did not attach to {pid} in time");
            tokio::time::sleep(POLL).await;
        }
        Ok(slow)
    }
}

fn is_traced(pid: &str) -> Result<bool> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    Ok(status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0")))
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // `timeout` passes the signal on, and strace detaches before it ends.
        let told = kill_process(Pid::from_child(&self.strace), Signal::TERM);
        if let Err(error) = told.map_err(Into::into).and_then(|()| self.strace.wait()) {
            eprintln!("could not end strace: {error}");
        }
    }
}
