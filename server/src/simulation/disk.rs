//! A disk in memory that behaves as badly as a real one may.
//!
//! What is written is seen at once, and lasts once it was synced: until then a crash loses it, in part or as a whole.
//! Operations take effect in the order in which they were asked for, and a sync is over when the disk's time says so
//! ([`SimulatedDisk::settled`]). Code that believes a sync before that time loses what it believed in.
//!
//! At a crash, whatever the first unfinished sync and nothing after it was waited for: later operations were never
//! asked for, since whoever asked would still be waiting. Of the others each 512 byte sector lasts or does not, and of
//! the changes of names a first part lasts, as in the journal of a file system.
//!
//! A disk can also be full, and fail. A write that fails leaves any part of itself behind. After a sync that failed, what
//! it should have made durable is gone from the disk in any part, and is read as if it were there, until the process has
//! ended or longer: the kernel takes the pages for clean. So the next sync succeeds and promises nothing, and whoever
//! writes a file again on which an operation failed is noted ([`SimulatedDisk::was_written_after_failure`]).
//!
//! Of two disks of a machine, the log's is waited for by tasks, the database's by the code itself ([`Waiting`]): there a
//! sync is over when the call returns, and power is lost between two operations ([`SimulatedDisk::fail_power_after`]).

use super::random::Random;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::{BackendError, Medium, StorageBackend};
use tokio::sync::Notify;
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

/// Who waits for a sync.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Waiting {
    /// A task, afterwards: [`SimulatedDisk::settled`].
    Task,
    /// The call: its time passes before ([`SimulatedDisk::pause`]), since a call cannot sleep.
    Call,
}

/// What a broken disk refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Broken {
    Writes,
    Syncs,
}

/// How it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Errno {
    Io,
    NoSpace,
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(match errno {
            Errno::Io => 5,
            Errno::NoSpace => 28,
        })
    }
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
    waiting: Waiting,
    /// Files can be written around the page cache.
    is_direct: bool,
    acknowledges_early: bool,
    forgets_names: bool,
    /// Bytes by which files may still grow; none without a bound.
    space: Option<u64>,
    broken: Option<(Broken, Errno)>,
    power_fails_after: Option<u32>,
    /// Since when there is no power.
    off_since: Option<Instant>,
    /// Rings then.
    off: Arc<Notify>,
    /// Since when the log's file is refused to this process.
    refused_log_since: Option<Instant>,
    /// Operations that were refused, because the disk is full or broken.
    refusals: u64,
    /// Files on which this process was refused an operation.
    failed: BTreeSet<usize>,
    /// Files that are read as what a failed sync lost.
    unsure: BTreeSet<usize>,
    written_after_failure: bool,
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
        let took = if self.waiting == Waiting::Call { Duration::ZERO } else { self.latency() };
        self.done_at = self.done_at.max(now) + took;
        let done_at = self.done_at;
        self.journal.push(Step::Sync { what, done_at });
        if done_at <= now {
            self.settle(now);
        }
    }

    fn latency(&mut self) -> Duration {
        match self.latency {
            Latency::None => Duration::ZERO,
            Latency::UpTo(most) => most.mul_f64(self.random.fraction()),
        }
    }

    /// Loses what a power loss loses.
    fn forget(&mut self) {
        let now = self.off_since.take().unwrap_or_else(Instant::now);
        self.settle(now);
        let luck = self.random.fraction();
        let mut names_last = true;
        for step in std::mem::take(&mut self.journal) {
            match step {
                Step::Sync { .. } => break,
                Step::Length { inode, len } => self.inodes[inode].durable.resize(len, 0),
                Step::Write { inode, offset, bytes } => {
                    for (at, part) in sectors(offset, &bytes) {
                        if self.random.happens(luck) {
                            put(&mut self.inodes[inode].durable, at, part);
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

    /// Loses in any part what a sync of a file should have made durable. It is read as before.
    fn lose_dirty(&mut self, dirty: usize) {
        self.settle(Instant::now());
        self.unsure.insert(dirty);
        let luck = self.random.fraction();
        for step in std::mem::take(&mut self.journal) {
            match step {
                Step::Write { inode, offset, bytes } if inode == dirty => {
                    for (at, part) in sectors(offset, &bytes) {
                        if self.random.happens(luck) {
                            put(&mut self.inodes[inode].durable, at, part);
                        }
                    }
                }
                Step::Length { inode, len } if inode == dirty => self.inodes[inode].durable.resize(len, 0),
                step => self.journal.push(step),
            }
        }
    }

    /// Reads a file from the disk again.
    fn drop_cache(&mut self, of: usize) {
        let mut now = self.inodes[of].durable.clone();
        for step in &self.journal {
            match step {
                Step::Write { inode, offset, bytes } if *inode == of => put(&mut now, *offset, bytes),
                Step::Length { inode, len } if *inode == of => now.resize(*len, 0),
                _ => {}
            }
        }
        self.inodes[of].now = now;
    }

    /// Refuses an operation on a file.
    fn refuse(&mut self, inode: Option<usize>, errno: Errno) -> io::Error {
        self.refusals += 1;
        self.failed.extend(inode);
        let is_log = |(path, named): (&PathBuf, &usize)| {
            Some(*named) == inode && path.extension().is_some_and(|extension| extension == "wal")
        };
        if self.names.iter().any(is_log) {
            self.refused_log_since.get_or_insert_with(Instant::now);
        }
        errno.into()
    }

    /// Called before a file is written or synced.
    fn check_failed(&mut self, inode: usize) {
        self.written_after_failure |= self.failed.contains(&inode);
    }

    fn broken(&self, what: Broken) -> Option<Errno> {
        self.broken.filter(|(broken, _)| *broken == what).map(|(_, errno)| errno)
    }

    /// A file is to be this long.
    fn grow(&mut self, inode: usize, len: usize) -> io::Result<()> {
        let growth = len.saturating_sub(self.inodes[inode].now.len()) as u64;
        let Some(space) = self.space.filter(|_| growth > 0) else { return Ok(()) };
        let left = space.checked_sub(growth).ok_or_else(|| self.refuse(Some(inode), Errno::NoSpace))?;
        self.space = Some(left);
        Ok(())
    }

    /// A sync of a file, or of names.
    fn try_sync(&mut self, what: Synced) -> io::Result<()> {
        let inode = match what {
            Synced::File(inode) => Some(inode),
            Synced::Names => None,
        };
        if let Some(inode) = inode {
            self.check_failed(inode);
        }
        if let Some(errno) = self.broken(Broken::Syncs) {
            if let Some(inode) = inode {
                self.lose_dirty(inode);
            }
            return Err(self.refuse(inode, errno));
        }
        self.sync(what);
        Ok(())
    }

    /// A write that fails: any part of it arrives.
    fn fail_write(&mut self, inode: usize, offset: usize, bytes: &[u8], is_direct: bool, errno: Errno) -> io::Error {
        self.settle(Instant::now());
        let luck = self.random.fraction();
        // What the file has room for.
        let room = self.inodes[inode].now.len().saturating_sub(offset).min(bytes.len());
        for (at, part) in sectors(offset, &bytes[..room]) {
            if self.random.happens(luck) {
                put(&mut self.inodes[inode].now, at, part);
                if is_direct {
                    put(&mut self.inodes[inode].durable, at, part);
                } else {
                    self.journal.push(Step::Write { inode, offset: at, bytes: part.to_vec() });
                }
            }
        }
        self.refuse(Some(inode), errno)
    }
}

/// The parts of a write that last or not, with their offsets.
fn sectors(offset: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    bytes.chunks(SECTOR).enumerate().map(move |(number, part)| (offset + number * SECTOR, part))
}

impl SimulatedDisk {
    /// An empty disk whose every luck is `random`'s.
    pub(crate) fn new(mut random: Random, waiting: Waiting) -> Self {
        let is_direct = random.happens(0.5);
        let state = State {
            random,
            cycle: 0,
            latency: Latency::UpTo(Duration::from_millis(2)),
            waiting,
            is_direct,
            acknowledges_early: false,
            forgets_names: false,
            space: None,
            broken: None,
            power_fails_after: None,
            off_since: None,
            off: Arc::default(),
            refused_log_since: None,
            refusals: 0,
            failed: BTreeSet::new(),
            unsure: BTreeSet::new(),
            written_after_failure: false,
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
        state.unsure.clear();
        self.next_cycle(&mut state)
    }

    /// The process ends, and the disk goes on: the handle returned finds all that was written, all others fail.
    pub(crate) fn end_process(&self) -> Self {
        let mut state = self.state.lock();
        for inode in std::mem::take(&mut state.unsure) {
            // The pages may be kept for the next process.
            if state.random.happens(0.5) {
                state.drop_cache(inode);
            }
        }
        self.next_cycle(&mut state)
    }

    fn next_cycle(&self, state: &mut State) -> Self {
        state.cycle += 1;
        state.failed.clear();
        state.refused_log_since = None;
        Self { state: Arc::clone(&self.state), cycle: state.cycle }
    }

    /// From now on files may grow by so many bytes.
    pub(crate) fn fill(&self, space: u64) {
        self.state.lock().space = Some(space);
    }

    /// From now on the disk refuses.
    pub(crate) fn break_down(&self, what: Broken, errno: Errno) {
        self.state.lock().broken = Some((what, errno));
    }

    /// The power goes after so many operations more.
    pub(crate) fn fail_power_after(&self, operations: u32) {
        self.state.lock().power_fails_after = Some(operations);
    }

    /// There is room, and everything works.
    pub(crate) fn mend(&self) {
        let mut state = self.state.lock();
        (state.space, state.broken, state.power_fails_after) = (None, None, None);
    }

    /// How many operations were refused so far.
    pub(crate) fn refusals(&self) -> u64 {
        self.state.lock().refusals
    }

    /// Since when this process was refused a write or a sync of its log.
    pub(crate) fn refused_log_since(&self) -> Option<Instant> {
        self.state.lock().refused_log_since
    }

    /// The power went by itself, and nobody has switched it on again.
    pub(crate) fn is_off(&self) -> bool {
        self.state.lock().off_since.is_some()
    }

    /// Waits until the power goes by itself.
    pub(crate) async fn lost_power(&self) {
        let off = Arc::clone(&self.state.lock().off);
        let mut rings = std::pin::pin!(off.notified());
        rings.as_mut().enable();
        if !self.is_off() {
            rings.await;
        }
    }

    /// A process went on with a file that it had not been able to write or to sync.
    pub(crate) fn was_written_after_failure(&self) -> bool {
        self.state.lock().written_after_failure
    }

    /// Plants a bug: names are not durable when they are said to be.
    pub(crate) fn forget_names(&self) {
        self.state.lock().forgets_names = true;
    }

    /// Sleeps as long as a sync may take.
    pub(crate) async fn pause(&self) {
        let latency = self.state.lock().latency();
        if latency > Duration::ZERO {
            tokio::time::sleep(latency).await;
        }
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
        if state.cycle == self.cycle && state.off_since.is_none() { Ok(state) } else { Err(no_power()) }
    }

    /// The same for an operation that changes something.
    fn step(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let mut state = self.powered()?;
        match &mut state.power_fails_after {
            Some(0) => {
                state.off_since = Some(Instant::now());
                state.off.notify_waiters();
                state.power_fails_after = None;
                Err(no_power())
            }
            Some(left) => {
                *left -= 1;
                Ok(state)
            }
            None => Ok(state),
        }
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
        if !self.powered()?.is_direct {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.open(path).map(|file| SimulatedFile { syncs: true, ..file })
    }

    pub(crate) fn create_new(&self, path: &Path) -> io::Result<SimulatedFile> {
        let mut state = self.step()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.space == Some(0) {
            return Err(state.refuse(None, Errno::NoSpace));
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.change(NameChange::Link(path.to_owned(), inode));
        drop(state);
        Ok(self.file(inode, false))
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    pub(crate) fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    pub(crate) fn sync_names(&self) -> io::Result<()> {
        let mut state = self.step()?;
        if state.forgets_names { Ok(()) } else { state.try_sync(Synced::Names) }
    }
}

impl Medium for SimulatedDisk {
    fn exists(&self, path: &Path) -> bool {
        self.state.lock().names.contains_key(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let file = match Self::open(self, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create_new(path),
            opened => opened,
        };
        Ok(Box::new(file?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Self::rename(self, from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.remove_file(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        Self::list(self, directory)
    }

    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        self.sync_names()
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
        let mut state = self.disk.step()?;
        let (inode, offset) = (self.inode, offset as usize);
        state.check_failed(inode);
        let refuses_sync = state.broken(Broken::Syncs).filter(|_| self.syncs);
        if let Some(errno) = state.broken(Broken::Writes).or(refuses_sync) {
            return Err(state.fail_write(inode, offset, bytes, self.syncs, errno));
        }
        state.grow(inode, offset + bytes.len())?;
        put(&mut state.inodes[inode].now, offset, bytes);
        state.journal.push(Step::Write { inode, offset, bytes: bytes.to_vec() });
        if self.syncs {
            state.sync(Synced::File(inode));
        }
        Ok(())
    }

    pub(crate) fn reserve(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.step()?;
        let (inode, len) = (self.inode, len as usize);
        state.grow(inode, len)?;
        if state.inodes[inode].now.len() < len {
            state.inodes[inode].now.resize(len, 0);
            state.journal.push(Step::Length { inode, len });
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.disk.step()?.try_sync(Synced::File(self.inode))
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
        let mut state = self.disk.step()?;
        let (inode, len) = (self.inode, len as usize);
        state.grow(inode, len)?;
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
