//! Segments before and after their use: one zero-filled spare is kept ready, and segments without
//! live entries become spares again or are deleted.
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

/// A file of zeros, durable but for its name.
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
    ready: Option<io::Result<Spare>>,
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
            if let Some(ready) = state.ready.take() {
                self.shared.changed.notify_all();
                // A failure may be old: room may have been made since.
                return ready.or_else(|_| {
                    let number = state.next_number();
                    self.shared.make(number, None)
                });
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
    fn next_number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut state = self.state.lock();
            while state.obsolete.is_empty() && state.ready.is_some() && !state.is_stopping {
                self.changed.wait(&mut state);
            }
            if state.is_stopping {
                return;
            }
            let obsolete = state.obsolete.pop_front();
            let is_wanted = state.ready.is_none();
            let number = state.next_number();
            drop(state);

            // A reader may still hold the segment: then its bytes must stay, and only the name goes.
            let (recycled, deleted) = match obsolete.map(Arc::try_unwrap) {
                Some(Ok(segment)) if is_wanted => (Some(segment), None),
                Some(Ok(segment)) => (None, Some(segment.path)),
                Some(Err(held)) => (None, Some(held.path.clone())),
                None => (None, None),
            };
            if let Some(path) = deleted {
                let removed = fs::remove_file(&path).and_then(|()| segment::sync_dir(&self.dir));
                self.check_removed(&path, removed.err());
            } else if is_wanted {
                let old_path = recycled.as_ref().map(|segment| segment.path.clone());
                let made = self.make(number, recycled);
                if let Some(path) = old_path {
                    self.check_removed(&path, made.as_ref().err().map(|e| e.kind().into()));
                } else if let Err(error) = &made {
                    tracing::warn!(%error, "cannot prepare a segment for the raft log");
                }
                self.state.lock().ready = Some(made);
                self.changed.notify_all();
            }
        }
    }

    fn check_removed(&self, path: &Path, error: Option<io::Error>) {
        let Some(error) = error else { return };
        tracing::warn!(path = %path.display(), %error, "cannot remove a purged segment; segments stay until restart");
        let mut state = self.state.lock();
        state.obsolete.clear();
        state.keeps_obsolete = true;
    }

    fn make(&self, number: u64, recycled: Option<Segment>) -> io::Result<Spare> {
        let path = self.dir.join(format!("spare-{number}.{SUFFIX}"));
        self.fill(&path, recycled).map(|file| Spare { file, path: path.clone() }).inspect_err(|_| {
            // Half a spare would only take room. What cannot be deleted goes at the next start.
            if let Err(error) = fs::remove_file(&path) {
                tracing::debug!(%error, "no spare to delete");
            }
        })
    }

    fn fill(&self, path: &Path, recycled: Option<Segment>) -> io::Result<File> {
        let file = if let Some(segment) = recycled {
            fs::rename(&segment.path, path)?;
            segment::sync_dir(&self.dir)?;
            segment.file.set_len(self.segment_bytes)?;
            segment.file
        } else {
            File::options().read(true).write(true).create_new(true).mode(segment::FILE_MODE).open(path)?
        };
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.segment_bytes) {
            Err(rustix::io::Errno::NOSPC) => return Err(rustix::io::Errno::NOSPC.into()),
            // Writing the zeros allocates as well, where the file system cannot reserve.
            Ok(()) | Err(_) => segment::zero(&file, 0, self.segment_bytes)?,
        }
        Ok(file)
    }
}
