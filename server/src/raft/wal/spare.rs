//! Segments before and after their use: segments without live entries become spares again, up to a bound, or are
//! deleted; while there is no spare, one is made of zeros.
//!
//! A spare's blocks are all written once, because the first write to a block that was only reserved costs a second one,
//! of the file system's. A recycled segment keeps its old bytes: zeroing it would write everything twice.
//!
//! One thread does this beside the writer. Order matters on disk: obsolete segments leave oldest
//! first, each made durable in the directory before the next, so that a crash leaves no gap; and a
//! segment loses its name durably before its bytes are overwritten.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::disk::{Disk, DiskFile};
use super::segment::{self, Segment};
use super::work::{Bell, Worker};

const SUFFIX: &str = "tmp";

/// Recycled segments kept ready: as many as a busy member fills between two purges.
const KEPT_SPARES: usize = 6;

/// A file that is written as a whole, durable but for its name.
pub(super) struct Spare {
    pub(super) file: DiskFile,
    pub(super) path: PathBuf,
}

/// Keeps the spare; stops and is joined when dropped.
pub(super) struct Spares {
    shared: Arc<Shared>,
    worker: Worker,
}

struct Shared {
    disk: Disk,
    dir: PathBuf,
    segment_bytes: u64,
    state: Mutex<State>,
    changed: Bell,
}

#[derive(Default)]
struct State {
    /// Bounded by the number of segments on disk.
    obsolete: VecDeque<Arc<Segment>>,
    ready: Vec<Spare>,
    /// Why there is none.
    failed: Option<io::Error>,
    made: u64,
    /// An obsolete segment could not be removed. Removing later ones would leave a gap, so all stay
    /// until the next start.
    keeps_obsolete: bool,
    is_stopping: bool,
}

impl Spares {
    /// Deletes spares that an earlier run left, and starts making one.
    pub(super) fn start(disk: &Disk, dir: &Path, segment_bytes: u64) -> io::Result<Self> {
        for path in disk.list(dir)? {
            if path.extension().is_some_and(|extension| extension == SUFFIX) {
                disk.remove_file(&path)?;
            }
        }
        let (disk, dir) = (disk.clone(), dir.to_owned());
        let shared = Arc::new(Shared { disk, dir, segment_bytes, state: Mutex::default(), changed: Bell::default() });
        let run = Arc::clone(&shared);
        #[cfg(test)]
        if let Some(disk) = shared.disk.simulated().cloned() {
            let worker = Worker::task(async move { run.run_as_task(&disk).await });
            return Ok(Self { shared, worker });
        }
        let worker = Worker::thread("wal-spare", move || run.run())?;
        Ok(Self { shared, worker })
    }

    /// Takes the spare, waiting until it is ready.
    ///
    /// # Errors
    /// When there is no room for one.
    pub(super) fn take(&self) -> io::Result<Spare> {
        let mut state = self.shared.state.lock();
        loop {
            if let Some(spare) = state.ready.pop() {
                self.shared.changed.ring_all();
                return Ok(spare);
            }
            if state.failed.take().is_some() || !self.shared.can_wait() {
                // A failure may be old: room may have been made since.
                let number = state.next_number();
                self.shared.changed.ring_all();
                drop(state);
                return self.shared.make(number);
            }
            self.shared.changed.wait(&mut state);
        }
    }

    /// Hands over segments without live entries, oldest first.
    pub(super) fn retire(&self, segments: Vec<Arc<Segment>>) {
        let mut state = self.shared.state.lock();
        if !segments.is_empty() && !state.keeps_obsolete {
            state.obsolete.extend(segments);
            self.shared.changed.ring_all();
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.shared.state.lock().is_stopping = true;
        self.shared.changed.ring_all();
        self.worker.join();
    }
}

impl State {
    /// Whoever needs a spare need not wait.
    fn has_answer(&self) -> bool {
        !self.ready.is_empty() || self.failed.is_some()
    }

    fn next_number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut state = self.state.lock();
            while state.obsolete.is_empty() && state.has_answer() && !state.is_stopping {
                self.changed.wait(&mut state);
            }
            if state.is_stopping {
                return;
            }
            self.step(state);
        }
    }

    #[cfg(test)]
    async fn run_as_task(&self, disk: &crate::simulation::disk::SimulatedDisk) {
        loop {
            {
                let state = self.state.lock();
                if state.is_stopping {
                    return;
                }
                if !state.obsolete.is_empty() || !state.has_answer() {
                    self.step(state);
                }
            }
            if !disk.settled().await {
                return;
            }
            let has_work = {
                let state = self.state.lock();
                !state.obsolete.is_empty() || !state.has_answer() || state.is_stopping
            };
            if !has_work {
                self.changed.heard().await;
            }
        }
    }

    /// Retires the oldest obsolete segment, or makes a spare.
    fn step(&self, mut state: MutexGuard<'_, State>) {
        let obsolete = state.obsolete.pop_front();
        let keeps = state.ready.len() < KEPT_SPARES;
        let number = state.next_number();
        drop(state);

        let made = match obsolete {
            Some(segment) => match self.retire(segment, keeps, number) {
                Some(spare) => Ok(spare),
                None => return,
            },
            None => self.make(number),
        };
        let mut state = self.state.lock();
        match made {
            Ok(spare) => state.ready.push(spare),
            Err(error) => {
                tracing::warn!(%error, "cannot prepare a segment for the raft log");
                state.failed = Some(error);
            }
        }
        drop(state);
        self.changed.ring_all();
    }

    /// False for a task of the simulation: what it waits for could not happen meanwhile.
    #[allow(clippy::unused_self, reason = "the test build's half uses it")]
    fn can_wait(&self) -> bool {
        #[cfg(test)]
        if self.disk.simulated().is_some() {
            return false;
        }
        true
    }

    /// Takes a segment's name away, and with it the file, unless it becomes a spare.
    fn retire(&self, segment: Arc<Segment>, keeps: bool, number: u64) -> Option<Spare> {
        let old = segment.path.clone();
        // A reader may still hold the segment: then its bytes must stay, and only the name goes.
        let recycled = Arc::try_unwrap(segment).ok().filter(|segment| keeps && self.fits(segment));
        let (spare, result) = if let Some(segment) = recycled {
            let path = self.path(number);
            let result = self.disk.rename(&old, &path).and_then(|()| self.disk.sync_dir(&self.dir));
            (Some(Spare { file: segment.file, path }), result)
        } else {
            (None, self.disk.remove_file(&old).and_then(|()| self.disk.sync_dir(&self.dir)))
        };
        let is_removed = result.is_ok();
        self.check_removed(&old, result.err());
        spare.filter(|_| is_removed)
    }

    /// One that was made for a large record is not kept, nor one of a log with other settings.
    fn fits(&self, segment: &Segment) -> bool {
        segment.file.len().is_ok_and(|len| len == self.segment_bytes)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("spare-{number}.{SUFFIX}"))
    }

    fn check_removed(&self, path: &Path, error: Option<io::Error>) {
        let Some(error) = error else { return };
        tracing::warn!(path = %path.display(), %error, "cannot remove a purged segment; segments stay until restart");
        let mut state = self.state.lock();
        state.obsolete.clear();
        state.keeps_obsolete = true;
    }

    fn make(&self, number: u64) -> io::Result<Spare> {
        let path = self.path(number);
        self.fill(&path).map(|file| Spare { file, path: path.clone() }).inspect_err(|_| {
            // Half a spare would only take room. What cannot be deleted goes at the next start.
            if let Err(error) = self.disk.remove_file(&path) {
                tracing::debug!(%error, "no spare to delete");
            }
        })
    }

    fn fill(&self, path: &Path) -> io::Result<DiskFile> {
        let file = self.disk.create_new(path)?;
        file.reserve(self.segment_bytes)?;
        segment::zero(&file, 0, self.segment_bytes)?;
        Ok(file)
    }
}
