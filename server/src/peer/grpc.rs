//! The gRPC service between members, behind the [`super::door`]: passes everything on.

use super::link::REMOVED;
use super::service::PeerService;
use super::{Answers, PeerApi, PeerError};
use crate::v3::status::{failed, refused, status};
use api::cleatpb::{
    AppendRequest, AppendResponse, LeaseRenewRequest, LeaseRenewResponse, MembershipChange, MembershipChanged,
    ProposeRequest, ProposeResponse, ReadIndexRequest, ReadIndexResponse, SnapshotPiece, SnapshotReceipt,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use api::etcdserverpb::{HashKvRequest, HashKvResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse};
use api::server::peer_server::Peer;
use futures::stream::{self, BoxStream, StreamExt as _};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::{Code, Request, Response, Status, Streaming};

/// The same trouble is logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct PeerGrpc {
    service: Arc<PeerService>,
    logged: Arc<Mutex<Option<Instant>>>,
}

/// How a stream of requests broke.
type Broken = Arc<Mutex<Option<Status>>>;

impl PeerGrpc {
    pub(crate) fn new(service: Arc<PeerService>) -> Self {
        Self { service, logged: Arc::default() }
    }

    /// The messages of a stream, until it ends or breaks.
    fn messages<T: Send + 'static>(&self, stream: Streaming<T>) -> (BoxStream<'static, T>, Broken) {
        let (broken, logged) = (Broken::default(), Arc::clone(&self.logged));
        let told = Arc::clone(&broken);
        let messages = stream.scan((), move |(), message: Result<T, Status>| {
            let message = match message {
                Ok(message) => Some(message),
                Err(status) => {
                    tell(&status, &logged);
                    *told.lock() = Some(status);
                    None
                }
            };
            std::future::ready(message)
        });
        (messages.boxed(), broken)
    }
}

/// Logs what somebody must mend: a message above the limit is sent again and again.
fn tell(status: &Status, logged: &Mutex<Option<Instant>>) {
    let mut logged = logged.lock();
    if status.code() == Code::OutOfRange && logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
        *logged = Some(Instant::now());
        tracing::error!(
            error = status.message(),
            "refusing a message of another member: --max-request-bytes must be as large here as it ever was anywhere in the cluster"
        );
    }
}

fn peer_status(error: PeerError) -> Status {
    match error {
        PeerError::Refused(error) => status(error),
        PeerError::Removed => refused(Code::PermissionDenied, REMOVED),
        other => failed(other.to_string()),
    }
}

type Stream<T> = BoxStream<'static, Result<T, Status>>;

/// Answers, and at their end why there are no more requests to answer.
fn stream<T: Send + 'static>(answers: Answers<T>, broken: Broken) -> Response<Stream<T>> {
    let reason = Arc::clone(&broken);
    // What the service says of requests that end too early is less.
    let answers =
        answers.map(move |answer| answer.map_err(|error| reason.lock().take().unwrap_or_else(|| peer_status(error))));
    let end = stream::once(async move { broken.lock().take() });
    Response::new(answers.chain(end.filter_map(|status| std::future::ready(status.map(Err)))).boxed())
}

macro_rules! unary {
    ($self:ident, $request:ident, $method:ident) => {{ $self.service.$method($request.into_inner()).await.map(Response::new).map_err(peer_status) }};
}

#[tonic::async_trait]
impl Peer for PeerGrpc {
    type AppendStream = Stream<AppendResponse>;

    async fn append(&self, request: Request<Streaming<AppendRequest>>) -> Result<Response<Self::AppendStream>, Status> {
        let (messages, broken) = self.messages(request.into_inner());
        self.service.append(messages).await.map(|answers| stream(answers, broken)).map_err(peer_status)
    }

    async fn vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
        unary!(self, request, vote)
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        unary!(self, request, transfer_leader)
    }

    type InstallSnapshotStream = Stream<SnapshotReceipt>;

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotPiece>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        let (pieces, broken) = self.messages(request.into_inner());
        self.service.install_snapshot(pieces).await.map(|answers| stream(answers, broken)).map_err(peer_status)
    }

    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeResponse>, Status> {
        unary!(self, request, propose)
    }

    async fn read_index(&self, request: Request<ReadIndexRequest>) -> Result<Response<ReadIndexResponse>, Status> {
        unary!(self, request, read_index)
    }

    async fn lease_renew(&self, request: Request<LeaseRenewRequest>) -> Result<Response<LeaseRenewResponse>, Status> {
        unary!(self, request, lease_renew)
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        unary!(self, request, lease_time_to_live)
    }

    async fn change_membership(
        &self,
        request: Request<MembershipChange>,
    ) -> Result<Response<MembershipChanged>, Status> {
        unary!(self, request, change_membership)
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        unary!(self, request, hash_kv)
    }
}
