//! `cleat-bench`: drives any etcd endpoint with one workload, or compares two servers side by side.
//!
//! The generator has its own small HTTP/2 and HTTP/1.1 clients and counts only what it must, because it shares the machine with the
//! server it measures. Figures go to the standard output, progress to a terminal on the standard error.
#![allow(clippy::print_stdout, reason = "printing figures is this program's purpose")]

mod args;
mod compare;
mod connection;
mod http1;
mod http2;
mod load;
mod measure;
mod table;
mod wire;
mod workload;

use std::process::ExitCode;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cleat-bench: cannot start a runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Dropping the command's future stops every server it started and removes their directories.
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = execute(cli.command) => outcome,
            interrupted = interruption() => interrupted,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cleat-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Compare(args) => compare::execute(&args).await,
        other => load::execute(other).await,
    }
}

/// Waits for an interrupt, a termination signal, or the end of the terminal.
async fn interruption() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => outcome?,
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    anyhow::bail!("interrupted")
}
