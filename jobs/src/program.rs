//! The program `cleat-jobs`: its commands.

use crate::{backup, certificates, check, cluster, example, reload, restore, signal, users};
use anyhow::Result;
use clap::Parser as _;
use std::ffi::OsString;
use std::process::ExitCode;

/// What the jobs of Cleat's Helm chart run.
#[derive(Debug, clap::Parser)]
#[command(name = "cleat-jobs", version, disable_help_subcommand = true)]
enum Command {
    /// Make the user root, and require users; ends at once if that was done
    Auth(cluster::ClusterArgs),
    /// Make certificates that are not there or end soon, in Secrets
    Certificates(certificates::Args),
    /// Put a snapshot where snapshots are kept, and delete the oldest of those
    Store(backup::StoreArgs),
    /// Make the data of the first member from a snapshot, unless there is data or a cluster; others wait for it
    Restore(restore::Args),
    /// Write, read, watch and delete a key, and ask members whether they are ready
    Test(check::Args),
    /// Tell a program of this pod, over HTTP, to read its files again
    Reload(reload::Args),
    /// Ask a program of this pod, over HTTP, whether it is well
    Probe(reload::ProbeArgs),
    /// Send a signal to a program of this pod
    Signal(signal::Args),
    /// Show a file whenever SIGHUP comes, and who metad says that this is
    Example(example::Args),
}

/// Runs the program until it ends. `words` is its command line, the name by which it was called first.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = Command::parse_from(words);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(command)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::complain(&format!("Error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Auth(args) => users::make_root(&args).await,
        Command::Certificates(args) => certificates::keep(&args).await,
        Command::Store(args) => backup::store(&args).await,
        Command::Restore(args) => restore::restore(&args).await,
        Command::Test(args) => check::check(&args).await,
        Command::Reload(args) => reload::tell(&args).await,
        Command::Probe(args) => reload::probe(&args).await,
        Command::Signal(args) => signal::send(&args),
        Command::Example(args) => example::run(&args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::Command;
    use clap::CommandFactory as _;

    #[test]
    fn flags_are_consistent() {
        Command::command().debug_assert();
    }
}
