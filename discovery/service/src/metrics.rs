//! What Prometheus reads, with the names of the older discovery service, and two numbers of our own.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

/// The counters of a process.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) new_requests: IntCounterVec,
    pub(crate) token_requests: IntCounterVec,
    pub(crate) health_requests: IntCounterVec,
    pub(crate) removed_tokens: IntCounter,
    waiting: IntGauge,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let requests = |route: &str| {
            let name = format!("endpoint_{route}_requests_total");
            let help = format!("How many /{route} requests processed, partitioned by status code and HTTP method.");
            let counter = IntCounterVec::new(Opts::new(name, help), &["code", "method"])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let (new_requests, token_requests, health_requests) =
            (requests("new")?, requests("token")?, requests("health")?);
        let removed_tokens =
            IntCounter::new("cleat_discovery_removed_tokens_total", "How many tokens were removed for their age.")?;
        let waiting = IntGauge::new("cleat_discovery_waiting_requests", "How many requests wait for a member.")?;
        registry.register(Box::new(removed_tokens.clone()))?;
        registry.register(Box::new(waiting.clone()))?;
        Ok(Self { registry, new_requests, token_requests, health_requests, removed_tokens, waiting })
    }

    /// The text format.
    pub(crate) fn text(&self, waiting: usize) -> Result<String, prometheus::Error> {
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
