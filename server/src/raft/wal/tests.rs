//! Tests of the log as files: torn ends, damage, recycling, foreign files, failing disks.

mod cache;
mod crash;
mod damage;
mod life;

use std::fs;
use std::path::{Path, PathBuf};

use api::cleatpb::{Batch, Command, command::Op};
use api::etcdserverpb::PutRequest;
use openraft::storage::IOFlushed;
use openraft::type_config::TypeConfigExt;

use super::*;
use crate::raft::types::{EntryContent, Payload, TypeConfig, log_id};

/// Small enough that a test of a few entries has several segments.
const SEGMENT_BYTES: u64 = 4096;

fn open(dir: &Path) -> Result<(Wal, Opened), WalError> {
    Wal::open(dir, WalOptions { segment_bytes: SEGMENT_BYTES, ..Default::default() })
}

fn put(term: u64, index: u64, value_bytes: usize) -> Entry {
    let put = PutRequest { key: "k".into(), value: vec![index as u8 | 1; value_bytes].into(), ..Default::default() };
    let command = Command { header: None, op: Some(Op::Put(put)) };
    let payload = EntryContent::Normal(Payload::new(Batch { commands: vec![command], origin: None }));
    Entry { log_id: log_id(term, index), payload }
}

impl Wal {
    /// Appends as one group and waits until it is durable.
    async fn append_durably(&self, entries: impl IntoIterator<Item = Entry>) -> io::Result<()> {
        let (done, durable) = TypeConfig::oneshot();
        self.append(entries, None, IOFlushed::signal(done), |_, _, _| ())?.write();
        durable.await.unwrap()
    }

    async fn vote_durably(&self, vote: Vote) -> io::Result<()> {
        self.vote(&vote)?.await.unwrap()
    }

    fn entries(&self) -> Vec<Entry> {
        self.reader().locate(0..u64::MAX).read(usize::MAX).unwrap()
    }
}

/// Copies the segments, newest first, because the oldest may leave meanwhile. Spares are left out.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in segments(from).iter().rev() {
        match fs::copy(path, to.join(path.file_name().unwrap())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{error}"),
            Ok(_) | Err(_) => {}
        }
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|item| item.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    found.sort();
    found
}

/// Last segment and the offset after its last record.
fn end(dir: &Path) -> (PathBuf, usize) {
    let (path, offset) = inspect(dir, |_| ()).unwrap().end.unwrap();
    (path, offset as usize)
}

/// Kinds and offsets of the records in the segment.
fn records(dir: &Path, segment: &Path) -> Vec<(&'static str, usize)> {
    let mut found = Vec::new();
    let visit = |record: RecordInfo<'_>| {
        if record.segment == segment {
            found.push((record.kind, record.offset as usize));
        }
    };
    inspect(dir, visit).unwrap();
    found
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[track_caller]
fn damage(result: Result<(Wal, Opened), WalError>) -> (PathBuf, u64, String) {
    match result {
        Err(WalError::Damaged { file, offset, reason }) => (file, offset, reason),
        Err(other) => panic!("{other}"),
        Ok((_, opened)) => panic!("opened: {opened:?}"),
    }
}
