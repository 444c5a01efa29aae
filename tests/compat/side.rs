//! One of the two servers: sends requests to it and brings its answers into comparable form.

use crate::answer::{Answer, Ids};
use crate::op::{Op, Resolver};
use crate::watch::Stream;
use anyhow::Result;
use api::etcdserverpb::{
    DefragmentRequest, HashKvRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MoveLeaderRequest,
    StatusRequest, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
    watch_request::RequestUnion,
};
use bytes::Bytes;
use harness::{Client, Kind, Options, Server};
use std::path::Path;
use std::time::Duration;

/// Streams that sequences open and close.
pub(crate) const SLOTS: usize = 2;
/// The stream of the watcher that sees everything.
pub(crate) const HISTORY: usize = SLOTS;

/// Every answer comes within milliseconds, unless the machine stalls.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Revisions that placeholders stand for at this step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Revisions {
    pub(crate) current: i64,
    pub(crate) compacted: i64,
}

/// A server with one connection and its watch streams.
#[derive(Debug)]
pub(crate) struct Side {
    server: Server,
    client: Client,
    ids: Ids,
    streams: Vec<Stream>,
}

impl Side {
    /// Starts a server, in memory where the system offers it: these tests are not about the disk.
    pub(crate) async fn start(kind: Kind) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = memory.is_dir().then(|| memory.to_owned());
        let server = Server::start_with(kind, Options { parent, ..Options::default() }).await?;
        let mut client = server.client().await?;
        let header = client.maintenance.status(StatusRequest {}).await?.into_inner().header.unwrap_or_default();
        let ids = Ids { cluster: header.cluster_id, member: header.member_id, leases: Vec::new() };
        let streams = (0..=HISTORY).map(|_| Stream::open(&client)).collect();
        let mut side = Self { server, client, ids, streams };
        let everything = WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        let answer = side.create_watcher(HISTORY, everything).await;
        anyhow::ensure!(matches!(answer, Answer::Watch(_)), "{kind}: no history watcher: {answer:?}");
        Ok(side)
    }

    /// Whose server this is.
    pub(crate) fn kind(&self) -> Kind {
        self.server.kind()
    }

    /// Ids for normalisation.
    pub(crate) fn ids(&self) -> &Ids {
        &self.ids
    }

    /// A watch stream.
    pub(crate) fn stream(&self, slot: usize) -> &Stream {
        &self.streams[slot]
    }

    /// The server's log, when it has died.
    pub(crate) fn death(&mut self) -> Option<String> {
        (!self.server.is_running()).then(|| self.server.log_tail())
    }

    /// Sends a request and returns the comparable answer.
    pub(crate) async fn ask(&mut self, op: &Op, revisions: Revisions) -> Answer {
        let resolver = Resolver {
            current: revisions.current,
            compacted: revisions.compacted,
            leases: &self.ids.leases,
            member: self.ids.member,
        };
        let chooses_id = matches!(op, Op::Grant(request) if request.id == 0);
        let resolved = resolver.resolve(op);
        let mut answer = match tokio::time::timeout(ANSWER_DEADLINE, self.send(resolved)).await {
            Ok(answer) => answer,
            Err(_) => Answer::Silence,
        };
        if let Answer::Grant(granted) = &answer
            && chooses_id
        {
            self.ids.leases.push(granted.id);
        }
        self.ids.normalise(&mut answer);
        answer
    }

    async fn send(&mut self, op: Op) -> Answer {
        let Client { kv, lease, maintenance, .. } = &mut self.client;
        match op {
            Op::Range(request) => Answer::of(kv.range(request).await, Answer::Range),
            Op::Put(request) => Answer::of(kv.put(request).await, Answer::Put),
            Op::Delete(request) => Answer::of(kv.delete_range(request).await, Answer::Delete),
            Op::Txn(request) => Answer::of(kv.txn(request).await, Answer::Txn),
            Op::Compact(request) => Answer::of(kv.compact(request).await, Answer::Compact),
            Op::Grant(request) => Answer::of(lease.lease_grant(request).await, Answer::Grant),
            Op::Revoke(id) => Answer::of(lease.lease_revoke(LeaseRevokeRequest { id }).await, Answer::Revoke),
            Op::TimeToLive { id, keys } => {
                let request = LeaseTimeToLiveRequest { id, keys };
                Answer::of(lease.lease_time_to_live(request).await, Answer::TimeToLive)
            }
            Op::Leases => Answer::of(lease.lease_leases(LeaseLeasesRequest {}).await, Answer::Leases),
            Op::KeepAlive(ids) => self.keep_alive(ids).await,
            Op::HashKv(revision) => Answer::of(maintenance.hash_kv(HashKvRequest { revision }).await, Answer::HashKv),
            Op::Status => Answer::of(maintenance.status(StatusRequest {}).await, Answer::Status),
            Op::Alarm(request) => Answer::of(maintenance.alarm(request).await, Answer::Alarm),
            Op::Defragment => Answer::of(maintenance.defragment(DefragmentRequest {}).await, Answer::Defragment),
            Op::MoveLeader(target_id) => {
                Answer::of(maintenance.move_leader(MoveLeaderRequest { target_id }).await, Answer::MoveLeader)
            }
            Op::Members | Op::MemberAdd(_) | Op::MemberRemove(_) | Op::MemberUpdate(_) | Op::MemberPromote(_) => {
                self.send_cluster(op).await
            }
            Op::WatchOpen(_)
            | Op::WatchCreate { .. }
            | Op::WatchCancel { .. }
            | Op::WatchProgress(_)
            | Op::WatchNothing(_) => self.send_watch(op).await,
            Op::Concurrency(call) => call.send(&mut self.client).await,
            Op::Raw { path, payload, .. } => match self.client.raw(path, payload).await {
                Ok(_) => Answer::Done,
                Err(status) => Answer::error(&status),
            },
        }
    }

    async fn send_cluster(&mut self, op: Op) -> Answer {
        let cluster = &mut self.client.cluster;
        match op {
            Op::MemberAdd(request) => Answer::of(cluster.member_add(request).await, Answer::MemberAdd),
            Op::MemberRemove(id) => {
                Answer::of(cluster.member_remove(MemberRemoveRequest { id }).await, Answer::MemberRemove)
            }
            Op::MemberUpdate(request) => Answer::of(cluster.member_update(request).await, Answer::MemberUpdate),
            Op::MemberPromote(id) => {
                Answer::of(cluster.member_promote(MemberPromoteRequest { id }).await, Answer::MemberPromote)
            }
            _ => Answer::of(cluster.member_list(MemberListRequest { linearizable: true }).await, Answer::Members),
        }
    }

    async fn keep_alive(&mut self, ids: Vec<i64>) -> Answer {
        let expected = ids.len();
        // The request stream stays open behind the requests: a half-closed one may be answered by its end.
        let requests = futures::stream::iter(ids.into_iter().map(|id| LeaseKeepAliveRequest { id }));
        let requests = futures::StreamExt::chain(requests, futures::stream::pending());
        let mut responses = match self.client.lease.lease_keep_alive(requests).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Answer::error(&status),
        };
        let mut all = Vec::with_capacity(expected);
        while all.len() < expected {
            match responses.message().await {
                Ok(Some(response)) => all.push(response),
                Ok(None) => break,
                Err(status) => return Answer::error(&status),
            }
        }
        Answer::KeepAlive(all)
    }

    async fn send_watch(&mut self, op: Op) -> Answer {
        match op {
            Op::WatchOpen(slot) => self.streams[slot] = Stream::open(&self.client),
            Op::WatchCreate { slot, request } => return self.create_watcher(slot, request).await,
            Op::WatchCancel { slot, id } => {
                self.watch_request(slot, Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: id }))).await;
            }
            Op::WatchProgress(slot) => {
                self.watch_request(slot, Some(RequestUnion::ProgressRequest(WatchProgressRequest {}))).await;
                let taken = self.streams[slot]
                    .wait(ANSWER_DEADLINE, |log| match (log.progress.pop_front(), &log.ended) {
                        (Some(response), _) => Some(Answer::Watch(response)),
                        (None, Some(status)) => Some(Answer::error(status)),
                        (None, None) => None,
                    })
                    .await;
                return taken.unwrap_or(Answer::Silence);
            }
            Op::WatchNothing(slot) => self.watch_request(slot, None).await,
            _ => {}
        }
        Answer::Done
    }

    async fn watch_request(&self, slot: usize, request_union: Option<RequestUnion>) {
        self.streams[slot].send(WatchRequest { request_union }).await;
    }

    async fn create_watcher(&mut self, slot: usize, request: WatchCreateRequest) -> Answer {
        self.watch_request(slot, Some(RequestUnion::CreateRequest(request))).await;
        let taken = self.streams[slot]
            .wait(ANSWER_DEADLINE, |log| match (log.created.pop_front(), &log.ended) {
                (Some(response), _) => Some(Answer::Watch(response)),
                (None, Some(status)) => Some(Answer::error(status)),
                (None, None) => None,
            })
            .await;
        taken.unwrap_or(Answer::Silence)
    }

    /// Waits until every watcher that was created with a start in the past has caught up.
    ///
    /// That shows in nothing when such a watcher is owed no event. So one more is created that is owed one:
    /// etcd brings all of them up to date in one pass.
    pub(crate) async fn catch_up(&mut self, revision: i64) -> Result<()> {
        let request = WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: revision,
            ..WatchCreateRequest::default()
        };
        let Answer::Watch(created) = self.create_watcher(HISTORY, request).await else {
            anyhow::bail!("{}: no further watcher on the history stream", self.kind());
        };
        let index = self.streams[HISTORY].log().watchers.len() - 1;
        let arrived = self.streams[HISTORY].wait(ANSWER_DEADLINE, |log| {
            let watcher = &log.watchers[index];
            (!watcher.events.is_empty()).then_some(())
        });
        anyhow::ensure!(arrived.await.is_some(), "{}: a watcher from revision {revision} got nothing", self.kind());
        let cancel = WatchCancelRequest { watch_id: created.watch_id };
        self.watch_request(HISTORY, Some(RequestUnion::CancelRequest(cancel))).await;
        let canceled =
            self.streams[HISTORY].wait(ANSWER_DEADLINE, |log| log.watchers[index].canceled.as_ref().map(|_| ()));
        anyhow::ensure!(canceled.await.is_some(), "{}: cancelling a watcher was not answered", self.kind());
        Ok(())
    }
}
