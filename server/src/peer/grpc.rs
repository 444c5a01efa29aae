//! The gRPC service between members: refuses who does not belong to the cluster, and passes everything else on.

use super::link::{CLUSTER, FROM, NOT_YET, OTHER_CLUSTER, REMOVED, TO};
use super::service::PeerService;
use super::{Answers, PeerApi, PeerError};
use crate::node::{Identity, Node};
use crate::v3::status::{failed, refused, status};
use api::cleatpb::{
    AppendRequest, AppendResponse, LeaseRenewRequest, LeaseRenewResponse, MembershipChange, MembershipChanged,
    ProposeRequest, ProposeResponse, ReadIndexRequest, ReadIndexResponse, SnapshotPiece, SnapshotReceipt,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use api::etcdserverpb::{LeaseTimeToLiveRequest, LeaseTimeToLiveResponse};
use api::server::peer_server::Peer;
use futures::stream::{BoxStream, StreamExt as _};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

/// The same refusal is logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct PeerGrpc {
    service: Arc<PeerService>,
    node: Node,
    logged: Mutex<Option<Instant>>,
}

impl PeerGrpc {
    pub(crate) fn new(service: Arc<PeerService>, node: Node) -> Self {
        Self { service, node, logged: Mutex::default() }
    }

    /// Checks whom a call is from and for.
    fn check(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let id = |name: &str| {
            let text = metadata.get(name).and_then(|value| value.to_str().ok());
            let id = text.and_then(|text| u64::from_str_radix(text, 16).ok());
            id.ok_or_else(|| refused(Code::InvalidArgument, format!("no {name} in the call's metadata")))
        };
        let (cluster, from, to) = (id(CLUSTER)?, id(FROM)?, id(TO)?);
        let Identity { cluster_id, member_id } = self.node.identity();
        if cluster != cluster_id {
            self.warn(
                from,
                "a member of another cluster calls: its --initial-cluster or --initial-cluster-token differs",
                cluster,
            );
            return Err(refused(
                Code::FailedPrecondition,
                format!("{OTHER_CLUSTER}: this member is of cluster {cluster_id:x}, the caller of {cluster:x}"),
            ));
        }
        if to != member_id {
            self.warn(from, "a member calls another one at this address", to);
            return Err(refused(
                Code::FailedPrecondition,
                format!("{OTHER_CLUSTER}: this is member {member_id:x}, the caller means {to:x}"),
            ));
        }
        if self.node.is_removed(from) {
            return Err(refused(Code::PermissionDenied, REMOVED));
        }
        if self.node.is_held_back() {
            return Err(refused(Code::FailedPrecondition, NOT_YET));
        }
        Ok(())
    }

    fn warn(&self, from: u64, what: &str, theirs: u64) {
        let mut logged = self.logged.lock();
        if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            *logged = Some(Instant::now());
            tracing::warn!(
                remote_member_id = format_args!("{from:x}"),
                remote_id = format_args!("{theirs:x}"),
                "{what}"
            );
        }
    }
}

fn peer_status(error: PeerError) -> Status {
    match error {
        PeerError::Refused(error) => status(error),
        PeerError::Removed => refused(Code::PermissionDenied, REMOVED),
        other => failed(other.to_string()),
    }
}

/// The messages of a stream, until it ends or breaks.
fn messages<T: Send + 'static>(stream: Streaming<T>) -> BoxStream<'static, T> {
    stream.scan((), |(), message: Result<T, Status>| std::future::ready(message.ok())).boxed()
}

type Stream<T> = BoxStream<'static, Result<T, Status>>;

fn stream<T: Send + 'static>(answers: Answers<T>) -> Response<Stream<T>> {
    Response::new(answers.map(|answer| answer.map_err(peer_status)).boxed())
}

macro_rules! unary {
    ($self:ident, $request:ident, $method:ident) => {{
        $self.check($request.metadata())?;
        $self.service.$method($request.into_inner()).await.map(Response::new).map_err(peer_status)
    }};
}

#[tonic::async_trait]
impl Peer for PeerGrpc {
    type AppendStream = Stream<AppendResponse>;

    async fn append(&self, request: Request<Streaming<AppendRequest>>) -> Result<Response<Self::AppendStream>, Status> {
        self.check(request.metadata())?;
        self.service.append(messages(request.into_inner())).await.map(stream).map_err(peer_status)
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
        self.check(request.metadata())?;
        self.service.install_snapshot(messages(request.into_inner())).await.map(stream).map_err(peer_status)
    }

    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeResponse>, Status> {
        unary!(self, request, propose)
    }

    async fn read_index(&self, request: Request<ReadIndexRequest>) -> Result<Response<ReadIndexResponse>, Status> {
        self.check(request.metadata())?;
        self.service.read_index().await.map(Response::new).map_err(peer_status)
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
}
