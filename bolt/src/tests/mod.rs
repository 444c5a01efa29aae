//! Files that are written and read, in one piece and damaged.

mod damage;
mod hash;
mod log;
mod member;
mod trees;

use crate::{Database, Error, OpenOptions, WriteOptions, Writer};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

type Entries = Vec<(Vec<u8>, Vec<u8>)>;
type Contents = Vec<(String, Entries)>;

/// A random number generator whose seed is printed; `CLEAT_SEED` replays one.
fn random() -> StdRng {
    let seed = match std::env::var("CLEAT_SEED").or_else(|_| std::env::var("CLEAT_FIRST_SEED")) {
        Ok(seed) => seed.parse().expect("CLEAT_SEED is a number"),
        Err(_) => rand::rng().random(),
    };
    eprintln!("CLEAT_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("cleat-test-").tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn bytes(random: &mut StdRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    random.fill(&mut bytes[..]);
    bytes
}

/// Entries with numbers as keys.
fn numbered(count: u32, value: impl Fn(u32) -> Vec<u8>) -> Entries {
    (0..count).map(|i| (format!("{i:08}").into_bytes(), value(i))).collect()
}

fn write(path: &Path, options: &WriteOptions, contents: &Contents) {
    let mut writer = Writer::create(path, options).unwrap();
    for (bucket, entries) in contents {
        writer.bucket(bucket).unwrap();
        for (key, value) in entries {
            writer.put(key, value).unwrap();
        }
    }
    writer.finish().unwrap();
}

/// Checks the file, and reads all of it.
fn read(path: &Path, options: OpenOptions) -> Result<Contents, Error> {
    let database = Database::open(path, options)?;
    database.check()?;
    let mut contents = Vec::new();
    for name in database.buckets() {
        let name = name?;
        // Only a bucket whose name is text can be asked for.
        let Ok(name) = String::from_utf8(name.to_vec()) else { continue };
        let mut entries = Vec::new();
        for entry in database.bucket(&name)?.into_iter().flatten() {
            let entry = entry?;
            entries.push((entry.key.to_vec(), entry.value.to_vec()));
        }
        contents.push((name, entries));
    }
    Ok(contents)
}
