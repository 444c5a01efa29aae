//! Drives one fuzz target with libFuzzer: `CLEAT_FUZZ_TARGET` names it, and `CLEAT_FUZZ_SEEDS` a directory that gets its
//! valid inputs.

#![no_main]

use fuzz::Target;
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::LazyLock;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    #[cfg(feature = "server")]
    let of_server = &server::fuzz_target::TARGETS[..];
    #[cfg(not(feature = "server"))]
    let of_server = &[];
    let of_files = bolt::fuzz_target::TARGETS.iter().chain(&store::fuzz_target::TARGETS).chain(&confd::fuzz_target::TARGETS);
    let all: Vec<&Target> = of_files.chain(of_server).collect();
    let name = std::env::var("CLEAT_FUZZ_TARGET").unwrap_or_default();
    let names: Vec<_> = all.iter().map(|target| target.name).collect();
    let found = all.into_iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("CLEAT_FUZZ_TARGET={name}: it is one of {names:?}"))
});

fn write_seeds() {
    let Some(directory) = std::env::var_os("CLEAT_FUZZ_SEEDS") else { return };
    for (number, seed) in (TARGET.seeds)().into_iter().enumerate() {
        std::fs::write(Path::new(&directory).join(format!("seed-{number:03}")), seed).expect("a seed can be written");
    }
}

fuzz_target!(init: write_seeds(), |data: &[u8]| TARGET.check(data));
