//! What members say to each other.
//!
//! [`PeerApi`] is the whole conversation, as the messages of `peer.proto`. A member answers it with
//! [`service::PeerService`], reaches others through a [`Transport`], and nothing above knows how the messages travel:
//! over one gRPC connection to each peer ([`link::Links`], and at its other end [`door`] and [`grpc`]), or through a simulated network.
//!
//! ```text
//!   raft/network   node/propose   cluster         raft   node   cluster
//!           \          |          /                  \     |    /
//!            Transport::peer(id)                     PeerService
//!                      |                                  |
//!                 link::Links ───── one connection ───── grpc
//! ```
//!
//! A member that is not part of the conversation yet asks with plain HTTP ([`describe`], and [`join`]).
//!
//! Not here: who the members are (raft's membership; [`Transport::set_members`] is told), and what the requests do.

pub(crate) mod address;
pub(crate) mod describe;
pub(crate) mod door;
pub(crate) mod grpc;
pub(crate) mod join;
pub(crate) mod limit;
pub(crate) mod link;
pub(crate) mod service;
pub(crate) mod traffic;

use api::cleatpb::{
    AppendRequest, AppendResponse, LeaseRenewRequest, LeaseRenewResponse, MembershipChange, MembershipChanged,
    ProposeRequest, ProposeResponse, ReadIndexRequest, ReadIndexResponse, SnapshotPiece, SnapshotReceipt,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use api::error::Error;
use api::etcdserverpb::{HashKvRequest, HashKvResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse};
use futures::stream::BoxStream;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a peer did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerError {
    /// The request did not leave this member.
    #[error("cannot reach the member: {0}")]
    NotSent(String),
    /// Whether the member got the request, and what it did then, is not known.
    #[error("lost the member: {0}")]
    Lost(String),
    /// The member answered with one of etcd's errors and did nothing.
    #[error("{0}")]
    Refused(Error),
    /// The member belongs to another cluster.
    #[error(
        "the member belongs to another cluster ({0}): check --initial-cluster, --initial-cluster-token and the \
         addresses of both"
    )]
    OtherCluster(String),
    /// The member knows that this one was removed from the cluster.
    #[error("this member has been removed from the cluster")]
    Removed,
    /// The answer can not be read, or the member refused for a reason that is no error of etcd's.
    #[error("{0}")]
    Invalid(String),
}

/// A stream of messages that may break.
pub(crate) type Answers<T> = BoxStream<'static, Result<T, PeerError>>;

/// What one member can ask another. Bounding the wait is the caller's business.
#[tonic::async_trait]
pub(crate) trait PeerApi: Send + Sync + 'static {
    /// Appends entries. Answers come in the order of the requests, one for each, until one is not a success.
    async fn append(&self, requests: BoxStream<'static, AppendRequest>) -> Result<Answers<AppendResponse>, PeerError>;

    /// Votes, or says whether it would.
    async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, PeerError>;

    /// Hands leadership over to this member.
    async fn transfer_leader(&self, request: TransferLeaderRequest) -> Result<TransferLeaderResponse, PeerError>;

    /// Takes the leader's whole store.
    async fn install_snapshot(
        &self,
        pieces: BoxStream<'static, SnapshotPiece>,
    ) -> Result<Answers<SnapshotReceipt>, PeerError>;

    /// Proposes for another member, if this one leads.
    async fn propose(&self, request: ProposeRequest) -> Result<ProposeResponse, PeerError>;

    /// Says up to where a linearizable read must have applied the log, if this member leads.
    async fn read_index(&self, request: ReadIndexRequest) -> Result<ReadIndexResponse, PeerError>;

    /// Renews leases, if this member leads.
    async fn lease_renew(&self, request: LeaseRenewRequest) -> Result<LeaseRenewResponse, PeerError>;

    /// Says how long a lease lives, if this member leads.
    async fn lease_time_to_live(&self, request: LeaseTimeToLiveRequest) -> Result<LeaseTimeToLiveResponse, PeerError>;

    /// Changes the membership, if this member leads.
    async fn change_membership(&self, change: MembershipChange) -> Result<MembershipChanged, PeerError>;

    /// Hashes this member's data up to a revision.
    async fn hash_kv(&self, request: HashKvRequest) -> Result<HashKvResponse, PeerError>;
}

/// How a member reaches the others.
pub(crate) trait Transport: Send + Sync + 'static {
    /// The member with this id; none when it is not known.
    fn peer(&self, id: u64) -> Option<Arc<dyn PeerApi>>;

    /// Takes over the members and their peer URLs. Members that are gone are disconnected; one whose URLs changed is
    /// connected to anew.
    fn set_members(&self, members: &BTreeMap<u64, Vec<String>>);
}
