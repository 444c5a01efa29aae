//! Snapshot streams: whole ones give the same store, any other is refused and leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

#[allow(dead_code, reason = "every test binary uses a part")]
mod support;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use store::{Fault, Options};
use support::{Member, grant, put};

/// The stream's pieces: the header, then the frames.
fn frames() -> Vec<Vec<u8>> {
    let mut member = Member::new(Options::default());
    member.apply(grant(1, 60));
    for i in 0..200u32 {
        member.apply(put(format!("key{i}").as_bytes(), &[i as u8; 1000], i64::from(i % 3 == 0)));
    }
    member.flush();
    let mut snapshot = member.reader().snapshot().unwrap();
    std::iter::from_fn(|| snapshot.next_frame().unwrap()).collect()
}

fn import(stream: &[u8]) -> Result<(), Fault> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let result = store::snapshot::import(stream, &path, &Options::default());
    let left: Vec<_> = directory.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), usize::from(result.is_ok()), "{left:?}");
    result
}

#[test]
fn a_stream_without_a_frame_or_with_frames_out_of_order_is_refused() {
    let frames = frames();
    assert!(frames.len() > 6);
    import(&frames.concat()).unwrap();
    for i in 0..frames.len() {
        let mut without = frames.clone();
        without.remove(i);
        assert!(matches!(import(&without.concat()), Err(Fault::Snapshot(_))), "without frame {i}");
        let mut twice = frames.clone();
        twice.insert(i, frames[i].clone());
        // What follows the last frame belongs to someone else.
        assert_eq!(import(&twice.concat()).is_ok(), i + 1 == frames.len(), "frame {i} twice");
        let mut swapped = frames.clone();
        swapped.swap(i, (i + 1) % frames.len());
        assert!(matches!(import(&swapped.concat()), Err(Fault::Snapshot(_))), "frame {i} swapped with the next");
    }
}

#[test]
fn a_cut_or_damaged_stream_is_refused() {
    let stream = frames().concat();
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..60 {
        let len = random.random_range(0..stream.len());
        assert!(matches!(import(&stream[..len]), Err(Fault::Snapshot(_))), "cut at {len}");
        let mut damaged = stream.clone();
        damaged[len] ^= 1 << random.random_range(0..8);
        assert!(matches!(import(&damaged), Err(Fault::Snapshot(_))), "damaged at {len}");
    }
}

#[test]
fn an_import_does_not_replace_a_file() {
    let mut member = Member::new(Options::default());
    member.put(b"a", b"1");
    member.flush();
    let stream = support::export(member.reader());
    assert!(store::snapshot::import(&*stream, &member.path(), &member.options).is_err());
    member.reopen();
    assert_eq!(member.reader().revision(), 2);
}

/// A snapshot is what was durable when it was taken, whatever is written meanwhile.
#[test]
fn a_snapshot_is_one_moment() {
    let mut member = Member::new(Options::default());
    for i in 0..300u32 {
        member.put(&i.to_be_bytes(), &[1; 500]);
    }
    member.flush();
    member.put(b"not flushed", b"1");
    let hash = member.reader().hash_kv(301).unwrap().hash;
    let mut snapshot = member.reader().snapshot().unwrap();
    assert_eq!((snapshot.revision(), snapshot.position()), (301, support::position(300)));
    let mut stream = snapshot.next_frame().unwrap().unwrap();
    for i in 0..300u32 {
        member.put(&i.to_be_bytes(), b"new");
    }
    member.apply(support::compaction(500));
    member.finish_compaction();
    while let Some(frame) = snapshot.next_frame().unwrap() {
        stream.extend(frame);
    }
    let copy = member.directory.path().join("copy");
    store::snapshot::import(&*stream, &copy, &Options::default()).unwrap();
    let (_writer, _flusher, reader) = store::open(&copy, Options::default()).unwrap();
    assert_eq!((reader.revision(), reader.applied().0), (301, support::position(300)));
    assert_eq!(reader.hash_kv(0).unwrap().hash, hash);
}

/// What cannot be used leaves neither a file nor a trace in the store; nor does what was left by a process that died.
#[test]
fn a_refused_stream_leaves_the_store_alone() {
    let frames = frames();
    let mut member = Member::new(Options::default());
    member.put(b"mine", b"1");
    member.flush();
    member.put(b"mine too", b"2");
    let before = (member.reader().hash_kv(0).unwrap(), member.reader().applied());
    for at in 0..frames.len() {
        let mut import = member.import();
        assert_eq!(member.files().len(), 1);
        let mut damaged = frames.clone();
        damaged[at][3] ^= 2;
        let fed = damaged.iter().try_for_each(|frame| import.feed(frame));
        assert!(fed.is_err() || !import.is_complete(), "frame {at}");
        assert!(matches!(import.finish(), Err(Fault::Snapshot(_))), "frame {at}");
        assert_eq!(member.files(), Vec::<String>::new());
    }
    assert_eq!((member.reader().hash_kv(0).unwrap(), member.reader().applied()), before);

    for n in 0..1000 {
        std::fs::write(member.path().with_extension(format!("receiving-{n}")), "left").unwrap();
    }
    let mut import = member.import();
    frames.iter().try_for_each(|frame| import.feed(frame)).unwrap();
    drop(import.finish().unwrap());
    member.reopen();
    assert_eq!((member.reader().hash_kv(0).unwrap(), member.reader().applied()), before);
    assert_eq!(member.files(), Vec::<String>::new());
}

#[test]
fn a_snapshot_that_is_not_newer_is_not_installed() {
    let mut leader = Member::new(Options::default());
    leader.put(b"a", b"1");
    leader.put(b"a", b"2");
    leader.flush();
    let mut member = Member::new(Options::default());
    for (puts, installs) in [(1, true), (0, false), (1, false)] {
        for _ in 0..puts {
            member.put(b"mine", b"1");
        }
        let before = (member.reader().hash_kv(0).unwrap(), member.reader().applied());
        let mut import = member.import();
        import.feed(&support::export(leader.reader())).unwrap();
        let result = member.install(import.finish().unwrap());
        assert_eq!(result.is_ok(), installs);
        if let Err(error) = result {
            let index = before.1.0.index;
            let text = format!("the snapshot ends at log index 2, the store has applied {index}");
            assert_eq!(error.to_string(), text);
            assert_eq!((member.reader().hash_kv(0).unwrap(), member.reader().applied()), before);
        } else {
            assert_eq!(member.reader().hash_kv(0).unwrap(), leader.reader().hash_kv(0).unwrap());
            member.log = leader.log.clone();
        }
    }
    member.reopen();
    assert_eq!(member.reader().revision(), 4);
}
