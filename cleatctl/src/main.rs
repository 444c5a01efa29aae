//! `cleatctl`: etcdctl's commands, flags and environment, for Cleat and etcd; and what is done to files offline.
//!
//! `args` is what is asked, `password` asks back, `snapshot`, `migrate` and `migrate_v2` do it, `print` has etcdctl's
//! output formats.

mod args;
mod migrate;
mod migrate_v2;
mod password;
mod print;
mod snapshot;

use crate::args::{Args, Command, MigrateCommand, SnapshotCommand};
use clap::Parser as _;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Of etcd's API, as etcdctl prints it.
const API_VERSION: &str = "3.5";

/// Of etcdctl: bad flags, and everything else that fails.
const BAD_FLAGS: u8 = 128;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no errors. Nobody is left to tell if the terminal is gone.
            drop(error.print());
            return if error.use_stderr() { ExitCode::from(BAD_FLAGS) } else { ExitCode::SUCCESS };
        }
    };
    let ended =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from).and_then(
            |runtime| {
                let ended = runtime.block_on(run(args));
                // Nobody waits for a prompt that was interrupted.
                runtime.shutdown_background();
                ended
            },
        );
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let Args { global, command } = args;
    match command {
        Command::Version => {
            print::line(&format!("cleatctl version: {}\nAPI version: {API_VERSION}", server::version::CLEAT_VERSION))
        }
        Command::Snapshot(SnapshotCommand::Save { file }) => snapshot::save(&global, &file).await,
        Command::Snapshot(SnapshotCommand::Status { file }) => snapshot::status(&file, global.write_out),
        Command::Snapshot(SnapshotCommand::Restore(restore)) => snapshot::restore(restore).await,
        Command::Migrate(MigrateCommand::FromEtcd(args)) => migrate::from_etcd(args).await,
        Command::Migrate(MigrateCommand::V2ToV3(args)) => migrate_v2::v2_to_v3(&global, &args).await,
        Command::Migrate(MigrateCommand::ToEtcd { snapshot, file }) => migrate::to_etcd(&snapshot, &file),
    }
}
