//! Readers while the store is written, flushed, compacted and defragmented: every read is one consistent state.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

#[allow(dead_code, reason = "every test binary uses a part")]
mod support;

use api::cleatpb::Command;
use api::cleatpb::command::Op;
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use store::{Entry, Flusher, Import, Options, ReadError, Reader, Rejection, Writer};
use support::{Member, command, compaction, position};

/// Accounts, more than a reader visits under one lock.
const ACCOUNTS: usize = 2500;
const TOTAL: i64 = 10 * ACCOUNTS as i64;
const TRANSFERS: u64 = 6000;

fn account(i: usize) -> Vec<u8> {
    format!("account{i:05}").into_bytes()
}

fn put(i: usize, balance: i64) -> RequestOp {
    let put = PutRequest { key: account(i).into(), value: balance.to_string().into(), ..Default::default() };
    RequestOp { request: Some(Request::RequestPut(put)) }
}

/// One transaction over all given accounts.
fn transfer(balances: &[(usize, i64)]) -> Command {
    let success = balances.iter().map(|(i, balance)| put(*i, *balance)).collect();
    command(Op::Txn(TxnRequest { success, ..Default::default() }))
}

fn all(revision: i64) -> RangeRequest {
    RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision, ..Default::default() }
}

/// The sum over a range's answer, unless a compaction was faster.
fn sum(reader: &Reader, revision: i64) -> Option<(i64, i64)> {
    match reader.range(&all(revision)) {
        Ok((response, at)) => {
            assert_eq!(response.count, ACCOUNTS as i64);
            let values = response.kvs.iter().map(|kv| {
                let fields = kv.fields().unwrap();
                assert!(fields.mod_revision <= if revision == 0 { at } else { revision });
                std::str::from_utf8(fields.value).unwrap().parse::<i64>().unwrap()
            });
            Some((values.sum(), at))
        }
        Err(ReadError::Rejected(Rejection::Compacted)) if revision != 0 => None,
        Err(error) => panic!("{error}"),
    }
}

/// Transfers and compactions; the first entry has index 2.
fn log(seed: u64) -> Vec<Vec<Command>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut balances = vec![10; ACCOUNTS];
    let mut log = Vec::new();
    for index in 2..TRANSFERS {
        let (from, to, amount) =
            (random.random_range(0..ACCOUNTS), random.random_range(0..ACCOUNTS), random.random_range(1..5));
        let mut commands = Vec::new();
        if from != to {
            balances[from] -= amount;
            balances[to] += amount;
            commands.push(transfer(&[(from, balances[from]), (to, balances[to])]));
        }
        if index % 100 == 0 {
            commands.push(command(compaction(index as i64 - 60)));
        }
        log.push(commands);
    }
    log
}

fn write(writer: &mut Writer, log: &[Vec<Command>], indexes: Range<u64>) {
    for index in indexes {
        let commands = &log[index as usize - 2];
        writer.apply([Entry { position: position(index), commands, membership: None }]).unwrap();
    }
}

/// A follower that loses contact again and again: some entries from the log, then a snapshot of the leader, which goes
/// on meanwhile.
fn fall_behind(writer: &mut Writer, path: &Path, options: &Options, log: &[Vec<Command>]) -> usize {
    let mut leader = Member::new(options.clone());
    leader.apply_entry(vec![start()]);
    let mut random = StdRng::seed_from_u64(5);
    let (mut led, mut followed, mut installs) = (2, 2, 0);
    while followed < TRANSFERS {
        let next = (followed + random.random_range(1..400)).min(TRANSFERS);
        write(writer, log, followed..next);
        let ahead = (next + random.random_range(1..400)).min(TRANSFERS);
        write(leader.writer(), log, led..ahead);
        (followed, led) = (next, ahead);
        if ahead == next {
            continue;
        }
        leader.flusher().compact_step(1000);
        leader.flusher().flush().unwrap();
        let mut snapshot = leader.reader().snapshot().unwrap();
        let mut import = Import::create(path, options).unwrap();
        while let Some(frame) = snapshot.next_frame().unwrap() {
            import.feed(&frame).unwrap();
        }
        let installed = writer.install(import.finish().unwrap()).unwrap();
        assert_eq!(installed.position, position(led - 1));
        followed = led;
        installs += 1;
    }
    installs
}

fn maintain(flusher: &mut Flusher, reader: &Reader, done: &AtomicBool) {
    let mut durable = 0;
    for round in 0.. {
        flusher.flush().unwrap();
        let index = reader.durable().0.index;
        assert!(index >= durable, "the durable position went back from {durable} to {index}");
        durable = index;
        flusher.compact_step(300);
        if round % 20 == 19 {
            flusher.defragment().unwrap().unwrap();
        }
        if done.load(Ordering::Relaxed) {
            break;
        }
    }
}

/// Ranges at the latest and at old revisions.
fn read_sums(reader: &Reader, seed: u64, done: &AtomicBool) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let mut reads = 0;
    let mut last = 0;
    while !done.load(Ordering::Relaxed) {
        let (total, at) = sum(reader, 0).expect("the latest revision is never refused");
        assert_eq!(total, TOTAL, "at {at}");
        assert!(at >= last, "a reader went back from {last} to {at}");
        last = at;
        let (compacted, revision) = reader.compacted_and_revision();
        let old = random.random_range(compacted.max(2)..=revision);
        assert!(sum(reader, old).is_none_or(|(total, _)| total == TOTAL), "at {old}");
        reads += 1;
    }
    reads
}

/// Follows the events, as a slow watcher does, and keeps the sum from them.
fn follow(reader: &Reader, done: &AtomicBool) -> (Vec<i64>, i64) {
    let mut balances = vec![0; ACCOUNTS];
    let mut next = 2;
    loop {
        let finished = done.load(Ordering::Relaxed);
        match reader.past(next, 2000) {
            Ok(past) => {
                for change in &past.changes {
                    assert!((next..past.next).contains(&change.revision));
                    assert_eq!(change.events.len(), if change.revision == 2 { ACCOUNTS } else { 2 });
                    for event in &change.events {
                        let fields = event.kv.fields().unwrap();
                        let i: usize = std::str::from_utf8(&fields.key[7..]).unwrap().parse().unwrap();
                        balances[i] = std::str::from_utf8(fields.value).unwrap().parse().unwrap();
                    }
                    assert_eq!(balances.iter().sum::<i64>(), TOTAL, "after {}", change.revision);
                }
                next = past.next;
                if finished && next > past.current {
                    return (balances, next - 1);
                }
            }
            // Too slow: start again from a list, as clients do.
            Err(ReadError::Rejected(Rejection::Compacted)) => {
                let (response, at) = reader.range(&all(0)).unwrap();
                for (i, kv) in response.kvs.iter().enumerate() {
                    balances[i] = std::str::from_utf8(kv.fields().unwrap().value).unwrap().parse().unwrap();
                }
                next = at + 1;
            }
            Err(ReadError::Rejected(rejection)) => panic!("{rejection}"),
            Err(ReadError::Fault(fault)) => panic!("{fault}"),
        }
    }
}

/// A hash of one revision is the same whenever it is computed, while no compaction is accepted.
fn hash(reader: &Reader, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let first = reader.hash_kv(0).unwrap();
        match reader.hash_kv(first.revision) {
            Ok(second) if second.compacted == first.compacted => assert_eq!(first.hash, second.hash),
            Ok(_) | Err(ReadError::Rejected(Rejection::Compacted)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Snapshots that are sent while others take the store's place: each is whole, and of one moment.
fn export(reader: &Reader, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let directory = tempfile::tempdir().unwrap();
        let mut import = Import::create(&directory.path().join("db"), &Options::default()).unwrap();
        let mut snapshot = reader.snapshot().unwrap();
        while let Some(frame) = snapshot.next_frame().unwrap() {
            import.feed(&frame).unwrap();
        }
        assert_eq!(import.finish().unwrap().position(), snapshot.position());
    }
}

/// What every account has at first.
fn start() -> Command {
    transfer(&(0..ACCOUNTS).map(|i| (i, 10)).collect::<Vec<_>>())
}

#[test]
fn every_read_is_one_consistent_state() {
    read_beside(|writer, _, _, log| write(writer, log, 2..TRANSFERS));
}

#[test]
fn every_read_is_one_consistent_state_while_snapshots_are_installed() {
    read_beside(|writer, path, options, log| {
        let installs = fall_behind(writer, path, &options, log);
        assert!(installs > 5, "{installs}");
    });
}

/// Contents that have nothing in common but their keys and revisions: nothing of one is taken for the other's.
#[test]
fn a_read_never_mixes_two_contents() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let options = Options { cache_bytes: 50_000, database_cache_bytes: 1 << 20, ..Options::default() };
    let content = |balance: i64| (0..ACCOUNTS).map(|i| (i, balance)).collect::<Vec<_>>();
    let streams: Vec<_> = (2..14)
        .map(|index| {
            let directory = tempfile::tempdir().unwrap();
            let (mut writer, mut flusher, reader) = store::open(&directory.path().join("db"), options.clone()).unwrap();
            let commands = [transfer(&content(index as i64))];
            writer.apply([Entry { position: position(index), commands: &commands, membership: None }]).unwrap();
            flusher.flush().unwrap();
            (support::export(&reader), reader.hash_kv(0).unwrap())
        })
        .collect();
    let (mut writer, mut flusher, reader) = store::open(&path, options.clone()).unwrap();
    writer.apply([Entry { position: position(1), commands: &[transfer(&content(1))], membership: None }]).unwrap();
    let hashes: Vec<_> = streams.iter().map(|(_, hash)| *hash).chain([reader.hash_kv(0).unwrap()]).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let (total, _) = sum(&reader, 2).expect("nothing is compacted");
                    assert_eq!(total % ACCOUNTS as i64, 0);
                    assert!((1..14).contains(&(total / ACCOUNTS as i64)));
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(hashes.contains(&reader.hash_kv(0).unwrap()));
            }
        });
        scope.spawn(|| maintain(&mut flusher, &reader, &done));
        let installed = scope
            .spawn(|| {
                for (stream, hash) in &streams {
                    let mut import = Import::create(&path, &options).unwrap();
                    import.feed(stream).unwrap();
                    drop(writer.install(import.finish().unwrap()).unwrap());
                    assert_eq!(reader.hash_kv(0).unwrap(), *hash);
                }
            })
            .join();
        done.store(true, Ordering::Relaxed);
        installed.unwrap();
    });
}

/// Readers of every kind and a flusher, beside a writer.
fn read_beside(write: impl FnOnce(&mut Writer, &Path, Options, &[Vec<Command>]) + Send) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let options = Options { cache_bytes: 50_000, database_cache_bytes: 1 << 20, ..Options::default() };
    let (mut writer, mut flusher, reader) = store::open(&path, options.clone()).unwrap();
    writer.apply([Entry { position: position(1), commands: &[start()], membership: None }]).unwrap();
    let log = log(1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|seed| {
                scope.spawn({
                    let (reader, done) = (&reader, &done);
                    move || read_sums(reader, seed, done)
                })
            })
            .collect();
        let follower = scope.spawn(|| follow(&reader, &done));
        scope.spawn(|| hash(&reader, &done));
        scope.spawn(|| export(&reader, &done));
        scope.spawn(|| maintain(&mut flusher, &reader, &done));
        // The threads must end also when the writer fails.
        let written = scope.spawn(|| write(&mut writer, &path, options.clone(), &log)).join();
        done.store(true, Ordering::Relaxed);
        written.unwrap();
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
        let (balances, at) = follower.join().unwrap();
        assert_eq!(at, reader.revision());
        let (response, _) = reader.range(&all(0)).unwrap();
        let found = response.kvs.iter().map(|kv| kv.fields().unwrap().value.to_vec());
        assert!(found.eq(balances.iter().map(|balance| balance.to_string().into_bytes())));
    });
    // What is durable is what was read.
    let end = (reader.hash_kv(0).unwrap(), reader.applied());
    flusher.flush().unwrap();
    drop((writer, flusher, reader));
    let (_writer, _flusher, reader) = store::open(&path, options.clone()).unwrap();
    assert_eq!((reader.hash_kv(0).unwrap(), reader.applied()), end);
    assert_eq!(directory.path().read_dir().unwrap().count(), 1);
}

/// A long answer is read in pieces; a defragmentation that replaces the file must not cut it off.
#[test]
fn a_snapshot_survives_a_defragmentation() {
    let mut member = Member::new(Options { database_cache_bytes: 0, ..Options::default() });
    for i in 0..2000u32 {
        member.put(&i.to_be_bytes(), &[7; 100]);
    }
    member.flush();
    let mut snapshot = member.reader().snapshot().unwrap();
    assert!(snapshot.next_frame().unwrap().is_some());
    member.flusher().defragment().unwrap().unwrap();
    let mut frames = 0;
    while snapshot.next_frame().unwrap().is_some() {
        frames += 1;
    }
    assert!(frames > 5);
    assert_eq!(member.reader().range(&all(0)).unwrap().0.count, 2000);
}
