//! Writing and reading a large file takes little memory. Alone in its process, whose peak it reads.

use anyhow::{Context, Result, ensure};
use bolt::{Database, OpenOptions, WriteOptions, Writer};
use std::path::Path;

const ENTRIES: u64 = 1_000_000;
const VALUE: usize = 256;
/// Far less than a tenth of the file.
const MEMORY: u64 = 12 << 20;

/// The most memory that this process has had.
fn peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("Linux tells the peak")?;
    Ok(line.trim().strip_suffix(" kB").context("in kB")?.parse::<u64>()? * 1024)
}

fn write(path: &Path) -> Result<()> {
    let mut writer = Writer::create(path, &WriteOptions { digest: false, ..WriteOptions::default() })?;
    writer.bucket("key")?;
    for number in 0..ENTRIES {
        writer.put(&number.to_be_bytes(), &[number as u8; VALUE])?;
    }
    Ok(writer.finish()?)
}

#[test]
fn memory_does_not_grow_with_the_file() -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("cleat-test-").tempdir()?;
    let path = scratch.path().join("db");
    let before = peak()?;
    write(&path)?;
    ensure!(std::fs::metadata(&path)?.len() > 10 * MEMORY);
    let database = Database::open(&path, OpenOptions::default())?;
    let mut count = 0;
    for entry in database.bucket("key")?.into_iter().flatten() {
        ensure!(entry?.value.len() == VALUE);
        count += 1;
    }
    ensure!(count == ENTRIES);
    let grown = peak()? - before;
    ensure!(grown < MEMORY, "{grown} bytes");
    Ok(())
}
