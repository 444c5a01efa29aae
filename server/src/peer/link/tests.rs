//! A connection lives as long as both members do, whatever clients make of the calls on it.

use super::{Caller, Links, OTHER_CLUSTER, REMOVED, peer_error};
use crate::peer::traffic::PeersTraffic;
use crate::peer::{PeerError, Transport};
use crate::tls::PeerConnector;
use api::cleatpb::ProposeRequest;
use api::error::Error;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use bytes::Bytes;
use futures::future::join_all;
use futures::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tonic::{Code, Status};

/// More than the calls that HTTP/2 remembers as broken off.
const TOGETHER: usize = 150;
/// All in all more than the 1,024 answers to forgotten calls that HTTP/2 allows a connection otherwise.
const BURSTS: usize = 15;

const DEADLINE: Duration = Duration::from_secs(10);

/// A member that answers every call with an empty message, a moment after the last of a burst has arrived.
#[derive(Default)]
struct Peer {
    connections: AtomicUsize,
    calls: AtomicUsize,
    arrived: Notify,
}

impl Peer {
    /// Serves in a thread of its own, so that it answers while the test does not listen. Returns the peer URL.
    fn serve(self: &Arc<Self>) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let peer = Arc::clone(self);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    peer.connections.fetch_add(1, Ordering::SeqCst);
                    let answering = Arc::clone(&peer);
                    let app = Router::new().fallback(move || async move { answering.answer().await });
                    let service = hyper_util::service::TowerToHyperService::new(app);
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let http2 = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
                    tokio::spawn(http2.serve_connection(io, service));
                }
            });
        });
        url
    }

    async fn answer(&self) -> Response<Body> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if call < TOGETHER * BURSTS && !call.is_multiple_of(TOGETHER) {
            self.arrived.notified().await;
        }
        self.arrived.notify_waiters();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let frames = [Frame::data(Bytes::from_static(&[0; 5])), Frame::trailers(trailers)];
        let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
        Response::builder().header(header::CONTENT_TYPE, "application/grpc").body(Body::new(body)).unwrap()
    }
}

#[tokio::test]
async fn answers_to_calls_that_were_broken_off_do_not_end_the_connection() {
    let peer = Arc::new(Peer::default());
    let url = peer.serve();
    let caller = Caller { cluster_id: 1, member_id: 2 };
    let links = Links::new(caller, Duration::from_secs(10), 1 << 20, PeerConnector::plain(), PeersTraffic::detached(2));
    links.set_members(&BTreeMap::from([(3, vec![url])]));
    let link = links.peer(3).unwrap();
    for burst in 1..=BURSTS {
        let asked = join_all((0..TOGETHER).map(|_| link.propose(ProposeRequest::default())));
        let arrived = async {
            while peer.calls.load(Ordering::SeqCst) < burst * TOGETHER {
                tokio::task::yield_now().await;
            }
        };
        let mut asked = pin!(asked);
        // Calls that were lost with a connection never arrive.
        let asking = async {
            tokio::select! {
                biased;
                () = arrived => {}
                _ = &mut asked => {}
            }
        };
        tokio::time::timeout(DEADLINE, asking).await.expect("all calls of a burst arrive");
        // The answers arrive, and nobody reads them before the calls are given up.
        std::thread::sleep(Duration::from_millis(20));
    }
    link.propose(ProposeRequest::default()).await.unwrap();
    assert_eq!(peer.connections.load(Ordering::SeqCst), 1);
}

/// What is not known to have been refused may have been done, and is never sent again.
#[test]
fn only_what_the_peer_said_is_a_refusal() {
    let lost = |text: &str| PeerError::Lost(text.to_owned());
    for code in [
        Code::Unknown,
        Code::Cancelled,
        Code::Unavailable,
        Code::Internal,
        Code::DeadlineExceeded,
        Code::ResourceExhausted,
        Code::PermissionDenied,
        Code::Aborted,
        Code::DataLoss,
    ] {
        assert_eq!(peer_error(&Status::new(code, "x")), lost("x"), "{code:?}");
    }
    for code in (0..=16).map(Code::from_i32) {
        let mut broken = Status::new(code, "h2 protocol error");
        broken.set_source(Arc::new(std::io::Error::other("the connection was given up")));
        assert_eq!(peer_error(&broken), lost("h2 protocol error"), "{code:?}");
    }
    let busy = Error::TooManyRequests;
    assert_eq!(peer_error(&Status::new(Code::ResourceExhausted, busy.text())), PeerError::Refused(busy));
    assert_eq!(peer_error(&Status::new(Code::PermissionDenied, REMOVED)), PeerError::Removed);
    let other = PeerError::OtherCluster(OTHER_CLUSTER.to_owned());
    assert_eq!(peer_error(&Status::new(Code::FailedPrecondition, OTHER_CLUSTER)), other);
    assert_eq!(peer_error(&Status::new(Code::Unimplemented, "x")), PeerError::Invalid("x".to_owned()));
}
