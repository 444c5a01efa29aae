//! Reads while a flush waits for its disk: nothing that a reader or apply needs is held meanwhile.

use crate::command::{Entry, Position};
use crate::open::from_database;
use crate::{Flusher, Options, Reader, Writer};
use api::cleatpb::Command;
use api::cleatpb::command::Op;
use api::etcdserverpb::{PutRequest, RangeRequest};
use redb::backends::InMemoryBackend;
use redb::{Database, StorageBackend};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Far more than anything here takes, unless it waits for the disk.
const PATIENCE: Duration = Duration::from_secs(20);

/// A file whose syncs tell that they have begun, and end when they are let.
#[derive(Debug)]
struct Stalling {
    file: InMemoryBackend,
    begun: Sender<()>,
    end: parking_lot::Mutex<Receiver<()>>,
}

impl StorageBackend for Stalling {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        // Nobody listens after the test has ended.
        if self.begun.send(()).is_ok() {
            self.end.lock().recv_timeout(2 * PATIENCE).unwrap_or_default();
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
}

fn put(writer: &mut Writer, index: u64, key: &'static str, bytes: usize) {
    let put = PutRequest { key: key.into(), value: vec![b'v'; bytes].into(), ..Default::default() };
    let commands = [Command { header: None, op: Some(Op::Put(put)) }];
    writer.apply([Entry { position: Position { term: 1, index }, commands: &commands, membership: None }]).unwrap();
}

/// redb makes its file larger in the middle of a transaction, and syncs it with a lock held that `begin_read` takes.
#[test]
fn a_flush_that_waits_for_its_disk_holds_up_neither_readers_nor_apply() {
    let (begun, has_begun) = channel();
    let (may_end, end) = channel();
    let backend = Stalling { file: InMemoryBackend::new(), begun, end: parking_lot::Mutex::new(end) };
    std::thread::scope(move |scope| {
        let opening = scope.spawn(|| {
            let database = Database::builder().create_with_backend(backend).unwrap();
            // Nothing stays in memory that is on disk.
            let options = Options { cache_bytes: 0, ..Options::default() };
            let shared = Arc::new(from_database(database, Path::new("memory"), options).unwrap());
            let mut writer = Writer { shared: Arc::clone(&shared) };
            let mut flusher = Flusher::new(Arc::clone(&shared));
            put(&mut writer, 1, "a", 10);
            flusher.flush().unwrap();
            (writer, flusher, Reader { shared })
        });
        while !opening.is_finished() {
            if has_begun.recv_timeout(Duration::from_millis(10)).is_ok() {
                may_end.send(()).unwrap();
            }
        }
        let (mut writer, mut flusher, reader) = opening.join().unwrap();
        put(&mut writer, 2, "b", 16 << 20);
        let flushing = scope.spawn(move || flusher.flush().unwrap());
        let (mut index, mut syncs) = (3, 0);
        while !flushing.is_finished() {
            if has_begun.recv_timeout(Duration::from_millis(10)).is_err() {
                continue;
            }
            syncs += 1;
            let (answer, answered) = channel();
            let reader = reader.clone();
            let mut next = writer;
            scope.spawn(move || {
                let range = RangeRequest { key: "a".into(), ..Default::default() };
                assert_eq!(reader.range(&range).unwrap().0.count, 1);
                put(&mut next, index, "c", 10);
                drop(answer.send(next));
            });
            let in_time = answered.recv_timeout(PATIENCE);
            // Let go first: a failed test must end.
            may_end.send(()).unwrap();
            writer = in_time.unwrap_or_else(|_| panic!("a reader waited for sync {syncs} of the flush"));
            index += 1;
        }
        drop((has_begun, may_end));
        assert!(syncs > 2, "the file was to grow in the middle: {syncs} syncs");
    });
}
