//! Streams in memory: cuts anywhere, damage of any byte, and everything that a frame or a row can claim.

use super::receive::{Import, Received};
use super::rows::{self, Key};
use super::{FRAME_HEAD, HEADER, MAGIC, PADDING, Snapshot, VERSION};
use crate::command::{Entry, Position};
use crate::disk::Disk;
use crate::error::Fault;
use crate::mvcc::revision::Revision;
use crate::open::{Unnamed, from_database};
use crate::schema::{self, meta};
use crate::{Flusher, Options, Progress, Reader, Writer};
use api::cleatpb::command::Op;
use api::cleatpb::{Command, MemberAttributes, MemberRemoved};
use api::etcdserverpb::{AlarmRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest};
use redb::Database;
use redb::backends::InMemoryBackend;
use std::path::Path;
use std::sync::Arc;

fn database() -> Database {
    Database::builder().set_cache_size(1 << 20).create_with_backend(InMemoryBackend::new()).unwrap()
}

struct Store {
    writer: Writer,
    flusher: Flusher,
    reader: Reader,
    index: u64,
}

impl Store {
    fn new() -> Self {
        let shared = Arc::new(from_database(database(), Path::new("memory"), Options::default()).unwrap());
        let writer = Writer { shared: Arc::clone(&shared) };
        Self { writer, flusher: Flusher::new(Arc::clone(&shared)), reader: Reader { shared }, index: 0 }
    }

    fn apply(&mut self, op: Op) {
        self.index += 1;
        let commands = [Command { header: None, op: Some(op) }];
        let membership = (self.index == 1).then(|| b"membership".to_vec());
        let position = Position { term: 2, index: self.index };
        self.writer.apply([Entry { position, commands: &commands, membership }]).unwrap();
    }

    fn put(&mut self, key: &str, len: usize, lease: i64) {
        let key = key.to_owned().into();
        self.apply(Op::Put(PutRequest { key, value: vec![b'v'; len].into(), lease, ..Default::default() }));
    }

    /// Something in every table, in several frames of leases and of revisions.
    fn filled() -> Self {
        let mut store = Self::small();
        for id in 10..2000 {
            store.apply(Op::LeaseGrant(LeaseGrantRequest { id: if id % 2 == 0 { id } else { -id }, ttl: 60 }));
        }
        for i in 0..150 {
            store.put(&format!("key{}", i % 70), 700, 10 * i64::from(i % 3));
        }
        store.put("large", 100_000, 0);
        store.put("after", 1, 0);
        store.flusher.flush().unwrap();
        store
    }

    /// Something in every table, in one frame of revisions.
    fn small() -> Self {
        let mut store = Self::new();
        store.apply(Op::LeaseGrant(LeaseGrantRequest { id: 7, ttl: 60 }));
        store.put("a", 3, 7);
        store.put("b", 3, 0);
        store.put("a", 4, 7);
        store.apply(Op::DeleteRange(DeleteRangeRequest { key: "b".into(), ..Default::default() }));
        store.apply(Op::Compaction(CompactionRequest { revision: 4, ..Default::default() }));
        store.apply(Op::Alarm(AlarmRequest { action: 1, member_id: 9, alarm: 2 }));
        store.apply(Op::Alarm(AlarmRequest { action: 2, member_id: 9, alarm: 2 }));
        store.apply(Op::Alarm(AlarmRequest { action: 1, member_id: 9, alarm: 5 }));
        let attributes = MemberAttributes {
            member_id: 4,
            name: "four".into(),
            client_urls: vec!["http://x".into()],
            ..Default::default()
        };
        store.apply(Op::MemberAttributes(attributes));
        store.apply(Op::MemberRemoved(MemberRemoved { member_id: 5 }));
        store.flusher.flush().unwrap();
        store
    }
}

fn pieces(snapshot: &mut Snapshot) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| snapshot.next_frame().unwrap()).collect()
}

fn import() -> Import {
    Import::into_database(
        database(),
        Unnamed::new(&Disk::FILE_SYSTEM, "/nonexistent/database".into()),
        &Options::default(),
    )
    .unwrap()
}

fn receive(stream: &[u8]) -> Result<Received, Fault> {
    let mut import = import();
    for piece in stream.chunks(1000) {
        import.feed(piece)?;
    }
    import.finish()
}

/// The stream that the content of a received database gives.
fn stream_of(received: Received) -> Vec<u8> {
    let database = received.on_disk.into_database().unwrap();
    let shared = Arc::new(from_database(database, Path::new("memory"), Options::default()).unwrap());
    // What was built while the rows arrived is what an opened database has.
    let opened = shared.state.read();
    assert_eq!(
        (opened.index.live(), opened.leases.len(), opened.revision, opened.stored_bytes),
        (
            received.state.index.live(),
            received.state.leases.len(),
            received.state.revision,
            received.state.stored_bytes
        )
    );
    drop(opened);
    pieces(&mut Reader { shared }.snapshot().unwrap()).concat()
}

#[test]
fn a_stream_goes_on_wherever_it_broke_off() {
    let store = Store::filled();
    let mut snapshot = store.reader.snapshot().unwrap();
    let frames = pieces(&mut snapshot);
    assert!(frames.len() > 7 && frames.iter().filter(|frame| frame.get(8) == Some(&1)).count() >= 2);
    let stream = frames.concat();
    let mut cuts = vec![0, 1, 11];
    let mut border = 0;
    for frame in &frames {
        border += frame.len();
        cuts.extend([border - frame.len() / 2, border, border + 7]);
    }
    for cut in cuts.into_iter().filter(|cut| *cut <= stream.len()) {
        let mut import = import();
        import.feed(&stream[..cut]).unwrap();
        let sent = import.progress();
        let progress = import.rewind();
        assert_eq!(sent, progress);
        assert_eq!(Progress::decode(&progress.encode()).as_ref(), Some(&progress));
        assert!(progress.bytes() <= cut as u64 && cut as u64 - progress.bytes() <= 140_000);
        assert!(snapshot.resume_after(&progress).unwrap());
        let rest = pieces(&mut snapshot).concat();
        assert!(rest == stream[progress.bytes() as usize..], "cut at {cut}");
        import.feed(&rest).unwrap();
        assert!(import.is_complete());
        if cut % 5 == 0 {
            assert!(stream_of(import.finish().unwrap()) == stream, "cut at {cut}");
        } else {
            drop(import.finish().unwrap());
        }
    }
    // As often as it takes.
    let mut import = import();
    for len in (1..).map(|turn| turn * 10_000) {
        let progress = import.rewind();
        assert!(snapshot.resume_after(&progress).unwrap());
        let rest = pieces(&mut snapshot).concat();
        import.feed(&rest[..len.min(rest.len())]).unwrap();
        if import.is_complete() {
            break;
        }
    }
    assert!(stream_of(import.finish().unwrap()) == stream);
}

#[test]
fn a_part_of_another_snapshot_is_not_continued() {
    let mut store = Store::filled();
    let mut first = store.reader.snapshot().unwrap();
    let stream = pieces(&mut first).concat();
    let mut import = import();
    import.feed(&stream[..150_000]).unwrap();
    let progress = import.rewind();
    // Compacted rows go, the position stays.
    while store.flusher.compact_step(10) {}
    assert!(store.flusher.flush().unwrap().deleted > 0);
    let mut second = store.reader.snapshot().unwrap();
    assert_eq!(first.position(), second.position());
    assert!(!second.resume_after(&progress).unwrap());
    let rest = pieces(&mut second).concat();
    assert!(rest != stream && receive(&rest).is_ok(), "the refused token changed nothing");
    assert!(first.resume_after(&progress).unwrap());
    // A row that is not there, under the right name.
    let absent = Key::Revision(Revision { main: 1_000_000, sub: 0 });
    assert!(!first.resume_after(&Progress { last: Some(absent), ..progress.clone() }).unwrap());
    // A sum that is not right gives a stream that is refused, not a fault of the sender.
    assert!(first.resume_after(&Progress { crc: 1, bytes: 3, ..progress }).unwrap());
    let wrong = pieces(&mut first).concat();
    assert!(matches!(import.feed(&wrong), Err(Fault::Snapshot(_))));
    assert!(matches!(import.feed(&stream), Err(Fault::Snapshot(_))), "it is over");
    assert!(matches!(import.finish(), Err(Fault::Snapshot(_))));
}

#[test]
fn every_flipped_byte_and_every_cut_is_refused() {
    let stream = pieces(&mut Store::small().reader.snapshot().unwrap()).concat();
    assert!(stream.len() < 2000, "{}", stream.len());
    assert!(stream_of(receive(&stream).unwrap()) == stream);
    for at in 0..stream.len() {
        let mut damaged = stream.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(matches!(receive(&damaged), Err(Fault::Snapshot(_))), "byte {at}");
        assert!(matches!(receive(&stream[..at]), Err(Fault::Snapshot(_))), "cut at {at}");
    }
    let longer = [&*stream, &[0]].concat();
    assert!(matches!(receive(&longer), Err(Fault::Snapshot(_))));
}

#[test]
fn frames_are_taken_once_and_in_order() {
    let frames = pieces(&mut Store::filled().reader.snapshot().unwrap());
    for i in 0..frames.len() {
        let mut without = frames.clone();
        without.remove(i);
        assert!(matches!(receive(&without.concat()), Err(Fault::Snapshot(_))), "without frame {i}");
        let mut twice = frames.clone();
        twice.insert(i, frames[i].clone());
        assert!(matches!(receive(&twice.concat()), Err(Fault::Snapshot(_))), "frame {i} twice");
        let mut swapped = frames.clone();
        swapped.swap(i, (i + 1) % frames.len());
        assert!(matches!(receive(&swapped.concat()), Err(Fault::Snapshot(_))), "frame {i} swapped with the next");
    }
}

/// A stream with the right checksums around the given rows.
fn forged(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = [MAGIC.as_slice(), &VERSION.to_be_bytes()].concat();
    let mut crc = 0;
    for rows in frames.iter().map(|rows| &**rows).chain([&[][..]]) {
        crc = crc32c::crc32c_append(crc, rows);
        stream.extend((rows.len() as u32).to_be_bytes());
        stream.extend(crc.to_be_bytes());
        stream.extend(rows);
    }
    stream.resize(stream.len().next_multiple_of(PADDING as usize), 0);
    stream
}

fn row(key: &Key, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    rows::push(&mut out, key, value);
    out
}

fn int(name: &str, value: i64) -> Vec<u8> {
    row(&Key::Meta(name.into()), &value.to_be_bytes())
}

fn change(main: i64, sub: u32, mod_revision: i64) -> Vec<u8> {
    let key = Revision { main, sub };
    let fields = api::encoded::KeyValueFields { key: b"k", mod_revision, ..Default::default() };
    let key_value = schema::encode_row(&key.to_key(), fields.encode().as_bytes(), &mut Vec::new()).to_vec();
    row(&Key::Revision(key), &block(key, 1, &key_value))
}

/// A block of one change that says it had `rows`.
fn block(key: Revision, rows: u32, row: &[u8]) -> Vec<u8> {
    [&rows.to_be_bytes(), &key.to_key()[..], &(row.len() as u32).to_be_bytes(), row].concat()
}

#[test]
fn lengths_are_not_believed() {
    let header = [MAGIC.as_slice(), &VERSION.to_be_bytes()].concat();
    let mut import = import();
    import.feed(&[&*header, &[0xff; 8]].concat()).unwrap_err();
    // Up to what is believed, memory grows with what arrives.
    let mut import = self::import();
    import.feed(&header).unwrap();
    import.feed(&(1_u32 << 30).to_be_bytes()).unwrap();
    import.feed(&[0; 4]).unwrap();
    import.feed(&vec![0; 100_000]).unwrap();
    assert_eq!(import.missing(), (1 << 30) - 100_000);
    assert!(matches!(import.finish(), Err(Fault::Snapshot(_))));
    for rows in [vec![0], vec![0, 0xff, 0xff, 0xff, 0xff], [&[0, 0, 0, 0, 1, b'x'][..], &[0xff; 4]].concat()] {
        assert!(matches!(receive(&forged(&[rows])), Err(Fault::Snapshot(_))));
    }
    assert_eq!((HEADER, FRAME_HEAD), (header.len(), 8));
}

#[test]
fn rows_that_make_no_store_are_refused() {
    let format = int(meta::FORMAT, schema::FORMAT as i64);
    let sound =
        [int(meta::COMPACTED, 2), format.clone(), int(meta::REVISION, 4), int(meta::STORED_BYTES, 2 * (5 + 32))];
    let good = [sound.concat(), [change(3, 0, 3), change(4, 0, 4)].concat()];
    drop(receive(&forged(&good)).unwrap());
    let with = |rows: &[Vec<u8>]| [sound.concat(), rows.concat()];
    let lease = |id| row(&Key::Lease(id), &[0; 16]);
    let three = Key::Revision(Revision::first(3));
    for (name, frames) in [
        ("no format", vec![vec![], int(meta::REVISION, 1)]),
        ("another format", vec![int(meta::FORMAT, 1)]),
        ("an unknown name", vec![[format.clone(), int("name", 2)].concat()]),
        ("a name twice", vec![[format.clone(), format.clone()].concat()]),
        ("a number of another length", vec![row(&Key::Meta(meta::FORMAT.into()), &[1])]),
        ("compacted above the revision", vec![[int(meta::COMPACTED, 5), format.clone()].concat()]),
        ("an unknown table", vec![[format.clone(), vec![9, 0, 0, 0, 0, 0, 0, 0, 0]].concat()]),
        ("a lease of another length", vec![[format.clone(), row(&Key::Lease(1), &[0; 15])].concat()]),
        ("leases out of order", vec![[format.clone(), lease(2), lease(1)].concat()]),
        ("a lease behind the alarms", vec![[format.clone(), row(&Key::Alarm(1, 1), &[]), lease(1)].concat()]),
        ("a member of another id", vec![[format.clone(), row(&Key::Member(1), b"")].concat()]),
        ("a member that is none", vec![[format.clone(), row(&Key::Member(1), &[0xff])].concat()]),
        ("a user of another name", vec![[format.clone(), row(&Key::AuthUser("a".into()), b"")].concat()]),
        ("a user that is none", vec![[format.clone(), row(&Key::AuthUser("a".into()), &[0xff])].concat()]),
        ("a role of another name", vec![[format.clone(), row(&Key::AuthRole("a".into()), b"")].concat()]),
        ("a lease behind revisions", with(&[change(3, 0, 3), lease(1), change(4, 0, 4)]).to_vec()),
        ("a revision left out", with(&[change(4, 0, 4)]).to_vec()),
        ("the last revision left out", with(&[change(3, 0, 3)]).to_vec()),
        ("a revision twice", with(&[change(3, 0, 3), change(3, 0, 3)]).to_vec()),
        ("a revision of the future", with(&[change(3, 0, 3), change(4, 0, 4), change(5, 0, 5)]).to_vec()),
        ("a revision before the first", with(&[change(-2, 0, -2), change(3, 0, 3), change(4, 0, 4)]).to_vec()),
        ("a sub revision beyond all", with(&[change(2, 1 << 31, 2), change(3, 0, 3), change(4, 0, 4)]).to_vec()),
        ("another revision in the row", with(&[change(3, 0, 4), change(4, 0, 4)]).to_vec()),
        ("other bytes than announced", with(&[change(2, 0, 2), change(3, 0, 3), change(4, 0, 4)]).to_vec()),
        ("no key-value", with(&[row(&three, &block(Revision::first(3), 1, b"xxxx"))]).to_vec()),
        ("a block without changes", with(&[row(&three, &[0; 4])]).to_vec()),
        ("a block of no bytes", with(&[row(&three, &[])]).to_vec()),
        ("a block of another revision", with(&[row(&three, &block(Revision::first(4), 1, b"xxxx"))]).to_vec()),
        ("a block that ends early", with(&[row(&three, &block(Revision::first(3), 2, b"xxxx"))]).to_vec()),
    ] {
        let frames: Vec<_> = frames.into_iter().filter(|rows| !rows.is_empty()).collect();
        assert!(matches!(receive(&forged(&frames)), Err(Fault::Snapshot(_))), "{name}");
    }
}
