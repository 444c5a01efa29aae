//! `metad`: answers applications that ask who they are.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    metad::program::main(std::env::args_os())
}
