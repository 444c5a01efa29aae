//! What the fuzz targets of the other crates are made of, and their short run.
//!
//! A [`Target`] stands beside the code that it is about, in a module `fuzz_target` that is compiled for tests and with
//! `--cfg fuzzing`: nothing of it is in a program. It has two drivers:
//!
//! - [`short::run`] is called by a test of the same crate: so many inputs that follow from a seed, on any toolchain;
//! - `guided/`, a package of its own that needs nightly Rust: libFuzzer looks for inputs that reach new code.
//!
//! A panic is a finding, and so is memory beyond the target's bound, or an input that takes a minute.
//!
//! Linking this crate replaces the allocator of a test by one that counts what each thread has.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "it is only linked into tests, and a panic is a finding"
)]

mod mutate;
pub mod short;

use std::cell::OnceCell;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// Something that reads bytes of others.
#[derive(Debug)]
pub struct Target {
    /// Its name for the drivers.
    pub name: &'static str,
    /// Valid inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Reads one input. What must hold for every input is asserted here.
    pub run: fn(&[u8]),
    /// The most memory that it may have at a time.
    pub memory: Memory,
}

/// A bound for memory: so many bytes for any input, and so many more for each byte of it.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Bytes for an empty input.
    pub base: u64,
    /// Bytes for each byte.
    pub per_byte: u64,
}

impl Target {
    /// Runs one input, and holds the target to its bound.
    pub fn check(&self, input: &[u8]) {
        let most = self.memory.base + self.memory.per_byte * input.len() as u64;
        let used = allocation_counter::measure(|| (self.run)(input)).bytes_max;
        assert!(
            used <= most,
            "{}: an input of {} bytes took {used} bytes of memory, more than {most}",
            self.name,
            input.len()
        );
    }
}

/// Calls `run` with a directory that has these files and no others. The directory is the thread's and used again.
pub fn with_files(files: &[(String, &[u8])], run: impl FnOnce(&Path)) {
    thread_local!(static DIRECTORY: OnceCell<TempDir> = const { OnceCell::new() });
    DIRECTORY.with(|directory| {
        let create = || {
            // In memory if nobody says otherwise and the system has such a place: what is under test syncs its files.
            let memory = Path::new("/dev/shm");
            let is_told = std::env::var_os("TMPDIR").is_some() || !memory.is_dir();
            let parent = if is_told { std::env::temp_dir() } else { memory.to_owned() };
            tempfile::Builder::new().prefix("cleat-fuzz-").tempdir_in(parent).expect("a directory can be created")
        };
        let path = directory.get_or_init(create).path();
        for entry in fs::read_dir(path).expect("the directory is there") {
            let path = entry.expect("the directory can be read").path();
            fs::remove_file(path).expect("a file can be removed");
        }
        for (name, bytes) in files {
            fs::write(path.join(name), bytes).expect("a file can be written");
        }
        run(path);
    });
}
