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
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use rustix::fs::FallocateFlags;

use super::segment::{self, Segment};
use super::stats::join;

const SUFFIX: &str = "tmp";

/// Recycled segments kept ready: as many as a busy member fills between two purges.
const KEPT_SPARES: usize = 6;

/// A file that is written as a whole, durable but for its name.
pub(super) struct Spare {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

/// Keeps the spare; stops and is joined when dropped.
pub(super) struct Spares {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    dir: PathBuf,
    segment_bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
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
    pub(super) fn start(dir: &Path, segment_bytes: u64) -> io::Result<Self> {
        for item in fs::read_dir(dir)? {
            let path = item?.path();
            if path.extension().is_some_and(|extension| extension == SUFFIX) {
                fs::remove_file(&path)?;
            }
        }
        let shared =
            Arc::new(Shared { dir: dir.to_owned(), segment_bytes, state: Mutex::default(), changed: Condvar::new() });
        let run = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("wal-spare".to_owned()).spawn(move || run.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Takes the spare, waiting until it is ready.
    ///
    /// # Errors
    /// When there is no room for one.
    pub(super) fn take(&self) -> io::Result<Spare> {
        let mut state = self.shared.state.lock();
        loop {
            if let Some(spare) = state.ready.pop() {
                self.shared.changed.notify_all();
                return Ok(spare);
            }
            if state.failed.take().is_some() {
                // A failure may be old: room may have been made since.
                let number = state.next_number();
                self.shared.changed.notify_all();
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
            self.shared.changed.notify_all();
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.shared.state.lock().is_stopping = true;
        self.shared.changed.notify_all();
        join(self.thread.take());
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
            let obsolete = state.obsolete.pop_front();
            let keeps = state.ready.len() < KEPT_SPARES;
            let number = state.next_number();
            drop(state);

            let made = match obsolete {
                Some(segment) => match self.retire(segment, keeps, number) {
                    Some(spare) => Ok(spare),
                    None => continue,
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
            self.changed.notify_all();
        }
    }

    /// Takes a segment's name away, and with it the file, unless it becomes a spare.
    fn retire(&self, segment: Arc<Segment>, keeps: bool, number: u64) -> Option<Spare> {
        let old = segment.path.clone();
        // A reader may still hold the segment: then its bytes must stay, and only the name goes.
        let recycled = Arc::try_unwrap(segment).ok().filter(|segment| keeps && self.fits(segment));
        let (spare, result) = if let Some(segment) = recycled {
            let path = self.path(number);
            let result = fs::rename(&old, &path).and_then(|()| segment::sync_dir(&self.dir));
            (Some(Spare { file: segment.file, path }), result)
        } else {
            (None, fs::remove_file(&old).and_then(|()| segment::sync_dir(&self.dir)))
        };
        let is_removed = result.is_ok();
        self.check_removed(&old, result.err());
        spare.filter(|_| is_removed)
    }

    /// One that was made for a large record is not kept, nor one of a log with other settings.
    fn fits(&self, segment: &Segment) -> bool {
        segment.file.metadata().is_ok_and(|meta| meta.len() == self.segment_bytes)
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
            if let Err(error) = fs::remove_file(&path) {
                tracing::debug!(%error, "no spare to delete");
            }
        })
    }

    fn fill(&self, path: &Path) -> io::Result<File> {
        let file = File::options().read(true).write(true).create_new(true).mode(segment::FILE_MODE).open(path)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.segment_bytes) {
            Err(rustix::io::Errno::NOSPC) => return Err(rustix::io::Errno::NOSPC.into()),
            // Writing the zeros allocates as well, where the file system cannot reserve.
            Ok(()) | Err(_) => segment::zero(&file, 0, self.segment_bytes)?,
        }
        Ok(file)
    }
}
