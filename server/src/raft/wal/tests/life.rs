//! A log in use: rotation, purge, recycling, locking, a failing disk.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::*;

#[tokio::test]
async fn only_one_process_opens_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, opened) = open(dir.path()).unwrap();
    assert_eq!(opened, Opened::default());
    assert!(matches!(open(dir.path()), Err(WalError::Locked(_))));
    drop(wal);
    drop(open(dir.path()).unwrap());
}

#[tokio::test]
async fn a_purge_removes_whole_segments_and_recycles_them() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path()).unwrap();
    let vote = Vote::new_committed(3, 9);
    wal.vote_durably(vote).await.unwrap();
    for index in 0..400 {
        wal.append_durably([put(3, index, 200)]).await.unwrap();
        if index % 50 == 49 {
            wal.purge(log_id(3, index - 5)).unwrap();
        }
    }
    drop(wal);
    // Opening hands over again what was not removed before.
    let (wal, opened) = open(dir.path()).unwrap();
    assert_eq!((opened.vote, opened.purged), (Some(vote), Some(log_id(3, 394))));
    assert_eq!((opened.first, opened.last), (Some(395), Some(log_id(3, 399))));
    assert_eq!(wal.entries(), (395..400).map(|index| put(3, index, 200)).collect::<Vec<_>>());
    let deadline = Instant::now() + Duration::from_secs(20);
    while segments(dir.path()).len() > 2 {
        assert!(Instant::now() < deadline, "{:?}", segments(dir.path()));
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_bytes_of_a_recycled_segment_are_no_records() {
    let dir = tempfile::tempdir().unwrap();
    // Direct writes end with zeros up to a whole block; more than one block is needed to see what was there before.
    let options = WalOptions { segment_bytes: 16 * SEGMENT_BYTES, ..Default::default() };
    let (wal, _) = Wal::open(dir.path(), options).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    for index in 0.. {
        wal.append_durably([put(3, index, 2000)]).await.unwrap();
        wal.purge(log_id(3, index)).unwrap();
        let desk = wal.desk.lock();
        let rest = fs::read(&desk.writer.segment.path).unwrap().split_off(desk.writer.offset as usize);
        if rest.iter().any(|byte| *byte != 0) {
            break;
        }
        assert!(Instant::now() < deadline, "nothing is recycled");
    }
    drop(wal);
    assert!(!inspect(dir.path(), |_| ()).unwrap().is_torn);
}

#[tokio::test]
async fn a_reader_keeps_the_segments_it_found() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path()).unwrap();
    let entries: Vec<Entry> = (0..100).map(|index| put(1, index, 200)).collect();
    wal.append_durably(entries.clone()).await.unwrap();
    let located = wal.reader().locate(0..50);
    wal.purge(log_id(1, 99)).unwrap();
    for index in 100..300 {
        wal.append_durably([put(1, index, 200)]).await.unwrap();
    }
    assert_eq!(located.read(usize::MAX).unwrap(), entries[..50]);
    assert_eq!(wal.entries().len(), 200);
}

#[tokio::test]
async fn an_entry_larger_than_a_segment_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let entries = [put(1, 0, 10), put(1, 1, 50_000), put(1, 2, 10), put(1, 3, 9_000), put(1, 4, 9_000)];
    {
        let (wal, _) = open(dir.path()).unwrap();
        wal.append_durably(entries.clone()).await.unwrap();
        assert_eq!(wal.entries(), entries);
    }
    let (wal, _) = open(dir.path()).unwrap();
    assert_eq!(wal.entries(), entries);
    wal.purge(log_id(1, 4)).unwrap();
    for index in 5..50 {
        wal.append_durably([put(1, index, 500)]).await.unwrap();
    }
    drop(wal);
    let (wal, _) = open(dir.path()).unwrap();
    assert_eq!(wal.entries(), (5..50).map(|index| put(1, index, 500)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_failed_sync_is_final_and_told_to_everyone() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&faults);
    let on_fault = Box::new(move |_: &WalError| {
        counted.fetch_add(1, Relaxed);
    });
    let options = WalOptions { segment_bytes: SEGMENT_BYTES, on_fault, ..Default::default() };
    let (wal, _) = Wal::open(dir.path(), options).unwrap();
    wal.append_durably([put(1, 0, 1)]).await.unwrap();
    wal.shared.fails_syncs.store(true, Relaxed);
    let (first, second) = (TypeConfig::oneshot(), TypeConfig::oneshot());
    wal.append([put(1, 1, 1)], None, IOFlushed::signal(first.0), |_, _, _| ()).unwrap().write();
    // Either queued behind the failing group or refused: an error both ways.
    let vote = wal.vote(&Vote::new(2, 1));
    let refused = wal.append([put(1, 2, 1)], None, IOFlushed::signal(second.0), |_, _, _| ()).is_err();
    assert!(first.1.await.unwrap().is_err());
    assert!(refused || second.1.await.unwrap().is_err());
    if let Ok(vote) = vote {
        assert!(vote.await.unwrap().is_err());
    }
    wal.shared.fails_syncs.store(false, Relaxed);
    assert!(wal.append_durably([put(1, 3, 1)]).await.is_err());
    assert!(wal.vote(&Vote::new(3, 1)).is_err());
    assert!(wal.room().await.is_err());
    drop(wal);
    assert_eq!(faults.load(Relaxed), 1);
}

#[tokio::test]
async fn a_lone_small_entry_is_written_by_who_appends_it() {
    const LONE: u64 = 100;
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), WalOptions { segment_bytes: 1 << 20, ..Default::default() }).unwrap();
    let append = |index, bytes| {
        let (done, durable) = TypeConfig::oneshot();
        (wal.append([put(1, index, bytes)], None, IOFlushed::signal(done), |_, _, _| ()).unwrap(), durable)
    };
    // The thread may come to the desk first while it starts, and a disk may be slow once.
    let mut own = 0;
    for index in 0..LONE {
        let (queued, mut durable) = append(index, 10);
        let is_own = queued.unwritten.is_some();
        queued.write();
        match durable.try_recv() {
            Ok(done) => own += u64::from(done.is_ok() && is_own),
            Err(_) => durable.await.unwrap().unwrap(),
        }
    }
    assert!(own > 0, "none of {LONE} was durable when its write returned");

    let (queued, durable) = append(LONE, 100_000);
    assert!(queued.unwritten.is_none(), "a large one is the thread's");
    queued.write();
    durable.await.unwrap().unwrap();

    wal.stats().time(|| std::thread::sleep(Duration::from_millis(1)));
    let (queued, durable) = append(LONE + 1, 10);
    assert!(queued.unwritten.is_none(), "and every one while the disk is slow");
    queued.write();
    durable.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_newest_segments_begin_where_their_names_say() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path()).unwrap();
    assert_eq!(wal.reader().first_in_newest(1), None);
    for index in 0..100 {
        wal.append_durably([put(1, index, 200)]).await.unwrap();
    }
    let first = |path: &PathBuf| segment::parse_file_name(path.file_name().unwrap().to_str().unwrap()).unwrap().1;
    let begins: Vec<u64> = segments(dir.path()).iter().map(first).collect();
    assert!(begins.len() > 3);
    for count in 1..=begins.len() {
        let expected = begins[begins.len() - count];
        assert_eq!(wal.reader().first_in_newest(count as u64), Some(expected), "{count} segments");
    }
    assert_eq!(wal.reader().first_in_newest(1000), Some(0));
}

#[tokio::test]
async fn syncs_and_bytes_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let observed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&observed);
    let on_sync = Box::new(move |_| {
        counted.fetch_add(1, Relaxed);
    });
    let (wal, _) = Wal::open(dir.path(), WalOptions { segment_bytes: 1 << 20, on_sync, ..Default::default() }).unwrap();
    let stats = wal.stats();
    wal.append_durably((0..10).map(|index| put(1, index, 100))).await.unwrap();
    assert!(stats.bytes_written() > 1000);
    drop(wal);
    assert_eq!((stats.syncs(), observed.load(Relaxed)), (1, 1));
    assert_eq!(stats.sync_in_flight(), None);
}

#[tokio::test]
async fn positions_cut_off_by_a_crash_outlive_the_segments_before() {
    let dir = tempfile::tempdir().unwrap();
    let vote = Vote::new_committed(4, 2);
    {
        let (wal, _) = open(dir.path()).unwrap();
        wal.vote_durably(vote).await.unwrap();
        wal.purge(log_id(1, 0)).unwrap();
        for index in 1..20 {
            wal.append_durably([put(4, index, 400)]).await.unwrap();
        }
    }
    // As after a crash in the middle of a rotation: the new segment has a header and nothing else.
    let last = segments(dir.path()).pop().unwrap();
    edit(&last, |bytes| bytes[segment::HEADER_BYTES..].fill(0));
    let (wal, opened) = open(dir.path()).unwrap();
    let kept = opened.last.unwrap();
    wal.purge(kept).unwrap();
    wal.append_durably([put(4, kept.index + 1, 10)]).await.unwrap();
    drop(wal);
    for path in segments(dir.path()).iter().filter(|path| **path != last) {
        // Whether or not the thread got round to it before the end: all of them may go.
        fs::remove_file(path).unwrap();
    }
    let (wal, opened) = open(dir.path()).unwrap();
    assert_eq!((opened.vote, opened.purged), (Some(vote), Some(kept)));
    assert_eq!(wal.entries(), [put(4, kept.index + 1, 10)]);
}

#[test]
fn a_sync_in_flight_is_visible() {
    let stats = WalStats::new(Box::new(|_| ()), Box::new(|_| ()));
    assert_eq!(stats.sync_in_flight(), None);
    stats.time(|| assert!(stats.sync_in_flight().is_some()));
    assert_eq!((stats.sync_in_flight(), stats.syncs()), (None, 1));
}
