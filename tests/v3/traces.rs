//! Traces reach a collector: spans of calls and their steps, of those that are sampled, also of the last calls before the
//! end; and a collector that is away does no harm.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{PutRequest, RangeRequest};
use harness::ports::Port;
use harness::{Kind, Options, Server, http};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// What a collector was sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().expect("no test panics with it").push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Serves at an address of its own.
    async fn start() -> Result<(Self, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let collector = Self::default();
        let service = TraceServiceServer::new(collector.clone());
        let serving = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok((collector, address))
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().expect("no test panics with it");
        let scopes = requests.iter().flat_map(|request| &request.resource_spans).flat_map(|spans| &spans.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    fn resource(&self) -> BTreeMap<String, String> {
        let requests = self.0.lock().expect("no test panics with it");
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.filter_map(|spans| spans.resource.clone()).flat_map(|resource| texts(&resource.attributes)).collect()
    }

    /// Waits for the spans of a call.
    async fn wait_for(&self, name: &str) -> Result<Span> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(span) = self.spans().into_iter().find(|span| span.name == name) {
                return Ok(span);
            }
            ensure!(Instant::now() < deadline, "no span {name}: {:?}", self.spans());
            tokio::time::sleep(POLL).await;
        }
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| {
        let value = match attribute.value.clone()?.value? {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        Some((attribute.key.clone(), value))
    };
    attributes.iter().filter_map(text).collect()
}

fn hex(id: &[u8]) -> String {
    id.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

async fn server(prefix: &str, address: &str, flags: &[&str]) -> Result<Server> {
    let own =
        [format!("--{prefix}enable-distributed-tracing"), format!("--{prefix}distributed-tracing-address={address}")];
    let flags = own.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned())).collect();
    Server::start_with(Kind::Cleat, Options { flags, ..Default::default() }).await
}

#[tokio::test]
async fn calls_that_their_caller_samples_reach_the_collector() -> Result<()> {
    let (collector, address) = Collector::start().await?;
    let flags = ["--experimental-distributed-tracing-instance-id=one"];
    let server = server("experimental-", &address, &flags).await?;
    let mut client = server.client().await?;
    let put = PutRequest { key: "traced".into(), value: "hidden-value".into(), ..Default::default() };
    // Nobody samples this one.
    client.kv.range(RangeRequest { key: "a".into(), ..Default::default() }).await?;
    let mut request = Request::new(put);
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{PARENT}-01").parse()?);
    client.kv.put(request).await?;

    let span = collector.wait_for("etcdserverpb.KV/Put").await?;
    ensure!(hex(&span.trace_id) == TRACE && hex(&span.parent_span_id) == PARENT, "{span:?}");
    ensure!(span.kind == 2 && span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
    let attributes = texts(&span.attributes);
    for (name, value) in [
        ("rpc.system", "grpc"),
        ("rpc.service", "etcdserverpb.KV"),
        ("rpc.method", "Put"),
        ("rpc.grpc.status_code", "0"),
        ("client.address", "127.0.0.1"),
        ("range_begin", "traced"),
    ] {
        ensure!(attributes.get(name).map(String::as_str) == Some(value), "{name}: {attributes:?}");
    }
    let spans = collector.spans();
    let inner = spans.iter().filter(|inner| inner.parent_span_id == span.span_id);
    ensure!(inner.clone().all(|inner| hex(&inner.trace_id) == TRACE), "{spans:?}");
    let names: Vec<&str> = inner.map(|inner| inner.name.as_str()).collect();
    ensure!(names == ["decode", "quota", "queue", "replicate", "apply", "serve", "encode"], "{names:?}");
    ensure!(!spans.iter().any(|span| span.name == "etcdserverpb.KV/Range"), "a call that nobody samples: {spans:?}");
    ensure!(!format!("{spans:?}").contains("hidden-value"), "a value is in a span");
    let resource = collector.resource();
    ensure!(resource.get("service.name").map(String::as_str) == Some("etcd"), "{resource:?}");
    ensure!(resource.get("service.instance.id").map(String::as_str) == Some("one"), "{resource:?}");
    Ok(())
}

#[tokio::test]
async fn the_last_calls_before_the_end_are_sent() -> Result<()> {
    let (collector, address) = Collector::start().await?;
    let mut server = server("", &address, &["--distributed-tracing-sampling-rate=1000000"]).await?;
    let request = RangeRequest { key: "a".into(), ..Default::default() };
    server.client().await?.kv.range(request).await?;
    ensure!(server.terminate().await?.code().is_none(), "it ended by the signal");
    let span = collector.wait_for("etcdserverpb.KV/Range").await?;
    ensure!(span.parent_span_id.is_empty(), "it begins a trace: {span:?}");
    Ok(())
}

#[tokio::test]
async fn a_collector_that_is_away_is_said_once_and_counted() -> Result<()> {
    // Nobody listens there, and nobody will.
    let port = Port::reserve()?;
    let address = format!("127.0.0.1:{}", port.number());
    let server = server("", &address, &["--distributed-tracing-sampling-rate=1000000"]).await?;
    let mut client = server.client().await?;
    let deadline = Instant::now() + DEADLINE;
    let metric = "cleat_trace_spans_dropped_total ";
    let mut failures = 0;
    let mut before = 0.0;
    while failures < 3 {
        client.kv.put(PutRequest { key: "a".into(), ..Default::default() }).await?;
        let (_, _, text) = http::get(&server.client_url(), "/metrics").await?;
        let dropped = text.lines().find_map(|line| line.strip_prefix(metric)).context("the metric")?;
        let dropped: f64 = dropped.parse()?;
        failures += usize::from(dropped > before);
        before = dropped;
        ensure!(Instant::now() < deadline, "{failures} failures only");
        tokio::time::sleep(POLL).await;
    }
    let said = server.log().matches("the collector does not take traces").count();
    ensure!(said == 1, "said {said} times:\n{}", server.log());
    Ok(())
}
