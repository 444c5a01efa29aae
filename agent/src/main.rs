//! `cleat-agent`: looks after the cluster while its member leads.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    agent::program::main(std::env::args_os())
}
