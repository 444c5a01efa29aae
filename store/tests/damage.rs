//! A damaged file gives a fault or the right data: never a panic, never other data.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

#[allow(dead_code, reason = "every test binary uses a part")]
mod support;

use api::etcdserverpb::RangeRequest;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::Path;
use store::{Options, ReadError};
use support::{Member, compaction, delete, grant, put};

/// Everything that can be read.
fn contents(path: &Path) -> Result<Vec<String>, String> {
    let (_writer, _flusher, reader) = store::open(path, Options::default()).map_err(|fault| fault.to_string())?;
    let fault = |error: ReadError| error.to_string();
    let status = reader.status();
    let mut out = vec![format!("{:?}", (status.revision, status.compacted, status.applied, status.stored_bytes))];
    for revision in status.compacted..=status.revision {
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

fn database() -> Member {
    let mut member = Member::new(Options::default());
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
    member.close();
    member
}

#[test]
fn flipped_bits_are_found() {
    let member = database();
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
