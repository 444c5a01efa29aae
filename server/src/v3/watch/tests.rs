//! Watch and Lease over real gRPC connections to one real member, without its KV service: writes are proposed.

use super::*;
use crate::lessor::Lessor;
use crate::node::forwards::Forwards;
use crate::node::{Identity, Limits, Parts};
use crate::peer::Transport;
use crate::peer::link::{Caller, Links};
use crate::peer::traffic::PeersTraffic;
use crate::raft::catch_up::CatchUps;
use crate::raft::log_store::{LogStore, LogStoreOptions};
use crate::raft::network::{Majority, Network};
use crate::raft::state_machine::{Observer, StateMachine};
use crate::raft::types::{Peer, Raft};
use crate::steady_clock::SteadyClock;
use crate::tls::PeerConnector;
use crate::v3::lease::{LeaseService, proposer};
use api::cleatpb::command::Op;
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::watch_client::WatchClient;
use api::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    PutRequest, WatchCreateRequest, WatchProgressRequest, WatchResponse,
};
use api::server::lease_server::LeaseServer;
use api::server::watch_server::WatchServer;
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

const DEADLINE: Duration = Duration::from_secs(20);

struct Member {
    node: Node,
    channel: Channel,
    tasks: TaskTracker,
    stop: CancellationToken,
    _flusher: store::Flusher,
    _dir: tempfile::TempDir,
}

struct Publishing(Arc<Hub>, Arc<Lessor>);

impl Observer for Publishing {
    fn applied(&self, applied: &store::Applied, _took: Duration) {
        self.0.publish(&applied.changes);
        self.1.observe(&applied.notices);
    }

    fn installed(&self, revision: i64) {
        self.0.replaced(revision);
    }
}

impl Member {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (writer, flusher, reader) = store::open(&dir.path().join("db"), store::Options::default()).unwrap();
        let log = LogStore::open(&dir.path().join("wal"), LogStoreOptions::default()).unwrap();
        let log_stats = log.stats();
        let hub = Arc::new(Hub::new(reader.revision()));
        let lessor = Arc::new(Lessor::new(Duration::from_secs(1), SteadyClock::default()));
        let observer = Box::new(Publishing(Arc::clone(&hub), Arc::clone(&lessor)));
        let forwards = Arc::new(Forwards::new(1, 1, 0));
        let machine = StateMachine::new(writer, reader.clone(), observer, Arc::clone(&forwards));
        let second = Duration::from_secs(1);
        let traffic = PeersTraffic::detached(1);
        let (caller, connector) = (Caller { cluster_id: 1, member_id: 1 }, PeerConnector::plain());
        let transport: Arc<dyn Transport> =
            Arc::new(Links::new(caller, second, 1 << 20, connector, Arc::clone(&traffic)));
        let config = openraft::Config::default().validate().unwrap();
        let majority = Majority::default();
        let network = Network::new(Arc::clone(&transport), traffic, CatchUps::default(), majority.clone());
        let raft = Raft::new(1, Arc::new(config), network, log, machine).await.unwrap();
        raft.initialize(BTreeMap::from([(1, Peer { peer_urls: Vec::new(), joins_as_voter: true })])).await.unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let identity = Identity { cluster_id: 1, member_id: 1 };
        let limits = Limits {
            request_bytes: 1 << 20,
            request_timeout: 7 * second,
            heartbeat_interval: second / 10,
            election_timeout: second,
        };
        let parts = Parts { raft, reader, log: log_stats, transport, forwards, majority, identity, limits };
        let node = Node::start(parts, &tasks, &stop);
        node.raft().wait(Some(DEADLINE)).state(openraft::ServerState::Leader, "elected").await.unwrap();
        node.read_barrier().await.unwrap();
        let term = node.leads_in().wait_for(Option::is_some).await.unwrap().unwrap();
        lessor.promote(term, || node.reader().leases());
        let (clock, propose, token) = (Arc::clone(&lessor), proposer(node.clone()), stop.clone());
        tasks.spawn(async move { clock.run(propose, token).await });

        let failures = IntCounter::new("failures", "for the test").unwrap();
        let watch = WatchService {
            node: node.clone(),
            auth: Auth::for_tests(node.clone()),
            hub,
            progress_interval: DEADLINE,
            stop: stop.clone(),
            failures: failures.clone(),
            sending: crate::metrics::Metrics::new(false).unwrap().watch_send.clone(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(WatchServer::new(watch)).add_service(
            LeaseServer::new(LeaseService::new(
                (node.clone(), Auth::for_tests(node.clone())),
                lessor,
                Arc::new(crate::quota::Quota::new(None, &node)),
                failures,
                stop.clone(),
            )),
        );
        let (stopped, incoming) = (stop.clone().cancelled_owned(), TcpListenerStream::new(listener));
        tasks.spawn(async move { server.serve_with_incoming_shutdown(incoming, stopped).await.unwrap() });
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { node, channel, tasks, stop, _flusher: flusher, _dir: dir }
    }

    async fn put(&self, key: &'static str, lease: i64) -> i64 {
        let put = PutRequest { key: key.into(), value: "v".into(), lease, ..Default::default() };
        let outcome = self.node.propose(Op::Put(put)).await.unwrap();
        outcome.result.unwrap();
        outcome.revision
    }

    async fn watch(&self) -> (mpsc::Sender<WatchRequest>, Streaming<WatchResponse>) {
        let (requests, rx) = mpsc::channel(16);
        let mut client = WatchClient::new(self.channel.clone());
        let responses = client.watch(ReceiverStream::new(rx)).await.unwrap().into_inner();
        (requests, responses)
    }

    async fn end(self) {
        self.stop.cancel();
        drop(self.channel);
        self.tasks.close();
        self.tasks.wait().await;
        self.node.raft().shutdown().await.unwrap();
    }
}

fn create(create: WatchCreateRequest) -> WatchRequest {
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

fn key(key: &'static str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.into(), ..Default::default() }
}

async fn next(responses: &mut Streaming<WatchResponse>) -> WatchResponse {
    tokio::time::timeout(DEADLINE, responses.message()).await.unwrap().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_its_requests_and_ends_with_the_member() {
    let member = Member::start().await;
    member.put("a", 0).await;
    let (requests, mut responses) = member.watch().await;
    // An empty request is ignored.
    requests.send(WatchRequest { request_union: None }).await.unwrap();
    requests.send(create(key("a"))).await.unwrap();
    requests.send(create(WatchCreateRequest { start_revision: 2, ..key("a") })).await.unwrap();
    for id in 0..2 {
        let created = next(&mut responses).await;
        assert_eq!((created.created, created.watch_id, created.header.unwrap().revision), (true, id, 2));
    }
    assert_eq!(next(&mut responses).await.events[0].kv.as_ref().unwrap().mod_revision, 2);
    requests
        .send(WatchRequest { request_union: Some(RequestUnion::ProgressRequest(WatchProgressRequest {})) })
        .await
        .unwrap();
    let progress = next(&mut responses).await;
    assert_eq!((progress.watch_id, progress.header.unwrap().revision), (-1, 2));
    drop(requests);
    let revision = member.put("a", 0).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let response = next(&mut responses).await;
        assert_eq!(response.events[0].kv.as_ref().unwrap().mod_revision, revision);
        ids.push(response.watch_id);
    }
    ids.sort_unstable();
    assert_eq!(ids, [0, 1]);
    member.stop.cancel();
    let end = tokio::time::timeout(DEADLINE, responses.message()).await.unwrap().unwrap_err();
    assert_eq!((end.code(), end.message()), (tonic::Code::Unavailable, "etcdserver: server stopped"));
    member.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_takes_its_watchers_along() {
    let member = Member::start().await;
    let (requests, mut responses) = member.watch().await;
    requests.send(create(key("a"))).await.unwrap();
    next(&mut responses).await;
    drop((requests, responses));
    let (requests, mut responses) = member.watch().await;
    requests.send(create(key("b"))).await.unwrap();
    assert_eq!(next(&mut responses).await.watch_id, 0);
    member.end().await;
}

/// Nobody reads the responses while far more is written than any buffer holds; then everything arrives, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_loses_nothing() {
    const WRITES: usize = 3000;
    let member = Member::start().await;
    let (requests, mut responses) = member.watch().await;
    requests.send(create(WatchCreateRequest { range_end: vec![0].into(), ..key("k") })).await.unwrap();
    next(&mut responses).await;
    let value = bytes::Bytes::from(vec![1; 1000]);
    let node = &member.node;
    let puts = (0..WRITES).map(|i| {
        let put = PutRequest { key: format!("k{}", i % 10).into(), value: value.clone(), ..Default::default() };
        async move { node.propose(Op::Put(put)).await.unwrap().result.unwrap() }
    });
    futures::future::join_all(puts).await;
    let mut expected = 2;
    while expected < 2 + WRITES as i64 {
        for event in next(&mut responses).await.events {
            assert_eq!(event.kv.unwrap().mod_revision, expected);
            expected += 1;
        }
    }
    member.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_answer_as_etcd_does() {
    let member = Member::start().await;
    let mut client = LeaseClient::new(member.channel.clone());
    let chosen = client.lease_grant(LeaseGrantRequest { ttl: 100, id: 0 }).await.unwrap().into_inner();
    assert!(chosen.id > 0 && chosen.ttl == 100 && chosen.error.is_empty());
    let given = client.lease_grant(LeaseGrantRequest { ttl: 50, id: -5 }).await.unwrap().into_inner();
    assert_eq!((given.id, given.ttl), (-5, 50));
    let shortest = client.lease_grant(LeaseGrantRequest { ttl: -1, id: 9 }).await.unwrap().into_inner();
    assert_eq!(shortest.ttl, 2);
    for (ttl, id, code, text) in [
        (10, -5, tonic::Code::FailedPrecondition, "etcdserver: lease already exists"),
        (9_000_000_001, 8, tonic::Code::OutOfRange, "etcdserver: too large lease TTL"),
    ] {
        let error = client.lease_grant(LeaseGrantRequest { ttl, id }).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (code, text));
    }
    let leases = client.lease_leases(LeaseLeasesRequest {}).await.unwrap().into_inner().leases;
    assert_eq!(leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), [9, -5, chosen.id]);

    member.put("x", -5).await;
    let live = client.lease_time_to_live(LeaseTimeToLiveRequest { id: -5, keys: true }).await.unwrap().into_inner();
    assert!((48..=50).contains(&live.ttl), "{live:?}");
    assert_eq!((live.granted_ttl, live.keys), (50, vec!["x".into()]));
    let missing = client.lease_time_to_live(LeaseTimeToLiveRequest { id: 77, keys: true }).await.unwrap().into_inner();
    assert_eq!((missing.id, missing.ttl, missing.granted_ttl), (77, -1, 0));

    let asked = tokio_stream::iter([77, -5].map(|id| LeaseKeepAliveRequest { id }));
    let mut alive = client.lease_keep_alive(asked).await.unwrap().into_inner();
    for expected in [(77, 0), (-5, 50)] {
        let answer = alive.message().await.unwrap().unwrap();
        assert_eq!((answer.id, answer.ttl), expected);
    }
    assert!(alive.message().await.unwrap().is_none());

    client.lease_revoke(LeaseRevokeRequest { id: -5 }).await.unwrap();
    let error = client.lease_revoke(LeaseRevokeRequest { id: -5 }).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (tonic::Code::NotFound, "etcdserver: requested lease not found"));
    member.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_lease_deletes_its_keys_and_watchers_see_it() {
    let member = Member::start().await;
    let mut client = LeaseClient::new(member.channel.clone());
    let (requests, mut responses) = member.watch().await;
    requests.send(create(WatchCreateRequest { prev_kv: true, ..key("x") })).await.unwrap();
    next(&mut responses).await;
    let begun = Instant::now();
    let lease = client.lease_grant(LeaseGrantRequest { ttl: 2, id: 0 }).await.unwrap().into_inner().id;
    member.put("x", lease).await;
    assert_eq!(next(&mut responses).await.events[0].kv.as_ref().unwrap().lease, lease);
    let deleted = next(&mut responses).await;
    assert_eq!((deleted.events[0].r#type, deleted.events[0].prev_kv.as_ref().unwrap().lease), (1, lease));
    assert!(begun.elapsed() > Duration::from_millis(1900), "{:?}", begun.elapsed());
    member.end().await;
}
