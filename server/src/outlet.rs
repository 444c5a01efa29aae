//! Lines on their way to a file, a pipe or a terminal: whoever has a line puts it into a bounded queue, and one thread
//! writes. A reader that has stopped, or a disk that hangs, stops that thread and nobody else.
//!
//! What finds no room is lost and counted; once lines get through again, the log says how many were lost. `logging` and
//! `audit` write through here, each output by a thread of its own.

use crate::config::Rotation;
use parking_lot::{Condvar, Mutex};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of lines that wait for one output: minutes of an ordinary log, and a burst of an audit log.
const QUEUE_BYTES: usize = 4 << 20;

/// After a failed write, before the next.
const RETRY: Duration = Duration::from_millis(100);

/// Where an outlet writes.
pub(crate) enum Target {
    Stderr,
    Stdout,
    File(RotatedFile),
}

impl Target {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().lock().write_all(lines),
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(lines)?;
                stdout.flush()
            }
            Self::File(file) => file.write(lines),
        }
    }
}

/// A file that only grows, up to a size.
pub(crate) struct RotatedFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    rotation: Option<Rotation>,
}

impl RotatedFile {
    /// Opens a file for appending, for its owner alone.
    pub(crate) fn open(path: &Path, rotation: Option<Rotation>) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, rotation })
    }

    /// Writes whole lines; between them files may be exchanged.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let Some(rotation) = self.rotation else { return self.file.write_all(lines) };
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            if self.bytes > 0 && self.bytes + line.len() as u64 > rotation.max_bytes {
                self.rotate(rotation.files)?;
            }
            self.file.write_all(line)?;
            self.bytes += line.len() as u64;
        }
        Ok(())
    }

    fn rotate(&mut self, kept: u32) -> io::Result<()> {
        let aside = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..kept).rev() {
            match std::fs::rename(aside(number), aside(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if kept == 0 {
            std::fs::remove_file(&self.path)?;
        } else {
            std::fs::rename(&self.path, aside(1))?;
        }
        *self = Self::open(&self.path, self.rotation)?;
        Ok(())
    }
}

/// See the module. Clones share one queue.
#[derive(Clone)]
pub(crate) struct Outlet(Arc<Shared>);

struct Shared {
    name: String,
    queue: Mutex<Queue>,
    /// Something waits.
    added: Condvar,
    /// Nothing waits, and nothing is being written.
    written: Condvar,
    lost: AtomicU64,
    is_failing: AtomicBool,
}

#[derive(Default)]
struct Queue {
    lines: Vec<u8>,
    is_writing: bool,
}

impl Outlet {
    /// Starts the thread. It lives as long as the process: what it writes to may hang forever.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(name: &str, mut target: Target) -> io::Result<Self> {
        let shared = Shared {
            name: name.to_owned(),
            queue: Mutex::default(),
            added: Condvar::new(),
            written: Condvar::new(),
            lost: AtomicU64::new(0),
            is_failing: AtomicBool::new(false),
        };
        let outlet = Self(Arc::new(shared));
        let shared = Arc::clone(&outlet.0);
        std::thread::Builder::new().name("lines".to_owned()).spawn(move || shared.write_to(&mut target))?;
        Ok(outlet)
    }

    /// Queues a line, with its line break. False if there is no room: it is lost then, and counted.
    pub(crate) fn write(&self, line: &[u8]) -> bool {
        let shared = &*self.0;
        let mut queue = shared.queue.lock();
        if queue.lines.len() + line.len() > QUEUE_BYTES {
            drop(queue);
            shared.lost.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        queue.lines.extend_from_slice(line);
        drop(queue);
        shared.added.notify_one();
        true
    }

    /// Lines lost since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// True if the last write failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.0.is_failing.load(Ordering::Relaxed)
    }

    /// True if half of the queue waits.
    pub(crate) fn is_filling(&self) -> bool {
        self.0.queue.lock().lines.len() > QUEUE_BYTES / 2
    }

    /// Waits until everything is written, but not longer than that.
    pub(crate) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        // Whoever panics may hold it.
        let Some(mut queue) = self.0.queue.try_lock_until(deadline) else { return };
        while (queue.is_writing || !queue.lines.is_empty())
            && !self.0.written.wait_until(&mut queue, deadline).timed_out()
        {}
    }
}

impl Shared {
    fn write_to(&self, target: &mut Target) {
        let mut lines = Vec::new();
        let mut told = 0;
        loop {
            let mut queue = self.queue.lock();
            queue.is_writing = false;
            if queue.lines.is_empty() {
                self.written.notify_all();
            }
            while queue.lines.is_empty() {
                self.added.wait(&mut queue);
            }
            queue.is_writing = true;
            std::mem::swap(&mut queue.lines, &mut lines);
            drop(queue);
            let written = target.write(&lines);
            if let Err(error) = &written {
                let count = lines.split(|byte| *byte == b'\n').count() as u64 - 1;
                self.lost.fetch_add(count, Ordering::Relaxed);
                if !self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(output = self.name, %error, "cannot write lines: they are lost");
                }
                std::thread::sleep(RETRY);
            } else {
                self.is_failing.store(false, Ordering::Relaxed);
                let lost = self.lost.load(Ordering::Relaxed);
                if lost > told {
                    tracing::warn!(
                        output = self.name,
                        lines = lost - told,
                        "lines were lost: the output did not keep up"
                    );
                    told = lost;
                }
            }
            // A burst must not keep its memory.
            lines = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"0123456789\n";
    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn files_are_put_aside_at_their_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let rotation = Rotation { max_bytes: 25, files: 2 };
        let file = RotatedFile::open(&path, Some(rotation)).unwrap();
        let outlet = Outlet::start("test", Target::File(file)).unwrap();
        for number in 0..9 {
            assert!(outlet.write(format!("line {number:04}\n").as_bytes()));
        }
        outlet.flush(LIMIT);
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("audit.log"), "line 0008\n");
        assert_eq!(read("audit.log.1"), "line 0006\nline 0007\n");
        assert_eq!(read("audit.log.2"), "line 0004\nline 0005\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        // After a restart the file goes on.
        let file = RotatedFile::open(&path, Some(rotation)).unwrap();
        let outlet = Outlet::start("test", Target::File(file)).unwrap();
        outlet.write(b"line 0009\nline 0010\n");
        outlet.flush(LIMIT);
        assert_eq!(
            (read("audit.log"), read("audit.log.1")),
            ("line 0010\n".to_owned(), "line 0008\nline 0009\n".to_owned())
        );
    }

    #[test]
    fn a_target_that_hangs_loses_lines_and_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        // Open for both, so that neither end waits for the other.
        let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let file = RotatedFile::open(&path, None).unwrap();
        let outlet = Outlet::start("test", Target::File(file)).unwrap();
        let mut written = 0_u64;
        while outlet.write(LINE) {
            written += 1;
        }
        assert!(written * LINE.len() as u64 >= QUEUE_BYTES as u64 - LINE.len() as u64);
        assert_eq!(outlet.lost(), 1);
        assert!(outlet.is_filling());
        outlet.flush(Duration::from_millis(10));
        drop(reader);
    }

    #[test]
    fn a_target_that_fails_is_tried_again() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let file = RotatedFile { path: PathBuf::new(), file: full, bytes: 0, rotation: None };
        let outlet = Outlet::start("test", Target::File(file)).unwrap();
        outlet.write(LINE);
        outlet.flush(LIMIT);
        assert_eq!(outlet.lost(), 1);
        assert!(outlet.is_failing());
    }
}
