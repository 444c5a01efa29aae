//! Fuzz target: the stream that brings a member the whole store.

#![allow(clippy::unwrap_used, missing_docs, reason = "a panic is what a fuzz target reports")]

use crate::command::{Entry, Position};
use crate::snapshot::{FRAME_HEAD, HEADER};
use crate::{Disk, Flusher, HashKv, Import, Medium, Options, Progress, Reader, Writer, open, schema};
use ::fuzz::{Memory, Target};
use api::authpb::{Permission, UserAddOptions, permission};
use api::cleatpb::command::Op;
use api::cleatpb::{Command, MemberAttributes, MemberRemoved};
use api::etcdserverpb::{
    AlarmRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest, CompactionRequest,
    DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest,
};
use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use std::io;
use std::path::{Path, PathBuf};

pub static TARGETS: [Target; 1] = [SNAPSHOT];

/// How the stream arrives, and the stream.
const SNAPSHOT: Target = Target {
    name: "snapshot",
    seeds,
    run,
    // A database in memory takes a mebibyte before anything is in it, and there are up to three.
    memory: Memory { base: 24 << 20, per_byte: 256 },
};

const SEALED: u8 = 1;

/// Forgets what it has: each file is new. So a test begins with an empty disk, and none is left.
struct Forgetful;

impl Medium for Forgetful {
    fn exists(&self, _: &Path) -> bool {
        false
    }

    fn open(&self, _: &Path) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(InMemoryBackend::new()))
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

fn options() -> Options {
    Options { disk: Disk::on(Forgetful), cache_bytes: 1 << 16, database_cache_bytes: 1 << 18 }
}

fn run(input: &[u8]) {
    let Some((&how, stream)) = input.split_first() else { return };
    let mut stream = stream.to_vec();
    if how & SEALED != 0 {
        seal(&mut stream);
    }
    // As it comes from a connection, which breaks after each piece.
    let step = match how >> 1 {
        0 => usize::MAX,
        step => usize::from(step) * 16,
    };
    let Some(received) = receive(&stream, step) else { return };
    let (mut writer, _flusher, reader) = open(Path::new("db"), options()).unwrap();
    if writer.install(received).is_err() {
        return;
    }
    // What was accepted is a store: it answers, and goes on to the next member, which has the same then.
    let hash = read(&reader);
    let mut stream = Vec::new();
    let mut snapshot = reader.snapshot().unwrap();
    while let Some(frame) = snapshot.next_frame().unwrap() {
        stream.extend(frame);
    }
    let (mut writer, _flusher, next) = open(Path::new("db"), options()).unwrap();
    writer.install(receive(&stream, usize::MAX).expect("what a member sends is accepted")).unwrap();
    assert_eq!(read(&next), hash);
    assert_eq!(
        (next.leases(), next.alarms(0), next.users_and_roles()),
        (reader.leases(), reader.alarms(0), reader.users_and_roles())
    );
}

/// None for a stream that is refused, or ends too early.
fn receive(stream: &[u8], step: usize) -> Option<crate::Received> {
    let mut import = Import::create(Path::new("db"), &options()).unwrap();
    for piece in stream.chunks(step) {
        import.feed(piece).ok()?;
        let progress = import.progress();
        assert_eq!(Progress::decode(&progress.encode()).as_ref(), Some(&progress));
    }
    import.finish().ok()
}

/// Reads everything, now and before.
fn read(reader: &Reader) -> Option<HashKv> {
    let (compacted, revision) = reader.compacted_and_revision();
    let every = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() };
    for revision in [0, revision - 1, compacted] {
        // A revision that was compacted, or is none, is refused.
        let range = reader.range(&RangeRequest { revision, ..every.clone() });
        assert!(!matches!(range, Err(crate::ReadError::Fault(_))), "{range:?}");
    }
    let past = reader.past(compacted.max(0) + 1, 1 << 20);
    assert!(!matches!(past, Err(crate::ReadError::Fault(_))), "the past cannot be read");
    match reader.hash_kv(0) {
        Ok(hash) => Some(hash),
        Err(crate::ReadError::Fault(fault)) => panic!("{fault}"),
        Err(crate::ReadError::Rejected(_)) => None,
    }
}

/// Writes every frame, and every change of the history in it, with the checksum that it must have.
fn seal(stream: &mut [u8]) {
    let (mut at, mut sum) = (HEADER, 0);
    while let Some(head) = stream.get(at..at + FRAME_HEAD) {
        let len = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        let Some(rows) = stream.get_mut(at + FRAME_HEAD..).and_then(|rest| rest.get_mut(..len)) else { return };
        seal_rows(rows);
        sum = crc32c::crc32c_append(sum, rows);
        stream[at + 4..at + FRAME_HEAD].copy_from_slice(&sum.to_be_bytes());
        at += FRAME_HEAD + len;
        if len == 0 {
            return;
        }
    }
}

/// Bytes with their length before them, and what follows.
fn take(bytes: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
    let (len, rest) = bytes.split_first_chunk_mut::<4>()?;
    rest.split_at_mut_checked(u32::from_be_bytes(*len) as usize)
}

/// None if the rows are cut off.
fn seal_rows(mut rows: &mut [u8]) -> Option<()> {
    const REVISIONS: u8 = 4;
    while let Some((table, rest)) = std::mem::take(&mut rows).split_first_mut() {
        let (_, rest) = take(rest)?;
        let (block, rest) = take(rest)?;
        if *table == REVISIONS {
            seal_changes(block.get_mut(4..)?)?;
        }
        rows = rest;
    }
    Some(())
}

fn seal_changes(mut changes: &mut [u8]) -> Option<()> {
    while let Some((key, rest)) = std::mem::take(&mut changes).split_first_chunk_mut::<12>() {
        let (row, rest) = take(rest)?;
        let (sum, kv) = row.split_first_chunk_mut::<{ schema::ROW_SUM }>()?;
        *sum = schema::row_sum(key, kv);
        changes = rest;
    }
    Some(())
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (compacted, how) in [(0, SEALED), (25, SEALED | 5 << 1)] {
        let (mut writer, mut flusher, reader) = open(Path::new("db"), options()).unwrap();
        fill(&mut writer, &mut flusher, compacted);
        let mut stream = vec![how];
        let mut snapshot = reader.snapshot().unwrap();
        while let Some(frame) = snapshot.next_frame().unwrap() {
            stream.extend(frame);
        }
        seeds.push(stream);
    }
    seeds
}

/// A row of every table.
fn fill(writer: &mut Writer, flusher: &mut Flusher, compacted: i64) {
    let put = |number: i64| {
        let lease = if number % 5 == 0 { 7 } else { 0 };
        Op::Put(PutRequest {
            key: format!("key/{}", number % 7).into(),
            value: vec![b'v'; number as usize * 3].into(),
            lease,
            ..PutRequest::default()
        })
    };
    let name = || "ann".to_owned();
    let options = Some(UserAddOptions { no_password: true });
    let perm = Some(Permission { perm_type: permission::Type::Read.into(), key: "a".into(), range_end: "b".into() });
    let client_urls = vec!["http://a".to_owned()];
    let mut ops = vec![
        Op::LeaseGrant(LeaseGrantRequest { id: 7, ttl: 60 }),
        Op::MemberAttributes(MemberAttributes { member_id: 1, name: name(), client_urls, version: "3.6.0".to_owned() }),
        Op::MemberRemoved(MemberRemoved { member_id: 2 }),
        Op::AuthUserAdd(AuthUserAddRequest { name: name(), options, ..AuthUserAddRequest::default() }),
        Op::AuthRoleAdd(AuthRoleAddRequest { name: name() }),
        Op::AuthRoleGrantPermission(AuthRoleGrantPermissionRequest { name: name(), perm }),
    ];
    ops.extend((1..30).map(put));
    ops.push(Op::DeleteRange(DeleteRangeRequest { key: "key/3".into(), range_end: "key/5".into(), prev_kv: false }));
    if compacted > 0 {
        ops.push(Op::Compaction(CompactionRequest { revision: compacted, physical: false }));
    }
    ops.push(Op::Alarm(AlarmRequest { action: 1, member_id: 1, alarm: 2 }));
    for (index, op) in (1..).zip(ops) {
        let commands = [Command { header: None, op: Some(op) }];
        let position = Position { term: 1, index };
        writer.apply([Entry { position, commands: &commands, membership: Some(b"membership".to_vec()) }]).unwrap();
    }
    flusher.flush().unwrap();
}

#[cfg(test)]
mod tests {
    use super::{TARGETS, receive, seeds};

    /// A seed that is refused reaches nothing.
    #[test]
    fn the_seeds_are_snapshots() {
        for seed in seeds() {
            assert!(receive(&seed[1..], 100).is_some());
        }
    }

    #[test]
    fn snapshot() {
        fuzz::short::run(&TARGETS[0]);
    }
}
