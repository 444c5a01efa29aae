//! A snapshot that is received and installed beside the storage thread.

use super::{Pace, Receiving, Storage, TREE_FLUSH_INTERVAL};
use api::cleatpb::command::Op;
use api::cleatpb::v2_request::Method;
use api::cleatpb::{Command, V2Request};
use api::etcdserverpb::{CompactionRequest, PutRequest};
use std::time::Duration;
use store::{Entry, Fault, Options, Position, Reader, Writer, open};
use tokio::time::Instant;

fn apply(writer: &mut Writer, index: u64, op: Op) {
    let commands = [Command { header: None, op: Some(op) }];
    writer.apply([Entry { position: Position { term: 1, index }, commands: &commands, membership: None }]).unwrap();
}

fn put(index: u64) -> Op {
    Op::Put(PutRequest { key: format!("key{}", index % 10).into(), value: vec![1; 500].into(), ..Default::default() })
}

fn pieces(reader: &Reader) -> Vec<Vec<u8>> {
    let mut snapshot = reader.snapshot().unwrap();
    std::iter::from_fn(|| snapshot.next_frame().unwrap()).collect()
}

/// What is due is decided by what has changed.
#[tokio::test]
async fn changes_of_the_tree_wait_for_more_and_those_of_keys_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let (mut writer, flusher, reader) = open(&directory.path().join("db"), Options::default()).unwrap();
    let pace = Pace { flush_interval: Duration::ZERO, compaction_keys: 1, compaction_pause: Duration::from_secs(1) };
    let (_storage, mut worker) = Storage::new(flusher, pace, (Box::new(|_, _| {}), Box::new(|_| {})));
    let set = V2Request { method: Method::Set as i32, path: "/1/k".into(), ..Default::default() };
    apply(&mut writer, 1, Op::V2(set.clone()));
    worker.last_flush = Instant::now();
    assert!(!worker.is_due());
    worker.last_flush -= TREE_FLUSH_INTERVAL;
    assert!(worker.is_due());
    worker.flush().unwrap();
    assert_eq!(reader.durable().0.index, 1);
    apply(&mut writer, 2, Op::V2(set));
    apply(&mut writer, 3, put(3));
    worker.last_flush = Instant::now();
    assert!(worker.is_due());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installed_snapshot_is_flushed_and_compacted_like_any_content() {
    let directory = tempfile::tempdir().unwrap();
    let (mut leader, mut leader_flusher, leader_reader) =
        open(&directory.path().join("leader"), Options::default()).unwrap();
    for index in 1..=100 {
        apply(&mut leader, index, put(index));
    }
    apply(&mut leader, 101, Op::Compaction(CompactionRequest { revision: 60, physical: true }));
    leader_flusher.flush().unwrap();
    let frames = pieces(&leader_reader);

    let path = directory.path().join("db");
    let (mut writer, flusher, reader) = open(&path, Options::default()).unwrap();
    let pace = Pace {
        flush_interval: Duration::from_millis(1),
        compaction_keys: 3,
        compaction_pause: Duration::from_millis(1),
    };
    let (faults, _reports) = tokio::sync::mpsc::channel(1);
    let (storage, thread) =
        Storage::start(flusher, &path, pace, (Box::new(|_, _| {}), Box::new(|_| {})), faults).unwrap();
    apply(&mut writer, 1, put(1));
    let waiting = tokio::spawn({
        let storage = storage.clone();
        async move { storage.compaction_finished(60).await }
    });

    let mut receiving = Receiving::begin(&path, Options::default()).await.unwrap();
    let (first, rest) = frames.split_at(2);
    for frame in first {
        receiving.feed(frame.clone().into()).await.unwrap();
    }
    receiving.feed(rest[0][..20].to_vec().into()).await.unwrap();
    let progress = receiving.rewind().unwrap();
    let mut again = leader_reader.snapshot().unwrap();
    assert!(again.resume_after(&progress).unwrap());
    while let Some(frame) = again.next_frame().unwrap() {
        receiving.feed(frame.into()).await.unwrap();
    }
    assert!(receiving.is_complete());
    let installed = writer.install(receiving.finish().await.unwrap()).unwrap();
    assert_eq!((installed.revision, installed.compacted), (101, 60));
    assert!(waiting.await.unwrap());
    // Finished elsewhere: whoever waits here hears of it too.
    while leader_flusher.compact_step(100) {
        leader_flusher.flush().unwrap();
    }
    apply(&mut leader, 102, Op::Compaction(CompactionRequest { revision: 90, physical: true }));
    while leader_flusher.compact_step(100) {
        leader_flusher.flush().unwrap();
    }
    let mut receiving = Receiving::begin(&path, Options::default()).await.unwrap();
    for frame in pieces(&leader_reader) {
        receiving.feed(frame.into()).await.unwrap();
    }
    drop(writer.install(receiving.finish().await.unwrap()).unwrap());
    assert!(storage.compaction_finished(90).await);
    apply(&mut writer, 103, put(103));
    apply(&mut leader, 103, put(103));
    assert!(storage.flush().await);
    assert_eq!(reader.durable().0.index, 103);
    assert_eq!(reader.hash_kv(0).unwrap(), leader_reader.hash_kv(0).unwrap());
    storage.stop();
    thread.join().unwrap();
}

#[tokio::test]
async fn a_refused_stream_ends_the_import() {
    let directory = tempfile::tempdir().unwrap();
    let mut receiving = Receiving::begin(&directory.path().join("db"), Options::default()).await.unwrap();
    assert!(matches!(receiving.feed("no snapshot at all".into()).await, Err(Fault::Snapshot(_))));
    assert!(!receiving.is_complete() && receiving.rewind().is_err());
    assert!(matches!(receiving.finish().await, Err(Fault::Snapshot(_))));
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
}
