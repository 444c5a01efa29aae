//! Measures a snapshot: `snapshot FILE` exports the database that `restart` has left, and imports it into a file
//! beside it. Prints the time and the processor time of each half.
#![allow(clippy::print_stdout, reason = "the measurement's output")]
#![expect(clippy::disallowed_methods, reason = "an example drives the store and measures it")]

use std::path::PathBuf;
use std::time::{Duration, Instant};
use store::{Fault, Import, Options};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// User and system time of the process so far.
fn processor() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

fn report(what: &str, since: (Instant, Duration), bytes: usize) {
    let (wall, cpu) = (since.0.elapsed(), processor().saturating_sub(since.1));
    println!("{what}: {:.3} s, processor {:.2} s, {} MiB", wall.as_secs_f64(), cpu.as_secs_f64(), bytes >> 20);
}

fn main() -> Result<(), Fault> {
    let path = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "/tmp/restart.redb".into()));
    let (_writer, _flusher, reader) = store::open(&path, Options::default())?;
    let begun = (Instant::now(), processor());
    let mut snapshot = reader.snapshot()?;
    let mut frames = Vec::new();
    while let Some(frame) = snapshot.next_frame()? {
        frames.push(frame);
    }
    let bytes = frames.iter().map(Vec::len).sum();
    report("exported", begun, bytes);
    let begun = (Instant::now(), processor());
    let mut import = Import::create(&path, &Options::default())?;
    for frame in frames {
        import.feed(&frame)?;
    }
    report("fed", begun, bytes);
    drop(import.finish()?);
    report("finished", begun, bytes);
    Ok(())
}
