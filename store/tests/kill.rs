//! A process that is killed at any moment: the file holds exactly the state of the position that it reports, and that
//! is at least the position that the process called durable.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

#[allow(dead_code, reason = "every test binary uses a part")]
mod support;

use api::cleatpb::Command;
use api::etcdserverpb::RangeRequest;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use store::{Entry, Options, Reader, Writer};
use support::position;
use support::random::Random;

const CHILD: &str = "CLEAT_TEST_KILLED_CHILD";
const ENTRIES: u64 = 4000;

/// The same log in parent and child.
fn log() -> Vec<Vec<Command>> {
    let mut random = Random { rng: StdRng::seed_from_u64(7), revision: 1, compacted: -1 };
    (1..=ENTRIES)
        .map(|index| {
            // Few compactions hit the real revision; that they are refused alike matters as much.
            (random.revision, random.compacted) = (index as i64 / 2, index as i64 / 3);
            vec![random.command()]
        })
        .collect()
}

fn apply(writer: &mut Writer, log: &[Vec<Command>], from: u64, to: u64) {
    for index in from + 1..=to {
        let commands = &log[index as usize - 1];
        writer.apply([Entry { position: position(index), commands, membership: None }]).unwrap();
    }
}

fn contents(reader: &Reader) -> String {
    let all = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let kvs: Vec<_> = reader.range(&all).unwrap().0.kvs.iter().map(support::script::show_kv).collect();
    let leases: Vec<_> = reader.leases().into_iter().map(|(id, lease)| (id, lease, reader.lease_keys(id))).collect();
    format!("{:?} {:?} {leases:?} {kvs:?}", reader.applied(), reader.hash_kv(0).unwrap())
}

/// The child: goes on where the file is, and prints what is durable. Does nothing in a usual test run.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let (mut writer, mut flusher, reader) = store::open(Path::new(&path), Options::default()).unwrap();
    let log = log();
    let mut random = StdRng::seed_from_u64(u64::from(std::process::id()));
    let mut applied = reader.applied().0.index;
    while applied < ENTRIES {
        let next = (applied + random.random_range(1..30)).min(ENTRIES);
        apply(&mut writer, &log, applied, next);
        applied = next;
        flusher.compact_step(3);
        flusher.flush().unwrap();
        if random.random_range(0..8) == 0 {
            flusher.defragment().unwrap().unwrap();
        }
        // Past the test harness, which captures what `println` writes.
        std::io::Write::write_all(&mut std::io::stderr(), format!("durable {applied}\n").as_bytes()).unwrap();
    }
}

fn start(path: &Path) -> Child {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env(CHILD, path);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_killed_process_leaves_the_durable_position() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let log = log();
    let mut random = StdRng::seed_from_u64(1);
    let (mut kills, mut promised) = (0, 0);
    let mut reference = store::open(&directory.path().join("reference"), Options::default()).unwrap();
    let mut compared = 0;
    while promised < ENTRIES && kills < 12 {
        let mut child = start(&path);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // Killed at once, or a moment after the n-th flush.
        for _ in 0..random.random_range(0..25) {
            let Some(line) = lines.next() else { break };
            if let Some(index) = line.unwrap().strip_prefix("durable ") {
                promised = index.parse().unwrap();
            }
        }
        for _ in 0..random.random_range(0..200) {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;

        let (_writer, _flusher, reader) = store::open(&path, Options::default()).unwrap();
        let found = reader.applied().0.index;
        assert!(found >= promised, "{found} was found, {promised} was durable");
        apply(&mut reference.0, &log, compared, found);
        compared = found;
        assert_eq!(contents(&reader), contents(&reference.2), "after {kills} kills, at {found}");
    }
    assert!(compared > 0);
}
