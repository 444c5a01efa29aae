//! The database after a power loss: every write since the last sync may be missing, also in part.
//!
//! A recording backend keeps the order of writes and syncs. For every point of the recording a file is made of what
//! was synced and a random part of what was not, opened, and compared with a store that applied the log up to the
//! position which that file reports. The same around the install of a snapshot. A disk that is full is told by the same backend.

use crate::command::{Entry, Position};
use crate::disk::Disk as StoreDisk;
use crate::error::Fault;
use crate::open::{Unnamed, from_database, receiving, unfinished};
use crate::{Flusher, Import, Options, Reader, Writer, open};
use api::cleatpb::Command;
use api::cleatpb::command::Op;
use api::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::{BackendError, Database, StorageBackend};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

/// A write, a change of length or a sync.
#[derive(Clone, Debug)]
enum Step {
    Write(usize, Vec<u8>),
    Length(usize),
    Sync,
}

#[derive(Clone, Debug, Default)]
struct Disk {
    file: Arc<Mutex<Vec<u8>>>,
    steps: Arc<Mutex<Vec<Step>>>,
    /// Space left for the file to grow, `None` without a bound.
    space: Arc<Mutex<Option<usize>>>,
}

impl Disk {
    fn holding(bytes: Vec<u8>) -> Self {
        Self { file: Arc::new(Mutex::new(bytes)), steps: Arc::default(), space: Arc::default() }
    }
}

/// An import of many transactions.
fn small_steps() -> Options {
    Options { database_cache_bytes: 2 << 10, ..Options::default() }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.lock().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let file = self.file.lock();
        let range = offset as usize..offset as usize + out.len();
        out.copy_from_slice(file.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut file = self.file.lock();
        if let Some(space) = &mut *self.space.lock() {
            let growth = (len as usize).saturating_sub(file.len());
            *space = space.checked_sub(growth).ok_or(io::ErrorKind::StorageFull)?;
        }
        file.resize(len as usize, 0);
        self.steps.lock().push(Step::Length(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.steps.lock().push(Step::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.lock()[offset as usize..][..data.len()].copy_from_slice(data);
        self.steps.lock().push(Step::Write(offset as usize, data.to_vec()));
        Ok(())
    }

    fn try_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}

const OPTIONS: Options = Options { disk: StoreDisk::FILE_SYSTEM, cache_bytes: 48 << 20, database_cache_bytes: 1 << 20 };

fn database_on(disk: Disk) -> Result<Database, Fault> {
    Database::builder()
        .set_cache_size(OPTIONS.database_cache_bytes)
        .set_check_integrity_on_open(true)
        .create_with_backend(disk)
        .map_err(Fault::Open)
}

fn store_on(disk: Disk) -> Result<(Writer, Flusher, Reader), Fault> {
    store_named(disk, Path::new("memory"))
}

/// The store whose file has this name; what is in the file is on the disk.
fn store_named(disk: Disk, path: &Path) -> Result<(Writer, Flusher, Reader), Fault> {
    let shared = Arc::new(from_database(database_on(disk)?, path, OPTIONS)?);
    Ok((Writer { shared: Arc::clone(&shared) }, Flusher::new(Arc::clone(&shared)), Reader { shared }))
}

/// A log over few keys that also grants, revokes and compacts.
fn log(random: &mut StdRng, entries: i64) -> Vec<Vec<Command>> {
    let mut log = Vec::new();
    for i in 0..entries {
        let key = vec![b'a' + random.random_range(0..20)];
        let lease = random.random_range(1..4);
        let op = match random.random_range(0..20) {
            0 => Op::LeaseGrant(LeaseGrantRequest { id: lease, ttl: 60 + i }),
            1 => Op::LeaseRevoke(LeaseRevokeRequest { id: lease }),
            2 => Op::Compaction(CompactionRequest { revision: i / 2, ..Default::default() }),
            3..=6 => Op::DeleteRange(DeleteRangeRequest { key: key.into(), ..Default::default() }),
            7 | 8 => Op::Put(PutRequest { key: key.into(), lease, ..Default::default() }),
            _ => {
                let value = vec![i as u8; random.random_range(0..3000)];
                Op::Put(PutRequest { key: key.into(), value: value.into(), ..Default::default() })
            }
        };
        log.push(vec![Command { header: None, op: Some(op) }]);
    }
    log
}

fn apply(writer: &mut Writer, log: &[Vec<Command>], from: u64, to: u64) {
    for index in from + 1..=to {
        let membership = (index % 10 == 0).then(|| index.to_be_bytes().to_vec());
        let commands = &log[index as usize - 1];
        writer.apply([Entry { position: Position { term: 3, index }, commands, membership }]).unwrap();
    }
}

/// What clients and the raft layer can see.
fn contents(reader: &Reader) -> String {
    let all = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let kvs: Vec<_> = reader.range(&all).unwrap().0.kvs.iter().map(|kv| kv.as_bytes().to_vec()).collect();
    let leases: Vec<_> = reader.leases().into_iter().map(|(id, lease)| (id, lease, reader.lease_keys(id))).collect();
    let hash = reader.hash_kv(0).unwrap();
    format!("{:?} {hash:?} {leases:?} {:x}", reader.applied(), crc32c::crc32c(&kvs.concat()))
}

/// The file after a power loss at `at`: all that was synced, and some of what was not.
fn after_power_loss(steps: &[Step], at: usize, random: &mut StdRng) -> Vec<u8> {
    let synced = steps[..at].iter().rposition(|step| matches!(step, Step::Sync)).unwrap_or(0);
    let mut file = Vec::new();
    let put = |file: &mut Vec<u8>, offset: usize, data: &[u8]| {
        if file.len() < offset + data.len() {
            file.resize(offset + data.len(), 0);
        }
        file[offset..][..data.len()].copy_from_slice(data);
    };
    let luck = random.random_range(0..=100);
    for (i, step) in steps[..at].iter().enumerate() {
        match step {
            Step::Sync => {}
            Step::Length(len) => file.resize(*len, 0),
            Step::Write(offset, data) if i < synced => put(&mut file, *offset, data),
            // A disk writes whole sectors, in any order.
            Step::Write(offset, data) => {
                for (sector, part) in data.chunks(512).enumerate() {
                    if random.random_range(0..100) < luck {
                        put(&mut file, offset + 512 * sector, part);
                    }
                }
            }
        }
    }
    file
}

#[test]
fn a_power_loss_leaves_the_durable_position() {
    let seed = std::env::var("CLEAT_SEED")
        .or_else(|_| std::env::var("CLEAT_FIRST_SEED"))
        .map_or_else(|_| rand::rng().random(), |seed| seed.parse().unwrap());
    println!("CLEAT_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let log = log(&mut random, 150);

    // The run: what was recorded, and which position was durable after how many steps.
    let disk = Disk::default();
    let (mut writer, mut flusher, reader) = store_on(disk.clone()).unwrap();
    let created = disk.steps.lock().len();
    let mut durable = vec![(created, 0)];
    let mut applied = 0;
    while applied < log.len() as u64 {
        let next = (applied + random.random_range(1..20)).min(log.len() as u64);
        apply(&mut writer, &log, applied, next);
        applied = next;
        flusher.compact_step(random.random_range(1..10));
        flusher.flush().unwrap();
        assert_eq!(reader.durable().0.index, applied);
        durable.push((disk.steps.lock().len(), applied));
    }
    let end = contents(&reader);
    let steps = disk.steps.lock().clone();
    check_every_loss(&steps, created, &durable, &log, &end, &mut random);
}

/// Loses power at every step from `begin` on. `durable` has which position was promised after how many steps, `end` is
/// what the whole log gives.
fn check_every_loss(
    steps: &[Step],
    begin: usize,
    durable: &[(usize, u64)],
    log: &[Vec<Command>],
    end: &str,
    random: &mut StdRng,
) {
    let mut reference = store_on(Disk::default()).unwrap();
    let mut previous = 0;
    for at in (begin..=steps.len()).filter(|at| at % 3 == 0 || matches!(steps[at - 1], Step::Sync)) {
        let (mut writer, _flusher, reader) = store_on(Disk::holding(after_power_loss(steps, at, random))).unwrap();
        let position = reader.applied().0.index;
        let promised = durable.iter().rfind(|(step, _)| *step <= at).unwrap().1;
        assert!(position >= promised, "step {at}: {position} is durable, {promised} was promised");
        if position < previous {
            reference = store_on(Disk::default()).unwrap();
            previous = 0;
        }
        apply(&mut reference.0, log, previous, position);
        previous = position;
        assert_eq!(contents(&reader), contents(&reference.2), "step {at}, position {position}");
        apply(&mut writer, log, position, log.len() as u64);
        assert_eq!(contents(&reader), end, "step {at}, position {position}, then replayed");
    }
}

/// Until the received file has its name a crash leaves the old store, from then on the new one: the file is whole and
/// durable before.
#[test]
fn a_power_loss_around_an_install_leaves_the_old_store_or_the_new_one() {
    let seed = std::env::var("CLEAT_SEED")
        .or_else(|_| std::env::var("CLEAT_FIRST_SEED"))
        .map_or_else(|_| rand::rng().random(), |seed| seed.parse().unwrap());
    println!("CLEAT_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let log = log(&mut random, 150);
    let mut leader = store_on(Disk::default()).unwrap();
    apply(&mut leader.0, &log, 0, 90);
    leader.1.compact_step(5);
    leader.1.flush().unwrap();
    let mut snapshot = leader.2.snapshot().unwrap();

    let directory = tempfile::tempdir().unwrap();
    let (path, new) = (directory.path().join("db"), directory.path().join("db.new"));
    let (old_disk, new_disk) = (Disk::default(), Disk::default());
    let (mut writer, mut flusher, reader) = store_named(old_disk.clone(), &path).unwrap();
    apply(&mut writer, &log, 0, 40);
    flusher.flush().unwrap();
    apply(&mut writer, &log, 40, 60);
    // In place of the files, whose bytes are on the two disks.
    std::fs::write(&path, "old").unwrap();
    std::fs::write(&new, "new").unwrap();
    let old_steps = old_disk.steps.lock().len();
    let mut import = Import::into_database(
        database_on(new_disk.clone()).unwrap(),
        Unnamed::new(&StoreDisk::FILE_SYSTEM, new),
        &small_steps(),
    )
    .unwrap();
    while let Some(frame) = snapshot.next_frame().unwrap() {
        import.feed(&frame).unwrap();
    }
    let received = import.finish().unwrap();
    let whole = new_disk.steps.lock().len();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    let installed = writer.install(received).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    assert_eq!(old_disk.steps.lock().len(), old_steps, "nothing goes to the old file");
    drop(installed);

    let mut durable = vec![(whole, 90)];
    let mut applied = 90;
    while applied < log.len() as u64 {
        let next = (applied + random.random_range(1..20)).min(log.len() as u64);
        apply(&mut writer, &log, applied, next);
        applied = next;
        flusher.compact_step(random.random_range(1..10));
        flusher.flush().unwrap();
        durable.push((new_disk.steps.lock().len(), applied));
    }
    let end = contents(&reader);
    let steps = new_disk.steps.lock().clone();
    check_every_loss(&steps, whole, &durable, &log, &end, &mut random);

    // Before that, whatever there is of the new file is removed by the next start, and the old one is what it was.
    let (mut writer, mut flusher, reader) = open(&path.with_extension("live"), OPTIONS).unwrap();
    apply(&mut writer, &log, 0, 40);
    flusher.flush().unwrap();
    let old = contents(&reader);
    drop((writer, flusher, reader));
    for at in (0..=whole).step_by(1 + whole / 20) {
        let received = receiving(&path.with_extension("live"));
        std::fs::write(&received, after_power_loss(&steps, at, &mut random)).unwrap();
        let (_writer, _flusher, reader) = open(&path.with_extension("live"), OPTIONS).unwrap();
        assert_eq!(contents(&reader), old);
        assert!(!received.exists());
    }
}

/// A disk that is full while a snapshot arrives: the store in use does not notice.
#[test]
fn a_full_disk_ends_an_import_and_nothing_else() {
    let mut random = StdRng::seed_from_u64(4);
    let log = log(&mut random, 2000);
    let mut leader = store_on(Disk::default()).unwrap();
    apply(&mut leader.0, &log, 0, 2000);
    leader.1.flush().unwrap();
    let mut snapshot = leader.2.snapshot().unwrap();
    let disk = Disk::default();
    let database = database_on(disk.clone()).unwrap();
    *disk.space.lock() = Some(0);
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut import =
        Import::into_database(database, Unnamed::new(&StoreDisk::FILE_SYSTEM, file.path().to_owned()), &small_steps())
            .unwrap();
    let fault = loop {
        let Some(frame) = snapshot.next_frame().unwrap() else { panic!("the disk never was full") };
        if let Err(fault) = import.feed(&frame) {
            break fault;
        }
    };
    assert!(matches!(fault, Fault::Database(redb::Error::Io(_))), "{fault}");
    assert!(import.finish().is_err());
    assert!(!file.path().exists());
}

/// A flush that finds the disk full is a fault; what was durable before stays, and the log gives the rest.
#[test]
fn a_full_disk_loses_nothing() {
    let mut random = StdRng::seed_from_u64(4);
    let log = log(&mut random, 2000);
    let disk = Disk::default();
    let (mut writer, mut flusher, reader) = store_on(disk.clone()).unwrap();
    *disk.space.lock() = Some(0);
    let mut applied = 0;
    let fault = loop {
        assert!(applied < log.len() as u64, "the disk never was full");
        apply(&mut writer, &log, applied, applied + 20);
        applied += 20;
        match flusher.flush() {
            Ok(_) => assert_eq!(reader.durable().0.index, applied),
            Err(fault) => break fault,
        }
    };
    assert!(matches!(fault, Fault::Database(redb::Error::Io(_))), "{fault}");
    let durable = reader.durable().0.index;
    assert_eq!(durable, applied - 20, "the failed flush promises nothing");
    // Readers still have everything that was applied.
    let end = contents(&reader);
    drop((writer, flusher, reader));

    let (mut writer, mut flusher, reader) = store_on(Disk::holding(disk.file.lock().clone())).unwrap();
    let position = reader.applied().0.index;
    assert!(position == durable || position == applied, "{position} was found, {durable} was durable");
    apply(&mut writer, &log, position, applied);
    assert_eq!(contents(&reader), end);
    flusher.flush().unwrap();
    assert_eq!(reader.durable().0.index, applied);
}

/// What a power loss leaves of a database that is being created must not keep the member from starting.
#[test]
fn an_unfinished_database_is_forgotten() {
    let mut random = StdRng::seed_from_u64(1);
    let disk = Disk::default();
    let empty = contents(&store_on(disk.clone()).unwrap().2);
    let steps = disk.steps.lock().clone();
    for at in 0..=steps.len() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        std::fs::write(unfinished(&path), after_power_loss(&steps, at, &mut random)).unwrap();
        let (_writer, _flusher, reader) = open(&path, Options::default()).unwrap();
        assert_eq!(contents(&reader), empty, "step {at} of {}", steps.len());
        assert!(!unfinished(&path).exists());
    }
}
