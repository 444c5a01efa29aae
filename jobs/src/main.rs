//! `cleat-jobs`: what the Helm chart's jobs run.

use std::process::ExitCode;

fn main() -> ExitCode {
    jobs::program::main(std::env::args_os())
}
