//! Reaching other members: one HTTP/2 connection to each, made when it is first needed and again whenever it broke.
//!
//! All calls to a member share its connection. Its peer URLs are tried in turn, the one that worked last first, and a
//! connection on which nothing arrives is given up after about an election timeout, so that a member behind a broken
//! network is found again as soon as it is back.

use super::address::PeerUrl;
use super::traffic::{CountedChannel, CountedStream, PeerTraffic, PeersTraffic};
use super::{Answers, PeerApi, PeerError, Transport};
use crate::tls::{PeerConnector, PeerStream};
use api::cleatpb::peer_client::PeerClient;
use api::cleatpb::{
    AppendRequest, AppendResponse, LeaseRenewRequest, LeaseRenewResponse, MembershipChange, MembershipChanged,
    ProposeRequest, ProposeResponse, ReadIndexRequest, ReadIndexResponse, SnapshotPiece, SnapshotReceipt,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use api::error::Error;
use api::etcdserverpb::{HashKvRequest, HashKvResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse};
use futures::future::join_all;
use futures::stream::{BoxStream, Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};
use tower::{Service as _, ServiceExt as _};

/// Metadata of every call: which cluster, from whom, to whom. Ids are hexadecimal.
pub(crate) const CLUSTER: &str = "cleat-cluster-id";
pub(crate) const FROM: &str = "cleat-from";
pub(crate) const TO: &str = "cleat-to";

/// What a peer answers to a member that was removed.
pub(crate) const REMOVED: &str = "the member has been permanently removed from the cluster";

/// What it answers to a member of another cluster.
pub(crate) const OTHER_CLUSTER: &str = "cluster ID mismatch";

/// What a member answers that does not know yet whether it may take part.
pub(crate) const NOT_YET: &str = "the member takes no part yet: it asks whether it ran before";

/// Bytes on their way in one stream: several appends of full size.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The keys of a lease in an answer: as many as clients attached to it.
const LEASE_KEYS_BYTES_MAX: usize = 1 << 30;

/// The same member is complained about once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// And after this time if the reason is another one.
const OTHER_REASON_INTERVAL: Duration = Duration::from_secs(1);
/// Between measurements of how long a peer takes to answer, and the most that one may take. etcd's figure.
const PROBE_INTERVAL: Duration = Duration::from_secs(4);

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Marks an error of connecting, so that a request that never left is told from one that was lost.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotConnected(String);

/// Who is calling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
}

/// The connections to all other members.
pub(crate) struct Links {
    caller: Caller,
    /// Silence on a connection before it is checked, and again before it is given up.
    patience: Duration,
    /// Largest answer.
    message_bytes: usize,
    connector: PeerConnector,
    traffic: Arc<PeersTraffic>,
    peers: RwLock<BTreeMap<u64, Arc<Link>>>,
}

/// The connection to one member.
pub(crate) struct Link {
    urls: Vec<String>,
    client: PeerClient<CountedChannel>,
    /// What the client talks over, for what is no message.
    channel: Channel,
    traffic: Arc<PeerTraffic>,
    cluster: MetadataValue<Ascii>,
    from: MetadataValue<Ascii>,
    to: MetadataValue<Ascii>,
    /// When a refusal was logged.
    told: Mutex<Option<Instant>>,
}

impl Links {
    pub(crate) fn new(
        caller: Caller,
        election_timeout: Duration,
        message_bytes: usize,
        connector: PeerConnector,
        traffic: Arc<PeersTraffic>,
    ) -> Self {
        Self { caller, patience: election_timeout / 2, message_bytes, connector, traffic, peers: RwLock::default() }
    }

    /// Measures how long the peers take to answer, until `stop`. Whoever is asked is connected to, so that the metrics say
    /// which members can be reached before anybody needs them.
    pub(crate) async fn probe(self: Arc<Self>, stop: CancellationToken) {
        let mut stopped = pin!(stop.cancelled());
        loop {
            let links: Vec<_> = self.peers.read().values().cloned().collect();
            let probes = join_all(links.iter().map(|link| tokio::time::timeout(PROBE_INTERVAL, link.probe())));
            tokio::select! {
                biased;
                () = &mut stopped => return,
                _ = probes => {}
            }
            tokio::select! {
                biased;
                () = &mut stopped => return,
                () = tokio::time::sleep(PROBE_INTERVAL) => {}
            }
        }
    }

    fn link(&self, to: u64, urls: Vec<String>) -> Link {
        let targets: Arc<[PeerUrl]> = urls.iter().filter_map(|url| PeerUrl::parse(url)).collect();
        let (next, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
        // The URI names nothing: the connector knows where to go.
        let endpoint = Endpoint::from_static("http://peer")
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(self.patience)
            .keep_alive_timeout(self.patience)
            .keep_alive_while_idle(true)
            // Counts frames of calls that were broken off here, for as long as the connection lives: clients decide how
            // many they cancel, and other members are no attackers.
            .http2_max_local_error_reset_streams(None);
        let (connector, traffic) = (self.connector.clone(), self.traffic.meet(to));
        let connections = Arc::clone(&traffic);
        let connector = tower::service_fn(move |_: Uri| {
            let (targets, next, connector) = (Arc::clone(&targets), Arc::clone(&next), connector.clone());
            let (lost, traffic) = (Arc::clone(&lost), Arc::clone(&connections));
            async move {
                match connect(&connector, &targets, &next).await {
                    Ok((at, stream)) => {
                        let stream = stream.telling(move |begun| {
                            if begun.is_err() {
                                // Another URL may do better.
                                next.store((at + 1) % targets.len(), Ordering::Relaxed);
                            }
                            tell(to, &lost, begun.map_err(|error| format!("{}: {error}", targets[at])));
                        });
                        Ok(TokioIo::new(CountedStream::new(stream, traffic)))
                    }
                    Err(reason) => {
                        tell(to, &lost, Err(reason.clone()));
                        Err(io::Error::other(NotConnected(reason)))
                    }
                }
            }
        });
        let channel = endpoint.connect_with_connector_lazy(connector);
        let client = PeerClient::new(CountedChannel::new(channel.clone(), Arc::clone(&traffic)));
        Link {
            urls,
            client: client.max_decoding_message_size(self.message_bytes),
            channel,
            traffic,
            cluster: hex(self.caller.cluster_id),
            from: hex(self.caller.member_id),
            to: hex(to),
            told: Mutex::default(),
        }
    }
}

impl Transport for Links {
    fn peer(&self, id: u64) -> Option<Arc<dyn PeerApi>> {
        let link = Arc::clone(self.peers.read().get(&id)?);
        Some(link)
    }

    fn set_members(&self, members: &BTreeMap<u64, Vec<String>>) {
        let mut peers = self.peers.write();
        peers.retain(|id, link| members.get(id) == Some(&link.urls));
        self.traffic.retain(|id| members.contains_key(&id));
        for (id, urls) in members {
            if *id != self.caller.member_id && !peers.contains_key(id) {
                peers.insert(*id, Arc::new(self.link(*id, urls.clone())));
            }
        }
    }
}

fn hex(id: u64) -> MetadataValue<Ascii> {
    // Invariant: hexadecimal digits are ASCII.
    format!("{id:x}").parse().expect("invariant: digits are ASCII")
}

impl Link {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert(CLUSTER, self.cluster.clone());
        metadata.insert(FROM, self.from.clone());
        metadata.insert(TO, self.to.clone());
        request
    }

    /// What a failed call means. A refusal that somebody must mend is logged, once in a while.
    fn failure(&self, status: &Status) -> PeerError {
        let error = peer_error(status);
        if matches!(error, PeerError::OtherCluster(_) | PeerError::Removed) {
            let mut told = self.told.lock();
            if told.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                *told = Some(Instant::now());
                tracing::error!(peer_urls = ?self.urls, %error, "another member refuses to talk to this one");
            }
        }
        error
    }

    fn client(&self) -> PeerClient<CountedChannel> {
        self.client.clone()
    }

    /// Measures one answer, of the plain endpoint that costs the peer least. Who does not answer is no news here.
    async fn probe(&self) {
        let mut channel = self.channel.clone();
        let Ok(request) = http::Request::get("http://peer/version").body(tonic::body::Body::empty()) else { return };
        if channel.ready().await.is_err() {
            return;
        }
        let asked = Instant::now();
        let Ok(response) = channel.call(request).await else { return };
        // The answer is over when its body is.
        if response.into_body().collect().await.is_ok() {
            self.traffic.answered(asked);
        }
    }
}

/// The last complaint about a member that cannot be reached.
#[derive(Debug)]
struct Complaint {
    at: Instant,
    reason: String,
}

/// Logs that a member cannot be reached, and that it can again. The same trouble is told once in a while, another one
/// soon: who mends something wants to see what is left.
fn tell(member_id: u64, last: &Mutex<Option<Complaint>>, reached: Result<(), String>) {
    let mut last = last.lock();
    let remote = format_args!("{member_id:x}");
    match reached {
        Ok(()) => {
            if last.take().is_some() {
                tracing::info!(remote_member_id = remote, "reached a member again");
            }
        }
        Err(reason) => {
            let is_due = last.as_ref().is_none_or(|last| {
                let pause = if last.reason == reason { LOG_INTERVAL } else { OTHER_REASON_INTERVAL };
                last.at.elapsed() >= pause
            });
            if is_due {
                tracing::warn!(remote_member_id = remote, error = reason, "cannot reach a member, trying again");
                *last = Some(Complaint { at: Instant::now(), reason });
            }
        }
    }
}

/// Connects to the URL that worked last, or else to the others in turn. Says which it was, or why there is none.
async fn connect(
    connector: &PeerConnector,
    targets: &[PeerUrl],
    next: &AtomicUsize,
) -> Result<(usize, PeerStream), String> {
    let first = next.load(Ordering::Relaxed);
    let mut reason = "it has no peer URL that can be used".to_owned();
    for offset in 0..targets.len() {
        let at = (first + offset) % targets.len();
        let url = &targets[at];
        let connecting = connector.connect(&url.host, url.port, url.is_tls);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => {
                next.store(at, Ordering::Relaxed);
                return Ok((at, stream));
            }
            Ok(Err(error)) => reason = format!("{url}: {error}"),
            Err(_) => reason = format!("{url}: no answer within {CONNECT_TIMEOUT:?}"),
        }
    }
    Err(reason)
}

/// What a failed call means.
fn peer_error(status: &Status) -> PeerError {
    let mut source = status.source();
    while let Some(error) = source {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(NotConnected(reason)) = inner.and_then(|inner| inner.downcast_ref()) {
            return PeerError::NotSent(reason.clone());
        }
        source = error.source();
    }
    let text = status.message();
    // With a cause it was made here, when the connection broke or the answer could not be read: gRPC has codes for what
    // HTTP/2 says then that look like a refusal.
    if status.source().is_some() {
        return PeerError::Lost(text.to_owned());
    }
    if let Some(known) = Error::ALL.iter().find(|known| known.text() == text) {
        return PeerError::Refused(*known);
    }
    match status.code() {
        Code::PermissionDenied if text == REMOVED => PeerError::Removed,
        Code::FailedPrecondition if text.starts_with(OTHER_CLUSTER) => PeerError::OtherCluster(text.to_owned()),
        // In gRPC's own words: a message above the limit.
        Code::OutOfRange => PeerError::Refused(Error::RequestTooLarge),
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => PeerError::Invalid(text.to_owned()),
        _ => PeerError::Lost(text.to_owned()),
    }
}

fn answers<T: Send + 'static>(stream: tonic::Streaming<T>) -> Answers<T> {
    stream.map(|item| item.map_err(|status| peer_error(&status))).boxed()
}

/// A stream of requests as a type with a name: the compiler cannot tell that a call with a boxed one may change threads.
struct Messages<T>(BoxStream<'static, T>);

impl<T> Stream for Messages<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_next_unpin(cx)
    }
}

macro_rules! unary {
    ($link:ident, $method:ident, $message:expr) => {
        match $link.client().$method($link.request($message)).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err($link.failure(&status)),
        }
    };
}

#[tonic::async_trait]
impl PeerApi for Link {
    async fn append(&self, requests: BoxStream<'static, AppendRequest>) -> Result<Answers<AppendResponse>, PeerError> {
        unary!(self, append, Messages(requests)).map(answers)
    }

    async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, PeerError> {
        unary!(self, vote, request)
    }

    async fn transfer_leader(&self, request: TransferLeaderRequest) -> Result<TransferLeaderResponse, PeerError> {
        unary!(self, transfer_leader, request)
    }

    async fn install_snapshot(
        &self,
        pieces: BoxStream<'static, SnapshotPiece>,
    ) -> Result<Answers<SnapshotReceipt>, PeerError> {
        unary!(self, install_snapshot, Messages(pieces)).map(answers)
    }

    async fn propose(&self, request: ProposeRequest) -> Result<ProposeResponse, PeerError> {
        unary!(self, propose, request)
    }

    async fn read_index(&self, request: ReadIndexRequest) -> Result<ReadIndexResponse, PeerError> {
        unary!(self, read_index, request)
    }

    async fn lease_renew(&self, request: LeaseRenewRequest) -> Result<LeaseRenewResponse, PeerError> {
        unary!(self, lease_renew, request)
    }

    async fn lease_time_to_live(&self, request: LeaseTimeToLiveRequest) -> Result<LeaseTimeToLiveResponse, PeerError> {
        let mut client = self.client().max_decoding_message_size(LEASE_KEYS_BYTES_MAX);
        let answer = client.lease_time_to_live(self.request(request)).await;
        answer.map(Response::into_inner).map_err(|status| self.failure(&status))
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<MembershipChanged, PeerError> {
        unary!(self, change_membership, change)
    }

    async fn hash_kv(&self, request: HashKvRequest) -> Result<HashKvResponse, PeerError> {
        unary!(self, hash_kv, request)
    }
}

#[cfg(test)]
mod tests;
