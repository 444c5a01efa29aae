//! A damaged file gives a fault or the right data when it is opened, never a panic, never other data. Damage under a
//! running store never gives other revisions; redb may panic then, and a panic ends a member as a fault does.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

#[allow(dead_code, reason = "every test binary uses a part")]
mod support;

use api::etcdserverpb::RangeRequest;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::os::unix::fs::FileExt;
use std::path::Path;
use store::{Options, ReadError, Reader};
use support::{Member, compaction, delete, grant, put};

/// Everything that can be read of a file.
fn contents(path: &Path) -> Result<Vec<String>, String> {
    let (_writer, _flusher, reader) = store::open(path, Options::default()).map_err(|fault| fault.to_string())?;
    let status = reader.status();
    read(&reader, status.compacted..=status.revision)
}

/// Everything that can be read, with ranges at some revisions.
fn read(reader: &Reader, revisions: impl IntoIterator<Item = i64>) -> Result<Vec<String>, String> {
    let fault = |error: ReadError| error.to_string();
    let status = reader.status();
    let mut out = vec![format!("{:?}", (status.revision, status.compacted, status.applied, status.stored_bytes))];
    for revision in revisions {
        let all = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision, ..Default::default() };
        out.push(format!(
            "{:?}",
            reader.range(&all).map_err(fault)?.0.kvs.iter().map(support::script::show_kv).collect::<Vec<_>>()
        ));
    }
    out.push(format!("{:?}", reader.hash_kv(0).map_err(fault)?));
    out.push(format!("{:?} {:?} {:?}", reader.leases(), reader.lease_keys(7), reader.alarms(0)));
    for change in reader.past(status.compacted, usize::MAX).map_err(fault)?.changes {
        out.push(format!(
            "{} {:?}",
            change.revision,
            change.events.iter().map(|e| (e.deleted, support::script::show_kv(&e.kv))).collect::<Vec<_>>()
        ));
    }
    Ok(out)
}

fn database(options: Options) -> Member {
    let mut member = Member::new(options);
    member.apply(grant(7, 60));
    for i in 0..400u32 {
        member.apply(put(format!("key{}", i % 50).as_bytes(), &[b'v'; 40], if i % 9 == 0 { 7 } else { 0 }));
        if i % 7 == 0 {
            member.apply(delete(format!("key{}", i % 50).as_bytes(), b""));
        }
        if i % 50 == 0 {
            member.flush();
        }
    }
    member.apply(compaction(350));
    member.finish_compaction();
    member
}

#[test]
fn flipped_bits_are_found() {
    let mut member = database(Options::default());
    member.close();
    let intact = std::fs::read(member.path()).unwrap();
    let right = contents(&member.path()).unwrap();
    let copy = member.directory.path().join("copy");
    let mut random = StdRng::seed_from_u64(2);
    let (mut faults, mut same) = (0, 0);
    let mut bad = Vec::new();
    for _ in 0..150 {
        let at = random.random_range(0..intact.len());
        let bit = random.random_range(0..8);
        let mut damaged = intact.clone();
        damaged[at] ^= 1 << bit;
        std::fs::write(&copy, &damaged).unwrap();
        match std::panic::catch_unwind(|| contents(&copy)) {
            Ok(Err(_)) => faults += 1,
            Ok(Ok(read)) if read == right => same += 1,
            Ok(Ok(_)) => bad.push((at, bit, "wrong")),
            Err(_) => bad.push((at, bit, "panic")),
        }
    }
    println!("{} bytes: {faults} faults, {same} unharmed, {bad:?}", intact.len());
    assert!(bad.is_empty());
    assert!(faults > 0 && same > 0);
}

/// The exported revisions, without the other tables and the sums of the frames.
fn exported(reader: &Reader) -> Result<Vec<u8>, String> {
    let mut snapshot = reader.snapshot().map_err(|fault| fault.to_string())?;
    let (mut frames, mut rows) = (0, Vec::new());
    while let Some(frame) = snapshot.next_frame().map_err(|fault| fault.to_string())? {
        // The header of the stream and the other tables are the first two.
        if frames > 1 {
            rows.extend(&frame[8..]);
        }
        frames += 1;
    }
    Ok(rows)
}

#[test]
fn flipped_bits_under_a_running_store_are_found() {
    // Nothing is kept in memory but the index: every read goes to the file.
    let member = database(Options { cache_bytes: 0, database_cache_bytes: 0, ..Options::default() });
    let reader = member.reader();
    let file = std::fs::File::options().read(true).write(true).open(member.path()).unwrap();
    let status = reader.status();
    let some = [status.compacted, status.revision];
    let right = (read(reader, some).unwrap(), exported(reader).unwrap());
    // Most of the file is free: flips there prove nothing.
    let bytes = std::fs::read(member.path()).unwrap();
    let used: Vec<_> = (0..bytes.len()).filter(|at| bytes[at & !15..][..16] != [0; 16]).collect();
    let mut random = StdRng::seed_from_u64(3);
    let (mut faults, mut same) = (0, 0);
    let mut bad = Vec::new();
    for _ in 0..300 {
        let (at, bit) = (used[random.random_range(0..used.len())], random.random_range(0..8));
        file.write_all_at(&[bytes[at] ^ 1 << bit], at as u64).unwrap();
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (read(reader, some), exported(reader)))) {
            Ok((read, exported)) => {
                let wrong = read.as_ref().is_ok_and(|read| *read != right.0)
                    || exported.as_ref().is_ok_and(|exported| *exported != right.1);
                if wrong {
                    bad.push((at, bit));
                } else if read.is_ok() && exported.is_ok() {
                    same += 1;
                } else {
                    faults += 1;
                }
            }
            Err(_) => faults += 1,
        }
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    assert_eq!((read(reader, some).unwrap(), exported(reader).unwrap()), right, "the file is whole again");
    println!("{} bytes: {faults} faults, {same} unharmed, {bad:?}", used.len());
    assert!(bad.is_empty());
    assert!(faults > 0 && same > 0);
}
