//! What `/proc` says about this process, read when somebody scrapes.
//!
//! A value that cannot be read keeps its last reading: monitoring must not make a member fail.

use super::gauge;
use prometheus::{Counter, Gauge, IntGauge, Registry, Result};
use rustix::process::{Resource, getrlimit};

/// Clock ticks a second in `/proc/self/stat`; Linux shows 100 to user space on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// The handles of the process metrics.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    cpu_seconds: Counter,
    open_fds: IntGauge,
    max_fds: IntGauge,
    resident_bytes: IntGauge,
    virtual_bytes: IntGauge,
    virtual_max_bytes: Gauge,
    start_seconds: Gauge,
    fd_used: IntGauge,
    fd_limit: IntGauge,
}

impl ProcessMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self> {
        let cpu_seconds = "Total user and system CPU time spent in seconds.";
        let virtual_max = "Maximum amount of virtual memory available in bytes.";
        let start_seconds = "Start time of the process since unix epoch in seconds.";
        Ok(Self {
            cpu_seconds: super::registered(registry, Counter::new("process_cpu_seconds_total", cpu_seconds)?)?,
            open_fds: gauge(registry, "process_open_fds", "Number of open file descriptors.")?,
            max_fds: gauge(registry, "process_max_fds", "Maximum number of open file descriptors.")?,
            resident_bytes: gauge(registry, "process_resident_memory_bytes", "Resident memory size in bytes.")?,
            virtual_bytes: gauge(registry, "process_virtual_memory_bytes", "Virtual memory size in bytes.")?,
            virtual_max_bytes: super::registered(
                registry,
                Gauge::new("process_virtual_memory_max_bytes", virtual_max)?,
            )?,
            start_seconds: super::registered(registry, Gauge::new("process_start_time_seconds", start_seconds)?)?,
            fd_used: gauge(registry, "os_fd_used", "The number of used file descriptors.")?,
            fd_limit: gauge(registry, "os_fd_limit", "The file descriptor limit.")?,
        })
    }

    /// Reads all values.
    pub(super) fn read(&self) {
        if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
            self.read_stat(&stat);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the directory itself.
            let open = entries.count().saturating_sub(1) as i64;
            self.open_fds.set(open);
            self.fd_used.set(open);
        }
        let limit = getrlimit(Resource::Nofile).current.and_then(|limit| i64::try_from(limit).ok()).unwrap_or(i64::MAX);
        self.max_fds.set(limit);
        self.fd_limit.set(limit);
        let unlimited = u64::MAX;
        self.virtual_max_bytes.set(getrlimit(Resource::As).current.unwrap_or(unlimited) as f64);
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            for (key, gauge) in [("VmRSS:", &self.resident_bytes), ("VmSize:", &self.virtual_bytes)] {
                let line = status.lines().find_map(|line| line.strip_prefix(key));
                let kib: Option<i64> = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
                if let Some(kib) = kib {
                    gauge.set(kib * 1024);
                }
            }
        }
    }

    fn read_stat(&self, stat: &str) {
        // The name in parentheses may contain anything; fields are counted from behind it.
        let Some((_, fields)) = stat.rsplit_once(')') else { return };
        let field = |number: usize| fields.split_whitespace().nth(number - 3).and_then(|text| text.parse::<f64>().ok());
        if let (Some(user), Some(system)) = (field(14), field(15)) {
            let seconds = (user + system) / TICKS_PER_SECOND;
            let more = seconds - self.cpu_seconds.get();
            if more > 0.0 {
                self.cpu_seconds.inc_by(more);
            }
        }
        if self.start_seconds.get() == 0.0
            && let (Some(ticks), Some(boot)) = (field(22), boot_time())
        {
            self.start_seconds.set(boot + ticks / TICKS_PER_SECOND);
        }
    }
}

fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let registry = Registry::new();
        let metrics = ProcessMetrics::register(&registry).unwrap();
        metrics.read();
        assert!(metrics.open_fds.get() >= 3);
        assert!(metrics.max_fds.get() > 3);
        assert!(metrics.resident_bytes.get() > 1 << 20);
        assert!(metrics.virtual_bytes.get() >= metrics.resident_bytes.get());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - metrics.start_seconds.get()).abs() < 3600.0 * 24.0);
    }

    #[test]
    fn a_strange_process_name_does_not_shift_fields() {
        let registry = Registry::new();
        let metrics = ProcessMetrics::register(&registry).unwrap();
        metrics.read_stat("1 (a) b (c)) S 0 0 0 0 0 0 0 0 0 0 250 50 0 0 0 0 0 0 700 0");
        assert!((metrics.cpu_seconds.get() - 3.0).abs() < 1e-9);
    }
}
