//! Readers while the store is written, flushed, compacted and defragmented: every read is one consistent state.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

#[allow(dead_code, reason = "every test binary uses a part")]
mod support;

use api::etcdserverpb::RangeRequest;
use store::Options;
use support::Member;

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
    member.flusher().defragment().unwrap();
    let mut frames = 0;
    while snapshot.next_frame().unwrap().is_some() {
        frames += 1;
    }
    assert!(frames > 5);
    let all = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    assert_eq!(member.reader().range(&all).unwrap().0.count, 2000);
}
