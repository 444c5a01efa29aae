//! `cleat-programs`: a member, what founds and serves clusters, and tools.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAMS: [(&str, programs::Main); 5] = [
    ("cleat", |words| server::program::main(words)),
    ("cleatctl", |words| cleatctl::program::main(words)),
    // It looks at its name itself.
    ("etcdctl", |words| cleatctl::program::main(words)),
    ("cleat-discovery", |words| discovery_service::program::main(words)),
    ("cleat-jobs", |words| jobs::program::main(words)),
];

fn main() -> ExitCode {
    programs::run("cleat-programs", &PROGRAMS, std::env::args_os())
}
