//! The member's metrics: etcd's names, types, labels and buckets, so that its alerts and dashboards work unchanged.
//!
//! [`Metrics::new`] registers everything in a registry of its own; there are no globals. The parts of the member
//! hold the handles of their group and add to them; what is state rather than an event (sizes, revisions, leader)
//! is set by a callback when somebody scrapes. Names that only make sense for Go, bbolt or etcd's snapshot files,
//! and those that nothing here measures, are left out rather than shown with an invented value.

mod grpc;
mod process;
mod times;

pub use grpc::{Call, CallType, GrpcMetrics, METHODS, Method, MethodMetrics};
pub use times::{Kind, Times};

use crate::version::{COMPATIBLE_CLUSTER_VERSION, COMPATIBLE_ETCD_VERSION};
use parking_lot::Mutex;
use process::ProcessMetrics;
use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, Result, TextEncoder,
};
use std::fmt;
use std::sync::Arc;

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Declares a group of metrics: field, type, constructor, name, help.
macro_rules! group {
    ($(#[$doc:meta])* $group:ident { $($field:ident: $kind:ty = $make:expr, $name:literal, $help:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $group {
            $(#[doc = concat!("`", $name, "`: ", $help)] pub $field: $kind,)*
        }

        impl $group {
            fn register(registry: &Registry) -> Result<Self> {
                Ok(Self { $($field: $make(registry, $name, $help)?,)* })
            }
        }
    };
}

group! {
    /// Raft, requests and health.
    ServerMetrics {
        has_leader: IntGauge = gauge, "etcd_server_has_leader", "Whether or not a leader exists. 1 is existence, 0 is not.";
        is_leader: IntGauge = gauge, "etcd_server_is_leader", "Whether or not this member is a leader. 1 if is, 0 otherwise.";
        is_learner: IntGauge = gauge, "etcd_server_is_learner", "Whether or not this member is a learner. 1 if is, 0 otherwise.";
        leader_changes: IntCounter = counter, "etcd_server_leader_changes_seen_total", "The number of leader changes seen.";
        learner_promote_successes: IntCounter = counter, "etcd_server_learner_promote_successes", "The total number of successful learner promotions while this member is leader.";
        heartbeat_send_failures: IntCounter = counter, "etcd_server_heartbeat_send_failures_total", "The total number of leader heartbeat send failures (likely overloaded from slow disk).";
        slow_apply: IntCounter = counter, "etcd_server_slow_apply_total", "The total number of slow apply requests (likely overloaded from slow disk).";
        slow_read_indexes: IntCounter = counter, "etcd_server_slow_read_indexes_total", "The total number of pending read indexes not in sync with leader's or timed out read index requests.";
        read_indexes_failed: IntCounter = counter, "etcd_server_read_indexes_failed_total", "The total number of failed read indexes seen.";
        snapshot_apply_in_progress: IntGauge = gauge, "etcd_server_snapshot_apply_in_progress_total", "1 if the server is applying the incoming snapshot. 0 if none.";
        proposals_committed: IntGauge = gauge, "etcd_server_proposals_committed_total", "The total number of consensus proposals committed.";
        proposals_applied: IntGauge = gauge, "etcd_server_proposals_applied_total", "The total number of consensus proposals applied.";
        proposals_pending: IntGauge = gauge, "etcd_server_proposals_pending", "The current number of pending proposals to commit.";
        proposals_failed: IntCounter = counter, "etcd_server_proposals_failed_total", "The total number of failed proposals seen.";
        quota_bytes: IntGauge = gauge, "etcd_server_quota_backend_bytes", "Current backend storage quota size in bytes.";
        health_success: IntCounter = counter, "etcd_server_health_success", "The total number of successful health checks";
        health_failures: IntCounter = counter, "etcd_server_health_failures", "The total number of failed health checks";
        healthcheck: IntGaugeVec = labelled_gauge(&["type", "name"]), "etcd_server_healthcheck", "The result of each kind of healthcheck.";
        healthchecks: IntCounterVec = labelled_counter(&["type", "name", "status"]), "etcd_server_healthchecks_total", "The total number of each kind of healthcheck.";
        id: IntGaugeVec = labelled_gauge(&["server_id"]), "etcd_server_id", "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.";
        version: IntGaugeVec = labelled_gauge(&["server_version"]), "etcd_server_version", "Which version is running. 1 for 'server_version' label with current version.";
        cluster_version: IntGaugeVec = labelled_gauge(&["cluster_version"]), "etcd_cluster_version", "Which version is running. 1 for 'cluster_version' label with current cluster version";
        alarms: IntGaugeVec = labelled_gauge(&["server_id", "alarm_type"]), "etcd_debugging_server_alarms", "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm";
        auth_revision: IntGauge = gauge, "etcd_debugging_auth_revision", "The current revision of auth store.";
        learner_promote_failures: IntCounterVec = labelled_counter(&["Reason"]), "etcd_server_learner_promote_failures", "The total number of failed learner promotions (likely learner not ready) while this member is leader.";
        apply_seconds: Times = Times::applied, "etcd_server_apply_duration_seconds", "The latency distributions of requests that were applied.";
        request_seconds: Times = Times::answered, "etcd_server_request_duration_seconds", "Response latency distribution in seconds for each type.";
        feature_enabled: IntGaugeVec = labelled_gauge(&["name", "stage"]), "etcd_server_feature_enabled", "Whether or not a feature is enabled. 1 is enabled, 0 is not.";
        lease_expired: IntCounter = counter, "etcd_debugging_server_lease_expired_total", "The total number of expired leases.";
    }
}

group! {
    /// The write-ahead log and the store file.
    DiskMetrics {
        wal_fsync_seconds: Histogram = exponential(0.001, 14), "etcd_disk_wal_fsync_duration_seconds", "The latency distributions of fsync called by WAL.";
        wal_write_seconds: Histogram = exponential(0.001, 14), "etcd_disk_wal_write_duration_seconds", "The latency distributions of write called by WAL.";
        wal_write_bytes: IntGauge = gauge, "etcd_disk_wal_write_bytes_total", "Total number of bytes written in WAL.";
        backend_commit_seconds: Histogram = exponential(0.001, 14), "etcd_disk_backend_commit_duration_seconds", "The latency distributions of commit called by backend.";
        backend_defrag_seconds: Histogram = exponential(0.1, 13), "etcd_disk_backend_defrag_duration_seconds", "The latency distribution of backend defragmentation.";
        backend_snapshot_seconds: Histogram = exponential(0.01, 17), "etcd_disk_backend_snapshot_duration_seconds", "The latency distribution of backend snapshots.";
        defrag_inflight: IntGauge = gauge, "etcd_disk_defrag_inflight", "Whether or not defrag is active on the member. 1 means active, 0 means not.";
    }
}

group! {
    /// Revisions, watchers and the store's size.
    MvccMetrics {
        puts: IntCounter = counter, "etcd_mvcc_put_total", "Total number of puts seen by this member.";
        deletes: IntCounter = counter, "etcd_mvcc_delete_total", "Total number of deletes seen by this member.";
        ranges: IntCounter = counter, "etcd_mvcc_range_total", "Total number of ranges seen by this member.";
        txns: IntCounter = counter, "etcd_mvcc_txn_total", "Total number of txns seen by this member.";
        range_seconds: Times = Times::read, "etcd_server_range_duration_seconds", "The latency distributions of ranges, without the wait for being up to date.";
        old_puts: IntCounter = counter, "etcd_debugging_mvcc_put_total", "Total number of puts seen by this member.";
        old_deletes: IntCounter = counter, "etcd_debugging_mvcc_delete_total", "Total number of deletes seen by this member.";
        old_ranges: IntCounter = counter, "etcd_debugging_mvcc_range_total", "Total number of ranges seen by this member.";
        old_txns: IntCounter = counter, "etcd_debugging_mvcc_txn_total", "Total number of txns seen by this member.";
        old_db_size_bytes: IntGauge = gauge, "etcd_debugging_mvcc_db_total_size_in_bytes", "Total size of the underlying database physically allocated in bytes.";
        hash_seconds: Histogram = exponential(0.01, 15), "etcd_mvcc_hash_duration_seconds", "The latency distribution of storage hash operation.";
        hash_rev_seconds: Histogram = exponential(0.01, 15), "etcd_mvcc_hash_rev_duration_seconds", "The latency distribution of storage hash by revision operation.";
        db_size_bytes: IntGauge = gauge, "etcd_mvcc_db_total_size_in_bytes", "Total size of the underlying database physically allocated in bytes.";
        db_size_in_use_bytes: IntGauge = gauge, "etcd_mvcc_db_total_size_in_use_in_bytes", "Total size of the underlying database logically in use in bytes.";
        keys: IntGauge = gauge, "etcd_debugging_mvcc_keys_total", "Total number of keys.";
        watch_streams: IntGauge = gauge, "etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams.";
        watchers: IntGauge = gauge, "etcd_debugging_mvcc_watcher_total", "Total number of watchers.";
        slow_watchers: IntGauge = gauge, "etcd_debugging_mvcc_slow_watcher_total", "Total number of unsynced slow watchers.";
        events: IntCounter = counter, "etcd_debugging_mvcc_events_total", "Total number of events sent by this member.";
        pending_events: IntGauge = gauge, "etcd_debugging_mvcc_pending_events_total", "Total number of pending events to be sent.";
        index_compaction_pause_ms: Histogram = exponential(0.5, 14), "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "Bucketed histogram of index compaction pause duration.";
        db_compaction_pause_ms: Histogram = exponential(1.0, 13), "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "Bucketed histogram of db compaction pause duration.";
        db_compaction_total_ms: Histogram = exponential(100.0, 14), "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "Bucketed histogram of db compaction total duration.";
        db_compaction_keys: IntCounter = counter, "etcd_debugging_mvcc_db_compaction_keys_total", "Total number of db keys compacted.";
        db_compaction_last: IntGauge = gauge, "etcd_debugging_mvcc_db_compaction_last", "The unix time of the last db compaction. Resets to 0 on start.";
        current_revision: IntGauge = gauge, "etcd_debugging_mvcc_current_revision", "The current revision of store.";
        compact_revision: IntGauge = gauge, "etcd_debugging_mvcc_compact_revision", "The revision of the last compaction in store.";
        total_put_size_bytes: IntGauge = gauge, "etcd_debugging_mvcc_total_put_size_in_bytes", "The total size of put kv pairs seen by this member.";
    }
}

group! {
    /// Responses of watch streams: how long the connection took until it asked for the next.
    WatchSendMetrics {
        events_seconds: Histogram = exponential(0.001, 14), "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", "The total duration in seconds of running through the send loop watch stream response all events.";
        per_event_seconds: Histogram = exponential(0.001, 14), "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds", "The average duration in seconds of running through the send loop watch stream response, per event.";
        control_seconds: Histogram = exponential(0.001, 14), "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", "The total duration in seconds of running through the send loop control stream response.";
        progress_seconds: Histogram = exponential(0.001, 14), "etcd_debugging_server_watch_send_loop_progress_duration_seconds", "The total duration in seconds of running through the progress loop control stream response.";
    }
}

group! {
    /// Leases.
    LeaseMetrics {
        granted: IntCounter = counter, "etcd_debugging_lease_granted_total", "The total number of granted leases.";
        revoked: IntCounter = counter, "etcd_debugging_lease_revoked_total", "The total number of revoked leases.";
        renewed: IntCounter = counter, "etcd_debugging_lease_renewed_total", "The number of renewed leases seen by the leader.";
        ttl_seconds: Histogram = exponential(1.0, 24), "etcd_debugging_lease_ttl_total", "Bucketed histogram of lease TTLs.";
    }
}

group! {
    /// Traffic with clients.
    NetworkMetrics {
        client_received_bytes: IntCounter = counter, "etcd_network_client_grpc_received_bytes_total", "The total number of bytes received from grpc clients.";
        client_sent_bytes: IntCounter = counter, "etcd_network_client_grpc_sent_bytes_total", "The total number of bytes sent to grpc clients.";
        stream_failures: IntCounterVec = labelled_counter(&["Type", "API"]), "etcd_network_server_stream_failures_total", "The total number of stream failures from the local server.";
    }
}

group! {
    /// Traffic with other members.
    PeerMetrics {
        known: IntGaugeVec = labelled_gauge(&["Local", "Remote"]), "etcd_network_known_peers", "The current number of known peers.";
        active: IntGaugeVec = labelled_gauge(&["Local", "Remote"]), "etcd_network_active_peers", "The current number of active peer connections.";
        disconnected: IntCounterVec = labelled_counter(&["Local", "Remote"]), "etcd_network_disconnected_peers_total", "The total number of disconnected peers.";
        sent_bytes: IntCounterVec = labelled_counter(&["To"]), "etcd_network_peer_sent_bytes_total", "The total number of bytes sent to peers.";
        received_bytes: IntCounterVec = labelled_counter(&["From"]), "etcd_network_peer_received_bytes_total", "The total number of bytes received from peers.";
        sent_failures: IntCounterVec = labelled_counter(&["To"]), "etcd_network_peer_sent_failures_total", "The total number of send failures from peers.";
        received_failures: IntCounterVec = labelled_counter(&["From"]), "etcd_network_peer_received_failures_total", "The total number of receive failures from peers.";
        round_trip_seconds: HistogramVec = labelled_exponential(&["To"], 0.0001, 16), "etcd_network_peer_round_trip_time_seconds", "Round-Trip-Time histogram between peers";
        snapshot_send_success: IntCounterVec = labelled_counter(&["To"]), "etcd_network_snapshot_send_success", "Total number of successful snapshot sends";
        snapshot_send_failures: IntCounterVec = labelled_counter(&["To"]), "etcd_network_snapshot_send_failures", "Total number of snapshot send failures";
        snapshot_send_inflights: IntGaugeVec = labelled_gauge(&["To"]), "etcd_network_snapshot_send_inflights_total", "Total number of inflight snapshot sends";
        snapshot_send_seconds: HistogramVec = labelled_exponential(&["To"], 0.1, 10), "etcd_network_snapshot_send_total_duration_seconds", "Total latency distributions of v3 snapshot sends";
        snapshot_receive_success: IntCounterVec = labelled_counter(&["From"]), "etcd_network_snapshot_receive_success", "Total number of successful snapshot receives";
        snapshot_receive_failures: IntCounterVec = labelled_counter(&["From"]), "etcd_network_snapshot_receive_failures", "Total number of snapshot receive failures";
        snapshot_receive_inflights: IntGaugeVec = labelled_gauge(&["From"]), "etcd_network_snapshot_receive_inflights_total", "Total number of inflight snapshot receives";
        snapshot_receive_seconds: HistogramVec = labelled_exponential(&["From"], 0.1, 10), "etcd_network_snapshot_receive_total_duration_seconds", "Total latency distributions of v3 snapshot receives";
        snap_db_save_seconds: Histogram = exponential(0.1, 10), "etcd_snap_db_save_total_duration_seconds", "The total latency distributions of receiving and saving a snapshot of the store.";
        snap_db_fsync_seconds: Histogram = exponential(0.001, 14), "etcd_snap_db_fsync_duration_seconds", "The latency distributions of making a received snapshot durable.";
    }
}

/// What is counted of snapshots in one direction, by the other member's id.
#[derive(Clone, Debug)]
pub struct SnapshotMetrics {
    /// Those that arrived.
    pub success: IntCounterVec,
    /// Those that did not.
    pub failures: IntCounterVec,
    /// Those on their way.
    pub inflights: IntGaugeVec,
    /// How long those that arrived took.
    pub seconds: HistogramVec,
}

impl PeerMetrics {
    /// Metrics that nobody reads.
    #[cfg(test)]
    pub(crate) fn detached() -> Result<Self> {
        Self::register(&Registry::new())
    }

    /// Snapshots to other members.
    pub fn snapshot_send(&self) -> SnapshotMetrics {
        SnapshotMetrics {
            success: self.snapshot_send_success.clone(),
            failures: self.snapshot_send_failures.clone(),
            inflights: self.snapshot_send_inflights.clone(),
            seconds: self.snapshot_send_seconds.clone(),
        }
    }

    /// Snapshots from other members.
    pub fn snapshot_receive(&self) -> SnapshotMetrics {
        SnapshotMetrics {
            success: self.snapshot_receive_success.clone(),
            failures: self.snapshot_receive_failures.clone(),
            inflights: self.snapshot_receive_inflights.clone(),
            seconds: self.snapshot_receive_seconds.clone(),
        }
    }

    /// Drops everything about a member that was removed.
    pub fn forget(&self, local: &str, remote: &str) {
        // Some were never there.
        drop(self.known.remove_label_values(&[local, remote]));
        drop(self.active.remove_label_values(&[local, remote]));
        drop(self.disconnected.remove_label_values(&[local, remote]));
        for counter in [&self.sent_bytes, &self.received_bytes, &self.sent_failures, &self.received_failures] {
            drop(counter.remove_label_values(&[remote]));
        }
        drop(self.round_trip_seconds.remove_label_values(&[remote]));
        for snapshots in [self.snapshot_send(), self.snapshot_receive()] {
            drop(snapshots.success.remove_label_values(&[remote]));
            drop(snapshots.failures.remove_label_values(&[remote]));
            drop(snapshots.inflights.remove_label_values(&[remote]));
            drop(snapshots.seconds.remove_label_values(&[remote]));
        }
    }
}

group! {
    /// The v2 API: requests about keys, and what its tree counts.
    V2Metrics {
        http_received: IntCounterVec = labelled_counter(&["method"]), "etcd_http_received_total", "Counter of requests received into the system (successfully parsed and authd).";
        http_failed: IntCounterVec = labelled_counter(&["method", "code"]), "etcd_http_failed_total", "Counter of handle failures of requests (non-watches), by method (GET/PUT etc.) and code (400, 500 etc.).";
        http_seconds: HistogramVec = labelled_exponential(&["method"], 0.0005, 13), "etcd_http_successful_duration_seconds", "Bucketed histogram of processing time (s) of successfully handled requests (non-watches), by method (GET/PUT etc.).";
        reads: IntCounterVec = labelled_counter(&["action"]), "etcd_debugging_store_reads_total", "Total number of reads action by (get/getRecursive), local to this member.";
        reads_failed: IntCounterVec = labelled_counter(&["action"]), "etcd_debugging_store_reads_failed_total", "Failed read actions by (get/getRecursive), local to this member.";
        writes: IntCounterVec = labelled_counter(&["action"]), "etcd_debugging_store_writes_total", "Total number of writes (e.g. set/compareAndDelete) seen by this member.";
        writes_failed: IntCounterVec = labelled_counter(&["action"]), "etcd_debugging_store_writes_failed_total", "Failed write actions (e.g. set/compareAndDelete), seen by this member.";
        expires: IntCounter = counter, "etcd_debugging_store_expires_total", "Total number of expired keys.";
        watch_requests: IntCounter = counter, "etcd_debugging_store_watch_requests_total", "Total number of incoming watch requests (new or reestablished).";
        watchers: IntGauge = gauge, "etcd_debugging_store_watchers", "Count of currently active watchers.";
    }
}

group! {
    /// What is lost of what this member tells about itself, and when its certificates end. Names of our own: etcd has none for it.
    TellingMetrics {
        log_lines_lost: IntCounter = counter, "cleat_log_lines_lost_total", "The number of log lines that were lost because an output did not keep up.";
        audit_lines_lost: IntCounter = counter, "cleat_audit_lines_lost_total", "The number of lines of the audit log that were lost.";
        trace_spans_dropped: IntCounter = counter, "cleat_trace_spans_dropped_total", "The number of spans that the collector of traces did not get.";
        certificate_expiry: IntGaugeVec = labelled_gauge(&["side"]), "cleat_tls_certificate_expiry_timestamp_seconds", "When the certificate ends that this member shows to clients or peers, in seconds since 1970.";
    }
}

group! {
    /// What this member refuses so that it can serve the rest. Names of our own: etcd has none for it.
    OverloadMetrics {
        proposals_refused: IntCounter = counter, "cleat_proposals_refused_total", "The number of proposals refused as too many: too many wait, or the disk or applying does not keep up.";
        rate_limited: IntCounter = counter, "cleat_requests_rate_limited_total", "The number of requests refused because their user, or an address without one, asked for more than --user-rate-limit.";
    }
}

type ScrapeHook = Box<dyn Fn(&Metrics) + Send + Sync>;

/// All metrics of a member.
pub struct Metrics {
    /// Raft, requests and health.
    pub server: ServerMetrics,
    /// The write-ahead log and the store file.
    pub disk: DiskMetrics,
    /// Revisions, watchers and the store's size.
    pub mvcc: MvccMetrics,
    /// Responses of watch streams.
    pub watch_send: WatchSendMetrics,
    /// Leases.
    pub lease: LeaseMetrics,
    /// Traffic with clients.
    pub network: NetworkMetrics,
    /// Traffic with other members.
    pub peer: PeerMetrics,
    /// The v2 API.
    pub v2: V2Metrics,
    /// Lost lines and spans.
    pub telling: TellingMetrics,
    /// Refusals.
    pub overload: OverloadMetrics,
    /// Every RPC.
    pub grpc: GrpcMetrics,
    process: ProcessMetrics,
    registry: Registry,
    /// Held while scraping, so that two scrapes do not mix their readings.
    hooks: Mutex<Vec<ScrapeHook>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Registers all metrics; with `extensive`, the latency histograms of RPCs as well.
    ///
    /// # Errors
    /// If two metrics had the same name, which the tests exclude.
    pub fn new(extensive: bool) -> Result<Arc<Self>> {
        let registry = Registry::new();
        let metrics = Self {
            server: ServerMetrics::register(&registry)?,
            disk: DiskMetrics::register(&registry)?,
            mvcc: MvccMetrics::register(&registry)?,
            watch_send: WatchSendMetrics::register(&registry)?,
            lease: LeaseMetrics::register(&registry)?,
            network: NetworkMetrics::register(&registry)?,
            peer: PeerMetrics::register(&registry)?,
            v2: V2Metrics::register(&registry)?,
            telling: TellingMetrics::register(&registry)?,
            overload: OverloadMetrics::register(&registry)?,
            grpc: GrpcMetrics::register(&registry, extensive)?,
            process: ProcessMetrics::register(&registry)?,
            registry,
            hooks: Mutex::default(),
        };
        metrics.server.version.with_label_values(&[COMPATIBLE_ETCD_VERSION]).set(1);
        let cluster = COMPATIBLE_CLUSTER_VERSION.rsplit_once('.').map_or("", |(minor, _)| minor);
        metrics.server.cluster_version.with_label_values(&[cluster]).set(1);
        metrics.mvcc.compact_revision.set(-1);
        Ok(Arc::new(metrics))
    }

    /// Adds a callback that sets gauges from state before each scrape. It must not scrape, and must not block.
    pub fn on_scrape(&self, hook: impl Fn(&Self) + Send + Sync + 'static) {
        self.hooks.lock().push(Box::new(hook));
    }

    /// Writes all metrics in Prometheus' text format.
    pub fn render(&self) -> Vec<u8> {
        let hooks = self.hooks.lock();
        self.process.read();
        for hook in hooks.iter() {
            hook(self);
        }
        let mut text = Vec::with_capacity(256 * 1024);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "cannot encode metrics");
        }
        text
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter> {
    registered(registry, IntCounter::new(name, help)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge> {
    registered(registry, IntGauge::new(name, help)?)
}

fn counter_vec(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn histogram_vec(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: Vec<f64>,
) -> Result<HistogramVec> {
    registered(registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?)
}

fn labelled_counter<'a>(labels: &'a [&'a str]) -> impl Fn(&Registry, &str, &str) -> Result<IntCounterVec> + 'a {
    move |registry, name, help| counter_vec(registry, name, help, labels)
}

fn labelled_gauge<'a>(labels: &'a [&'a str]) -> impl Fn(&Registry, &str, &str) -> Result<IntGaugeVec> + 'a {
    move |registry, name, help| registered(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn labelled_exponential<'a>(
    labels: &'a [&'a str],
    start: f64,
    count: usize,
) -> impl Fn(&Registry, &str, &str) -> Result<HistogramVec> + 'a {
    move |registry, name, help| {
        histogram_vec(registry, name, help, labels, prometheus::exponential_buckets(start, 2.0, count)?)
    }
}

/// A histogram whose buckets double from `start`, `count` times.
fn exponential(start: f64, count: usize) -> impl Fn(&Registry, &str, &str) -> Result<Histogram> {
    move |registry, name, help| {
        let buckets = prometheus::exponential_buckets(start, 2.0, count)?;
        registered(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render()).unwrap()
    }

    /// Every family with a value at the start, `name type`. A change here is a change for users' dashboards.
    #[test]
    fn names_and_types_are_as_recorded() {
        let metrics = Metrics::new(true).unwrap();
        let text = text(&metrics);
        let found: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let recorded = include_str!("names.txt");
        for (found, recorded) in found.iter().zip(recorded.lines()) {
            assert_eq!(*found, recorded);
        }
        assert_eq!(found.len(), recorded.lines().count());
    }

    #[test]
    fn hooks_set_gauges_at_each_scrape() {
        let metrics = Metrics::new(false).unwrap();
        metrics.on_scrape(|metrics| metrics.mvcc.current_revision.inc());
        assert!(text(&metrics).contains("\netcd_debugging_mvcc_current_revision 1\n"));
        assert!(text(&metrics).contains("\netcd_debugging_mvcc_current_revision 2\n"));
    }

    #[test]
    fn buckets_are_etcds() {
        let metrics = Metrics::new(false).unwrap();
        let text = text(&metrics);
        let buckets = |name: &str| text.lines().filter(|line| line.starts_with(&format!("{name}_bucket{{"))).count();
        // With +Inf.
        assert_eq!(buckets("etcd_disk_wal_fsync_duration_seconds"), 15);
        assert!(text.contains("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"}"));
        assert!(text.contains("etcd_disk_backend_defrag_duration_seconds_bucket{le=\"409.6\"}"));
        assert!(text.contains("etcd_debugging_lease_ttl_total_bucket{le=\"8388608\"}"));
        assert!(text.contains("etcd_server_version{server_version=\"3.5.21\"} 1"));
        assert!(text.contains("etcd_cluster_version{cluster_version=\"3.5\"} 1"));
    }
}
