//! Real connections to a listener with the health service and the plain endpoints.

mod interrupt;
mod refused;

use super::*;
use crate::config::{Command, Config, load};
use crate::health::{GrpcHealth, HealthChecks};
use crate::http::{HttpState, nothing_else, router};
use crate::metrics::Metrics;
use api::health::health_client::HealthClient;
use api::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use api::server::health_server::{Health, HealthServer};
use futures::FutureExt as _;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

const DEADLINE: Duration = Duration::from_secs(10);

fn config(urls: &str) -> Config {
    let args = ["--listen-client-urls", urls, "--advertise-client-urls=http://localhost:1"];
    match load(args.map(str::to_owned), []) {
        Ok(Command::Run(config)) => *config,
        other => panic!("{other:?}"),
    }
}

struct Server {
    listeners: Listeners,
    metrics: Arc<Metrics>,
    address: SocketAddr,
    serving: watch::Sender<bool>,
}

fn checks() -> HealthChecks {
    HealthChecks {
        has_leader: Box::new(|| true),
        is_learner: Box::new(|| false),
        alarms: Box::new(Vec::new),
        serializable_read: Box::new(|| async { Ok(()) }.boxed()),
        linearizable_read: Box::new(|| async { Ok(()) }.boxed()),
        found_its_place: Box::new(|| Ok(())),
        serves: Box::new(|| true),
    }
}

fn front(metrics: &Arc<Metrics>, serving: watch::Receiver<bool>) -> Front {
    let health = HealthServer::new(GrpcHealth::new(serving));
    let routes = GrpcRoutes::new(Arc::clone(metrics), 1000, Duration::MAX, LeaderGate::new(|| true)).with(health);
    let state = HttpState { metrics: Arc::clone(metrics), checks: Arc::new(checks()) };
    let serve: ServeHttp = Arc::new(|request, remote| {
        let body = format!("{} by {}", request.uri(), remote.is_some_and(|remote| remote.ip().is_loopback()));
        std::future::ready(axum::response::Response::new(body.into())).boxed()
    });
    let shortcut = Shortcut { prefix: "/short/", serve };
    Front::both(Arc::new(routes), router(state).merge(nothing_else())).with_shortcut(Some(shortcut))
}

async fn start(max_connections: usize) -> Server {
    let config = config("http://127.0.0.1:0");
    let metrics = Metrics::new(false).unwrap();
    let mut settings = ListenSettings::new(&config);
    settings.max_connections = max_connections;
    let listeners = Listeners::new(&settings, Some(Traffic::of_clients(&metrics)));
    let bound = Bound::new(&config.listen_client_urls[0], false, None).await.unwrap();
    let address = bound.addresses()[0];
    let (serving, receiver) = watch::channel(true);
    listeners.serve(bound, &front(&metrics, receiver));
    Server { listeners, metrics, address, serving }
}

async fn channel(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("the server closes").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(address: SocketAddr, path: &str) -> String {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await
}

async fn call(channel: Channel, path: &'static str, service: String) -> Result<HealthCheckResponse, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::default();
    let request = Request::new(HealthCheckRequest { service });
    grpc.unary(request, http::uri::PathAndQuery::from_static(path), codec).await.map(Response::into_inner)
}

#[tokio::test]
async fn grpc_and_http_share_a_port_and_are_counted() {
    let server = start(100).await;
    let mut client = HealthClient::new(channel(server.address).await);
    let answer = client.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status, 1);
    let unknown = client.check(HealthCheckRequest { service: "x".to_owned() }).await.unwrap_err();
    assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "unknown service"));

    let version = get(server.address, "/version").await;
    assert!(version.starts_with("HTTP/1.1 200 OK\r\n"), "{version}");
    assert!(version.ends_with(r#"{"etcdserver":"3.5.21","etcdcluster":"3.5.0","cleat":"0.1.0"}"#), "{version}");

    let metrics = get(server.address, "/metrics").await;
    let labels = r#"grpc_method="Check",grpc_service="grpc.health.v1.Health",grpc_type="unary""#;
    for expected in [
        format!("grpc_server_started_total{{{labels}}} 2\n"),
        format!("grpc_server_handled_total{{grpc_code=\"OK\",{labels}}} 1\n"),
        format!("grpc_server_handled_total{{grpc_code=\"NotFound\",{labels}}} 1\n"),
        format!("grpc_server_msg_received_total{{{labels}}} 2\n"),
        format!("grpc_server_msg_sent_total{{{labels}}} 1\n"),
        "etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"unary\"} 2\n".to_owned(),
    ] {
        assert!(metrics.contains(&expected), "{expected}");
    }
    assert!(server.metrics.network.client_received_bytes.get() > 100);
    assert!(server.metrics.network.client_sent_bytes.get() > 100);
    server.listeners.shutdown(DEADLINE).await;
}

#[tokio::test]
async fn a_shortcut_has_its_paths_and_answers_head_as_a_router_does() {
    let server = start(100).await;
    let body = "/short/%2Fa?b by true";
    let length = format!("\r\ncontent-length: {}\r\n", body.len());
    let answer = get(server.address, "/short/%2Fa?b").await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains(&length) && answer.ends_with(body),
        "{answer}"
    );
    let head = exchange(server.address, b"HEAD /short/%2Fa?b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(head.contains(&length) && head.ends_with("\r\n\r\n"), "{head}");
    for elsewhere in ["/short", "/shorter/a", "//short/a"] {
        assert!(get(server.address, elsewhere).await.starts_with("HTTP/1.1 404 "), "{elsewhere}");
    }
    server.listeners.shutdown(DEADLINE).await;
}

#[tokio::test]
async fn unknown_methods_are_refused_in_the_words_of_grpc_go() {
    let server = start(100).await;
    let channel = channel(server.address).await;
    for (path, text) in [
        ("/x.Y/Z", "unknown service x.Y"),
        ("/etcdserverpb.KV/Put", "unknown service etcdserverpb.KV"),
        ("/grpc.health.v1.Health/Nope", "unknown method Nope for service grpc.health.v1.Health"),
        ("/nope", "malformed method name: \"/nope\""),
    ] {
        let status = call(channel.clone(), path, String::new()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unimplemented, text));
    }
}

#[tokio::test]
async fn large_messages_are_refused_before_they_are_read() {
    let server = start(100).await;
    let channel = channel(server.address).await;
    // Two bytes of field tag and length precede the text.
    let status = call(channel.clone(), "/grpc.health.v1.Health/Check", "x".repeat(2000)).await.unwrap_err();
    let text = "grpc: received message larger than max (2003 vs. 1000)";
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, text));
    assert!(call(channel, "/grpc.health.v1.Health/Check", String::new()).await.is_ok());
}

#[tokio::test]
async fn garbage_closes_only_its_connection() {
    let server = start(100).await;
    let channel = channel(server.address).await;
    for garbage in [
        "\x16\x03\x01\x02\x00\x01\x00",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense, and enough of it",
        "GET \x00\r\n\r\n",
    ] {
        exchange(server.address, garbage.as_bytes()).await;
    }
    let large = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let answer = exchange(server.address, large.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(call(channel, "/grpc.health.v1.Health/Check", String::new()).await.is_ok());
    assert!(get(server.address, "/nope").await.ends_with("404 page not found\n"));
}

#[tokio::test]
async fn connections_above_the_limit_are_closed() {
    let server = start(1).await;
    let channel = channel(server.address).await;
    assert!(call(channel.clone(), "/grpc.health.v1.Health/Check", String::new()).await.is_ok());
    let mut refused = TcpStream::connect(server.address).await.unwrap();
    let mut answer = Vec::new();
    // A reset is a refusal as well.
    let read = tokio::time::timeout(DEADLINE, refused.read_to_end(&mut answer)).await.expect("the server closes");
    assert!(answer.is_empty(), "{read:?}");
    assert!(call(channel, "/grpc.health.v1.Health/Check", String::new()).await.is_ok());
}

#[tokio::test]
async fn shutdown_waits_for_streams_and_then_drops_them() {
    let server = start(100).await;
    let mut client = HealthClient::new(channel(server.address).await);
    let mut ending = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(ending.message().await.unwrap().unwrap().status, 1);
    server.serving.send(false).unwrap();
    assert_eq!(ending.message().await.unwrap().unwrap().status, 2);

    // The stream does not end by itself, so a short grace drops it.
    let started = std::time::Instant::now();
    server.listeners.shutdown(Duration::from_millis(50)).await;
    assert!(started.elapsed() < DEADLINE);
    assert!(tokio::time::timeout(DEADLINE, ending.message()).await.expect("the stream ends").is_err());
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn shutdown_is_quick_when_streams_end() {
    let server = start(100).await;
    let mut client = HealthClient::new(channel(server.address).await);
    let mut stream = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap();
    drop(server.serving);
    let grace = Duration::from_mins(1);
    tokio::time::timeout(DEADLINE, server.listeners.shutdown(grace)).await.expect("nothing holds the shutdown");
    assert!(stream.message().await.unwrap().is_none());
}

/// Answers when told to.
struct Slow {
    arrived: Arc<Notify>,
    release: Arc<Notify>,
}

#[tonic::async_trait]
impl Health for Slow {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.arrived.notify_one();
        self.release.notified().await;
        Ok(Response::new(HealthCheckResponse { status: 1 }))
    }

    type WatchStream = futures::stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(futures::stream::empty()))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Ok(Response::new(HealthListResponse::default()))
    }
}

#[tokio::test]
async fn shutdown_lets_a_running_call_answer_and_refuses_new_ones() {
    let (arrived, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = Slow { arrived: Arc::clone(&arrived), release: Arc::clone(&release) };
    let config = config("http://127.0.0.1:0");
    let metrics = Metrics::new(false).unwrap();
    let listeners = Listeners::new(&ListenSettings::new(&config), Some(Traffic::of_clients(&metrics)));
    let bound = Bound::new(&config.listen_client_urls[0], false, None).await.unwrap();
    let address = bound.addresses()[0];
    let routes = GrpcRoutes::new(Arc::clone(&metrics), 1000, Duration::MAX, LeaderGate::new(|| true));
    let routes = routes.with(HealthServer::new(slow));
    listeners.serve(bound, &Front::grpc_only(Arc::new(routes)));

    let mut client = HealthClient::new(channel(address).await);
    let running = tokio::spawn(async move { client.check(HealthCheckRequest::default()).await });
    arrived.notified().await;
    let mut shutdown = std::pin::pin!(listeners.shutdown(DEADLINE));
    // One poll starts the shutdown; the call keeps it from ending.
    assert!(shutdown.as_mut().now_or_never().is_none());
    release.notify_one();
    assert_eq!(running.await.unwrap().unwrap().into_inner().status, 1);
    tokio::time::timeout(DEADLINE, shutdown).await.expect("nothing holds the shutdown any more");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_unix_socket_is_taken_over_from_a_dead_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cleat.sock");
    // Leaves the file behind, as a killed process does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let url = format!("unix://{}", path.display());
    let config = config(&url);
    let bound = Bound::new(&config.listen_client_urls[0], false, None).await.unwrap();
    let second = Bound::new(&config.listen_client_urls[0], false, None).await.unwrap_err().to_string();
    assert!(second.starts_with(&format!("cannot listen on {url}: ")), "{second}");

    let metrics = Metrics::new(false).unwrap();
    let listeners = Listeners::new(&ListenSettings::new(&config), Some(Traffic::of_clients(&metrics)));
    let (_serving, receiver) = watch::channel(true);
    listeners.serve(bound, &front(&metrics, receiver));
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with(r#"{"health":"true","reason":""}"#), "{answer}");
    listeners.shutdown(DEADLINE).await;
    assert!(!path.exists());
}

#[tokio::test]
async fn an_https_url_is_never_served_without_tls() {
    let args = ["--listen-client-urls=https://127.0.0.1:0", "--advertise-client-urls=https://a:1", "--auto-tls"];
    let Ok(Command::Run(config)) = load(args.map(str::to_owned), []) else { panic!("{args:?}") };
    let refused = Bound::new(&config.listen_client_urls[0], false, None).await.unwrap_err().to_string();
    assert_eq!(refused, "cannot listen on https://127.0.0.1:0: there is no certificate for it");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let server = start(1).await;
    let url = format!("http://{}", server.address);
    let error = Bound::new(&config(&url).listen_client_urls[0], false, None).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {url}: Address already in use")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_client_may_read_slowly_and_not_stop() {
    use super::socket::{Connection, Socket};
    const LIMIT: Duration = Duration::from_secs(30);
    // More than the kernel keeps for a client: it says that there is room only once most of that is gone.
    const PIECE_BYTES: usize = 512 << 10;
    let (socket, mut client) = tokio::net::UnixStream::pair().unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (connection, is_http2) = Connection::open(Socket::Unix(socket)).await.unwrap();
    assert!(!is_http2);
    let mut connection = connection.progressing(LIMIT);
    let written = vec![7; PIECE_BYTES];
    let reading = tokio::spawn(async move {
        let mut piece = vec![0; PIECE_BYTES];
        for _ in 0..20 {
            tokio::time::sleep(LIMIT.mul_f64(0.9)).await;
            client.read_exact(&mut piece).await.unwrap();
        }
        client
    });
    for _ in 0..20 {
        connection.write_all(&written).await.unwrap();
    }
    let _client = reading.await.unwrap();
    let begun = tokio::time::Instant::now();
    let error = loop {
        if let Err(error) = connection.write_all(&written).await {
            break error;
        }
    };
    assert_eq!((error.kind(), begun.elapsed()), (std::io::ErrorKind::TimedOut, LIMIT));
}

/// The header blocks of a client that indexes what it sends, as grpc-go does.
struct Encoder {
    authority: String,
    /// Newest first.
    table: VecDeque<(&'static str, String)>,
    evicted: usize,
}

impl Encoder {
    fn block(&mut self, call: usize) -> Vec<u8> {
        // POST and http from the static table.
        let mut block = vec![0x83, 0x86];
        // The name's index in the static table, or 0.
        let fields = [
            (5, ":path", "/grpc.health.v1.Health/Check".to_owned()),
            (1, ":authority", self.authority.clone()),
            (31, "content-type", "application/grpc".to_owned()),
            (0, "te", "trailers".to_owned()),
            (0, "grpc-timeout", format!("{}u", 9_000_000 + call)),
        ];
        for (index, name, value) in fields {
            if let Some(at) = self.table.iter().position(|entry| *entry == (name, value.clone())) {
                match 62 + at as u8 {
                    index @ ..0x7f => block.push(0x80 | index),
                    index => block.extend([0xff, index - 0x7f]),
                }
                continue;
            }
            block.push(0x40 | index);
            if index == 0 {
                block.push(name.len() as u8);
                block.extend(name.bytes());
            }
            block.push(value.len() as u8);
            block.extend(value.bytes());
            self.table.push_front((name, value));
            let size = |table: &VecDeque<(&str, String)>| -> usize {
                table.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
            };
            while size(&self.table) > 4096 {
                self.evicted += usize::from(self.table.pop_back().is_some_and(|(name, _)| name == ":authority"));
            }
        }
        block
    }
}

/// The type and the stream of the next frame.
async fn next_frame(stream: &mut TcpStream) -> (u8, u32) {
    let mut head = [0; 9];
    let read = async {
        stream.read_exact(&mut head).await.unwrap();
        let [high, middle, low, kind, _, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        (kind, u32::from_be_bytes(id))
    };
    tokio::time::timeout(DEADLINE, read).await.expect("the server answers")
}

#[tokio::test]
async fn a_url_as_authority_is_served_for_hundreds_of_calls() {
    let server = start(4).await;
    let authority = format!("http://{}", server.address);
    let mut encoder = Encoder { authority, table: VecDeque::new(), evicted: 0 };
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    for call in 0..400 {
        let id = (2 * call as u32 + 1).to_be_bytes();
        let block = encoder.block(call);
        let mut request = vec![0, 0, block.len() as u8, 1, 4];
        request.extend([&id[..], &block, &[0, 0, 5, 0, 1], &id, &[0; 5]].concat());
        stream.write_all(&request).await.unwrap();
        // Data is an answer; the other way would be a reset of the stream.
        loop {
            match next_frame(&mut stream).await {
                (0, answered) => break assert_eq!(answered.to_be_bytes(), id),
                (kind, _) => assert!(![3, 7].contains(&kind), "call {call}: frame of type {kind}"),
            }
        }
    }
    assert!(encoder.evicted > 1, "the client had to send its authority again");
}

#[tokio::test]
async fn the_address_of_a_caller_that_has_left_is_known() {
    let config = config("http://127.0.0.1:0");
    let bound = Bound::new(&config.listen_client_urls[0], false, None).await.unwrap();
    let caller = TcpStream::connect(bound.addresses()[0]).await.unwrap();
    let address = caller.local_addr().unwrap();
    // A reset: from then on the system does not say any more who it was.
    caller.set_zero_linger().unwrap();
    drop(caller);
    let accepted = bound.listeners[0].accept().await.unwrap();
    assert_eq!(accepted.addresses().1, Some(address));
}
