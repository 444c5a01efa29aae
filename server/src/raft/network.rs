//! openraft's requests to other members, over whatever [`Transport`] there is.
//!
//! Entries travel on one stream for each follower, several requests ahead of the answers: while a follower syncs one
//! batch, the next is on its way. A heartbeat is a stream of one request, so it never waits behind entries.

use super::state_machine::SnapshotSource;
use super::types::{Peer, TypeConfig, Vote};
use super::wire;
use crate::peer::traffic::PeersTraffic;
use crate::peer::{PeerApi, PeerError, Transport};
use futures::stream::{self, BoxStream, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::alias::SnapshotOf;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

type RpcError = RPCError<TypeConfig>;
type BoxFuture<'a, T> = futures::future::BoxFuture<'a, T>;

/// Between attempts to reach a member that does not answer.
const RECONNECT: Duration = Duration::from_millis(100);

/// Makes the connection to each member.
pub(crate) struct Network {
    transport: Arc<dyn Transport>,
    traffic: Arc<PeersTraffic>,
}

impl Network {
    pub(crate) fn new(transport: Arc<dyn Transport>, traffic: Arc<PeersTraffic>) -> Self {
        Self { transport, traffic }
    }
}

/// One member, as raft talks to it.
pub(crate) struct Target {
    transport: Arc<dyn Transport>,
    traffic: Arc<PeersTraffic>,
    id: u64,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Target;

    async fn new_client(&mut self, target: u64, _peer: &Peer) -> Target {
        Target { transport: Arc::clone(&self.transport), traffic: Arc::clone(&self.traffic), id: target }
    }
}

impl Target {
    fn peer(&self) -> Result<Arc<dyn PeerApi>, RpcError> {
        let unknown = || PeerError::NotSent(format!("the address of member {:x} is not known yet", self.id));
        self.transport.peer(self.id).ok_or_else(|| rpc_error(&unknown()))
    }
}

/// A member that cannot be reached is tried again after a pause, one that was lost in the middle at once.
fn rpc_error(error: &PeerError) -> RpcError {
    match error {
        PeerError::Lost(_) | PeerError::Invalid(_) => RPCError::Network(NetworkError::new(error)),
        PeerError::NotSent(_) | PeerError::Refused(_) | PeerError::OtherCluster(_) | PeerError::Removed => {
            RPCError::Unreachable(Unreachable::new(error))
        }
    }
}

fn malformed(error: &wire::WireError) -> RpcError {
    RPCError::Network(NetworkError::new(error))
}

impl RaftNetworkV2<TypeConfig> for Target {
    type SnapshotData = SnapshotSource;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let message = wire::to_append(&request);
        let mut answers = self.peer()?.append(stream::iter([message]).boxed()).await.map_err(|e| rpc_error(&e))?;
        let lost = || PeerError::Lost("the stream ended without an answer".to_owned());
        let answer = answers.next().await.unwrap_or_else(|| Err(lost())).map_err(|e| rpc_error(&e))?;
        Ok(match wire::from_appended(answer).map_err(|e| malformed(&e))? {
            Ok(_) => AppendEntriesResponse::Success,
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<S>(
        &mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'_, Result<BoxStream<'_, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let requests = input.map(|request| wire::to_append(&request)).boxed();
        Box::pin(async move {
            let answers = match self.peer() {
                Ok(peer) => peer.append(requests).await.map_err(|e| rpc_error(&e)),
                Err(error) => Err(error),
            };
            let answers = match answers {
                Ok(answers) => answers,
                Err(error) => {
                    // openraft waits before a request, but this stream never asked for one, so it would try at once.
                    tokio::time::sleep(RECONNECT).await;
                    return Err(error);
                }
            };
            let results = answers.map(|answer| {
                let answer = answer.map_err(|e| rpc_error(&e))?;
                wire::from_appended(answer).map_err(|e| malformed(&e))
            });
            Ok(results.boxed())
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let answer = self.peer()?.vote(wire::to_vote(&request, false)).await.map_err(|e| rpc_error(&e))?;
        wire::from_voted(&answer).map_err(|e| malformed(&e))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let answer = self.peer()?.vote(wire::to_vote(&request, true)).await.map_err(|e| rpc_error(&e))?;
        wire::from_voted(&answer).map_err(|e| malformed(&e))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotSource>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let peer = self.peer()?;
        let counted = self.traffic.sends_snapshot(self.id);
        let sending = super::snapshot::send(self.id, peer, vote, snapshot.snapshot);
        tokio::select! {
            biased;
            sent = sending => match sent {
                Ok(vote) => {
                    counted.done();
                    Ok(SnapshotResponse::new(vote))
                }
                Err(error) => Err(StreamingError::from(rpc_error(&error))),
            },
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let answer = self.peer()?.transfer_leader(wire::to_transfer(&request)).await.map_err(|e| rpc_error(&e))?;
        wire::from_transferred(&request, answer).map_err(|e| malformed(&e))
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RECONNECT)))
    }
}
