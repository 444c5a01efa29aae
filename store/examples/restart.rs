//! Measures a restart: `restart [keys] [value bytes] [directory]` loads keys through the store as a member would,
//! closes it, and opens it again. Prints times, the size of the file and the resident memory of the process.
#![allow(clippy::print_stdout, reason = "the measurement's output")]
#![expect(clippy::disallowed_methods, reason = "an example drives the store and measures it")]

use api::cleatpb::Command;
use api::cleatpb::command::Op;
use api::etcdserverpb::{PutRequest, RangeRequest};
use std::path::{Path, PathBuf};
use std::time::Instant;
use store::{Entry, Fault, Options, Position, Reader};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Puts between two flushes: what a member gathers in 100 ms under load.
const PUTS_PER_FLUSH: u64 = 4000;

/// A line of `/proc/self/status`, MiB.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap_or_default() / 1024
}

fn report(what: &str, since: Instant, reader: &Reader) {
    let status = reader.status();
    println!(
        "{what}: {:.3} s, {} keys, file {} MiB, cached {} MiB, RSS {} MiB, peak {} MiB",
        since.elapsed().as_secs_f64(),
        status.keys,
        status.file_bytes >> 20,
        status.cached_bytes >> 20,
        memory("VmRSS:"),
        memory("VmHWM:"),
    );
}

fn load(path: &Path, keys: u64, value: &[u8]) -> Result<(), Fault> {
    let since = Instant::now();
    let (mut writer, mut flusher, reader) = store::open(path, Options::default())?;
    let mut slowest = 0.0_f64;
    let mut flushing = 0.0;
    for index in 1..=keys {
        // Spread over the key space, as a client's keys are.
        let key = format!("/registry/item/{:015x}", index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 4);
        let put = PutRequest { key: key.into(), value: value.to_vec().into(), ..Default::default() };
        let commands = [Command { header: None, op: Some(Op::Put(put)) }];
        writer.apply([Entry { position: Position { term: 1, index }, commands: &commands, membership: None }])?;
        if index % PUTS_PER_FLUSH == 0 || index == keys {
            let since = Instant::now();
            flusher.flush()?;
            slowest = slowest.max(since.elapsed().as_secs_f64());
            flushing += since.elapsed().as_secs_f64();
        }
    }
    let written = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let written = written.lines().find(|line| line.starts_with("write_bytes")).unwrap_or_default().to_owned();
    println!("flushes of {PUTS_PER_FLUSH}: {flushing:.3} s in total, slowest {slowest:.4} s, {written}");
    report("loaded", since, &reader);
    Ok(())
}

fn restart(path: &Path) -> Result<(), Fault> {
    let since = Instant::now();
    let (_writer, _flusher, reader) = store::open(path, Options::default())?;
    report("opened", since, &reader);
    let since = Instant::now();
    let count = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), count_only: true, ..Default::default() };
    drop(reader.range(&count));
    report("counted", since, &reader);
    let since = Instant::now();
    // Values that are read from the file, as after every restart.
    let values = RangeRequest { limit: 50_000, count_only: false, ..count };
    drop(reader.range(&values));
    report("read", since, &reader);
    Ok(())
}

fn main() -> Result<(), Fault> {
    let mut arguments = std::env::args().skip(1);
    let keys = arguments.next().and_then(|keys| keys.parse().ok()).unwrap_or(1_000_000);
    let bytes = arguments.next().and_then(|bytes| bytes.parse().ok()).unwrap_or(256);
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let path = directory.join("restart.redb");
    if path.exists() {
        println!("{} exists: only opened", path.display());
    } else {
        load(&path, keys, &vec![b'v'; bytes])?;
    }
    restart(&path)
}
