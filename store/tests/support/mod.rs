//! A store in a temporary directory, with the log that a member would replay after a restart.

pub(crate) mod auth;
pub(crate) mod model;
pub(crate) mod random;
pub(crate) mod script;

use api::cleatpb::Command;
use api::cleatpb::command::Op;
use api::etcdserverpb::{CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest};
use std::path::PathBuf;
use store::{Applied, Entry, Flusher, Import, InstallError, Installed, Options, Outcome};
use store::{Position, Reader, Received, Writer};
use tempfile::TempDir;

pub(crate) struct Member {
    pub(crate) directory: TempDir,
    pub(crate) options: Options,
    handles: Option<(Writer, Flusher, Reader)>,
    /// The payload of every log entry; the first has index 1.
    pub(crate) log: Vec<Vec<Command>>,
}

impl Member {
    pub(crate) fn new(options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let handles = Some(store::open(&directory.path().join("db"), options.clone()).unwrap());
        Self { directory, options, handles, log: Vec::new() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("db")
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.handles.as_ref().expect("the store is open").2
    }

    pub(crate) fn writer(&mut self) -> &mut Writer {
        &mut self.handles.as_mut().expect("the store is open").0
    }

    pub(crate) fn flusher(&mut self) -> &mut Flusher {
        &mut self.handles.as_mut().expect("the store is open").1
    }

    /// Appends an entry to the log and applies it.
    pub(crate) fn apply_entry(&mut self, commands: Vec<Command>) -> Applied {
        self.log.push(commands);
        self.apply_logged(self.log.len() as u64)
    }

    fn apply_logged(&mut self, index: u64) -> Applied {
        let commands = &self.log[index as usize - 1];
        let entry = Entry { position: position(index), commands, membership: None };
        self.handles.as_mut().expect("the store is open").0.apply([entry]).unwrap()
    }

    pub(crate) fn apply(&mut self, op: Op) -> (Outcome, Applied) {
        let mut applied = self.apply_entry(vec![command(op)]);
        let outcome = applied.outcomes.remove(0).remove(0);
        (outcome, applied)
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        self.apply(put(key, value, 0)).0
    }

    pub(crate) fn flush(&mut self) {
        while self.flusher().flush().unwrap().more {}
    }

    /// Removes all compacted history.
    pub(crate) fn finish_compaction(&mut self) {
        while self.flusher().compact_step(100) {
            self.flusher().flush().unwrap();
        }
        self.flush();
    }

    /// Closes the store as a crash of the process would: what was not flushed is lost.
    pub(crate) fn close(&mut self) {
        self.handles = None;
    }

    /// Opens the store again and applies the log from its durable position on.
    pub(crate) fn open(&mut self) {
        self.handles = Some(store::open(&self.path(), self.options.clone()).unwrap());
        for index in self.reader().applied().0.index + 1..=self.log.len() as u64 {
            self.apply_logged(index);
        }
    }

    /// Begins to receive a snapshot.
    pub(crate) fn import(&self) -> Import {
        Import::create(&self.path(), &self.options).unwrap()
    }

    pub(crate) fn install(&mut self, received: Received) -> Result<Installed, InstallError> {
        self.writer().install(received)
    }

    /// Applies what a longer log has beyond the applied position.
    pub(crate) fn follow(&mut self, log: &[Vec<Command>]) {
        self.log = log.to_vec();
        for index in self.reader().applied().0.index + 1..=log.len() as u64 {
            self.apply_logged(index);
        }
    }

    /// The names of the files beside the database.
    pub(crate) fn files(&self) -> Vec<String> {
        let files = self.directory.path().read_dir().unwrap();
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).filter(|name| name != "db").collect()
    }

    pub(crate) fn reopen(&mut self) {
        self.close();
        self.open();
    }

    /// Replaces the store by an imported snapshot of itself.
    pub(crate) fn reimport(&mut self) {
        let stream = export(self.reader());
        self.close();
        std::fs::remove_file(self.path()).unwrap();
        store::snapshot::import(&*stream, &self.path(), &self.options).unwrap();
        self.open();
    }
}

pub(crate) fn export(reader: &Reader) -> Vec<u8> {
    let mut snapshot = reader.snapshot().unwrap();
    let announced = snapshot.stream_bytes().unwrap();
    let mut stream = Vec::new();
    while let Some(frame) = snapshot.next_frame().unwrap() {
        stream.extend(frame);
    }
    assert_eq!(announced, stream.len() as u64);
    stream
}

pub(crate) fn position(index: u64) -> Position {
    Position { term: 1 + index / 100, index }
}

pub(crate) fn command(op: Op) -> Command {
    Command { header: None, op: Some(op) }
}

pub(crate) fn put(key: &[u8], value: &[u8], lease: i64) -> Op {
    Op::Put(PutRequest { key: key.to_vec().into(), value: value.to_vec().into(), lease, ..Default::default() })
}

pub(crate) fn delete(key: &[u8], range_end: &[u8]) -> Op {
    Op::DeleteRange(DeleteRangeRequest {
        key: key.to_vec().into(),
        range_end: range_end.to_vec().into(),
        ..Default::default()
    })
}

pub(crate) fn compaction(revision: i64) -> Op {
    Op::Compaction(CompactionRequest { revision, ..Default::default() })
}

pub(crate) fn grant(id: i64, ttl: i64) -> Op {
    Op::LeaseGrant(LeaseGrantRequest { id, ttl })
}

pub(crate) fn revoke(id: i64) -> Op {
    Op::LeaseRevoke(LeaseRevokeRequest { id })
}
