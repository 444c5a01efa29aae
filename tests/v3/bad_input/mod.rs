//! Bad input to a whole member: directories that are not its own, damaged files, a full disk, wrong requests.
//!
//! A member that cannot work ends by itself, with an exit code and a message that names what is wrong and what to
//! do about it. It never panics, and it never answers with anything but what was written.

mod damage;
mod directory;
mod full_disk;
mod requests;

use anyhow::{Context, Result, ensure};
use harness::{Kind, Server, tool};
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

const REFUSAL_DEADLINE: Duration = Duration::from_secs(20);

/// Starts the server's program on a data directory and expects it to end by itself. Returns what it said.
async fn refusal(server: &Server, data_dir: &Path, flags: &[&str]) -> Result<String> {
    let mut args = server.args();
    let at = args.iter().position(|arg| arg == "--data-dir").context("the flags name a data directory")?;
    args[at + 1] = data_dir.display().to_string();
    args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let mut command = Command::from(server.command());
    command.args(args);
    let output = tool::run(command, b"", REFUSAL_DEADLINE).await?;
    let printed = format!("{}{}", output.stdout, output.stderr);
    ensure!(output.code.is_some_and(|code| code != 0), "ended with {:?}:\n{printed}", output.code);
    refused_in_order(&printed)?;
    Ok(printed)
}

/// A refusal is an error message, not a panic.
fn refused_in_order(printed: &str) -> Result<()> {
    ensure!(!printed.contains("panicked"), "panicked:\n{printed}");
    ensure!(printed.contains("\"level\":\"error\""), "no error is in the log:\n{printed}");
    Ok(())
}

/// Checks that a message has all of these parts.
fn says(printed: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(printed.contains(part), "the message does not say {part:?}:\n{printed}");
    }
    Ok(())
}

/// A server that is started on directories of the test's own making.
fn prepared() -> Result<Server> {
    Server::prepare(Kind::Cleat, harness::Options::default())
}
