//! The Election service: the leader is the oldest key under the election's name, and its value what it proclaims.

use super::concurrency::{Caller, Concurrency, NOT_LEADER, oldest, prefix};
use super::status::{fault_status, status, without_code};
use crate::watch::stream::WatchStream;
use api::encoded::WatchResponse;
use api::error::Error;
use api::etcdserverpb::WatchCreateRequest;
use api::mvccpb::KeyValue;
use api::mvccpb::event::EventType;
use api::server::election_server::Election;
use api::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};
use bytes::Bytes;
use futures::Stream;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status};

const NO_LEADER: &str = "election: no leader";
const MISSING_LEADER: &str = "\"leader\" field must be provided";

pub(crate) struct ElectionService(pub(crate) Concurrency);

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        self.0.run(request, campaign).await
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        let work = |caller: Caller, request: ProclaimRequest| async move {
            let leader = request.leader.ok_or_else(|| without_code(MISSING_LEADER))?;
            let lease = caller.session(leader.lease).await?;
            let header = caller.proclaim((&leader.key, leader.rev), lease, request.value).await?;
            Ok(ProclaimResponse { header })
        };
        self.0.run(request, work).await
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let work = |caller: Caller, request: LeaderRequest| async move {
            let found = caller.range(oldest(&prefix(&request.name))).await?;
            let leader = found.kvs.first().ok_or_else(|| without_code(NO_LEADER))?;
            Ok(LeaderResponse { header: found.header, kv: Some(caller.message(leader)?) })
        };
        self.0.run(request, work).await
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let place = self.0.place()?;
        let (caller, request) = self.0.caller(request);
        let prefix = prefix(&request.name);
        let observer =
            Observer { caller, prefix, seen: Seen::Nothing, ready: VecDeque::new(), ended: false, _place: place };
        let leaders = futures::stream::unfold(Box::new(observer), |mut observer| async move {
            let leader = observer.next().await?;
            Some((leader, observer))
        });
        Ok(Response::new(Box::pin(leaders)))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let work = |caller: Caller, request: ResignRequest| async move {
            let leader = request.leader.ok_or_else(|| without_code(MISSING_LEADER))?;
            // Of no use here, but etcd makes one for a leader without.
            caller.session(leader.lease).await?;
            let header = caller.resign(&leader.key, leader.rev).await?;
            Ok(ResignResponse { header })
        };
        self.0.run(request, work).await
    }
}

async fn campaign(caller: Caller, request: CampaignRequest) -> Result<CampaignResponse, Status> {
    let CampaignRequest { name, lease, value } = request;
    let lease = caller.session(lease).await?;
    let entry = caller.enter(&name, lease, value.clone()).await?;
    if entry.found.as_ref().is_some_and(|found| *found != value) {
        // Campaigning again with another value proclaims it.
        if let Err(error) = caller.proclaim((&entry.key, entry.rev), lease, value).await {
            caller.leave(&entry).await;
            return Err(error);
        }
    }
    // etcd does not look whether the lease is still there, and lets who lost it believe that it leads.
    caller.turn(&entry, NOT_LEADER).await?;
    let leader = LeaderKey { name, key: entry.key, rev: entry.rev, lease };
    Ok(CampaignResponse { header: Some(entry.header), leader: Some(leader) })
}

/// What an observer has told, and how it hears of more.
enum Seen {
    Nothing,
    /// There was no leader: the first put under the prefix makes one.
    NoLeader(WatchStream),
    /// Every put of this leader's key is told.
    Leader(WatchStream),
}

/// One call of Observe.
struct Observer {
    caller: Caller,
    prefix: Bytes,
    seen: Seen,
    ready: VecDeque<LeaderResponse>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl Observer {
    /// The next leader or value of the leader; an error is the last.
    async fn next(&mut self) -> Option<Result<LeaderResponse, Status>> {
        if self.ended {
            return None;
        }
        let next = self.find().await;
        self.ended = next.is_err();
        Some(next)
    }

    async fn find(&mut self) -> Result<LeaderResponse, Status> {
        loop {
            if let Some(leader) = self.ready.pop_front() {
                return Ok(leader);
            }
            let response = match &mut self.seen {
                Seen::Nothing => {
                    self.look().await?;
                    continue;
                }
                Seen::NoLeader(watching) | Seen::Leader(watching) => tokio::select! {
                    biased;
                    () = self.caller.left.cancelled() => return Err(status(Error::Stopped)),
                    response = next_response(watching) => response?,
                },
            };
            self.take(&response)?;
        }
    }

    /// Looks who leads, and watches for what comes after.
    async fn look(&mut self) -> Result<(), Status> {
        let request = oldest(&self.prefix);
        let range_end = request.range_end.clone();
        let found = self.caller.range(request).await?;
        let header = found.header.unwrap_or_default();
        let next = header.revision + 1;
        if let Some(kv) = found.kvs.first() {
            let kv = self.caller.message(kv)?;
            self.seen = Seen::Leader(self.watch(&kv.key, Bytes::new(), next));
            self.ready.push_back(LeaderResponse { header: Some(header), kv: Some(kv) });
        } else {
            self.seen = Seen::NoLeader(self.watch(&self.prefix, range_end, next));
        }
        Ok(())
    }

    fn watch(&self, key: &Bytes, range_end: Bytes, start_revision: i64) -> WatchStream {
        let services = &self.caller.services;
        let node = services.node.clone();
        let header = Arc::new(move |revision| node.header(revision));
        let mut watching =
            WatchStream::new(Arc::clone(&services.hub), services.node.reader().clone(), header, usize::MAX);
        watching.create(&WatchCreateRequest { key: key.clone(), range_end, start_revision, ..Default::default() });
        watching
    }

    fn take(&mut self, response: &WatchResponse) -> Result<(), Status> {
        if response.canceled {
            // What it still had to read was compacted: the leader of now is what counts.
            self.seen = Seen::Nothing;
        }
        for event in &response.events {
            let Some(kv) = event.kv.as_ref().map(|kv| self.caller.message(kv)).transpose()? else { continue };
            let is_put = event.kind == EventType::Put as i32;
            match &self.seen {
                // Whoever comes first may be gone again, so it looks as if somebody else had to be found.
                Seen::NoLeader(_) if !is_put => {}
                Seen::NoLeader(_) => {
                    self.seen = Seen::Leader(self.watch(&kv.key, Bytes::new(), kv.mod_revision + 1));
                    self.tell(kv);
                    return Ok(());
                }
                Seen::Leader(_) if is_put => self.tell(kv),
                Seen::Leader(_) => self.seen = Seen::Nothing,
                Seen::Nothing => return Ok(()),
            }
        }
        Ok(())
    }

    fn tell(&mut self, kv: KeyValue) {
        let header = Some(self.caller.services.node.header(kv.mod_revision));
        self.ready.push_back(LeaderResponse { header, kv: Some(kv) });
    }
}

/// Not cancellation safe, except by dropping the stream.
async fn next_response(watching: &mut WatchStream) -> Result<WatchResponse, Status> {
    loop {
        if let Some(response) = watching.pop() {
            return Ok(response);
        }
        if watching.has_unsynced() {
            watching.catch_up().await.map_err(|fault| fault_status(&fault))?;
        } else {
            watching.filled().await;
            watching.collect().map_err(|fault| fault_status(&fault))?;
        }
    }
}
