//! What of a member's log counts, whatever its database has.

use super::log::{SNAPSHOT, Segments, numbers};
use super::*;
use crate::etcd::{Member as Voter, Meta};
use crate::{Member, Pending};

/// A data directory whose member has the id 7 and the log of [`Segments`].
struct Directory {
    scratch: Scratch,
}

impl Directory {
    fn new(applied: Option<u64>, voters: &[u64], log: impl FnOnce(&mut Segments)) -> Self {
        let this = Self { scratch: Scratch::new() };
        std::fs::create_dir_all(this.scratch.path("member/snap")).unwrap();
        this.database("db", applied, voters);
        let mut segments = Segments::new();
        log(&mut segments);
        let path = segments.end(0);
        std::fs::create_dir_all(this.scratch.path("member/wal")).unwrap();
        std::fs::copy(&path, this.scratch.path("member/wal").join(path.file_name().unwrap())).unwrap();
        this
    }

    fn database(&self, name: &str, applied: Option<u64>, voters: &[u64]) {
        let path = self.scratch.path(&format!("member/snap/{name}"));
        let mut writer = Writer::create(&path, &WriteOptions { digest: false, ..WriteOptions::default() }).unwrap();
        writer.settings(&Meta { consistent_index: applied, ..Meta::default() }).unwrap();
        writer.records(voters.iter().map(|id| Ok(Voter { id: *id, ..Voter::default() }))).unwrap();
        writer.finish().unwrap();
    }

    fn open(&self) -> Result<Member, Error> {
        Member::open(self.scratch.0.path(), None, OpenOptions::default())
    }

    fn pending(&self) -> (u64, u64, Pending) {
        let member = self.open().unwrap();
        (member.applied(), member.committed(), member.pending().unwrap())
    }
}

fn five_entries(segments: &mut Segments) {
    (1..=5).for_each(|index| segments.entry(1, index));
    segments.commit(1, 3);
}

#[test]
fn what_is_noted_as_committed_is_pending() {
    // Somebody else may not have the last two.
    let directory = Directory::new(Some(2), &[7, 8], five_entries);
    assert_eq!(directory.pending(), (2, 3, Pending { entries: 1, changes: 0, unknown: 2 }));
    let directory = Directory::new(None, &[7, 8], five_entries);
    assert_eq!(directory.pending(), (0, 3, Pending { entries: 3, changes: 0, unknown: 2 }));
    // The database proves more than the log has noted.
    let directory = Directory::new(Some(4), &[7, 8], five_entries);
    assert_eq!(directory.pending(), (4, 4, Pending { entries: 0, changes: 0, unknown: 1 }));
    let directory = Directory::new(Some(9), &[7, 8], five_entries);
    assert_eq!(directory.pending(), (9, 9, Pending::default()));
}

#[test]
fn the_only_voter_had_to_ask_nobody() {
    let directory = Directory::new(Some(2), &[7], five_entries);
    assert_eq!(directory.pending(), (2, 5, Pending { entries: 3, changes: 0, unknown: 0 }));
    // Its first entries make it a member.
    let log = |segments: &mut Segments| {
        segments.member(0, 7);
        segments.member(2, 7);
        segments.entry(1, 3);
    };
    assert_eq!(Directory::new(None, &[], log).pending().1, 3);
    for change in [(0, 8), (1, 7), (3, 8)] {
        let log = |segments: &mut Segments| {
            segments.member(0, 7);
            segments.member(change.0, change.1);
            segments.entry(1, 3);
        };
        assert_eq!(Directory::new(None, &[], log).pending().1, 0, "{change:?}");
    }
    // Not when the database is of somebody else, or members are not known.
    for voters in [&[8][..], &[]] {
        assert_eq!(Directory::new(Some(2), voters, five_entries).pending().1, 3);
    }
}

#[test]
fn a_snapshot_that_the_leader_had_sent_is_taken() {
    let log = |segments: &mut Segments| {
        five_entries(segments);
        segments.record(SNAPSHOT, numbers(&[20, 2]));
        segments.entry(2, 21);
        segments.entry(2, 22);
        segments.commit(2, 21);
    };
    let directory = Directory::new(Some(3), &[7, 8], log);
    let error = directory.open().unwrap_err();
    assert!(matches!(error, Error::SnapshotMissing { applied: 3, snapshot: 20, .. }), "{error}");
    directory.database("0000000000000014.snap.db", Some(20), &[7, 8]);
    assert_eq!(directory.pending(), (20, 21, Pending { entries: 1, changes: 0, unknown: 1 }));
}
