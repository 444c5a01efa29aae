//! Command line tools, run to their end with a deadline.

use crate::server::{Server, built_binary};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// What a tool printed and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code, `None` after a signal.
    pub code: Option<i32>,
}

/// etcd's command line client: `ETCDCTL_BIN`, else `etcdctl` from `PATH`.
pub fn etcdctl_binary() -> OsString {
    std::env::var_os("ETCDCTL_BIN").unwrap_or_else(|| "etcdctl".into())
}

/// Which program is run as `etcdctl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// etcd's own.
    Etcdctl,
    /// `cleatctl` under that name.
    Cleatctl,
}

/// `cleatctl` as a program called `etcdctl`, by a link in a directory. Made anew, or used again.
///
/// # Errors
/// It was not built, or the link cannot be made.
pub fn cleatctl_as_etcdctl(dir: &Path) -> Result<PathBuf> {
    let bin = dir.join("bin");
    let link = bin.join("etcdctl");
    if !link.exists() {
        std::fs::create_dir_all(&bin)?;
        std::os::unix::fs::symlink(built_binary("cleatctl")?, &link)?;
    }
    Ok(link)
}

/// The tool that etcd has from 3.5 on for files: `ETCDUTL_BIN`, without which `etcdctl` has to do.
pub fn etcdutl_binary() -> Option<OsString> {
    std::env::var_os("ETCDUTL_BIN")
}

/// Runs `etcdctl` against a server, with the given standard input.
pub async fn etcdctl(server: &Server, args: &[&str], stdin: &[u8], limit: Duration) -> Result<Output> {
    let mut command = Command::new(etcdctl_binary());
    command.env("ETCDCTL_API", "3").arg("--endpoints").arg(server.endpoint()).args(args);
    command.current_dir(server.scratch());
    run(command, stdin, limit).await
}

/// Runs a command to its end; kills it and fails when the limit passes.
pub async fn run(mut command: Command, stdin: &[u8], limit: Duration) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let what = format!("{:?}", command.as_std());
    let mut child = command.spawn().with_context(|| format!("start {what}"))?;
    let mut pipe = child.stdin.take().context("standard input is piped")?;
    let work = async {
        // A tool may end without reading its input.
        let written = pipe.write_all(stdin).await;
        drop(pipe);
        let output = child.wait_with_output().await?;
        if let Err(error) = written
            && error.kind() != std::io::ErrorKind::BrokenPipe
        {
            return Err(error);
        }
        Ok(output)
    };
    let Ok(output) = tokio::time::timeout(limit, work).await else { bail!("{what} did not end in {limit:?}") };
    let output = output?;
    Ok(Output {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    })
}
