//! A network between members that delays, loses and cuts, in each direction for itself.
//!
//! Messages of one stream keep their order, others overtake each other. A message that is lost, or whose way is cut, is
//! not heard of: a call ends after [`SILENCE`], and a stream with it. A call that the caller has given up goes on, and
//! may be carried out later. A process that does not run refuses at once. A process that is gone sends nothing more.
//!
//! What happened is counted where it happened: a cut that no message met is none.

use super::random::Random;
use super::report::{Kind, Tally, Trace, note};
use crate::peer::{Answers, PeerApi, PeerError, Transport};
use api::cleatpb::{
    AppendRequest, AppendResponse, LeaseRenewRequest, LeaseRenewResponse, MembershipChange, MembershipChanged,
    ProposeRequest, ProposeResponse, ReadIndexRequest, ReadIndexResponse, SnapshotPiece, SnapshotReceipt,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use api::etcdserverpb::{HashKvRequest, HashKvResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse};
use futures::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::Progress;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// How long nothing is heard before a connection is given up.
const SILENCE: Duration = Duration::from_millis(1500);

/// Messages on their way in one stream.
const STREAM_MESSAGES: usize = 16;

/// A message that takes longer is counted as delayed.
const LONG_DELAY: Duration = Duration::from_millis(50);

/// How the network treats messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Probability that a message is lost.
    pub(crate) loss: f64,
    /// Longest delay.
    pub(crate) delay: Duration,
}

impl Weather {
    pub(crate) const FAIR: Self = Self { loss: 0.0, delay: Duration::from_millis(4) };
}

/// All links. Clones are the same network.
#[derive(Clone)]
pub(crate) struct Network(Arc<Mutex<Links>>);

struct Links {
    random: Random,
    trace: Trace,
    tally: Tally,
    weather: Weather,
    /// From and to.
    cut: BTreeSet<(u64, u64)>,
    /// Who runs, and in which life.
    members: BTreeMap<u64, (u64, Arc<dyn PeerApi>)>,
    lives: u64,
    /// Per link, when the last message arrives of those that were sent.
    arrivals: BTreeMap<(u64, u64), Instant>,
    /// Snapshots on their way, and how many pieces of them have left.
    snapshots: BTreeMap<(u64, u64), u64>,
    /// Plants a bug: where a voter does not answer, this member does.
    votes_for_others: Option<u64>,
}

/// One life of a member, as its calls are known by.
pub(crate) struct Connector {
    network: Network,
    me: u64,
    life: u64,
    known: Mutex<BTreeSet<u64>>,
}

/// The way from one life of a member to another member.
struct Connection {
    network: Network,
    me: u64,
    life: u64,
    target: u64,
}

impl Network {
    pub(crate) fn new(random: Random, trace: Trace, tally: Tally) -> Self {
        let links = Links {
            random,
            trace,
            tally,
            weather: Weather::FAIR,
            cut: BTreeSet::new(),
            members: BTreeMap::new(),
            lives: 0,
            arrivals: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            votes_for_others: None,
        };
        Self(Arc::new(Mutex::new(links)))
    }

    /// A new life of a member, which cannot be reached before [`Self::join`].
    pub(crate) fn connector(&self, me: u64) -> Arc<Connector> {
        let mut links = self.0.lock();
        links.lives += 1;
        Arc::new(Connector { network: self.clone(), me, life: links.lives, known: Mutex::default() })
    }

    pub(crate) fn join(&self, connector: &Connector, member: Arc<dyn PeerApi>) {
        self.0.lock().members.insert(connector.me, (connector.life, member));
    }

    /// The member's process is gone.
    pub(crate) fn leave(&self, member: u64) {
        self.0.lock().members.remove(&member);
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.0.lock().weather = weather;
    }

    pub(crate) fn cut(&self, from: u64, to: u64) {
        self.0.lock().cut.insert((from, to));
    }

    pub(crate) fn heal(&self) {
        let mut links = self.0.lock();
        links.cut.clear();
        links.weather = Weather::FAIR;
    }

    /// From and to of a snapshot that is on its way, some pieces of which have left.
    pub(crate) fn snapshot_under_way(&self) -> Option<(u64, u64)> {
        let links = self.0.lock();
        links.snapshots.iter().find(|(_, pieces)| **pieces > 1).map(|(between, _)| *between)
    }

    /// Plants a bug: the votes of `learner` count for voters that do not answer.
    pub(crate) fn count_votes_of(&self, learner: u64) {
        self.0.lock().votes_for_others = Some(learner);
    }

    /// One message's way; false when it is lost.
    async fn hop(&self, from: u64, to: u64, what: &str) -> bool {
        let (delay, lost) = {
            let mut links = self.0.lock();
            let Weather { loss, delay } = links.weather;
            let delay = links.random.duration(Duration::from_micros(100), delay);
            let (is_unlucky, is_cut) = (links.random.happens(loss), links.cut.contains(&(from, to)));
            links.count(from, to, delay, (is_unlucky, is_cut));
            let lost = is_unlucky || is_cut;
            let fate = if lost { "lost" } else { "sent" };
            note!(links.trace, "{from} -> {to} {what} {fate} {delay:?}");
            (delay, lost)
        };
        tokio::time::sleep(delay).await;
        !lost
    }

    /// The running process of a member, and its life.
    fn process(&self, member: u64) -> Option<(u64, Arc<dyn PeerApi>)> {
        self.0.lock().members.get(&member).cloned()
    }

    fn lives(&self, member: u64, life: u64) -> bool {
        self.0.lock().members.get(&member).is_some_and(|(current, _)| *current == life)
    }

    /// Waits until a process is gone. What it was asked before, it may never answer nor refuse.
    async fn gone(&self, member: u64, life: u64) {
        while self.lives(member, life) {
            tokio::time::sleep(SILENCE).await;
        }
    }

    /// Who votes when `target` is asked to and cannot be heard.
    fn voter(&self, me: u64, target: u64) -> u64 {
        let links = self.0.lock();
        let is_silent = links.cut.contains(&(me, target)) || !links.members.contains_key(&target);
        links.votes_for_others.filter(|_| is_silent).unwrap_or(target)
    }
}

impl Links {
    /// Counts what happens to a message.
    fn count(&mut self, from: u64, to: u64, delay: Duration, (is_unlucky, is_cut): (bool, bool)) {
        if is_unlucky {
            self.tally.count(Kind::Loss);
        }
        if is_cut {
            let reach = |one, other| !self.cut.contains(&(one, other)) && !self.cut.contains(&(other, one));
            let third = |id: &u64| *id != from && *id != to && reach(*id, from) && reach(*id, to);
            self.tally.count(if !self.cut.contains(&(to, from)) {
                Kind::OneWayCut
            } else if self.members.keys().any(third) {
                Kind::PartialPartition
            } else {
                Kind::Partition
            });
        }
        if is_unlucky || is_cut {
            return;
        }
        if delay >= LONG_DELAY {
            self.tally.count(Kind::Delay);
        }
        let arrival = Instant::now() + delay;
        let last = self.arrivals.entry((from, to)).or_insert(arrival);
        if arrival < *last {
            self.tally.count(Kind::Reordering);
        }
        *last = arrival.max(*last);
    }
}

/// A snapshot on its way; over when this is dropped.
struct UnderWay {
    network: Network,
    between: (u64, u64),
    is_done: AtomicBool,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut links = self.network.0.lock();
        // One that nobody took is none.
        let has_begun = links.snapshots.remove(&self.between).is_some_and(|pieces| pieces > 1);
        if has_begun && !self.is_done.load(Ordering::Relaxed) {
            note!(links.trace, "the snapshot from {} to {} breaks off", self.between.0, self.between.1);
            links.tally.count(Kind::BrokenSnapshot);
        }
    }
}

fn refused() -> PeerError {
    PeerError::NotSent("connection refused".to_owned())
}

fn silent() -> PeerError {
    PeerError::Lost("nothing was heard".to_owned())
}

impl Connection {
    /// Calls `target` and waits for the answer.
    async fn call<T, F>(
        &self,
        what: &'static str,
        target: u64,
        serve: impl FnOnce(Arc<dyn PeerApi>) -> F + Send + 'static,
    ) -> Result<T, PeerError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, PeerError>> + Send,
    {
        let (answer, answered) = oneshot::channel();
        let (network, me, life) = (self.network.clone(), self.me, self.life);
        tokio::spawn(async move {
            if !network.lives(me, life) || !network.hop(me, target, what).await {
                tokio::time::sleep(SILENCE).await;
                return;
            }
            let Some((life, member)) = network.process(target) else {
                drop(answer.send(Err(refused())));
                return;
            };
            let served = tokio::select! {
                biased;
                served = serve(member) => served,
                () = network.gone(target, life) => return,
            };
            if network.lives(target, life) && network.hop(target, me, what).await {
                drop(answer.send(served));
            } else {
                tokio::time::sleep(SILENCE).await;
            }
        });
        answered.await.unwrap_or_else(|_| Err(silent()))
    }

    /// Carries requests to the target until one is lost, the answers are not wanted any more, or the process is gone.
    async fn carry<Q>(
        network: Network,
        (me, life, target): (u64, u64, u64),
        what: &'static str,
        mut requests: BoxStream<'static, Q>,
        arriving: mpsc::Sender<Q>,
    ) {
        loop {
            let request = tokio::select! {
                biased;
                () = arriving.closed() => return,
                request = requests.next() => request,
            };
            let Some(request) = request else { return };
            if !network.lives(me, life) || !network.hop(me, target, what).await {
                // The connection hangs before it is given up.
                tokio::time::sleep(SILENCE).await;
                return;
            }
            if arriving.send(request).await.is_err() {
                return;
            }
        }
    }

    /// Carries a stream of requests to the target, and the answers back. The names are for the trace.
    fn converse<Q, A, F>(
        &self,
        (asks, answers_with): (&'static str, &'static str),
        requests: BoxStream<'static, Q>,
        serve: impl FnOnce(Arc<dyn PeerApi>, BoxStream<'static, Q>) -> F + Send + 'static,
    ) -> Answers<A>
    where
        Q: Send + 'static,
        A: Send + 'static,
        F: Future<Output = Result<Answers<A>, PeerError>> + Send,
    {
        let (network, me, target) = (self.network.clone(), self.me, self.target);
        let (arriving, arrived) = mpsc::channel(STREAM_MESSAGES);
        let (answer, answers) = mpsc::channel(STREAM_MESSAGES);
        let carry = Self::carry(network.clone(), (me, self.life, target), asks, requests, arriving);
        tokio::spawn(async move {
            let Some((life, member)) = network.process(target) else {
                network.hop(me, target, "connect").await;
                drop(answer.send(Err(refused())).await);
                return;
            };
            let carrying = tokio::spawn(carry);
            let mut served = match serve(member, ReceiverStream::new(arrived).boxed()).await {
                Ok(served) => served,
                Err(error) => {
                    drop(answer.send(Err(error)).await);
                    carrying.abort();
                    return;
                }
            };
            loop {
                let next = tokio::select! {
                    biased;
                    () = answer.closed() => break,
                    next = served.next() => next,
                    () = network.gone(target, life) => break,
                };
                let Some(next) = next else { break };
                if !network.lives(target, life) || !network.hop(target, me, answers_with).await {
                    tokio::time::sleep(SILENCE).await;
                    break;
                }
                if answer.send(next).await.is_err() {
                    break;
                }
            }
            drop(served);
            carrying.abort();
            drop(answer.send(Err(silent())).await);
        });
        ReceiverStream::new(answers).boxed()
    }
}

#[tonic::async_trait]
impl PeerApi for Connection {
    async fn append(&self, requests: BoxStream<'static, AppendRequest>) -> Result<Answers<AppendResponse>, PeerError> {
        let serve = |member: Arc<dyn PeerApi>, requests| async move { member.append(requests).await };
        Ok(self.converse(("append", "appended"), requests, serve))
    }

    async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, PeerError> {
        let voter = self.network.voter(self.me, self.target);
        self.call("vote", voter, move |member| async move { member.vote(request).await }).await
    }

    async fn transfer_leader(&self, request: TransferLeaderRequest) -> Result<TransferLeaderResponse, PeerError> {
        self.call("transfer", self.target, move |member| async move { member.transfer_leader(request).await }).await
    }

    async fn install_snapshot(
        &self,
        pieces: BoxStream<'static, SnapshotPiece>,
    ) -> Result<Answers<SnapshotReceipt>, PeerError> {
        let (network, between) = (self.network.clone(), (self.me, self.target));
        network.0.lock().snapshots.insert(between, 0);
        let under_way = UnderWay { network: network.clone(), between, is_done: AtomicBool::new(false) };
        let is_resumed = Arc::new(AtomicBool::new(false));
        let resumes = Arc::clone(&is_resumed);
        let pieces = pieces.inspect(move |piece| {
            let mut links = network.0.lock();
            links.snapshots.entry(between).and_modify(|pieces| *pieces += 1);
            // The first with data says whether the receiver's part is of use.
            if piece.head.is_none() && resumes.swap(false, Ordering::Relaxed) && !piece.restarts {
                links.tally.count(Kind::ResumedSnapshot);
            }
        });
        let serve = |member: Arc<dyn PeerApi>, pieces| async move { member.install_snapshot(pieces).await };
        let receipts = self.converse(("snapshot", "snapshot received"), pieces.boxed(), serve);
        let receipts = receipts.inspect(move |receipt: &Result<SnapshotReceipt, PeerError>| {
            let Ok(receipt) = receipt else { return };
            if Progress::decode(&receipt.progress).is_some_and(|progress| progress.bytes() > 0) {
                is_resumed.store(true, Ordering::Relaxed);
            }
            under_way.is_done.fetch_or(receipt.done.is_some(), Ordering::Relaxed);
        });
        Ok(receipts.boxed())
    }

    async fn propose(&self, request: ProposeRequest) -> Result<ProposeResponse, PeerError> {
        self.call("propose", self.target, |member| async move { member.propose(request).await }).await
    }

    async fn read_index(&self, request: ReadIndexRequest) -> Result<ReadIndexResponse, PeerError> {
        self.call("read index", self.target, move |member| async move { member.read_index(request).await }).await
    }

    async fn lease_renew(&self, request: LeaseRenewRequest) -> Result<LeaseRenewResponse, PeerError> {
        self.call("renew", self.target, |member| async move { member.lease_renew(request).await }).await
    }

    async fn lease_time_to_live(&self, request: LeaseTimeToLiveRequest) -> Result<LeaseTimeToLiveResponse, PeerError> {
        self.call("time to live", self.target, move |member| async move { member.lease_time_to_live(request).await })
            .await
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<MembershipChanged, PeerError> {
        self.call("membership", self.target, |member| async move { member.change_membership(change).await }).await
    }

    async fn hash_kv(&self, request: HashKvRequest) -> Result<HashKvResponse, PeerError> {
        let heard = self.call("hash", self.target, move |member| async move { member.hash_kv(request).await }).await?;
        self.network.0.lock().tally.count(Kind::HashHeard);
        Ok(heard)
    }
}

impl Transport for Connector {
    fn peer(&self, id: u64) -> Option<Arc<dyn PeerApi>> {
        let Self { network, me, life, known } = self;
        let connection = Connection { network: network.clone(), me: *me, life: *life, target: id };
        known.lock().contains(&id).then(|| Arc::new(connection) as Arc<dyn PeerApi>)
    }

    fn set_members(&self, members: &BTreeMap<u64, Vec<String>>) {
        *self.known.lock() = members.keys().copied().collect();
    }
}
