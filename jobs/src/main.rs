//! `cleat-jobs`: what the Helm chart's jobs run, because the image has no shell. Each command ends, and may be run again.
//!
//! `certificates` keeps certificates in Secrets, over `kube`, the few calls of the Kubernetes API that it needs; `users` makes
//! root; `backup` stores and restores snapshots, at a `place`: a directory, or a bucket (`s3`); `check` is `helm test`;
//! `signal` is for reload commands of confd; `example` is the chart's example application.

/// A line for who reads the job's log. Nobody is left to tell if nobody reads it.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        drop(writeln!(std::io::stdout(), $($text)*));
    }};
}

mod backup;
mod certificates;
mod check;
mod cluster;
mod example;
mod kube;
mod place;
mod s3;
mod signal;
mod users;

use anyhow::Result;
use clap::Parser as _;
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
    /// Make the data of a member that has none from a snapshot, unless a cluster answers
    Restore(backup::RestoreArgs),
    /// Write, read, watch and delete a key, and ask members whether they are ready
    Test(check::Args),
    /// Send a signal to a program of this pod
    Signal(signal::Args),
    /// Show a file whenever SIGHUP comes, and who metad says that this is
    Example(example::Args),
}

fn main() -> ExitCode {
    let command = Command::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(command)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Auth(args) => users::make_root(&args).await,
        Command::Certificates(args) => certificates::keep(&args).await,
        Command::Store(args) => backup::store(&args).await,
        Command::Restore(args) => backup::restore(&args).await,
        Command::Test(args) => check::check(&args).await,
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
