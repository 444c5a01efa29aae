//! What a run measures: latencies and counts of the generator, and what the kernel says about a process.
//!
//! A [`Recorder`] belongs to one worker thread and one group of clients, so its lock is never contended; the run merges
//! them into a [`Summary`]. [`ProcessSample`]s are read from `/proc` at the begin and the end of the measured phase;
//! [`ProcessUse`] is their difference.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::connection::CallError;

/// The shortest and the longest latency that are told apart, in nanoseconds.
const LATENCY_RANGE: (u64, u64) = (1_000, 600_000_000_000);

/// Counts and latencies of one group of clients on one worker thread.
pub(crate) struct Recorder {
    operations: AtomicU64,
    errors: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    latency: Histogram<u64>,
    first_error: Option<String>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        let inner = Inner { latency: new_histogram(), first_error: None };
        Self { operations: AtomicU64::new(0), errors: AtomicU64::new(0), inner: Mutex::new(inner) }
    }

    /// Records `count` operations that took `latency`.
    pub(crate) fn success(&self, latency: Duration, count: u64) {
        self.operations.fetch_add(count, Ordering::Relaxed);
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.lock().latency.saturating_record_n(nanos, count);
    }

    /// Records a failed operation; the first error's text is kept.
    pub(crate) fn failure(&self, error: &CallError) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.lock().first_error.get_or_insert_with(|| error.to_string());
    }

    /// Operations so far, for the progress bar.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_RANGE.0, LATENCY_RANGE.1, 3).expect("invariant: constant bounds are valid")
}

/// The figures of one group of clients over the measured phase.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Summary {
    /// Operations that succeeded.
    pub(crate) operations: u64,
    /// Operations that failed.
    pub(crate) errors: u64,
    /// The first failure.
    pub(crate) first_error: Option<String>,
    /// Operations a second.
    pub(crate) per_second: f64,
    /// Latency percentiles, in microseconds.
    pub(crate) p50_us: f64,
    /// The 90th percentile.
    pub(crate) p90_us: f64,
    /// The 99th percentile.
    pub(crate) p99_us: f64,
    /// The 99.9th percentile.
    pub(crate) p999_us: f64,
    /// The longest latency.
    pub(crate) max_us: f64,
}

impl Summary {
    /// Merges the recorders of one group; `elapsed` is the length of the measured phase.
    pub(crate) fn merge<'a>(recorders: impl IntoIterator<Item = &'a Recorder>, elapsed: Duration) -> Self {
        let mut summary = Self::default();
        let mut latency = new_histogram();
        for recorder in recorders {
            let inner = recorder.lock();
            summary.operations += recorder.operations();
            summary.errors += recorder.errors.load(Ordering::Relaxed);
            summary.first_error = summary.first_error.or_else(|| inner.first_error.clone());
            latency.add(&inner.latency).expect("invariant: all histograms have the same bounds");
        }
        let percentile = |share: f64| latency.value_at_quantile(share) as f64 / 1e3;
        summary.per_second = summary.operations as f64 / elapsed.as_secs_f64().max(1e-9);
        summary.p50_us = percentile(0.50);
        summary.p90_us = percentile(0.90);
        summary.p99_us = percentile(0.99);
        summary.p999_us = percentile(0.999);
        summary.max_us = latency.max() as f64 / 1e3;
        summary
    }
}

/// What the kernel counts for a process, at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessSample {
    /// User and system time.
    pub(crate) cpu: Duration,
    /// Resident memory now.
    pub(crate) rss_bytes: u64,
    /// Resident memory at its peak.
    pub(crate) peak_rss_bytes: u64,
    /// Bytes that the process caused to be written to a disk; `None` when the file cannot be read (another user's process).
    pub(crate) written_bytes: Option<u64>,
}

impl ProcessSample {
    /// Reads the sample of process `pid`.
    ///
    /// # Errors
    /// The process does not exist, or `/proc` is not Linux's.
    pub(crate) fn read(pid: u32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let malformed =
            || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has an unknown format"));
        let ticks = parse_cpu_ticks(&stat).ok_or_else(malformed)?;
        let cpu = ticks_to_duration(ticks);
        let kibibytes = |field| parse_field(&status, field).unwrap_or(0) << 10;
        Ok(Self {
            cpu,
            rss_bytes: kibibytes("VmRSS:"),
            peak_rss_bytes: kibibytes("VmHWM:"),
            written_bytes: std::fs::read_to_string(format!("/proc/{pid}/io"))
                .ok()
                .and_then(|io| parse_field(&io, "write_bytes:")),
        })
    }

    /// The sum of two processes; peaks add up although they need not have been at one time.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            rss_bytes: self.rss_bytes + other.rss_bytes,
            peak_rss_bytes: self.peak_rss_bytes + other.peak_rss_bytes,
            written_bytes: self.written_bytes.zip(other.written_bytes).map(|(one, two)| one + two),
        }
    }
}

/// CPU time that all processes of the machine, the kernel and a hypervisor have used since its start.
///
/// # Errors
/// `/proc/stat` cannot be read.
pub(crate) fn machine_cpu() -> io::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "/proc/stat has an unknown format");
    parse_busy_ticks(&stat).map(ticks_to_duration).ok_or_else(malformed)
}

fn ticks_to_duration(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// All ticks in the text of `/proc/stat` but those of idling and of waiting for a disk.
fn parse_busy_ticks(stat: &str) -> Option<u64> {
    let cpu = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user.
    let ticks: Vec<u64> = cpu.split_ascii_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some(ticks.iter().sum::<u64>() - idle)
}

/// User plus system ticks in the text of `/proc/PID/stat`. The command name may hold blanks and parentheses.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The number behind `name` in a `/proc` file of one field a line.
fn parse_field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// What a process used during the measured phase.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct ProcessUse {
    /// User and system time, in microseconds.
    pub(crate) cpu_us: f64,
    /// Bytes written to a disk.
    pub(crate) written_bytes: Option<u64>,
    /// Resident memory at the end.
    pub(crate) rss_bytes: u64,
    /// Its peak since the process started.
    pub(crate) peak_rss_bytes: u64,
}

impl ProcessUse {
    /// The difference of two samples of one process.
    pub(crate) fn between(begin: &ProcessSample, end: &ProcessSample) -> Self {
        let written = end.written_bytes.zip(begin.written_bytes).map(|(end, begin)| end.saturating_sub(begin));
        Self {
            cpu_us: end.cpu.saturating_sub(begin.cpu).as_secs_f64() * 1e6,
            written_bytes: written,
            rss_bytes: end.rss_bytes,
            peak_rss_bytes: end.peak_rss_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_parsed() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1000 10";
        assert_eq!(parse_cpu_ticks(stat), Some(300));
        assert_eq!(parse_cpu_ticks("42"), None);
        assert_eq!(parse_busy_ticks("cpu  10 1 20 1000 500 3 4 5 7 0\ncpu0 1 1 1 1 1\n"), Some(43));
        assert!(machine_cpu().is_ok_and(|cpu| cpu > Duration::ZERO));
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        assert_eq!(parse_field(status, "VmRSS:"), Some(1024));
        assert_eq!(parse_field(status, "VmSwap:"), None);
        let own = ProcessSample::read(std::process::id()).expect("the own process is in /proc");
        assert!(own.rss_bytes > 0 && own.peak_rss_bytes >= own.rss_bytes);
    }

    #[test]
    fn recorders_merge() {
        let (one, two) = (Recorder::new(), Recorder::new());
        for _ in 0..99 {
            one.success(Duration::from_micros(100), 1);
        }
        two.success(Duration::from_millis(5), 1);
        two.failure(&CallError::Unexpected("first".to_owned()));
        two.failure(&CallError::Unexpected("second".to_owned()));
        let summary = Summary::merge([&one, &two], Duration::from_secs(2));
        assert_eq!((summary.operations, summary.errors), (100, 2));
        assert_eq!(summary.first_error.as_deref(), Some("first"));
        assert!((summary.per_second - 50.0).abs() < 1e-9);
        assert!((summary.p50_us - 100.0).abs() < 1.0, "{}", summary.p50_us);
        assert!((summary.max_us - 5_000.0).abs() < 10.0, "{}", summary.max_us);
    }

    #[test]
    fn use_is_a_difference() {
        let begin = ProcessSample { cpu: Duration::from_millis(10), written_bytes: Some(100), ..Default::default() };
        let end = ProcessSample { cpu: Duration::from_millis(30), written_bytes: None, rss_bytes: 7, ..begin };
        let used = ProcessUse::between(&begin, &end);
        assert_eq!((used.written_bytes, used.rss_bytes), (None, 7));
        assert!((used.cpu_us - 20_000.0).abs() < 1e-6);
    }

    #[test]
    fn processes_add_up() {
        let one =
            ProcessSample { cpu: Duration::from_secs(1), rss_bytes: 10, peak_rss_bytes: 20, written_bytes: Some(5) };
        let two = ProcessSample { rss_bytes: 1, ..one };
        let sum = one.plus(two);
        assert_eq!((sum.cpu, sum.rss_bytes, sum.peak_rss_bytes), (Duration::from_secs(2), 11, 40));
        assert_eq!(sum.written_bytes, Some(10));
        assert_eq!(one.plus(ProcessSample { written_bytes: None, ..two }).written_bytes, None);
    }
}
