//! What is read of `/metrics`: a few numbers, and how long something took in nearly all cases.

use std::collections::BTreeMap;

/// Names that begin with none of these are not kept.
const PREFIXES: [&str; 3] = ["etcd_disk_", "etcd_server_", "process_"];

/// Fewer measurements say nothing about the slowest of a hundred.
const SAMPLES_MIN: f64 = 100.0;

/// Time of the log's syncs.
pub(crate) const LOG_SYNC: &str = "etcd_disk_wal_fsync_duration_seconds";

/// Time of the database's commits.
pub(crate) const COMMIT: &str = "etcd_disk_backend_commit_duration_seconds";

/// Numbers of one member at one moment, by etcd's names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Metrics {
    values: BTreeMap<String, f64>,
    /// Upper ends of the buckets in seconds, ascending, and how many were not above.
    histograms: BTreeMap<String, Vec<(f64, f64)>>,
}

impl Metrics {
    /// Reads Prometheus' text format. What cannot be read is left out.
    pub(crate) fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| PREFIXES.iter().any(|prefix| line.starts_with(prefix))) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let Some((name, labels)) = name.split_once('{') else {
                metrics.values.insert(name.to_owned(), value);
                continue;
            };
            let bound = labels.strip_prefix("le=\"").and_then(|rest| rest.strip_suffix("\"}"));
            if let (Some(name), Some(Ok(bound))) = (name.strip_suffix("_bucket"), bound.map(str::parse)) {
                metrics.histograms.entry(name.to_owned()).or_default().push((bound, value));
            }
        }
        metrics
    }

    /// A number without labels.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }

    /// What 99 of 100 measurements were not above, in seconds: the upper end of a bucket, so the truth is lower.
    /// Infinite above the last bucket, None of too few.
    pub(crate) fn p99(&self, name: &str) -> Option<f64> {
        let buckets = self.histograms.get(name)?;
        let total = buckets.last()?.1;
        if total < SAMPLES_MIN {
            return None;
        }
        buckets.iter().find(|(_, count)| *count >= total * 0.99).map(|(bound, _)| *bound)
    }

    /// Replaces the measurements by those of another look.
    pub(crate) fn take_histograms(&mut self, of: &Self) {
        self.histograms.clone_from(&of.histograms);
    }

    /// The measurements since an earlier look; all of them after a restart.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut metrics = self.clone();
        for (name, buckets) in &mut metrics.histograms {
            let Some(old) = before.histograms.get(name).filter(|old| old.len() == buckets.len()) else { continue };
            if buckets.iter().zip(old).all(|(new, old)| new.1 >= old.1) {
                buckets.iter_mut().zip(old).for_each(|(new, old)| new.1 -= old.1);
            }
        }
        metrics
    }
}

/// A time as a person reads it.
pub(crate) fn shown_seconds(seconds: f64) -> String {
    if seconds.is_infinite() {
        "very long".to_owned()
    } else if seconds >= 1.0 {
        format!("{seconds:.1} s")
    } else if seconds >= 0.01 {
        format!("{:.0} ms", seconds * 1000.0)
    } else {
        format!("{} ms", (seconds * 100_000.0).round() / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP etcd_disk_wal_fsync_duration_seconds The latency distributions of fsync called by WAL.
# TYPE etcd_disk_wal_fsync_duration_seconds histogram
etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 900
etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 989
etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.004\"} 991
etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 1000
etcd_disk_wal_fsync_duration_seconds_sum 0.9
etcd_disk_wal_fsync_duration_seconds_count 1000
etcd_server_quota_backend_bytes 2.147483648e+09
etcd_server_client_requests_total{client_api_version=\"3.5\",type=\"unary\"} 7
go_goroutines 99
process_open_fds 21
";

    #[test]
    fn numbers_and_histograms_are_read() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.value("etcd_server_quota_backend_bytes"), Some(2_147_483_648.0));
        assert_eq!(metrics.value("process_open_fds"), Some(21.0));
        assert_eq!(metrics.value("go_goroutines"), None);
        assert_eq!(metrics.p99(LOG_SYNC), Some(0.004));
        assert_eq!(metrics.p99(COMMIT), None);
        assert_eq!(Metrics::parse("etcd_disk_x_bucket{le=\"1\"} 99\n").p99("etcd_disk_x"), None);
        assert_eq!(Metrics::parse("nonsense\netcd_server_x\netcd_server_y z\n"), Metrics::default());
    }

    #[test]
    fn only_what_is_new_counts() {
        let before = Metrics::parse(TEXT);
        let after = Metrics::parse(&TEXT.replace(" 1000", " 1200").replace(" 991", " 1191").replace(" 989", " 1189"));
        assert_eq!(after.since(&before).p99(LOG_SYNC), Some(0.002));
        // A process that was started again counts from the beginning.
        assert_eq!(before.since(&after).p99(LOG_SYNC), Some(0.004));
    }

    #[test]
    fn times_have_the_digits_that_matter() {
        for (seconds, expected) in [
            (0.001, "1 ms"),
            (0.000_25, "0.25 ms"),
            (0.008, "8 ms"),
            (0.128, "128 ms"),
            (2.048, "2.0 s"),
            (f64::INFINITY, "very long"),
        ] {
            assert_eq!(shown_seconds(seconds), expected);
        }
    }
}
