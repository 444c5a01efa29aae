//! A disk in memory that behaves as badly as a real one may.
//!
//! What is written is seen at once, and lasts once it was synced: until then a crash loses it, in part or as a whole.
//! Operations take effect in the order in which they were asked for, and a sync is over when the disk's time says so
//! ([`SimulatedDisk::settled`]). Code that believes a sync before that time loses what it believed in.
//!
//! At a crash, whatever the first unfinished sync and nothing after it was waited for: later operations were never
//! asked for, since whoever asked would still be waiting. Of the others each 512 byte sector lasts or does not, and of
//! the changes of names a first part lasts, as in the journal of a file system.

use super::random::Random;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::{BackendError, StorageBackend};
use tokio::time::Instant;

/// What a disk writes as a whole or not at all.
const SECTOR: usize = 512;

/// How long a sync takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Latency {
    /// None: whoever writes may wait for it.
    None,
    /// Up to so long, at random.
    UpTo(Duration),
}

/// See the module. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct SimulatedDisk {
    state: Arc<Mutex<State>>,
    /// Handles of an earlier power cycle are dead.
    cycle: u64,
}

/// An open file, or the file of a database.
#[derive(Clone)]
pub(crate) struct SimulatedFile {
    disk: SimulatedDisk,
    inode: usize,
    /// Every write is followed by a sync.
    syncs: bool,
}

struct State {
    random: Random,
    cycle: u64,
    latency: Latency,
    acknowledges_early: bool,
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// What is not durable, in the order in which it was asked for.
    journal: Vec<Step>,
    /// When everything asked for so far is done.
    done_at: Instant,
}

#[derive(Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
}

enum Step {
    Write { inode: usize, offset: usize, bytes: Vec<u8> },
    Length { inode: usize, len: usize },
    Name(NameChange),
    Sync { what: Synced, done_at: Instant },
}

enum NameChange {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Clone, Copy, PartialEq)]
enum Synced {
    File(usize),
    Names,
}

impl std::fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimulatedDisk({})", self.cycle)
    }
}

impl std::fmt::Debug for SimulatedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimulatedFile({})", self.inode)
    }
}

fn no_power() -> io::Error {
    io::Error::other("the simulated machine has no power")
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..][..bytes.len()].copy_from_slice(bytes);
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Link(path, inode) => drop(names.insert(path.clone(), *inode)),
            Self::Unlink(path) => drop(names.remove(path)),
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
}

impl State {
    /// Makes durable what was synced by now.
    fn settle(&mut self, now: Instant) {
        let mut at = 0;
        while at < self.journal.len() {
            let Step::Sync { what, done_at } = self.journal[at] else {
                at += 1;
                continue;
            };
            if done_at > now {
                return;
            }
            let rest = self.journal.split_off(at + 1);
            let before = std::mem::take(&mut self.journal);
            for step in before {
                match (&step, what) {
                    (Step::Write { inode, offset, bytes }, Synced::File(synced)) if *inode == synced => {
                        put(&mut self.inodes[*inode].durable, *offset, bytes);
                    }
                    (Step::Length { inode, len }, Synced::File(synced)) if *inode == synced => {
                        self.inodes[*inode].durable.resize(*len, 0);
                    }
                    (Step::Name(change), Synced::Names) => change.apply(&mut self.durable_names),
                    (Step::Sync { .. }, _) => {}
                    _ => self.journal.push(step),
                }
            }
            at = self.journal.len();
            self.journal.extend(rest);
        }
    }

    fn sync(&mut self, what: Synced) {
        let now = Instant::now();
        self.settle(now);
        let took = match self.latency {
            Latency::None => Duration::ZERO,
            Latency::UpTo(most) => most.mul_f64(self.random.fraction()),
        };
        self.done_at = self.done_at.max(now) + took;
        let done_at = self.done_at;
        self.journal.push(Step::Sync { what, done_at });
        if done_at <= now {
            self.settle(now);
        }
    }

    /// Loses what a power loss loses.
    fn forget(&mut self) {
        let now = Instant::now();
        self.settle(now);
        let luck = self.random.fraction();
        let mut names_last = true;
        for step in std::mem::take(&mut self.journal) {
            match step {
                Step::Sync { .. } => break,
                Step::Length { inode, len } => self.inodes[inode].durable.resize(len, 0),
                Step::Write { inode, offset, bytes } => {
                    for (sector, part) in bytes.chunks(SECTOR).enumerate() {
                        if self.random.happens(luck) {
                            put(&mut self.inodes[inode].durable, offset + sector * SECTOR, part);
                        }
                    }
                }
                Step::Name(change) => {
                    names_last &= self.random.happens(luck);
                    if names_last {
                        change.apply(&mut self.durable_names);
                    }
                }
            }
        }
        self.names = self.durable_names.clone();
        let mut used = vec![false; self.inodes.len()];
        for inode in self.names.values() {
            used[*inode] = true;
        }
        for (inode, used) in self.inodes.iter_mut().zip(used) {
            if used {
                inode.now.clone_from(&inode.durable);
            } else {
                *inode = Inode::default();
            }
        }
        self.done_at = now;
    }
}

impl SimulatedDisk {
    /// An empty disk whose every luck is `random`'s.
    pub(crate) fn new(random: Random) -> Self {
        let state = State {
            random,
            cycle: 0,
            latency: Latency::UpTo(Duration::from_millis(2)),
            acknowledges_early: false,
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            journal: Vec::new(),
            done_at: Instant::now(),
        };
        Self { state: Arc::new(Mutex::new(state)), cycle: 0 }
    }

    /// The power goes and comes back: the handle returned works on what is left, all others fail from now on.
    pub(crate) fn lose_power(&self) -> Self {
        let mut state = self.state.lock();
        state.forget();
        state.cycle += 1;
        Self { state: Arc::clone(&self.state), cycle: state.cycle }
    }

    pub(crate) fn set_latency(&self, latency: Latency) {
        self.state.lock().latency = latency;
    }

    /// Plants a bug: the log answers before the disk has.
    pub(crate) fn acknowledge_early(&self) {
        self.state.lock().acknowledges_early = true;
    }

    /// See [`Self::acknowledge_early`].
    pub(crate) fn acknowledges_early(&self) -> bool {
        self.state.lock().acknowledges_early
    }

    /// True while nothing has to be waited for.
    pub(crate) fn answers_at_once(&self) -> bool {
        let state = self.state.lock();
        state.latency == Latency::None && state.done_at <= Instant::now()
    }

    /// Waits until everything asked for before the call is done; false when the power went.
    pub(crate) async fn settled(&self) -> bool {
        let until = self.state.lock().done_at;
        if until > Instant::now() {
            tokio::time::sleep_until(until).await;
        }
        self.powered().is_ok()
    }

    fn powered(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.state.lock();
        if state.cycle == self.cycle { Ok(state) } else { Err(no_power()) }
    }

    pub(crate) fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.powered()?;
        Ok(state.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn file(&self, inode: usize, syncs: bool) -> SimulatedFile {
        SimulatedFile { disk: self.clone(), inode, syncs }
    }

    pub(crate) fn open(&self, path: &Path) -> io::Result<SimulatedFile> {
        let inode = self.powered()?.names.get(path).copied();
        inode.map(|inode| self.file(inode, false)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Opens a file whose writes are synced one by one.
    pub(crate) fn open_direct(&self, path: &Path) -> io::Result<SimulatedFile> {
        self.open(path).map(|file| SimulatedFile { syncs: true, ..file })
    }

    pub(crate) fn create_new(&self, path: &Path) -> io::Result<SimulatedFile> {
        let mut state = self.powered()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.change(NameChange::Link(path.to_owned(), inode));
        drop(state);
        Ok(self.file(inode, false))
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.powered()?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    pub(crate) fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.powered()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    pub(crate) fn sync_names(&self) -> io::Result<()> {
        self.powered()?.sync(Synced::Names);
        Ok(())
    }
}

impl State {
    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.journal.push(Step::Name(change));
    }
}

impl SimulatedFile {
    pub(crate) fn len(&self) -> io::Result<u64> {
        Ok(self.disk.powered()?.inodes[self.inode].now.len() as u64)
    }

    pub(crate) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.powered()?;
        let start = offset as usize;
        let bytes = state.inodes[self.inode].now.get(start..start + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.powered()?;
        let (inode, offset) = (self.inode, offset as usize);
        put(&mut state.inodes[inode].now, offset, bytes);
        state.journal.push(Step::Write { inode, offset, bytes: bytes.to_vec() });
        if self.syncs {
            state.sync(Synced::File(inode));
        }
        Ok(())
    }

    pub(crate) fn reserve(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.powered()?;
        let (inode, len) = (self.inode, len as usize);
        if state.inodes[inode].now.len() < len {
            state.inodes[inode].now.resize(len, 0);
            state.journal.push(Step::Length { inode, len });
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.disk.powered()?.sync(Synced::File(self.inode));
        Ok(())
    }
}

impl StorageBackend for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        Self::len(self)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.powered()?;
        let (inode, len) = (self.inode, len as usize);
        state.inodes[inode].now.resize(len, 0);
        state.journal.push(Step::Length { inode, len });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn try_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}
