//! `cleat-sidecars`: what runs beside members and applications.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAMS: [(&str, programs::Main); 3] = [
    ("confd", |words| confd::program::main(words)),
    ("metad", |words| metad::program::main(words)),
    ("cleat-agent", |words| agent::program::main(words)),
];

fn main() -> ExitCode {
    programs::run("cleat-sidecars", &PROGRAMS, std::env::args_os())
}
