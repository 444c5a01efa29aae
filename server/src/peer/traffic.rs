//! Counts what members say to each other, under etcd's names.
//!
//! [`PeersTraffic`] knows the counters of every other member; whoever has a call with one takes them once, so that a message
//! costs an addition. Bytes are those of gRPC's messages, requests and answers, without what HTTP/2 and TLS put around
//! them; etcd counts the bytes of raft's messages. Who is not known as a member is not counted.

use crate::metrics::{PeerMetrics, SnapshotMetrics};
use crate::tls::PeerStream;
use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use parking_lot::{Mutex, RwLock};
use prometheus::{Histogram, IntCounter, IntGauge};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::{Channel, Error};
use tower::Service;

/// See the module.
pub(crate) struct PeersTraffic {
    metrics: PeerMetrics,
    local: String,
    peers: RwLock<BTreeMap<u64, Arc<PeerTraffic>>>,
    appends_sent: AtomicU64,
    appends_received: AtomicU64,
}

/// The counters of one other member.
pub(crate) struct PeerTraffic {
    sent_bytes: IntCounter,
    received_bytes: IntCounter,
    sent_failures: IntCounter,
    received_failures: IntCounter,
    round_trip_seconds: Histogram,
    active: IntGauge,
    disconnected: IntCounter,
    latency: Mutex<Latency>,
}

/// Round trips to a member, as `/v2/stats/leader` shows them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Latency {
    /// The last one.
    pub(crate) current: Duration,
    pub(crate) minimum: Duration,
    pub(crate) maximum: Duration,
    pub(crate) successes: u64,
    /// Messages that could not be sent.
    pub(crate) failures: u64,
    /// Seconds, and their squares.
    sum: f64,
    sum_of_squares: f64,
}

impl Latency {
    fn add(&mut self, took: Duration) {
        self.minimum = if self.successes == 0 { took } else { self.minimum.min(took) };
        self.maximum = self.maximum.max(took);
        self.current = took;
        self.successes += 1;
        let seconds = took.as_secs_f64();
        self.sum += seconds;
        self.sum_of_squares += seconds * seconds;
    }

    pub(crate) fn average(&self) -> Duration {
        Duration::try_from_secs_f64(self.sum / self.successes.max(1) as f64).unwrap_or_default()
    }

    pub(crate) fn standard_deviation(&self) -> Duration {
        let count = self.successes.max(1) as f64;
        let variance = self.sum_of_squares / count - (self.sum / count).powi(2);
        Duration::try_from_secs_f64(variance.max(0.0).sqrt()).unwrap_or_default()
    }
}

impl PeersTraffic {
    pub(crate) fn new(metrics: PeerMetrics, local: u64) -> Self {
        Self {
            metrics,
            local: format!("{local:x}"),
            peers: RwLock::default(),
            appends_sent: AtomicU64::default(),
            appends_received: AtomicU64::default(),
        }
    }

    /// Counts for nobody.
    #[cfg(test)]
    pub(crate) fn detached(local: u64) -> Arc<Self> {
        Arc::new(Self::new(PeerMetrics::detached().expect("every name is there once"), local))
    }

    /// The counters of a member.
    pub(crate) fn of(&self, id: u64) -> Option<Arc<PeerTraffic>> {
        self.peers.read().get(&id).cloned()
    }

    /// The counters of a member that is known from now on.
    pub(crate) fn meet(&self, id: u64) -> Arc<PeerTraffic> {
        let mut peers = self.peers.write();
        Arc::clone(peers.entry(id).or_insert_with(|| Arc::new(self.counters(id))))
    }

    fn counters(&self, id: u64) -> PeerTraffic {
        let remote = format!("{id:x}");
        let (one, both) = ([remote.as_str()], [self.local.as_str(), remote.as_str()]);
        PeerTraffic {
            sent_bytes: self.metrics.sent_bytes.with_label_values(&one),
            received_bytes: self.metrics.received_bytes.with_label_values(&one),
            sent_failures: self.metrics.sent_failures.with_label_values(&one),
            received_failures: self.metrics.received_failures.with_label_values(&one),
            round_trip_seconds: self.metrics.round_trip_seconds.with_label_values(&one),
            active: self.metrics.active.with_label_values(&both),
            disconnected: self.metrics.disconnected.with_label_values(&both),
            latency: Mutex::default(),
        }
    }

    /// An append, or a heartbeat, was sent to a member.
    pub(crate) fn sent_append(&self) {
        self.appends_sent.fetch_add(1, Ordering::Relaxed);
    }

    /// An append, or a heartbeat, came from the leader.
    pub(crate) fn received_append(&self) {
        self.appends_received.fetch_add(1, Ordering::Relaxed);
    }

    /// Appends and heartbeats since the start: sent, and received.
    pub(crate) fn appends(&self) -> (u64, u64) {
        (self.appends_sent.load(Ordering::Relaxed), self.appends_received.load(Ordering::Relaxed))
    }

    /// Forgets the members that are not in the cluster any more.
    pub(crate) fn retain(&self, is_member: impl Fn(u64) -> bool) {
        self.peers.write().retain(|id, _| {
            let stays = is_member(*id);
            if !stays {
                self.metrics.forget(&self.local, &format!("{id:x}"));
            }
            stays
        });
    }

    /// A snapshot that is sent from now on.
    pub(crate) fn sends_snapshot(&self, to: u64) -> SnapshotInFlight {
        SnapshotInFlight::begin(self.metrics.snapshot_send(), to)
    }

    /// A received snapshot is saved: how long that took from its first piece on, and how long until it was durable at the end.
    pub(crate) fn saved_snapshot(&self, total: Duration, durable: Duration) {
        self.metrics.snap_db_save_seconds.observe(total.as_secs_f64());
        self.metrics.snap_db_fsync_seconds.observe(durable.as_secs_f64());
    }

    /// A snapshot that is received from now on.
    pub(crate) fn receives_snapshot(&self, from: u64) -> SnapshotInFlight {
        SnapshotInFlight::begin(self.metrics.snapshot_receive(), from)
    }
}

impl PeerTraffic {
    /// Something was answered in this time.
    pub(crate) fn answered(&self, asked: Instant) {
        let took = asked.elapsed();
        self.round_trip_seconds.observe(took.as_secs_f64());
        self.latency.lock().add(took);
    }

    /// The round trips so far.
    pub(crate) fn latency(&self) -> Latency {
        Latency { failures: self.sent_failures.get(), ..*self.latency.lock() }
    }
}

/// A snapshot on its way. It failed unless it is [`SnapshotInFlight::done`].
pub(crate) struct SnapshotInFlight {
    metrics: SnapshotMetrics,
    peer: String,
    begun: Instant,
    is_done: bool,
}

impl SnapshotInFlight {
    fn begin(metrics: SnapshotMetrics, peer: u64) -> Self {
        let peer = format!("{peer:x}");
        metrics.inflights.with_label_values(&[&peer]).inc();
        Self { metrics, peer, begun: Instant::now(), is_done: false }
    }

    /// It arrived as a whole.
    pub(crate) fn done(mut self) {
        self.is_done = true;
        self.metrics.seconds.with_label_values(&[&self.peer]).observe(self.begun.elapsed().as_secs_f64());
    }
}

impl Drop for SnapshotInFlight {
    fn drop(&mut self) {
        self.metrics.inflights.with_label_values(&[&self.peer]).dec();
        let ended = if self.is_done { &self.metrics.success } else { &self.metrics.failures };
        ended.with_label_values(&[&self.peer]).inc();
    }
}

/// A body that a member sends or receives.
pub(crate) struct Counted<B> {
    body: B,
    /// Whose, and where it is going; none is not counted.
    peer: Option<(Arc<PeerTraffic>, Direction)>,
}

#[derive(Clone, Copy)]
enum Direction {
    Sent,
    Received,
}

impl<B> Counted<B> {
    pub(crate) fn sent(body: B, peer: Option<Arc<PeerTraffic>>) -> Self {
        Self { body, peer: peer.map(|peer| (peer, Direction::Sent)) }
    }

    pub(crate) fn received(body: B, peer: Option<Arc<PeerTraffic>>) -> Self {
        Self { body, peer: peer.map(|peer| (peer, Direction::Received)) }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match (&self.peer, &frame) {
            (Some((peer, direction)), Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Buf::remaining) as u64;
                match direction {
                    Direction::Sent => peer.sent_bytes.inc_by(bytes),
                    Direction::Received => peer.received_bytes.inc_by(bytes),
                }
            }
            (Some((peer, Direction::Received)), Some(Err(_))) => peer.received_failures.inc(),
            _ => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The connection to a member, counted.
#[derive(Clone)]
pub(crate) struct CountedChannel {
    channel: Channel,
    peer: Arc<PeerTraffic>,
}

impl CountedChannel {
    pub(crate) fn new(channel: Channel, peer: Arc<PeerTraffic>) -> Self {
        Self { channel, peer }
    }
}

impl Service<Request<tonic::body::Body>> for CountedChannel {
    type Response = Response<Counted<tonic::body::Body>>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Response, Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let peer = Arc::clone(&self.peer);
        let sent = Some(Arc::clone(&peer));
        let answered = self.channel.call(request.map(|body| tonic::body::Body::new(Counted::sent(body, sent))));
        Box::pin(async move {
            match answered.await {
                Ok(response) => Ok(response.map(|body| Counted::received(body, Some(peer)))),
                Err(error) => {
                    peer.sent_failures.inc();
                    Err(error)
                }
            }
        })
    }
}

/// A connection to a member, counted as long as it is there.
pub(crate) struct CountedStream {
    stream: PeerStream,
    peer: Arc<PeerTraffic>,
}

impl CountedStream {
    pub(crate) fn new(stream: PeerStream, peer: Arc<PeerTraffic>) -> Self {
        peer.active.inc();
        Self { stream, peer }
    }
}

impl Drop for CountedStream {
    fn drop(&mut self) {
        self.peer.active.dec();
        self.peer.disconnected.inc();
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
