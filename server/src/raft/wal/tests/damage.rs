//! A torn end is cut; anything else that cannot be read is an error, and the files stay as they are.

use super::*;
use crate::raft::wal::record;
use crate::raft::wal::segment::{self, SegmentHeader};

/// What is done to a log's directory.
type Change<'a> = &'a dyn Fn(&Path);

/// One record of every kind in three writes, then a fourth write of three entries.
async fn sample(dir: &Path) -> (PathBuf, usize, usize) {
    let (wal, _) = open(dir).unwrap();
    wal.vote_durably(Vote::new(1, 7)).await.unwrap();
    wal.append_durably((0..6).map(|index| put(1, index, 20))).await.unwrap();
    wal.truncate_after(None).unwrap();
    wal.append_durably((0..4).map(|index| put(2, index, 20))).await.unwrap();
    wal.truncate_after(Some(log_id(2, 2))).unwrap();
    wal.purge(log_id(2, 0)).unwrap();
    wal.committed(log_id(2, 2)).unwrap();
    let membership = EntryContent::Membership(crate::raft::types::Membership::default());
    wal.append_durably([Entry { log_id: log_id(2, 3), payload: membership }]).await.unwrap();
    wal.append_durably([Entry { log_id: log_id(2, 4), payload: EntryContent::Blank }]).await.unwrap();
    let (segment, durable) = end(dir);
    wal.committed(log_id(2, 4)).unwrap();
    wal.append_durably((5..8).map(|index| put(2, index, 1))).await.unwrap();
    let (last, written) = end(dir);
    assert_eq!(segment, last);
    (segment, durable, written)
}

/// Entries 1 to 4, and how many of 5 to 7 fit before `offset`.
fn expected_last(records: &[(&str, usize)], written: usize, offset: usize) -> u64 {
    let ends = records.iter().skip(1).map(|(_, at)| *at).chain([written]);
    let whole = records.iter().zip(ends).filter(|((kind, _), end)| *kind == "commands" && *end <= offset);
    4 + whole.count() as u64
}

#[tokio::test]
async fn a_write_torn_at_any_byte_is_cut() {
    let origin = tempfile::tempdir().unwrap();
    let (segment, durable, written) = sample(origin.path()).await;
    let mut last_write = records(origin.path(), &segment);
    last_write.retain(|(_, offset)| *offset >= durable);
    assert_eq!(last_write.len(), 4);
    for at in durable..written {
        for leaves in ["zeros", "noise"] {
            let dir = tempfile::tempdir().unwrap();
            copy(origin.path(), dir.path());
            edit(&dir.path().join(segment.file_name().unwrap()), |bytes| match leaves {
                "zeros" => bytes[at..].fill(0),
                _ => bytes[at..].fill(0xa5),
            });
            let last = expected_last(&last_write, written, at);
            for round in 0..2 {
                let (wal, opened) = open(dir.path()).unwrap_or_else(|e| panic!("{leaves} from {at}: {e}"));
                assert_eq!(opened.last, Some(log_id(2, last + round)), "{leaves} from {at}, round {round}");
                assert_eq!((opened.vote, opened.purged), (Some(Vote::new(1, 7)), Some(log_id(2, 0))));
                assert_eq!(wal.entries().len() as u64, last + round);
                wal.append_durably([put(2, last + round + 1, 1)]).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_was_cut_is_damage_wherever() {
    let origin = tempfile::tempdir().unwrap();
    let (segment, _, written) = sample(origin.path()).await;
    for at in (0..written + 2).chain([SEGMENT_BYTES as usize - 1]) {
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        let path = dir.path().join(segment.file_name().unwrap());
        edit(&path, |bytes| bytes.truncate(at));
        let (file, _, reason) = damage(open(dir.path()));
        assert_eq!(file, path, "cut at {at}: {reason}");
        assert_eq!(fs::metadata(&path).unwrap().len(), at as u64, "cut at {at}");
    }
}

#[tokio::test]
async fn a_hole_in_the_last_write_is_torn_but_one_before_is_damage() {
    let origin = tempfile::tempdir().unwrap();
    let (segment, durable, _) = sample(origin.path()).await;
    let records = records(origin.path(), &segment);
    for (i, (kind, offset)) in records.iter().enumerate().take(records.len() - 1) {
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        let path = dir.path().join(segment.file_name().unwrap());
        edit(&path, |bytes| bytes[*offset..records[i + 1].1].fill(0));
        let before = fs::read(&path).unwrap();
        if *offset >= durable {
            drop(open(dir.path()).unwrap());
            assert_eq!(inspect(dir.path(), |_| ()).unwrap().records as usize, i + 3, "positions repeated at opening");
        } else {
            let (file, at, reason) = damage(open(dir.path()));
            assert_eq!((file, at), (path.clone(), *offset as u64), "{kind} at {offset}: {reason}");
            assert_eq!(fs::read(&path).unwrap(), before, "{kind} at {offset}");
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_is_never_accepted() {
    let origin = tempfile::tempdir().unwrap();
    let (segment, durable, written) = sample(origin.path()).await;
    let records = records(origin.path(), &segment);
    for kind in ["blank", "commands", "membership", "vote", "committed", "truncate", "clear", "purge"] {
        assert!(records.iter().any(|(found, _)| *found == kind), "{kind}");
    }
    let dir = tempfile::tempdir().unwrap();
    copy(origin.path(), dir.path());
    let path = dir.path().join(segment.file_name().unwrap());
    let intact = fs::read(&path).unwrap();
    for at in 0..written {
        let mut bytes = intact.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).unwrap();
        let damaged = records.iter().rev().find(|(_, offset)| *offset <= at).map_or(0, |(_, offset)| *offset);
        if at < durable {
            let (_, offset, reason) = damage(open(dir.path()));
            assert_eq!(offset, damaged as u64, "bit in byte {at}: {reason}");
            assert_eq!(fs::read(&path).unwrap(), bytes, "bit in byte {at}");
        } else {
            // Nothing tells the last write's damage from its tearing.
            let (_, opened) = open(dir.path()).unwrap();
            let last_write: Vec<_> = records.iter().copied().filter(|(_, offset)| *offset >= durable).collect();
            assert_eq!(opened.last, Some(log_id(2, expected_last(&last_write, written, damaged))));
        }
    }
}

#[tokio::test]
async fn a_length_beyond_the_file_is_not_allocated() {
    let dir = tempfile::tempdir().unwrap();
    let (segment, durable, _) = sample(dir.path()).await;
    let bytes = fs::read(&segment).unwrap();
    let (_, salt) = SegmentHeader::decode(&bytes[..segment::HEADER_BYTES]).unwrap();
    for len in [u32::MAX, record::MAX_PAYLOAD_BYTES as u32, SEGMENT_BYTES as u32] {
        let mut forged = vec![0; record::HEADER_BYTES];
        forged[8] = 2;
        forged[..4].copy_from_slice(&len.to_le_bytes());
        record::seal(&mut forged, durable as u32, durable as u32, salt, 0);
        let mut bytes = bytes.clone();
        bytes[durable..].fill(0);
        bytes[durable..durable + forged.len()].copy_from_slice(&forged);
        fs::write(&segment, bytes).unwrap();
        let (_, opened) = open(dir.path()).unwrap();
        assert_eq!(opened.last, Some(log_id(2, 4)));
    }
}

/// No crash leaves such records, and no checksum tells them.
#[tokio::test]
async fn records_with_impossible_numbers_are_damage() {
    let origin = tempfile::tempdir().unwrap();
    let (segment, durable, _) = sample(origin.path()).await;
    let last = records(origin.path(), &segment).into_iter().rfind(|(_, offset)| *offset < durable).unwrap().1;
    let intact = fs::read(&segment).unwrap();
    let (_, salt) = SegmentHeader::decode(&intact[..segment::HEADER_BYTES]).unwrap();
    let chain = record::trusted(&intact[last..]).chain;
    let at = durable as u32;
    for (kind, index, group, expected) in [
        (Kind::Truncate, u64::MAX, at, "truncate record with an index that nothing can follow"),
        (Kind::Purge, u64::MAX, at, "purge record with an index that nothing can follow"),
        (Kind::Committed, u64::MAX, at, "committed record with an index that nothing can follow"),
        (Kind::Committed, 4, at + 1, "stands before the write that it is a part of"),
        (Kind::Committed, 4, u32::MAX, "stands before the write that it is a part of"),
    ] {
        let mut forged = Vec::new();
        record::encode_position(&mut forged, kind, log_id(2, index));
        record::seal(&mut forged, group, at, salt, chain);
        let mut bytes = intact.clone();
        bytes[durable..].fill(0);
        bytes[durable..durable + forged.len()].copy_from_slice(&forged);
        fs::write(&segment, &bytes).unwrap();
        let (_, offset, reason) = damage(open(origin.path()));
        assert!(reason.contains(expected), "{reason}");
        assert_eq!((offset, fs::read(&segment).unwrap()), (u64::from(at), bytes), "nothing is changed");
    }
}

#[tokio::test]
async fn a_number_is_not_there_twice() {
    for sequence in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        for first_index in [0, 5] {
            let header = SegmentHeader { sequence, first_index, previous_chain: 0 };
            let mut bytes = header.encode().to_vec();
            bytes.resize(SEGMENT_BYTES as usize, 0);
            fs::write(dir.path().join(segment::file_name(&header)), bytes).unwrap();
        }
        let (_, _, reason) = damage(open(dir.path()));
        assert_eq!(reason, format!("there is another segment {sequence:016x}"));
    }
}

#[tokio::test]
async fn foreign_and_missing_segments_are_refused() {
    let origin = tempfile::tempdir().unwrap();
    {
        let (wal, _) = open(origin.path()).unwrap();
        for index in 0..40 {
            wal.append_durably([put(1, index, 300)]).await.unwrap();
        }
    }
    let names: Vec<PathBuf> = segments(origin.path()).iter().map(|p| p.file_name().unwrap().into()).collect();
    assert!(names.len() >= 4);
    let last = names.last().unwrap();

    let cases: [(&str, Change<'_>, &str); 9] = [
        ("empty", &|dir| fs::write(dir.join(last), "").unwrap(), "shorter"),
        ("foreign", &|dir| fs::write(dir.join(last), [b'x'; 5000]).unwrap(), "not a segment"),
        ("version", &|dir| edit(&dir.join(last), |bytes| set_version(bytes)), "format version 9"),
        ("header", &|dir| edit(&dir.join(last), |bytes| bytes[30] ^= 1), "checksum of the segment header"),
        (
            "renamed",
            &|dir| fs::rename(dir.join(last), dir.join("00000000000000ff-0000000000000000.wal")).unwrap(),
            "another file name",
        ),
        ("name", &|dir| fs::rename(dir.join(last), dir.join("copy of segment.wal")).unwrap(), "not the name"),
        ("gap", &|dir| fs::remove_file(dir.join(&names[1])).unwrap(), "segment 0000000000000002 before it is missing"),
        ("start", &|dir| fs::remove_file(dir.join(&names[0])).unwrap(), "earlier segments are missing"),
        ("cut inside", &|dir| edit(&dir.join(&names[1]), |bytes| bytes[2000..].fill(0)), "next segment follows"),
    ];
    for (name, change, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        fs::write(dir.path().join("notes.txt"), "someone's").unwrap();
        drop(open(dir.path()).unwrap_or_else(|e| panic!("{name}: {e}")));
        change(dir.path());
        let (_, _, reason) = damage(open(dir.path()));
        assert!(reason.contains(expected), "{name}: {reason}");
    }
}

fn set_version(bytes: &mut [u8]) {
    bytes[8] = 9;
    let check = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&check.to_le_bytes());
}

#[tokio::test]
async fn what_an_earlier_life_left_never_comes_alive() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (wal, _) = open(dir.path()).unwrap();
        for index in 0..30 {
            wal.append_durably([put(1, index, 300)]).await.unwrap();
        }
    }
    let paths = segments(dir.path());
    let (last, offset) = end(dir.path());
    let old = fs::read(&paths[0]).unwrap();
    assert!(paths[0] != last && offset + 600 < old.len());
    // The recycled file's old records, at the very offset where the next record is due.
    edit(&last, |bytes| bytes[offset..].copy_from_slice(&old[old.len() - (SEGMENT_BYTES as usize - offset)..]));
    let (wal, opened) = open(dir.path()).unwrap();
    assert_eq!(opened.last, Some(log_id(1, 29)));
    drop(wal);
    // The whole file as it was, behind the header of its new life.
    edit(&last, |bytes| bytes[offset..].copy_from_slice(&old[offset..]));
    let (wal, opened) = open(dir.path()).unwrap();
    assert_eq!(opened.last, Some(log_id(1, 29)));
    assert_eq!(wal.entries().len(), 30);
    drop(wal);
    assert!(!inspect(dir.path(), |_| ()).unwrap().is_torn);
}
