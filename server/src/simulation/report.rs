//! What a run did, line by line: the same seed must give the same lines. Their hash is compared, the last of them are
//! shown when a check fails.

use parking_lot::Mutex;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, VecDeque};
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

/// What can happen in a run. Counted where it takes effect, not where it is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A message was lost between two parts that do not reach each other.
    Partition,
    /// A message was lost between two members that both reach a third one.
    PartialPartition,
    /// A message was lost, and would not have been in the other direction.
    OneWayCut,
    /// A message was lost by bad luck.
    Loss,
    /// A message took long.
    Delay,
    /// A message overtook another one.
    Reordering,
    /// A member lost its power, and what it had not synced.
    Crash,
    /// All members did.
    CrashOfAll,
    /// A member lost its power between two operations of its disk.
    CrashInOperation,
    /// A process ended, and its machine went on.
    Kill,
    /// Syncs took long.
    SlowDisk,
    /// A log was refused a write by a full disk.
    LogDiskFull,
    /// A log was refused a write.
    LogWriteError,
    /// A log was refused a sync.
    LogSyncError,
    /// A database was refused a write by a full disk, or any operation.
    StoreDiskError,
    /// A member was started while its disk was full or broken.
    StartOnBrokenDisk,
    /// The calendar was set.
    CalendarJump,
    /// A lease expired by a clock that runs more than 5 % fast.
    ExpiryByFastClock,
    /// The same by a clock that runs slow.
    ExpiryBySlowClock,
    VoterAdded,
    LearnerAdded,
    LearnerPromoted,
    MemberRemoved,
    /// A member was removed and another one added in its place.
    MemberReplaced,
    LeaderMoved,
    /// A member installed a snapshot.
    InstalledSnapshot,
    /// A snapshot did not arrive as a whole.
    BrokenSnapshot,
    /// A snapshot went on behind what had arrived before.
    ResumedSnapshot,
    /// A member crashed while it sent or received a snapshot.
    CrashInSnapshot,
    /// The way of a snapshot was cut.
    CutInSnapshot,
    /// A leader heard another member's hash of the data.
    HashHeard,
}

impl Kind {
    pub(crate) const ALL: [Self; 31] = [
        Self::Partition,
        Self::PartialPartition,
        Self::OneWayCut,
        Self::Loss,
        Self::Delay,
        Self::Reordering,
        Self::Crash,
        Self::CrashOfAll,
        Self::CrashInOperation,
        Self::Kill,
        Self::SlowDisk,
        Self::LogDiskFull,
        Self::LogWriteError,
        Self::LogSyncError,
        Self::StoreDiskError,
        Self::StartOnBrokenDisk,
        Self::CalendarJump,
        Self::ExpiryByFastClock,
        Self::ExpiryBySlowClock,
        Self::VoterAdded,
        Self::LearnerAdded,
        Self::LearnerPromoted,
        Self::MemberRemoved,
        Self::MemberReplaced,
        Self::LeaderMoved,
        Self::InstalledSnapshot,
        Self::BrokenSnapshot,
        Self::ResumedSnapshot,
        Self::CrashInSnapshot,
        Self::CutInSnapshot,
        Self::HashHeard,
    ];
}

/// How often what happened. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Tally(Arc<Mutex<BTreeMap<Kind, u64>>>);

impl Tally {
    pub(crate) fn count(&self, kind: Kind) {
        *self.0.lock().entry(kind).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<Kind, u64> {
        self.0.lock().clone()
    }
}

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
    pub(crate) expired: u64,
    pub(crate) happened: BTreeMap<Kind, u64>,
    /// Why the run failed; nothing else counts then.
    pub(crate) failures: Vec<String>,
}
