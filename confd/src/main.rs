//! `confd`: keeps files up to date with a store.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    confd::program::main(std::env::args_os())
}
