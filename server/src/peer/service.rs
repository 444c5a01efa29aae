//! Answers what other members ask.

use super::traffic::PeersTraffic;
use super::{Answers, PeerApi, PeerError};
use crate::cluster::Cluster;
use crate::corruption;
use crate::node::Node;
use crate::raft::types::Payload;
use crate::raft::{snapshot, wire};
use crate::v3::lease::LeaseService;
use api::cleatpb::read_index_response::Result as ReadIndexResult;
use api::cleatpb::{
    AppendRequest, AppendResponse, LeaseRenewRequest, LeaseRenewResponse, LogId, MembershipChange, MembershipChanged,
    ProposeRequest, ProposeResponse, ReadIndexRequest, ReadIndexResponse, SnapshotPiece, SnapshotReceipt,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use api::error::Error;
use api::etcdserverpb::{HashKvRequest, HashKvResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse};
use futures::stream::{BoxStream, StreamExt as _};
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Requests of other members that are worked on at a time, beside raft's own. Each may be a batch of a thousand
/// commands.
const FORWARDED_IN_FLIGHT: usize = 256;

/// Renewals of leases that are worked on at a time, beside those. A member asks a few at a time of many leases each, and
/// by itself for a lease that is being revoked.
const RENEWALS_IN_FLIGHT: usize = 1024;

/// Leases in one request for their renewal.
const LEASES_IN_REQUEST: usize = 10_000;

/// Hashes that are made at a time. Each reads all data; who is refused asks again later.
const HASHES_IN_FLIGHT: usize = 1;

/// See the module.
pub(crate) struct PeerService {
    node: Node,
    leases: LeaseService,
    cluster: Arc<Cluster>,
    snapshots: snapshot::Receiver,
    traffic: Arc<PeersTraffic>,
    in_flight: Semaphore,
    renewals: Semaphore,
    lease_reads: Semaphore,
    hashes: Semaphore,
}

impl PeerService {
    pub(crate) fn new(
        node: Node,
        leases: LeaseService,
        cluster: Arc<Cluster>,
        snapshots: snapshot::Receiver,
        traffic: Arc<PeersTraffic>,
    ) -> Self {
        let (in_flight, renewals) = (Semaphore::new(FORWARDED_IN_FLIGHT), Semaphore::new(RENEWALS_IN_FLIGHT));
        let (lease_reads, hashes) = (Semaphore::new(FORWARDED_IN_FLIGHT), Semaphore::new(HASHES_IN_FLIGHT));
        Self { node, leases, cluster, snapshots, traffic, in_flight, renewals, lease_reads, hashes }
    }

    fn admit(&self) -> Result<SemaphorePermit<'_>, PeerError> {
        one_of(&self.in_flight)
    }
}

fn one_of(places: &Semaphore) -> Result<SemaphorePermit<'_>, PeerError> {
    places.try_acquire().map_err(|_| PeerError::Refused(Error::TooManyRequests))
}

fn malformed(error: &wire::WireError) -> PeerError {
    PeerError::Invalid(error.to_string())
}

fn stopped<T>(_: T) -> PeerError {
    PeerError::Refused(Error::Stopped)
}

#[tonic::async_trait]
impl PeerApi for PeerService {
    async fn append(&self, requests: BoxStream<'static, AppendRequest>) -> Result<Answers<AppendResponse>, PeerError> {
        let (node, traffic) = (self.node.clone(), Arc::clone(&self.traffic));
        let requests = requests
            .map(move |request| {
                if !request.lacks_majority {
                    node.hear_leader();
                }
                traffic.received_append();
                wire::from_append(request)
            })
            // A sender of what can not be read is not asked for more.
            .scan((), |(), request| {
                let request = request.inspect_err(|error| tracing::error!(%error, "refusing entries of a peer"));
                std::future::ready(request.ok())
            });
        let results = self.node.raft().stream_append(requests);
        let answers = results.map(|result| result.map(|result| wire::to_appended(&result)).map_err(stopped));
        Ok(answers.boxed())
    }

    async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, PeerError> {
        let vote = wire::from_vote(&request).map_err(|error| malformed(&error))?;
        let raft = self.node.raft();
        let answer = if request.is_trial { raft.pre_vote(vote).await } else { raft.vote(vote).await };
        answer.map(|answer| wire::to_voted(&answer)).map_err(stopped)
    }

    async fn transfer_leader(&self, request: TransferLeaderRequest) -> Result<TransferLeaderResponse, PeerError> {
        let request = wire::from_transfer(&request).map_err(|error| malformed(&error))?;
        let answer = self.node.raft().handle_transfer_leader(request).await.map_err(stopped)?;
        Ok(wire::to_transferred(answer))
    }

    async fn install_snapshot(
        &self,
        pieces: BoxStream<'static, SnapshotPiece>,
    ) -> Result<Answers<SnapshotReceipt>, PeerError> {
        self.snapshots.receive(self.node.clone(), pieces)
    }

    async fn propose(&self, request: ProposeRequest) -> Result<ProposeResponse, PeerError> {
        let _permit = self.admit()?;
        let payload = Payload::decode(&request.batch).map_err(|error| PeerError::Invalid(error.to_string()))?;
        Ok(self.node.propose_for(payload).await)
    }

    async fn read_index(&self, request: ReadIndexRequest) -> Result<ReadIndexResponse, PeerError> {
        let leader = self.node.leader();
        let result = if leader == self.node.identity().member_id {
            let follows = request.ballot.and_then(|ballot| wire::from_ballot(Some(ballot)).ok());
            let confirmed = self.node.confirmed_for(request.member_id, follows).await;
            let index = confirmed.map_err(PeerError::Refused)?.index;
            ReadIndexResult::Index(LogId { term: self.node.term(), index })
        } else {
            ReadIndexResult::Leader(leader)
        };
        Ok(ReadIndexResponse { result: Some(result) })
    }

    async fn lease_renew(&self, request: LeaseRenewRequest) -> Result<LeaseRenewResponse, PeerError> {
        let _place = one_of(&self.renewals)?;
        if request.ids.len() > LEASES_IN_REQUEST {
            return Err(PeerError::Refused(Error::TooManyRequests));
        }
        let ttls = self.leases.renew_here(&request.ids, request.waits).await.map_err(PeerError::Refused)?;
        Ok(LeaseRenewResponse { ttls })
    }

    async fn lease_time_to_live(&self, request: LeaseTimeToLiveRequest) -> Result<LeaseTimeToLiveResponse, PeerError> {
        // Not of those for proposals: each waits for a confirmation of leadership.
        let _place = one_of(&self.lease_reads)?;
        self.leases.time_to_live_here(request).await.map_err(PeerError::Refused)
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<MembershipChanged, PeerError> {
        let _permit = self.admit()?;
        self.cluster.change_here(change).await.map_err(PeerError::Refused)
    }

    async fn hash_kv(&self, request: HashKvRequest) -> Result<HashKvResponse, PeerError> {
        let _turn = one_of(&self.hashes)?;
        let hashed = corruption::hash(&self.node, request.revision).await.map_err(PeerError::Refused)?;
        Ok(HashKvResponse {
            header: Some(self.node.header(hashed.current)),
            hash: hashed.hash,
            compact_revision: hashed.compacted,
            hash_revision: hashed.revision,
        })
    }
}
