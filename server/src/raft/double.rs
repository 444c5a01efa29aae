//! A member for tests of the sending side: it answers nothing, unless it is told how.

use crate::peer::{Answers, PeerApi, PeerError};
use api::cleatpb::{
    AppendRequest, AppendResponse, LeaseRenewRequest, LeaseRenewResponse, MembershipChange, MembershipChanged,
    ProposeRequest, ProposeResponse, ReadIndexRequest, ReadIndexResponse, SnapshotPiece, SnapshotReceipt,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use api::etcdserverpb::{HashKvRequest, HashKvResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse};
use futures::stream::BoxStream;

type OnStream<Q, A> = Box<dyn Fn(BoxStream<'static, Q>) -> Answers<A> + Send + Sync>;

#[derive(Default)]
pub(crate) struct Double {
    pub(crate) on_append: Option<OnStream<AppendRequest, AppendResponse>>,
    pub(crate) on_snapshot: Option<OnStream<SnapshotPiece, SnapshotReceipt>>,
}

fn nothing<T>() -> Result<T, PeerError> {
    Err(PeerError::NotSent("nobody is there".to_owned()))
}

#[tonic::async_trait]
impl PeerApi for Double {
    async fn append(&self, requests: BoxStream<'static, AppendRequest>) -> Result<Answers<AppendResponse>, PeerError> {
        self.on_append.as_ref().map_or_else(nothing, |answer| Ok(answer(requests)))
    }

    async fn vote(&self, _: VoteRequest) -> Result<VoteResponse, PeerError> {
        nothing()
    }

    async fn transfer_leader(&self, _: TransferLeaderRequest) -> Result<TransferLeaderResponse, PeerError> {
        nothing()
    }

    async fn install_snapshot(
        &self,
        pieces: BoxStream<'static, SnapshotPiece>,
    ) -> Result<Answers<SnapshotReceipt>, PeerError> {
        self.on_snapshot.as_ref().map_or_else(nothing, |answer| Ok(answer(pieces)))
    }

    async fn propose(&self, _: ProposeRequest) -> Result<ProposeResponse, PeerError> {
        nothing()
    }

    async fn read_index(&self, _: ReadIndexRequest) -> Result<ReadIndexResponse, PeerError> {
        nothing()
    }

    async fn lease_renew(&self, _: LeaseRenewRequest) -> Result<LeaseRenewResponse, PeerError> {
        nothing()
    }

    async fn lease_time_to_live(&self, _: LeaseTimeToLiveRequest) -> Result<LeaseTimeToLiveResponse, PeerError> {
        nothing()
    }

    async fn change_membership(&self, _: MembershipChange) -> Result<MembershipChanged, PeerError> {
        nothing()
    }

    async fn hash_kv(&self, _: HashKvRequest) -> Result<HashKvResponse, PeerError> {
        nothing()
    }
}
