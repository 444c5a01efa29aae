//! Calls that end before their service does: deadlines and the loss of the leader.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;

/// A service that never answers, behind a gate that can be closed.
struct Gated {
    listeners: Listeners,
    metrics: Arc<Metrics>,
    address: SocketAddr,
    has_leader: Arc<AtomicBool>,
    gate: Arc<LeaderGate>,
    /// Keeps the statuses coming.
    _serving: watch::Sender<bool>,
}

/// Checks never end; watches tell their first status and then nothing.
#[derive(Clone)]
struct Silent(GrpcHealth);

#[tonic::async_trait]
impl Health for Silent {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match request.get_ref().service.as_str() {
            "" => std::future::pending().await,
            _ => Ok(Response::new(HealthCheckResponse { status: 1 })),
        }
    }

    type WatchStream = <GrpcHealth as Health>::WatchStream;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.0.watch(request).await
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Ok(Response::new(HealthListResponse::default()))
    }
}

impl Gated {
    async fn start() -> Self {
        let config = config("http://127.0.0.1:0");
        let metrics = Metrics::new(false).unwrap();
        let listeners = Listeners::new(&ListenSettings::new(&config), Some(Traffic::of_clients(&metrics)));
        let bound = Bound::new(&config.listen_client_urls[0], false, None).await.unwrap();
        let address = bound.addresses()[0];
        let has_leader = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&has_leader);
        let gate = LeaderGate::new(move || asked.load(Ordering::Relaxed));
        let (serving, receiver) = watch::channel(true);
        let health = HealthServer::new(Silent(GrpcHealth::new(receiver)));
        let routes = GrpcRoutes::new(Arc::clone(&metrics), 1000, Duration::MAX, Arc::clone(&gate)).with(health);
        listeners.serve(bound, &Front::grpc_only(Arc::new(routes)));
        Self { listeners, metrics, address, has_leader, gate, _serving: serving }
    }

    fn handled(&self, method: &str, code: &str) -> String {
        let text = String::from_utf8(self.metrics.render()).unwrap();
        let start = format!(
            "grpc_server_handled_total{{grpc_code=\"{code}\",grpc_method=\"{method}\",grpc_service=\"grpc.health.v1.Health\""
        );
        let line = text.lines().find(|line| line.starts_with(&start)).expect("every series exists");
        line.rsplit(' ').next().unwrap().to_owned()
    }
}

fn asking<T>(message: T, value: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", MetadataValue::from_static(value));
    request
}

fn answerable() -> HealthCheckRequest {
    HealthCheckRequest { service: "x".to_owned() }
}

/// Sends a request with `grpc-timeout` over h2, whose client has no timer of its own, and returns the final status.
async fn status_after(address: SocketAddr, method: &str, timeout: &str, body: &'static [u8]) -> (i32, String) {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(())
        .unwrap();
    let (response, mut sent) = client.ready().await.unwrap().send_request(request, false).unwrap();
    sent.send_data(bytes::Bytes::from_static(body), true).unwrap();
    let answer = async {
        let (head, mut body) = response.await.unwrap().into_parts();
        if let Some(status) = Status::from_header_map(&head.headers) {
            return status;
        }
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data.unwrap().len()).unwrap();
        }
        Status::from_header_map(&body.trailers().await.unwrap().unwrap()).unwrap()
    };
    let status = tokio::time::timeout(DEADLINE, answer).await.expect("the server answers");
    driver.abort();
    (status.code() as i32, status.message().to_owned())
}

#[tokio::test]
async fn without_a_leader_only_calls_that_require_one_are_refused() {
    let server = Gated::start().await;
    let mut client = HealthClient::new(channel(server.address).await);
    assert!(client.check(asking(answerable(), "true")).await.is_ok());
    server.has_leader.store(false, Ordering::Relaxed);
    let refused = client.check(asking(answerable(), "true")).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "etcdserver: no leader"));
    let refused = client.watch(asking(answerable(), "true")).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "etcdserver: no leader"));
    assert!(client.check(asking(answerable(), "false")).await.is_ok());
    assert!(client.check(answerable()).await.is_ok());
    assert_eq!(server.handled("Check", "Unavailable"), "1");
    server.listeners.shutdown(DEADLINE).await;
}

#[tokio::test]
async fn streams_that_require_a_leader_end_when_it_is_lost() {
    let server = Gated::start().await;
    let mut client = HealthClient::new(channel(server.address).await);
    let mut requiring = client.watch(asking(HealthCheckRequest::default(), "true")).await.unwrap().into_inner();
    let mut other = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    for stream in [&mut requiring, &mut other] {
        assert_eq!(stream.message().await.unwrap().unwrap().status, 1);
    }
    let stop = CancellationToken::new();
    let watching = tokio::spawn(Arc::clone(&server.gate).watch(Duration::from_millis(1), stop.clone()));
    server.has_leader.store(false, Ordering::Relaxed);
    let end = tokio::time::timeout(DEADLINE, requiring.message()).await.expect("the stream ends").unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::Unavailable, "etcdserver: no leader"));
    assert_eq!(server.handled("Watch", "Unavailable"), "1");
    // A stream under a new leader is not ended by the loss of the last one.
    server.has_leader.store(true, Ordering::Relaxed);
    let mut later = client.watch(asking(HealthCheckRequest::default(), "true")).await.unwrap().into_inner();
    assert_eq!(later.message().await.unwrap().unwrap().status, 1);
    for stream in [&mut later, &mut other] {
        assert!(stream.message().now_or_never().is_none());
    }
    stop.cancel();
    watching.await.unwrap();
    drop((later, other));
    server.listeners.shutdown(DEADLINE).await;
}

#[tokio::test]
async fn a_deadline_ends_calls_and_streams() {
    let server = Gated::start().await;
    let expired = (Code::DeadlineExceeded as i32, "context deadline exceeded".to_owned());
    for timeout in ["20m", "1u", "0n"] {
        assert_eq!(status_after(server.address, "Check", timeout, &[0; 5]).await, expired, "{timeout}");
    }
    assert_eq!(status_after(server.address, "Watch", "20m", &[0; 5]).await, expired);
    // An answer that is there at once is given, and a generous deadline changes nothing.
    let answerable = b"\0\0\0\0\x03\x0a\x01x";
    assert_eq!(status_after(server.address, "Check", "99999999H", answerable).await, (0, String::new()));
    let (code, text) = status_after(server.address, "Check", "soon", answerable).await;
    assert_eq!((code, text.as_str()), (Code::Internal as i32, "malformed grpc-timeout: \"soon\""));
    assert_eq!(server.handled("Check", "DeadlineExceeded"), "3");
    assert_eq!(server.handled("Watch", "DeadlineExceeded"), "1");
    server.listeners.shutdown(DEADLINE).await;
}
