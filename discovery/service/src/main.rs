//! `cleat-discovery`: the service behind a discovery URL.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    discovery_service::program::main(std::env::args_os())
}
