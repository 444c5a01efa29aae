//! openraft's requests to other members, over whatever [`Transport`] there is.
//!
//! Entries travel on one stream for each follower, several requests ahead of the answers: while a follower syncs one
//! batch, the next is on its way. Heartbeats, which also confirm reads, have a stream of their own, so they never wait
//! behind entries; it stays open, because a stream costs more than what is said on it.

use super::catch_up::CatchUps;
use super::state_machine::SnapshotSource;
use super::types::{Peer, TypeConfig, Vote};
use super::wire;
use crate::peer::traffic::PeersTraffic;
use crate::peer::{Answers, PeerApi, PeerError, Transport};
use api::cleatpb::{AppendRequest, AppendResponse};
use futures::FutureExt as _;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::alias::SnapshotOf;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

type RpcError = RPCError<TypeConfig>;
type BoxFuture<'a, T> = futures::future::BoxFuture<'a, T>;

/// Between attempts to reach a member that does not answer.
const RECONNECT: Duration = Duration::from_millis(100);

/// A request that is not answered for so long, more than any disk takes that works, is given up with all behind it: raft
/// purges nothing that is on its way, and a member that hangs while its connection lives would keep the whole log.
const UNANSWERED_MAX: Duration = Duration::from_secs(30);

/// Whether a majority answers this member, if it leads. A leader that has lost it does not step down, but tells those that
/// still hear it: clients that require a leader go to the other side. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Majority(Arc<AtomicBool>);

impl Majority {
    pub(crate) fn tell(&self, is_lost: bool) {
        self.0.store(is_lost, Ordering::Relaxed);
    }

    fn is_lost(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Makes the connection to each member.
pub(crate) struct Network {
    transport: Arc<dyn Transport>,
    traffic: Arc<PeersTraffic>,
    catch_ups: CatchUps,
    majority: Majority,
}

impl Network {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        traffic: Arc<PeersTraffic>,
        catch_ups: CatchUps,
        majority: Majority,
    ) -> Self {
        Self { transport, traffic, catch_ups, majority }
    }
}

/// One member, as raft talks to it.
pub(crate) struct Target {
    transport: Arc<dyn Transport>,
    traffic: Arc<PeersTraffic>,
    catch_ups: CatchUps,
    majority: Majority,
    id: u64,
    /// For requests that are asked one at a time; none before the first, while one is asked, and after one that failed.
    conversation: Option<Conversation>,
}

/// A stream of appends on which each is answered before the next is sent.
struct Conversation {
    requests: mpsc::Sender<AppendRequest>,
    /// Never locked: it makes this type one that threads may share, as openraft wants it.
    answers: Mutex<Answers<AppendResponse>>,
}

impl Conversation {
    async fn begin(peer: &Arc<dyn PeerApi>) -> Result<Self, PeerError> {
        let (requests, asked) = mpsc::channel(1);
        let answers = peer.append(ReceiverStream::new(asked).boxed()).await?;
        Ok(Self { requests, answers: Mutex::new(answers) })
    }

    async fn ask(&mut self, request: AppendRequest) -> Result<AppendResponse, PeerError> {
        let ended = || PeerError::Lost("the stream ended without an answer".to_owned());
        self.requests.send(request).await.map_err(|_| ended())?;
        self.answers.get_mut().next().await.unwrap_or_else(|| Err(ended()))
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Target;

    async fn new_client(&mut self, target: u64, _peer: &Peer) -> Target {
        let (transport, traffic) = (Arc::clone(&self.transport), Arc::clone(&self.traffic));
        let (catch_ups, majority) = (self.catch_ups.clone(), self.majority.clone());
        Target { transport, traffic, catch_ups, majority, id: target, conversation: None }
    }
}

impl Target {
    fn peer(&self) -> Result<Arc<dyn PeerApi>, PeerError> {
        let unknown = || PeerError::NotSent(format!("the address of member {:x} is not known yet", self.id));
        self.transport.peer(self.id).ok_or_else(unknown)
    }

    /// One request and its answer.
    async fn ask(&mut self, request: AppendRequest) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        self.traffic.sent_append();
        let asked = tokio::time::timeout(UNANSWERED_MAX, self.converse(request)).await;
        let (conversation, answer) = asked.unwrap_or_else(|_| Err(unanswered())).map_err(|e| rpc_error(&e))?;
        let result = wire::from_appended(answer).map_err(|e| malformed(&e))?;
        // The other side ends the stream behind anything but a success.
        self.conversation = result.is_ok().then_some(conversation);
        Ok(result)
    }

    /// Asks on the open stream, or on a new one. When the open one turns out to be broken the request is sent again, which
    /// does no harm: an append is the same the second time.
    async fn converse(&mut self, request: AppendRequest) -> Result<(Conversation, AppendResponse), PeerError> {
        if let Some(mut open) = self.conversation.take()
            && let Ok(answer) = open.ask(request.clone()).await
        {
            return Ok((open, answer));
        }
        let mut open = Conversation::begin(&self.peer()?).await?;
        let answer = open.ask(request).await?;
        Ok((open, answer))
    }
}

fn to_append(request: &AppendEntriesRequest<TypeConfig>, majority: &Majority) -> AppendRequest {
    AppendRequest { lacks_majority: majority.is_lost(), ..wire::to_append(request) }
}

fn unanswered() -> PeerError {
    PeerError::Lost(format!("it has not answered for {UNANSWERED_MAX:?}"))
}

/// When the requests left that are not answered yet, the oldest first: no more than raft sends ahead. Clones are the
/// same.
#[derive(Clone, Default)]
struct Unanswered(Arc<Mutex<VecDeque<Instant>>>);

impl Unanswered {
    fn sent(&self) {
        self.0.lock().push_back(Instant::now());
    }

    /// Until when the oldest has to be answered; one that is sent from now on, later.
    fn deadline(&self) -> Instant {
        self.0.lock().front().copied().unwrap_or_else(Instant::now) + UNANSWERED_MAX
    }

    /// Waits for what comes before the answer to the oldest, or for that, no longer than that may take.
    async fn within<T>(&self, waited: impl Future<Output = Result<T, PeerError>>) -> Result<T, PeerError> {
        let mut waited = pin!(waited);
        loop {
            let deadline = self.deadline();
            match tokio::time::timeout_at(deadline, &mut waited).await {
                Ok(done) => return done,
                // Nothing is asked where nothing was sent.
                Err(_) if self.deadline() <= Instant::now() => return Err(unanswered()),
                Err(_) => {}
            }
        }
    }

    /// Ends the answers with an error when one takes too long.
    fn bound(self, answers: Answers<AppendResponse>) -> impl Stream<Item = Result<AppendResponse, PeerError>> + Send {
        stream::unfold(Some((self, answers)), |state| async move {
            let (unanswered, mut answers) = state?;
            let next = unanswered.within(async { answers.next().await.transpose() }).await.transpose()?;
            unanswered.0.lock().pop_front();
            let goes_on = next.is_ok().then_some((unanswered, answers));
            Some((next, goes_on))
        })
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
        Ok(match self.ask(to_append(&request, &self.majority)).await? {
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
        Box::pin(async move {
            let mut input = input.fuse();
            let first = input.next().now_or_never().flatten();
            let second = input.next().now_or_never().flatten();
            // A heartbeat is there at once, and nothing comes behind it.
            if let Some(heartbeat) = first.as_ref().filter(|request| request.entries.is_empty())
                && second.is_none()
                && input.is_done()
            {
                let result = self.ask(to_append(heartbeat, &self.majority)).await;
                return Ok(stream::iter([result]).boxed());
            }
            let ready = [first, second].into_iter().flatten();
            let unanswered = Unanswered::default();
            let (sent, traffic, majority) = (unanswered.clone(), Arc::clone(&self.traffic), self.majority.clone());
            let requests = stream::iter(ready).chain(input).map(move |request| {
                sent.sent();
                traffic.sent_append();
                to_append(&request, &majority)
            });
            let answers = match self.peer() {
                Ok(peer) => unanswered.within(peer.append(requests.boxed())).await,
                Err(error) => Err(error),
            };
            let answers = match answers.map_err(|e| rpc_error(&e)) {
                Ok(answers) => answers,
                Err(error) => {
                    // openraft waits before a request, but this stream never asked for one, so it would try at once.
                    tokio::time::sleep(RECONNECT).await;
                    return Err(error);
                }
            };
            let results = unanswered.bound(answers).map(|answer| {
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
        let answer = self
            .peer()
            .map_err(|e| rpc_error(&e))?
            .vote(wire::to_vote(&request, false))
            .await
            .map_err(|e| rpc_error(&e))?;
        wire::from_voted(&answer).map_err(|e| malformed(&e))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let answer = self
            .peer()
            .map_err(|e| rpc_error(&e))?
            .vote(wire::to_vote(&request, true))
            .await
            .map_err(|e| rpc_error(&e))?;
        wire::from_voted(&answer).map_err(|e| malformed(&e))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotSource>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let peer = self.peer().map_err(|e| rpc_error(&e))?;
        let counted = self.traffic.sends_snapshot(self.id);
        let _transfer = self.catch_ups.begin(self.id, snapshot.meta.last_log_id.map_or(0, |id| id.index + 1));
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
        let answer = self
            .peer()
            .map_err(|e| rpc_error(&e))?
            .transfer_leader(wire::to_transfer(&request))
            .await
            .map_err(|e| rpc_error(&e))?;
        wire::from_transferred(&request, answer).map_err(|e| malformed(&e))
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RECONNECT)))
    }
}

#[cfg(test)]
mod tests;
