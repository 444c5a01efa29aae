//! What Prometheus reads. Labels are routes and status codes; nothing comes from clients or data.

use crate::state::World;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};
use std::time::Duration;

/// The numbers of a process.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    refused: IntCounterVec,
    // By label, which is looked up once.
    pub(crate) waits_changed: IntCounter,
    pub(crate) waits_over: IntCounter,
    pub(crate) waits_refused: IntCounter,
    pub(crate) wait_seconds: Histogram,
    pub(crate) echo_seconds: Histogram,
    pub(crate) unknown_clients: IntCounter,
    waiting: IntGauge,
    leaves: IntGauge,
    version: IntGauge,
    synced: IntGauge,
    silence: IntGauge,
    pods: IntGauge,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let vec = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let requests =
            vec("metad_requests_total", "Requests by API, route and status code.", &["api", "route", "code"])?;
        let refused =
            vec("metad_refused_total", "Requests that were refused before they were looked at.", &["reason"])?;
        let waits = vec("metad_waits_total", "Waits by how they ended.", &["end"])?;
        let unknown_clients = IntCounter::new("metad_unknown_clients_total", "Queries of clients that have nothing.")?;
        registry.register(Box::new(unknown_clients.clone()))?;
        let buckets = vec![0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 600.0];
        let options = HistogramOpts::new("metad_wait_seconds", "How long waits took.").buckets(buckets);
        let wait_seconds = Histogram::with_opts(options)?;
        registry.register(Box::new(wait_seconds.clone()))?;
        let help = "From the store's answer to a write until it is shown here: how far this mirror is behind.";
        let buckets = vec![0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0];
        let echo_seconds = Histogram::with_opts(HistogramOpts::new("metad_echo_seconds", help).buckets(buckets))?;
        registry.register(Box::new(echo_seconds.clone()))?;
        Ok(Self {
            waiting: gauge("metad_waiting", "Requests that wait for a change.")?,
            leaves: gauge("metad_leaves", "Leaves of the data.")?,
            version: gauge("metad_data_version", "Version of the data: the store's revision of its last change.")?,
            synced: gauge("metad_synced", "1 once the store has been read.")?,
            silence: gauge("metad_store_silence_seconds", "How long the store has not answered; 0 while it does.")?,
            pods: gauge("metad_pods", "Pods that are known.")?,
            requests,
            refused,
            waits_changed: waits.with_label_values(&["changed"]),
            waits_over: waits.with_label_values(&["over"]),
            waits_refused: waits.with_label_values(&["refused"]),
            wait_seconds,
            echo_seconds,
            unknown_clients,
            registry,
        })
    }

    /// Counts an answer.
    pub(crate) fn count(&self, api: &str, route: &str, code: http::StatusCode) {
        self.requests.with_label_values(&[api, route, code.as_str()]).inc();
    }

    /// Counts a refusal.
    pub(crate) fn refuse(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    /// The text format.
    pub(crate) fn text(
        &self,
        world: &World,
        is_synced: bool,
        silence: Duration,
        pods: usize,
    ) -> Result<String, prometheus::Error> {
        self.pods.set(i64::try_from(pods).unwrap_or(i64::MAX));
        let state = world.state();
        self.waiting.set(i64::try_from(world.hub.count()).unwrap_or(i64::MAX));
        self.leaves.set(i64::try_from(state.data().len()).unwrap_or(i64::MAX));
        self.version.set(state.version());
        self.synced.set(i64::from(is_synced));
        self.silence.set(i64::try_from(silence.as_secs()).unwrap_or(i64::MAX));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
