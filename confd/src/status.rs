//! What there is to say about a confd that runs: metrics with the names of abtreece's confd where it has them, and whether
//! the files are as they should be.
//!
//! The runner sets it after each round, `web.rs` shows it. No value of a key is in it, and no text of an error, which may
//! quote one.

use crate::resource::Resource;
use crate::source::Prober;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long what was found out about the store holds.
const PROBE_LIFE: Duration = Duration::from_secs(1);
/// Upper bounds of buckets for what is done in this process.
const FAST_SECONDS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 30.0];
/// Upper bounds of buckets for commands.
const SLOW_SECONDS: [f64; 9] = [0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0];

/// A resource as it is now.
#[derive(Clone, Debug)]
pub(crate) struct ResourceState {
    pub(crate) resource: Arc<Resource>,
    /// Since it succeeded last.
    pub(crate) failures: u32,
}

/// A reload command that has to run.
#[derive(Clone, Debug)]
pub(crate) struct ReloadState {
    pub(crate) dests: Vec<PathBuf>,
    pub(crate) failures: u32,
}

#[derive(Debug, Default)]
struct State {
    /// True after the first round.
    is_started: bool,
    /// Files of resources that cannot be used.
    unusable: usize,
    resources: Vec<ResourceState>,
    reloads: Vec<ReloadState>,
    /// None without a program.
    program_runs: Option<bool>,
}

/// Shared by the runner and whoever asks.
#[derive(Debug)]
pub(crate) struct Status {
    registry: Registry,
    pub(crate) processed: IntCounterVec,
    pub(crate) process_seconds: Histogram,
    pub(crate) changed: IntCounter,
    pub(crate) commands: IntCounterVec,
    pub(crate) command_seconds: HistogramVec,
    pub(crate) backend_errors: IntCounter,
    pub(crate) loaded: IntGauge,
    pub(crate) watched_keys: IntGauge,
    pub(crate) program_starts: IntCounter,
    failing: IntGauge,
    reloads_pending: IntGauge,
    backend_healthy: IntGauge,
    state: Mutex<State>,
    prober: Mutex<Option<Prober>>,
    /// Held while the store is asked: who asks meanwhile gets the same answer.
    probed: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Status {
    /// # Errors
    /// A name is used twice.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| registered(&registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help)?);
        let labelled = |name: &str, help: &str, labels: &[&str]| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let times = |name: &str, help: &str, buckets: &[f64]| HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let process_seconds = times(
            "confd_template_process_duration_seconds",
            "How long a resource took, from its keys to its file.",
            &FAST_SECONDS,
        );
        let command_seconds = times("confd_command_duration_seconds", "How long a command ran.", &SLOW_SECONDS);
        Ok(Self {
            processed: labelled(
                "confd_template_process_total",
                "How often a resource was processed, by its file and whether it succeeded.",
                &["dest", "status"],
            )?,
            process_seconds: registered(&registry, Histogram::with_opts(process_seconds)?)?,
            changed: counter("confd_file_changed_total", "Files that were replaced.")?,
            commands: labelled("confd_command_total", "Commands that ran.", &["type", "status"])?,
            command_seconds: registered(&registry, HistogramVec::new(command_seconds, &["type"])?)?,
            backend_errors: counter(
                "confd_backend_errors_total",
                "Reads of keys that failed, and watches that were lost.",
            )?,
            loaded: gauge("confd_templates_loaded", "Resources that can be used.")?,
            watched_keys: gauge("confd_watched_keys", "Keys that resources name.")?,
            program_starts: counter("confd_program_starts_total", "How often the program was started.")?,
            failing: gauge(
                "confd_templates_failing",
                "Resources whose last processing failed or that cannot be used.",
            )?,
            reloads_pending: gauge("confd_reloads_pending", "Reload commands that have to run again.")?,
            backend_healthy: gauge("confd_backend_healthy", "1 if the store answers, 0 if not.")?,
            state: Mutex::default(),
            prober: Mutex::default(),
            probed: tokio::sync::Mutex::default(),
            registry,
        })
    }

    /// How things are after a round.
    pub(crate) fn set(&self, resources: Vec<ResourceState>, reloads: Vec<ReloadState>) {
        let mut state = locked(&self.state);
        state.resources = resources;
        state.reloads = reloads;
        let failing = state.resources.iter().filter(|resource| resource.failures > 0).count() + state.unusable;
        self.failing.set(i64::try_from(failing).unwrap_or(i64::MAX));
        self.reloads_pending.set(i64::try_from(state.reloads.len()).unwrap_or(i64::MAX));
    }

    /// Whether the program runs; None without one.
    pub(crate) fn set_program(&self, program_runs: Option<bool>) {
        locked(&self.state).program_runs = program_runs;
    }

    pub(crate) fn set_started(&self) {
        locked(&self.state).is_started = true;
    }

    /// Files of resources that cannot be used, and how to ask the store.
    pub(crate) fn set_loaded(&self, unusable: usize, prober: Option<Prober>) {
        locked(&self.state).unusable = unusable;
        *locked(&self.prober) = prober;
    }

    /// What keeps this confd from being ready, one line each; empty if nothing does. A store that is away is none of it:
    /// the files are as its last keys want them, and who reads them should go on.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        let state = locked(&self.state);
        let mut reasons = Vec::new();
        if !state.is_started {
            reasons.push("the first round is not over".to_owned());
        }
        if state.unusable > 0 {
            reasons.push(format!("{} template resources cannot be used", state.unusable));
        }
        for resource in state.resources.iter().filter(|resource| resource.failures > 0) {
            let ResourceState { resource, failures } = resource;
            let (path, dest) = (resource.path.display(), resource.dest.display());
            reasons.push(format!("{path}: {dest} is not up to date, {failures} failures"));
        }
        for reload in state.reloads.iter().filter(|reload| reload.failures > 0) {
            let dests: Vec<String> = reload.dests.iter().map(|dest| dest.display().to_string()).collect();
            reasons.push(format!("the reload for {} failed {} times", dests.join(", "), reload.failures));
        }
        if state.program_runs == Some(false) {
            reasons.push("the program does not run".to_owned());
        }
        reasons
    }

    /// All of it.
    pub(crate) async fn details(&self) -> Value {
        let backend = self.backend_is_healthy().await;
        let reasons = self.not_ready();
        let state = locked(&self.state);
        let resources = state.resources.iter().map(|ResourceState { resource, failures }| {
            json!({"resource": resource.path, "dest": resource.dest, "failures": failures})
        });
        let reloads = state.reloads.iter().map(|reload| json!({"dests": reload.dests, "failures": reload.failures}));
        json!({
            "ready": reasons.is_empty(),
            "reasons": reasons,
            "backend_healthy": backend,
            "unusable": state.unusable,
            "resources": resources.collect::<Vec<_>>(),
            "reloads": reloads.collect::<Vec<_>>(),
            "program_runs": state.program_runs,
        })
    }

    /// Metrics in Prometheus' format.
    pub(crate) async fn metrics(&self) -> Vec<u8> {
        self.backend_healthy.set(i64::from(self.backend_is_healthy().await));
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!("metrics: {error}");
        }
        text
    }

    /// Asks the store, at most once a second.
    async fn backend_is_healthy(&self) -> bool {
        let mut probed = self.probed.lock().await;
        if let Some((at, is_healthy)) = *probed
            && at.elapsed() < PROBE_LIFE
        {
            return is_healthy;
        }
        let prober = locked(&self.prober).clone();
        let is_healthy = match prober {
            Some(prober) => prober.probe().await,
            None => true,
        };
        *probed = Some((Instant::now(), is_healthy));
        is_healthy
    }
}

fn registered<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: M,
) -> Result<M, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readiness_is_that_of_the_files_and_not_of_the_store() {
        let status = Status::new().unwrap();
        assert_eq!(status.not_ready(), ["the first round is not over"]);
        status.set_started();
        let named = Arc::new(Resource { path: "/c/a.toml".into(), dest: "/d/a".into(), ..Resource::for_tests(&[]) });
        let resource = |failures| ResourceState { resource: named.clone(), failures };
        let reload = |failures| ReloadState { dests: vec!["/d/a".into(), "/d/b".into()], failures };
        // One that is about to run for the first time is no failure.
        status.set(vec![resource(0)], vec![reload(0)]);
        assert_eq!(status.not_ready(), Vec::<String>::new());
        status.set_loaded(1, None);
        status.set(vec![resource(2)], vec![reload(3)]);
        status.set_program(Some(false));
        let expected = [
            "1 template resources cannot be used",
            "/c/a.toml: /d/a is not up to date, 2 failures",
            "the reload for /d/a, /d/b failed 3 times",
            "the program does not run",
        ];
        assert_eq!(status.not_ready(), expected);
        let details = status.details().await;
        assert_eq!((&details["ready"], &details["resources"][0]["failures"]), (&json!(false), &json!(2)));
        let metrics = String::from_utf8(status.metrics().await).unwrap();
        for line in ["confd_templates_failing 2", "confd_reloads_pending 1", "confd_backend_healthy 1"] {
            assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
        }
    }
}
