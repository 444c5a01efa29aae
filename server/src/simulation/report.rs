//! What a run did, line by line: the same seed must give the same lines. Their hash is compared, the last of them are
//! shown when a check fails.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Arguments;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use tokio::time::Instant;

/// Lines kept for a failure. `CLEAT_SIM_TRACE` keeps all.
const KEPT_LINES: usize = 60;

/// The lines of one run. Clones are the same trace.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Mutex<Lines>>);

struct Lines {
    began: Instant,
    hash: DefaultHasher,
    count: u64,
    last: VecDeque<String>,
    kept: usize,
}

impl Trace {
    pub(crate) fn new() -> Self {
        let kept = if std::env::var_os("CLEAT_SIM_TRACE").is_some() { usize::MAX } else { KEPT_LINES };
        let (hash, last) = (DefaultHasher::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(Lines { began: Instant::now(), hash, count: 0, last, kept })))
    }

    pub(crate) fn note(&self, what: Arguments<'_>) {
        let mut lines = self.0.lock();
        let line = format!("{:>9.3} {what}", lines.began.elapsed().as_secs_f64());
        line.hash(&mut lines.hash);
        lines.count += 1;
        if lines.last.len() >= lines.kept {
            lines.last.pop_front();
        }
        lines.last.push_back(line);
    }

    /// Stands for all lines.
    pub(crate) fn hash(&self) -> u64 {
        self.0.lock().hash.finish()
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.lock().count
    }

    /// The lines that were kept.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().last.iter().cloned().collect()
    }
}

/// Writes a line into a trace.
macro_rules! note {
    ($trace:expr, $($text:tt)*) => { $trace.note(format_args!($($text)*)) };
}
pub(crate) use note;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    /// The same for the same seed.
    pub(crate) trace: u64,
    pub(crate) lines: u64,
    pub(crate) writes: u64,
    pub(crate) unknown: u64,
    pub(crate) reads: u64,
    pub(crate) events: u64,
    pub(crate) crashes: u64,
    /// Why the run failed; nothing else counts then.
    pub(crate) failures: Vec<String>,
}
