//! Fuzz target: the files of a log, with checksums that are put right if asked.

use super::disk::Disk;
use super::index::EntryIndex;
use super::record::{self, Kind};
use super::recover::{check_start, cut, replay, write_again};
use super::segment::{self, SegmentHeader, file_name};
use super::writer::Positions;
use crate::raft::types::{Entry, EntryContent, Membership, Payload, Vote, log_id};
use ::fuzz::{Memory, Target, with_files};
use api::cleatpb::{Batch, Command, command::Op};
use api::etcdserverpb::PutRequest;
use std::path::Path;

/// A log of one segment or two.
pub(crate) const WAL: Target = Target {
    name: "wal",
    seeds,
    run,
    // A piece of a file is read into memory, of both segments at the end; and entries are decoded.
    memory: Memory { base: 4 << 20, per_byte: 1024 },
};

const SEALED: u8 = 1;
const TWO: u8 = 2;

/// Before the bytes of the segments: what is to be done, and the length of the first segment.
const HEAD: usize = 3;

fn run(input: &[u8]) {
    let Some((head, bytes)) = input.split_at_checked(HEAD) else { return };
    let first = match head[0] & TWO {
        0 => bytes.len(),
        _ => bytes.len().min(usize::from(u16::from_le_bytes([head[1], head[2]]))),
    };
    let (first, second) = bytes.split_at(first);
    let mut segments = vec![first.to_vec()];
    if head[0] & TWO != 0 {
        segments.push(second.to_vec());
    }
    let mut chain = 0;
    let files: Vec<_> = segments
        .iter_mut()
        .map(|segment| {
            if head[0] & SEALED != 0 {
                chain = seal(segment, chain);
            }
            (name(segment), &**segment)
        })
        .collect();
    with_files(&files, open);
}

/// What opening a log does, but for starting its threads; and then what a second opening does.
fn open(directory: &Path) {
    let disk = Disk::default();
    let mut ends = Vec::new();
    for _ in 0..2 {
        let (mut positions, mut index) = (Positions::default(), EntryIndex::default());
        let Ok(tail) = replay(&disk, directory, &mut positions, &mut index) else {
            return assert!(ends.is_empty(), "a log that was opened can be opened");
        };
        let Some(tail) = tail else { return };
        if check_start(&tail, &positions, &index).is_err() {
            return;
        }
        assert!(ends.is_empty() || !tail.is_torn, "a torn end is cut");
        cut(&tail).expect("the file can be written");
        write_again(&disk, directory, &tail).expect("the file can be written");
        let entries = index.locate(0..u64::MAX).read(usize::MAX).ok();
        if let Some(entries) = &entries {
            assert!(entries.windows(2).all(|pair| pair[0].log_id.index + 1 == pair[1].log_id.index), "a gap");
        }
        ends.push((tail.offset, tail.chain, index.first(), entries));
    }
    assert!(ends[0] == ends[1], "a log is the same when it is opened again");
}

/// The name that goes with the header.
fn name(segment: &[u8]) -> String {
    let int = |at: usize| segment.get(at..at + 8).map_or(1, |int| u64::from_le_bytes(int.try_into().expect("8 bytes")));
    file_name(&SegmentHeader { sequence: int(16), first_index: int(24), previous_chain: 0 })
}

/// Writes header and records with the checksums that they must have; returns the last one.
fn seal(segment: &mut [u8], previous_chain: u32) -> u32 {
    let Some(header) = segment.first_chunk_mut::<{ segment::HEADER_BYTES }>() else { return 0 };
    let int = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
    *header = SegmentHeader { sequence: int(16), first_index: int(24), previous_chain }.encode();
    let Ok((_, salt)) = SegmentHeader::decode(header) else { return 0 };
    let (mut chain, mut offset) = (salt, segment::HEADER_BYTES);
    while let Some(record) = segment.get_mut(offset..).filter(|rest| rest.len() >= record::HEADER_BYTES) {
        let int = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().expect("4 bytes"));
        let (len, group, is_record) = (record::HEADER_BYTES.saturating_add(int(0) as usize), int(4), record[8] != 0);
        let Some(record) = record.get_mut(..len).filter(|_| is_record) else { break };
        chain = record::seal(record, group, offset as u32, salt, chain);
        offset += len;
    }
    chain
}

/// Logs that are valid once they are sealed: one segment with every kind of record, and two.
fn seeds() -> Vec<Vec<u8>> {
    let put = |index| {
        let put = PutRequest { key: "key".into(), value: "value".into(), ..PutRequest::default() };
        let batch = Batch { commands: vec![Command { header: None, op: Some(Op::Put(put)) }], origin: None };
        Entry { log_id: log_id(2, index), payload: EntryContent::Normal(Payload::new(batch)) }
    };
    let membership = Entry { log_id: log_id(2, 3), payload: EntryContent::Membership(Membership::default()) };
    let mut first = SegmentHeader { sequence: 1, first_index: 0, previous_chain: 0 }.encode().to_vec();
    let mut add = |encode: &dyn Fn(&mut Vec<u8>)| {
        let start = first.len();
        encode(&mut first);
        // Each record is a write of its own.
        first[start + 4..start + 8].copy_from_slice(&(start as u32).to_le_bytes());
    };
    add(&|out| record::encode_vote(out, &Vote::new_committed(2, 7)));
    let blank = Entry { log_id: log_id(1, 0), payload: EntryContent::Blank };
    add(&|out| {
        record::encode_entry(out, &blank);
    });
    add(&|out| record::encode_position(out, Kind::Clear, log_id(0, 0)));
    for index in 0..3 {
        add(&|out| {
            record::encode_entry(out, &put(index));
        });
    }
    add(&|out| {
        record::encode_entry(out, &membership);
    });
    add(&|out| record::encode_position(out, Kind::Truncate, log_id(2, 2)));
    add(&|out| record::encode_position(out, Kind::Purge, log_id(2, 0)));
    add(&|out| record::encode_position(out, Kind::Committed, log_id(2, 1)));
    let mut second = SegmentHeader { sequence: 2, first_index: 3, previous_chain: 0 }.encode().to_vec();
    let start = second.len();
    record::encode_entry(&mut second, &put(3));
    second[start + 4..start + 8].copy_from_slice(&(start as u32).to_le_bytes());
    second.resize(second.len() + 100, 0);
    let len = (first.len() as u16).to_le_bytes();
    vec![
        [&[SEALED, 0, 0], &*first].concat(),
        [&[SEALED, 0, 0], &*first, &[0; 200]].concat(),
        [&[SEALED | TWO, len[0], len[1]], &*first, &*second].concat(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed that is refused reaches nothing.
    #[test]
    fn the_seeds_are_logs() {
        for (seed, records) in seeds().into_iter().zip([10, 10, 11]) {
            let directory = tempfile::tempdir().unwrap();
            let copy = |from: &Path| {
                for file in from.read_dir().unwrap() {
                    let path = file.unwrap().path();
                    std::fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
                }
            };
            run(&seed);
            // What was run last is still there.
            let (head, bytes) = seed.split_at(HEAD);
            let first =
                if head[0] & TWO == 0 { bytes.len() } else { usize::from(u16::from_le_bytes([head[1], head[2]])) };
            let mut segments = [bytes[..first].to_vec(), bytes[first..].to_vec()];
            let chain = seal(&mut segments[0], 0);
            seal(&mut segments[1], chain);
            let files: Vec<_> = segments.iter().filter(|s| !s.is_empty()).map(|s| (name(s), &**s)).collect();
            with_files(&files, copy);
            assert_eq!(super::super::inspect(directory.path(), |_| ()).unwrap().records, records);
        }
    }
}
