//! Traces of calls, sent to an OpenTelemetry collector over OTLP (gRPC), as etcd's `--enable-distributed-tracing` does.
//!
//! `listen` asks at the start of a call whether it is sampled ([`Tracer::sample`]): if its caller says so (`traceparent`),
//! or by chance for calls that are not part of a trace. At the end it gives a span of the call, with one span inside for
//! each of its steps. They wait in a bounded queue for the one task that sends them ([`send`]). What finds no room, or
//! is not taken by the collector, is dropped and counted; a collector that is away costs nothing else.

use crate::config::TraceConfig;
use crate::steps::Done;
use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{
    SamplingDecision, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceState,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, Sampler, ShouldSample as _, SpanData, SpanEvents, SpanExporter as _, SpanLinks,
};
use prometheus::IntCounter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Endpoint;

/// Calls whose spans wait for the collector. A call has up to a dozen spans of a few hundred bytes.
const CALLS_WAITING: usize = 1024;

/// Calls sent in one request: below the 4 MiB that gRPC takes by default.
const BATCH_CALLS: usize = 128;

/// How long the first of a batch waits for others.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// The collector's time for one request.
const EXPORT_DEADLINE: Duration = Duration::from_secs(5);

/// What waits at the end of the process may take this long.
const LAST_EXPORT_DEADLINE: Duration = Duration::from_secs(2);

/// Parts per million, in which the sampling rate is given.
const MILLION: f64 = 1_000_000.0;

/// Decides which calls are traced, and takes their spans.
#[derive(Debug)]
pub(crate) struct Tracer {
    sampler: Sampler,
    ids: RandomIdGenerator,
    propagator: TraceContextPropagator,
    scope: InstrumentationScope,
    calls: mpsc::Sender<Vec<SpanData>>,
    dropped: IntCounter,
}

/// A call that is traced.
#[derive(Debug)]
pub(crate) struct Sampled {
    context: SpanContext,
    parent: SpanId,
    started: SystemTime,
}

/// What a span says of its call.
pub(crate) struct Traced<'a> {
    /// `/package.Service/Method`.
    pub(crate) path: &'static str,
    pub(crate) code: Code,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) started: Instant,
    pub(crate) steps: &'a [Done],
    pub(crate) attributes: Vec<KeyValue>,
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

impl Tracer {
    /// Makes the tracer and what [`send`] needs. The collector need not be there.
    ///
    /// # Errors
    /// The address cannot be one.
    pub(crate) fn new(config: &TraceConfig, dropped: IntCounter) -> Result<(Arc<Self>, Sending), String> {
        let refused = |reason: String| format!("--distributed-tracing-address {:?}: {reason}", config.address);
        let endpoint = Endpoint::from_shared(format!("http://{}", config.address));
        let endpoint = endpoint.map_err(|error| refused(error.to_string()))?;
        let channel = endpoint.connect_timeout(EXPORT_DEADLINE).timeout(EXPORT_DEADLINE).connect_lazy();
        let exporter = SpanExporter::builder().with_tonic().with_channel(channel).build();
        let mut exporter = exporter.map_err(|error| refused(error.to_string()))?;
        let mut resource = Resource::builder().with_service_name(config.service_name.clone());
        if !config.instance_id.is_empty() {
            resource = resource.with_attribute(KeyValue::new("service.instance.id", config.instance_id.clone()));
        }
        exporter.set_resource(&resource.build());
        let by_chance = Sampler::TraceIdRatioBased(f64::from(config.sampling_rate) / MILLION);
        let (calls, waiting) = mpsc::channel(CALLS_WAITING);
        let tracer = Self {
            sampler: Sampler::ParentBased(Box::new(by_chance)),
            ids: RandomIdGenerator::default(),
            propagator: TraceContextPropagator::new(),
            scope: InstrumentationScope::builder("cleat").with_version(crate::version::CLEAT_VERSION).build(),
            calls,
            dropped: dropped.clone(),
        };
        Ok((
            Arc::new(tracer),
            Sending { exporter, waiting, dropped, address: config.address.clone(), is_failing: false },
        ))
    }

    /// Decides at the start of a call whether it is traced.
    pub(crate) fn sample(&self, path: &'static str, headers: &HeaderMap) -> Option<Sampled> {
        let caller = self.propagator.extract_with_context(&Context::new(), &Headers(headers));
        let parent = caller.span().span_context().clone();
        let trace_id = if parent.is_valid() { parent.trace_id() } else { self.ids.new_trace_id() };
        let decided = self.sampler.should_sample(Some(&caller), trace_id, &path[1..], &SpanKind::Server, &[], &[]);
        if decided.decision != SamplingDecision::RecordAndSample {
            return None;
        }
        let span_id = self.ids.new_span_id();
        let context = SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, false, decided.trace_state);
        let parent = if parent.is_valid() { parent.span_id() } else { SpanId::INVALID };
        Some(Sampled { context, parent, started: SystemTime::now() })
    }

    /// Takes a call that has ended now.
    pub(crate) fn end(&self, sampled: Sampled, call: Traced<'_>) {
        let Sampled { context, parent, started } = sampled;
        let wall = |at: Instant| started + at.saturating_duration_since(call.started);
        let span = |context: SpanContext, parent, name: &'static str, from, to| SpanData {
            span_context: context,
            parent_span_id: parent,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: from,
            end_time: to,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        };
        let (trace_id, span_id) = (context.trace_id(), context.span_id());
        let steps = call.steps.iter().map(|done| {
            let inner = self.ids.new_span_id();
            let inner = SpanContext::new(trace_id, inner, TraceFlags::SAMPLED, false, TraceState::NONE);
            span(inner, span_id, done.step.name(), wall(done.from), wall(done.to))
        });
        let mut spans: Vec<SpanData> = steps.collect();
        let name = &call.path[1..];
        let (service, method) = name.split_once('/').unwrap_or((name, ""));
        let mut attributes = call.attributes;
        attributes.extend([
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", service),
            KeyValue::new("rpc.method", method),
            KeyValue::new("rpc.grpc.status_code", i64::from(call.code as i32)),
        ]);
        if let Some(remote) = call.remote {
            attributes.push(KeyValue::new("client.address", remote.ip().to_string()));
            attributes.push(KeyValue::new("client.port", i64::from(remote.port())));
        }
        spans.push(SpanData {
            parent_span_is_remote: parent != SpanId::INVALID,
            span_kind: SpanKind::Server,
            attributes,
            status: span_status(call.code),
            ..span(context, parent, name, started, wall(Instant::now()))
        });
        let count = spans.len() as u64;
        if self.calls.try_send(spans).is_err() {
            self.dropped.inc_by(count);
        }
    }
}

/// What is an error of the server, by the conventions: not what the caller did wrong.
fn span_status(code: Code) -> Status {
    match code {
        Code::Unknown
        | Code::DeadlineExceeded
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Status::error(format!("{code:?}")),
        _ => Status::Unset,
    }
}

/// The way to the collector.
pub(crate) struct Sending {
    exporter: SpanExporter,
    waiting: mpsc::Receiver<Vec<SpanData>>,
    dropped: IntCounter,
    address: String,
    is_failing: bool,
}

impl Sending {
    /// Sends spans until the member stops, and then what still waits.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            let got = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                got = self.waiting.recv_many(&mut batch, BATCH_CALLS) => got,
            };
            if got == 0 {
                return;
            }
            let gathered = tokio::time::timeout(BATCH_DELAY, self.gather(&mut batch));
            tokio::select! {
                _ = gathered => {}
                () = stop.cancelled() => {}
            }
            self.export(std::mem::take(&mut batch)).await;
        }
        let last = async {
            self.waiting.close();
            while self.waiting.recv_many(&mut batch, BATCH_CALLS).await > 0 {
                self.export(std::mem::take(&mut batch)).await;
            }
        };
        if tokio::time::timeout(LAST_EXPORT_DEADLINE, last).await.is_err() {
            tracing::debug!("the last traces were not sent in time");
        }
    }

    /// Fills a batch.
    async fn gather(&mut self, batch: &mut Vec<Vec<SpanData>>) {
        while batch.len() < BATCH_CALLS {
            let room = BATCH_CALLS - batch.len();
            if self.waiting.recv_many(batch, room).await == 0 {
                return;
            }
        }
    }

    async fn export(&mut self, calls: Vec<Vec<SpanData>>) {
        let spans: Vec<SpanData> = calls.into_iter().flatten().collect();
        let count = spans.len() as u64;
        let exported = tokio::time::timeout(EXPORT_DEADLINE, self.exporter.export(spans)).await;
        let failure = match exported {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        match failure {
            None if self.is_failing => {
                tracing::info!(address = self.address, "the collector takes traces again");
                self.is_failing = false;
            }
            None => {}
            Some(reason) => {
                self.dropped.inc_by(count);
                // Once, until it works again.
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(
                        address = self.address,
                        reason,
                        "the collector does not take traces: they are dropped"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(sampling_rate: u32) -> (Arc<Tracer>, Sending) {
        let config = TraceConfig {
            address: "127.0.0.1:1".to_owned(),
            service_name: "etcd".to_owned(),
            instance_id: String::new(),
            sampling_rate,
        };
        Tracer::new(&config, IntCounter::new("dropped", "dropped").unwrap()).unwrap()
    }

    fn from_caller(flags: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let parent = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        headers.insert("traceparent", parent.parse().unwrap());
        headers
    }

    #[tokio::test]
    async fn the_caller_decides_and_chance_where_there_is_none() {
        let path = "/etcdserverpb.KV/Put";
        for (rate, headers, is_sampled) in [
            (0, from_caller("01"), true),
            (1_000_000, from_caller("00"), false),
            (0, HeaderMap::new(), false),
            (1_000_000, HeaderMap::new(), true),
        ] {
            let sampled = tracer(rate).0.sample(path, &headers);
            assert_eq!(sampled.is_some(), is_sampled, "{rate} {headers:?}");
        }
        let sampled = tracer(0).0.sample(path, &from_caller("01")).unwrap();
        assert_eq!(sampled.context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(sampled.parent.to_string(), "b7ad6b7169203331");
    }

    #[tokio::test]
    async fn what_finds_no_room_is_dropped_and_counted() {
        let (tracer, _sending) = tracer(1_000_000);
        for _ in 0..CALLS_WAITING + 3 {
            let sampled = tracer.sample("/etcdserverpb.KV/Put", &HeaderMap::new()).unwrap();
            let started = Instant::now();
            let call = Traced {
                path: "/etcdserverpb.KV/Put",
                code: Code::Ok,
                remote: None,
                started,
                steps: &[],
                attributes: Vec::new(),
            };
            tracer.end(sampled, call);
        }
        assert_eq!(tracer.dropped.get(), 3);
    }
}
