//! Fuzz targets: etcd's files as a bad disk or an enemy would leave them.

#![allow(clippy::unwrap_used, missing_docs, reason = "a panic is what a fuzz target reports")]

use crate::database::DIGEST;
use crate::etcd::{Auth, Change, Cluster, Lease, Member, Meta as Settings, RemovedMember, Revision};
use crate::page::{HEADER, META_BYTES, checksum};
use crate::wal::Log;
use crate::wal::fuzz_target as log;
use crate::{Database, Error, OpenOptions, WriteOptions, Writer};
use ::fuzz::{Memory, Target, with_files};
use api::authpb::{Role, User};
use api::encoded::KeyValueFields;
use api::etcdserverpb::AlarmMember;
use sha2::{Digest, Sha256};
use std::path::Path;

pub static TARGETS: [Target; 2] = [BOLT, ETCD_WAL];

/// A database file. The first byte says what is put right before it is read, so that a change is not always refused for
/// the checksum.
const BOLT: Target =
    Target { name: "bolt", seeds: databases, run: database, memory: Memory { base: 2 << 20, per_byte: 32 } };

/// A directory of log segments.
const ETCD_WAL: Target = Target {
    name: "etcd-wal",
    seeds: log::seeds,
    run: log_directory,
    // An entry's request is decoded: two bytes can be an empty message of a hundred.
    memory: Memory { base: 2 << 20, per_byte: 512 },
};

const SEALED: u8 = 1;
const WITH_DIGEST: u8 = 2;
const ONE_META: u8 = 4;

fn database(input: &[u8]) {
    let Some((&how, file)) = input.split_first() else { return };
    let mut file = file.to_vec();
    if how & SEALED != 0 {
        seal(&mut file);
    }
    if how & WITH_DIGEST != 0 {
        file.resize(file.len().next_multiple_of(512), 0);
        let digest: [u8; DIGEST as usize] = Sha256::digest(&file).into();
        file.extend(digest);
    }
    with_files(&[("db".to_owned(), &file)], |directory| {
        let options = OpenOptions { one_meta_is_enough: how & ONE_META != 0, ..OpenOptions::default() };
        let Ok(database) = Database::open(&directory.join("db"), options) else { return };
        read_records(&database);
        let is_sound = database.check().is_ok();
        let read = read_all(&database);
        if is_sound {
            write_again(directory, &read.unwrap());
        }
    });
}

/// Puts the checksums of both meta pages right.
fn seal(file: &mut [u8]) {
    let Some(size) = file.get(HEADER + 8..HEADER + 12) else { return };
    let size = u32::from_le_bytes(size.try_into().unwrap()) as usize;
    for at in [0, size] {
        let Some(page) = file.get_mut(at..).and_then(|rest| rest.get_mut(..META_BYTES)) else { continue };
        let (fields, sum) = page[HEADER..].split_at_mut(META_BYTES - HEADER - 8);
        sum.copy_from_slice(&checksum(fields).to_le_bytes());
    }
}

/// Whatever they are, they are records or an error.
fn read_records(database: &Database) {
    fn all<R: crate::etcd::Record>(database: &Database) {
        if let Ok(records) = database.records::<R>() {
            for record in records.flatten() {
                let (key, value) = record.to_entry();
                R::from_entry(&key, &value).map(drop).unwrap();
            }
        }
    }
    all::<Change>(database);
    all::<Lease>(database);
    all::<AlarmMember>(database);
    all::<User>(database);
    all::<Role>(database);
    all::<Member>(database);
    all::<RemovedMember>(database);
    drop((database.settings::<Settings>(), database.settings::<Auth>(), database.settings::<Cluster>()));
    drop((database.summary(), database.hash_kv(0), database.hash_kv(3)));
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;
type Contents = Vec<(Vec<u8>, Entries)>;

/// Every bucket with its entries.
fn read_all(database: &Database) -> Result<Contents, Error> {
    let mut contents = Vec::new();
    let mut buckets = database.buckets();
    while let Some(found) = buckets.next_root() {
        let (name, _) = found?;
        let mut entries = Vec::new();
        // Only a bucket whose name is text can be asked for.
        if let Ok(name) = str::from_utf8(&name) {
            for entry in database.bucket(name)?.into_iter().flatten() {
                let entry = entry?;
                entries.push((entry.key.to_vec(), entry.value.to_vec()));
            }
        }
        contents.push((name.to_vec(), entries));
    }
    Ok(contents)
}

/// What a sound file has can be written, and is read again.
fn write_again(directory: &Path, contents: &Contents) {
    if contents.iter().any(|(name, _)| name.is_empty() || str::from_utf8(name).is_err()) {
        return;
    }
    let path = directory.join("again");
    let written = write(&path, contents);
    // bbolt has no limit for what is in a file already.
    if let Err(Error::Write(_)) = written {
        return;
    }
    written.unwrap();
    let database = Database::open(&path, OpenOptions::default()).unwrap();
    database.check().unwrap();
    assert!(read_all(&database).unwrap() == *contents, "what was written is read again");
}

fn write(path: &Path, contents: &Contents) -> Result<(), Error> {
    let mut writer = Writer::create(path, &WriteOptions::default())?;
    for (name, entries) in contents {
        writer.bucket(str::from_utf8(name).unwrap())?;
        for (key, value) in entries {
            writer.put(key, value)?;
        }
    }
    writer.finish()
}

/// A log behind an index, in one segment or two.
fn log_directory(input: &[u8]) {
    let Some((after, files)) = log::segments(input) else { return };
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.clone(), &**bytes)).collect();
    with_files(&files, |directory| {
        let Ok(log) = Log::open(directory, after) else { return };
        let bounds = log.bounds();
        let mut next = after;
        for entry in log.entries(bounds.last) {
            let Ok(entry) = entry else { return };
            next += 1;
            assert_eq!(entry.index, next, "entries have no gap");
        }
        assert_eq!(next, bounds.last.max(after), "an end without an error is the end");
    });
}

/// One file of every shape that matters: small buckets in their parent, a tree of several pages, a large value.
fn databases() -> Vec<Vec<u8>> {
    let put = |main, key: &str, value: &[u8]| {
        let key = key.as_bytes();
        let fields = KeyValueFields { key, create_revision: main, mod_revision: main, version: 1, value, lease: 7 };
        (Revision { main, sub: 0 }.encode().to_vec(), fields.encode().as_bytes().to_vec())
    };
    let few = vec![put(2, "a", b"1"), put(3, "b", b"2")];
    let many = (2..150).map(|main| put(main, &format!("key/{}", main % 30), &[b'v'; 60])).collect();
    let large = vec![put(2, "large", &[b'x'; 9000]), put(3, "b", b"2")];
    let user = User { name: "ann".into(), ..User::default() };
    let small = [
        ("alarm", only(&AlarmMember { member_id: 1, alarm: 1 })),
        ("authUsers", only(&user)),
        ("lease", only(&Lease { id: 7, ttl: 60, remaining_ttl: 0 })),
        ("meta", vec![(b"consistent_index".to_vec(), 9_u64.to_be_bytes().to_vec())]),
    ];
    let mut seeds = Vec::new();
    for changes in [few, many, large] {
        let mut contents: Contents = vec![(b"key".to_vec(), changes)];
        contents.extend(small.iter().map(|(name, entries)| (name.as_bytes().to_vec(), entries.clone())));
        contents.sort();
        with_files(&[], |directory| {
            let path = directory.join("db");
            write(&path, &contents).unwrap();
            let file = std::fs::read(&path).unwrap();
            seeds.push([&[SEALED], &*file].concat());
        });
    }
    seeds
}

fn only(record: &impl crate::etcd::Record) -> Entries {
    let (key, value) = record.to_entry();
    vec![(key.to_vec(), value.to_vec())]
}

#[cfg(test)]
mod tests {
    use super::TARGETS;

    #[test]
    fn bolt() {
        fuzz::short::run(&TARGETS[0]);
    }

    #[test]
    fn etcd_wal() {
        fuzz::short::run(&TARGETS[1]);
    }
}
