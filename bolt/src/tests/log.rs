//! Logs written here, in one piece and damaged. Those of a real etcd are read by the process tests.

use super::*;
use crate::wal::{ConfChange, Log, LogEntry, LogFault, Payload, V2Request};
use prost::Message;
use std::fmt::Write as _;

const METADATA: i64 = 1;
const ENTRY: i64 = 2;
const STATE: i64 = 3;
const CRC: i64 = 4;
pub(super) const SNAPSHOT: i64 = 5;

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(int64, optional, tag = "1")]
    kind: Option<i64>,
    #[prost(uint32, optional, tag = "2")]
    crc: Option<u32>,
    #[prost(bytes = "vec", optional, tag = "3")]
    data: Option<Vec<u8>>,
}

/// Three integers: `raftpb.HardState`, and with two of them `Metadata` and `walpb.Snapshot`.
#[derive(Clone, PartialEq, Message)]
struct Numbers {
    #[prost(uint64, optional, tag = "1")]
    first: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    second: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    third: Option<u64>,
}

pub(super) fn numbers(numbers: &[u64]) -> Vec<u8> {
    let at = |index: usize| numbers.get(index).copied();
    Numbers { first: at(0), second: at(1), third: at(2) }.encode_to_vec()
}

#[derive(Clone, PartialEq, Message)]
struct RawEntry {
    #[prost(int32, optional, tag = "1")]
    kind: Option<i32>,
    #[prost(uint64, optional, tag = "2")]
    term: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    index: Option<u64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    data: Option<Vec<u8>>,
}

/// Writes segments as etcd does.
pub(super) struct Segments {
    scratch: Scratch,
    crc: u32,
    sequence: u64,
    index: u64,
    bytes: Vec<u8>,
}

impl Segments {
    pub(super) fn new() -> Self {
        Self::in_directory(Scratch::new())
    }

    pub(super) fn in_directory(scratch: Scratch) -> Self {
        let mut this = Self { scratch, crc: 0, sequence: 0, index: 0, bytes: Vec::new() };
        this.head();
        this.record(SNAPSHOT, numbers(&[0, 0]));
        this
    }

    fn head(&mut self) {
        self.frame(&Record { kind: Some(CRC), crc: Some(self.crc), data: None });
        self.record(METADATA, numbers(&[7, 9]));
    }

    fn frame(&mut self, record: &Record) {
        let bytes = record.encode_to_vec();
        let padding = (8 - bytes.len() % 8) % 8;
        let mark = if padding == 0 { 0 } else { (0x80 | padding as u64) << 56 };
        self.bytes.extend((bytes.len() as u64 | mark).to_le_bytes());
        self.bytes.extend(bytes);
        self.bytes.extend(vec![0; padding]);
    }

    pub(super) fn record(&mut self, kind: i64, data: Vec<u8>) {
        self.crc = crc32c::crc32c_append(self.crc, &data);
        self.frame(&Record { kind: Some(kind), crc: Some(self.crc), data: Some(data) });
    }

    pub(super) fn entry(&mut self, term: u64, index: u64) {
        let method = "PUT".to_owned();
        let data = V2Request { id: term, method, path: format!("/{term}/{index}"), ..V2Request::default() };
        let entry = RawEntry { kind: Some(0), term: Some(term), index: Some(index), data: Some(data.encode_to_vec()) };
        self.record(ENTRY, entry.encode_to_vec());
        self.index = index;
    }

    /// The next entry: a member comes or goes.
    pub(super) fn member(&mut self, kind: i32, member_id: u64) {
        let data = ConfChange { r#type: kind, node_id: member_id, ..ConfChange::default() }.encode_to_vec();
        self.index += 1;
        let entry = RawEntry { kind: Some(1), term: Some(1), index: Some(self.index), data: Some(data) };
        self.record(ENTRY, entry.encode_to_vec());
    }

    pub(super) fn commit(&mut self, term: u64, commit: u64) {
        self.record(STATE, numbers(&[term, 1, commit]));
    }

    fn path(&self, sequence: u64, index: u64) -> PathBuf {
        self.scratch.path(&format!("{sequence:016x}-{index:016x}.wal"))
    }

    /// Ends a segment and begins the next one.
    fn cut(&mut self, first: u64) -> PathBuf {
        let path = self.path(self.sequence, first);
        std::fs::write(&path, std::mem::take(&mut self.bytes)).unwrap();
        self.sequence += 1;
        self.head();
        path
    }

    /// Ends the last segment, which is longer than what is in it.
    pub(super) fn end(&mut self, first: u64) -> PathBuf {
        let path = self.path(self.sequence, first);
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len() + 100_000, 0);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn open(&self, after: u64) -> Result<Log, Error> {
        Log::open(self.scratch.0.path(), after)
    }

    fn fault(&self, after: u64) -> LogFault {
        match self.open(after).and_then(|log| shown(&log, log.bounds().last)) {
            Err(Error::Log { fault, .. }) => fault,
            other => panic!("{other:?}"),
        }
    }
}

/// Terms and indexes up to an index, as `2/5`.
fn shown(log: &Log, last: u64) -> Result<String, Error> {
    let mut out = String::new();
    for entry in log.entries(last) {
        let LogEntry { index, term, payload } = entry?;
        write!(out, "{term}/{index} ").unwrap();
        let path = format!("/{term}/{index}");
        assert!(matches!(payload, Payload::V2(request) if request.path == path), "{path}");
    }
    Ok(out.trim_end().to_owned())
}

#[test]
fn entries_come_in_order_over_segments() {
    let mut segments = Segments::new();
    (1..=4).for_each(|index| segments.entry(1, index));
    segments.cut(0);
    segments.commit(1, 4);
    (5..=6).for_each(|index| segments.entry(2, index));
    segments.cut(5);
    segments.commit(2, 5);
    segments.entry(2, 7);
    segments.end(7);
    std::fs::write(segments.scratch.path("0.tmp"), "is no segment").unwrap();

    let log = segments.open(0).unwrap();
    assert_eq!(shown(&log, 7).unwrap(), "1/1 1/2 1/3 1/4 2/5 2/6 2/7");
    assert_eq!(shown(&log, 5).unwrap(), "1/1 1/2 1/3 1/4 2/5");
    let bounds = log.bounds();
    assert_eq!((bounds.last, bounds.state.commit, bounds.state.term, log.torn()), (7, 5, 2, None));
    assert_eq!((log.metadata().member_id, log.metadata().cluster_id), (7, 9));
    assert_eq!(shown(&segments.open(5).unwrap(), 7).unwrap(), "2/6 2/7");
    assert_eq!(shown(&segments.open(7).unwrap(), 7).unwrap(), "");
    assert_eq!(segments.open(9).unwrap().bounds().last, 9);
    // More than there are.
    assert!(matches!(shown(&log, 8), Err(Error::Log { fault: LogFault::EndsEarly { last: 7, commit: 8 }, .. })));

    // What the database has may be gone, and nothing else.
    std::fs::remove_file(segments.path(0, 0)).unwrap();
    assert_eq!(shown(&segments.open(4).unwrap(), 7).unwrap(), "2/5 2/6 2/7");
    assert!(matches!(segments.fault(3), LogFault::Purged(4)));
}

#[test]
fn replaced_entries_do_not_count() {
    let mut segments = Segments::new();
    (1..=6).for_each(|index| segments.entry(1, index));
    (4..=5).for_each(|index| segments.entry(2, index));
    segments.cut(0);
    segments.entry(3, 5);
    segments.entry(4, 3);
    (4..=7).for_each(|index| segments.entry(4, index));
    segments.entry(5, 7);
    segments.end(6);
    let log = segments.open(0).unwrap();
    assert_eq!(log.bounds().last, 7);
    assert_eq!(shown(&log, 7).unwrap(), "1/1 1/2 4/3 4/4 4/5 4/6 5/7");
    assert_eq!(shown(&segments.open(4).unwrap(), 7).unwrap(), "4/5 4/6 5/7");

    // Replaced by fewer: the end of the log is before what was there.
    let mut segments = Segments::new();
    (1..=6).for_each(|index| segments.entry(1, index));
    segments.entry(2, 4);
    segments.end(0);
    let log = segments.open(2).unwrap();
    assert_eq!((log.bounds().last, shown(&log, 4).unwrap().as_str()), (4, "1/3 2/4"));
    let log = segments.open(5).unwrap();
    assert_eq!((log.bounds().last, shown(&log, 5).unwrap().as_str()), (5, ""));
}

#[test]
fn random_logs_are_those_of_a_plain_list() {
    let mut random = random();
    for _ in 0..200 {
        let mut segments = Segments::new();
        let (mut list, mut first): (Vec<u64>, u64) = (Vec::new(), 0);
        for term in 1..random.random_range(2..12) {
            let keep = random.random_range(0..=list.len().min(20));
            list.truncate(list.len() - keep.min(random.random_range(0..=keep)));
            for _ in 0..random.random_range(1..10) {
                list.push(term);
                segments.entry(term, list.len() as u64);
            }
            if random.random_range(0..4) == 0 {
                segments.cut(first);
                first = list.len() as u64 + 1;
            }
        }
        segments.end(first);
        let expected: Vec<String> = list.iter().enumerate().map(|(at, term)| format!("{term}/{}", at + 1)).collect();
        let log = segments.open(0).unwrap();
        assert_eq!(log.bounds().last, list.len() as u64);
        assert_eq!(shown(&log, log.bounds().last).unwrap(), expected.join(" "));
        let after = random.random_range(0..list.len());
        // What the database has was committed, so it is not replaced; what is behind may be.
        let log = segments.open(after as u64).unwrap();
        assert_eq!(shown(&log, log.bounds().last).unwrap(), expected[after..].join(" "));
    }
}

#[test]
fn a_snapshot_takes_the_place_of_entries() {
    let mut segments = Segments::new();
    (1..=3).for_each(|index| segments.entry(1, index));
    segments.commit(1, 2);
    segments.record(SNAPSHOT, numbers(&[2, 1]));
    segments.record(SNAPSHOT, numbers(&[20, 2]));
    segments.entry(2, 21);
    segments.end(0);
    assert_eq!(segments.open(2).unwrap().bounds().snapshot, 2, "not one that is not committed");
    segments.commit(2, 21);
    segments.end(0);
    assert_eq!(segments.open(2).unwrap().bounds().snapshot, 20);
    let log = segments.open(20).unwrap();
    assert_eq!(shown(&log, 21).unwrap(), "2/21");
    // Who asks for entries that are not there is told.
    assert!(matches!(segments.fault(3), LogFault::Gap { found: 21, last: 3, .. }));
}

#[test]
fn damage_is_told() {
    let build = || {
        let mut segments = Segments::new();
        (1..=4).for_each(|index| segments.entry(1, index));
        segments.cut(0);
        (5..=6).for_each(|index| segments.entry(1, index));
        segments.cut(5);
        segments.entry(1, 7);
        segments
    };
    let mut segments = build();
    segments.entry(1, 9);
    segments.end(7);
    assert!(matches!(segments.fault(0), LogFault::Gap { found: 9, last: 7, .. }));

    let mut segments = build();
    segments.record(METADATA, numbers(&[8, 9]));
    segments.end(7);
    assert!(matches!(segments.fault(0), LogFault::Metadata { .. }));

    let mut segments = build();
    segments.record(6, Vec::new());
    segments.end(7);
    assert!(matches!(segments.fault(0), LogFault::Kind { kind: 6, .. }));

    let mut segments = build();
    let entry = RawEntry { kind: Some(3), term: Some(1), index: Some(8), data: Some(vec![]) };
    segments.record(ENTRY, entry.encode_to_vec());
    segments.end(7);
    assert!(matches!(segments.fault(0), LogFault::Kind { kind: 3, .. }));

    let mut segments = build();
    segments.end(7);
    std::fs::remove_file(segments.path(1, 5)).unwrap();
    assert!(matches!(segments.fault(0), LogFault::MissingSegment(1)));

    // The end of a segment that is not the last: the next one knows the checksum.
    let mut segments = build();
    segments.end(7);
    let path = segments.path(1, 5);
    let mut bytes = std::fs::read(&path).unwrap();
    let last = RawEntry { kind: Some(0), ..RawEntry::default() };
    bytes.truncate(bytes.len() - 8 - last.encoded_len().next_multiple_of(8));
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(segments.fault(0), LogFault::Length { .. } | LogFault::Checksum { .. }));
}

#[test]
fn a_torn_last_write_is_cut_away_and_told() {
    let mut segments = Segments::new();
    (1..=4).for_each(|index| segments.entry(1, index));
    let whole = segments.bytes.len();
    let entry = RawEntry { kind: Some(0), term: Some(1), index: Some(5), data: Some(vec![b'x'; 3000]) };
    segments.record(ENTRY, entry.encode_to_vec());
    let path = segments.end(0);
    let good = std::fs::read(&path).unwrap();
    // The file ends inside the write; a sector of it is missing; its first sector is missing.
    let cut = good[..whole + 1000].to_vec();
    let (mut hole, mut headless) = (good.clone(), good.clone());
    hole[(whole + 1024) / 512 * 512..][..512].fill(0);
    headless[whole..(whole + 512) / 512 * 512].fill(0);
    for bytes in [cut, hole, headless] {
        std::fs::write(&path, bytes).unwrap();
        let log = segments.open(0).unwrap();
        assert_eq!(shown(&log, log.bounds().last).unwrap(), "1/1 1/2 1/3 1/4");
        assert_eq!(log.torn().map(|torn| (&torn.path, torn.offset)), Some((&path, whole as u64)));
    }
    // Another byte is not torn.
    let mut flipped = good;
    flipped[whole + 1000] ^= 1;
    std::fs::write(&path, flipped).unwrap();
    assert!(matches!(segments.fault(0), LogFault::Checksum { .. }));
}

/// Every bit of two segments, for terms with which a commit looks like an entry of a known kind, and one more.
#[test]
fn a_flipped_bit_is_an_error_or_the_end() {
    for term in 1..=3 {
        let mut segments = Segments::new();
        segments.commit(0, 0);
        (1..=4).for_each(|index| segments.entry(term, index));
        segments.cut(0);
        segments.commit(term, 4);
        (5..=6).for_each(|index| segments.entry(term + 1, index));
        segments.commit(term + 1, 6);
        segments.entry(term + 1, 7);
        let last = segments.end(5);
        let good = shown(&segments.open(0).unwrap(), 7).unwrap();
        let (mut errors, mut torn, mut flips) = (0, 0, 0);
        for path in [segments.path(0, 0), last] {
            let bytes = std::fs::read(&path).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            for bit in 0..used * 8 {
                let mut bad = bytes[..used].to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                bad.resize(used.next_multiple_of(8) + 1024, 0);
                std::fs::write(&path, bad).unwrap();
                let place = format!("term {term}, {}, byte {}, bit {}", path.display(), bit / 8, bit % 8);
                match segments.open(0).and_then(|log| Ok((shown(&log, log.bounds().last)?, log.torn().is_some()))) {
                    // Bytes between records mean nothing, and a snapshot or commit may go: its type is not in the
                    // checksum.
                    Ok((read, false)) => assert_eq!(read, good, "{place}"),
                    Ok((read, true)) => {
                        torn += 1;
                        assert!(good.starts_with(&read), "{place}");
                    }
                    Err(_) => errors += 1,
                }
                flips += 1;
            }
            std::fs::write(&path, bytes).unwrap();
        }
        assert!(errors > flips / 2 && torn < flips / 10, "{errors} errors, {torn} torn of {flips}");
        assert_eq!(segments.open(0).unwrap().bounds().last, 7);
    }
}
