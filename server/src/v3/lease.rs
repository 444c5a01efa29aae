//! The Lease service. Grants and revocations are proposals; keepalives and remaining times are answered from the
//! leader's memory, after it made sure that it still leads.

use super::status::{mismatched, status};
use crate::lessor::{Lessor, Propose};
use crate::node::Node;
use crate::quota::{LEASE_COST, Quota};
use api::cleatpb::command::Op;
use api::error::Error;
use api::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use api::server::lease_server::Lease;
use bytes::Bytes;
use futures::Stream;
use prometheus::IntCounter;
use std::pin::Pin;
use std::sync::Arc;
use store::Reply;
use tonic::{Request, Response, Status, Streaming};

/// Shared by all calls; clones are cheap.
#[derive(Clone)]
pub(crate) struct LeaseService {
    node: Node,
    lessor: Arc<Lessor>,
    quota: Arc<Quota>,
    propose: Arc<Propose>,
    /// Requests of a keepalive stream that could not be received.
    failures: IntCounter,
}

/// How the lessor of a member proposes.
pub(crate) fn proposer(node: Node) -> Propose {
    Box::new(move |op| {
        let node = node.clone();
        Box::pin(async move { node.propose(op).await })
    })
}

impl LeaseService {
    pub(crate) fn new(node: Node, lessor: Arc<Lessor>, quota: Arc<Quota>, failures: IntCounter) -> Self {
        let propose = Arc::new(proposer(node.clone()));
        Self { node, lessor, quota, propose, failures }
    }

    /// Makes sure that this member leads, and that its lessor knows.
    async fn confirm_leader(&self) -> Result<(), Error> {
        if !self.node.is_leader() {
            return Err(Error::NoLeader);
        }
        // Someone else may have been elected meanwhile and revoked the lease.
        self.node.read_barrier().await?;
        self.lessor.promoted().await;
        Ok(())
    }

    /// Renews a lease, and waits for a revocation that is under way.
    async fn renew(&self, id: i64) -> Result<i64, Error> {
        self.confirm_leader().await?;
        self.lessor.renew(id, &self.propose).await
    }

    /// Bounds a wait as any request's.
    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, Error>> + Send) -> Result<T, Error> {
        match tokio::time::timeout(self.node.limits().request_timeout, answer).await {
            Ok(Err(Error::NotLeader)) => Err(Error::LeaderChanged),
            Ok(answer) => answer,
            Err(_) => Err(Error::Timeout),
        }
    }

    async fn keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        // Before the renewal, as in etcd: the revision is never newer than it.
        let header = Some(self.node.header(self.node.reader().revision()));
        let ttl = match self.in_time(self.renew(id)).await {
            Err(Error::LeaseNotFound) => 0,
            ttl => ttl.map_err(status)?,
        };
        Ok(LeaseKeepAliveResponse { header, id, ttl })
    }
}

/// Requests of a keepalive stream and who answers them.
struct KeepAlives {
    requests: Streaming<LeaseKeepAliveRequest>,
    service: LeaseService,
    failed: bool,
}

impl KeepAlives {
    /// The next answer; an error is the last, and so is the end of the requests.
    async fn next(&mut self) -> Option<Result<LeaseKeepAliveResponse, Status>> {
        if self.failed {
            return None;
        }
        let answer = match self.requests.message().await {
            Ok(Some(request)) => self.service.keep_alive(request.id).await,
            Ok(None) => return None,
            Err(error) => {
                self.service.failures.inc();
                Err(error)
            }
        };
        self.failed = answer.is_err();
        Some(answer)
    }
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        let mut request = request.into_inner();
        request.ttl = request.ttl.max(self.lessor.minimum_ttl());
        while request.id == 0 {
            request.id = rand::random::<i64>() & i64::MAX;
        }
        self.quota.admit(&self.node, LEASE_COST).await.map_err(status)?;
        let outcome = self.node.propose(Op::LeaseGrant(request)).await.map_err(status)?;
        match outcome.result.map_err(status)? {
            Reply::LeaseGrant { id, ttl } => {
                let header = Some(self.node.header(outcome.revision));
                Ok(Response::new(LeaseGrantResponse { header, id, ttl, error: String::new() }))
            }
            _ => Err(mismatched(&self.node)),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let outcome = self.node.propose(Op::LeaseRevoke(request.into_inner())).await.map_err(status)?;
        outcome.result.map_err(status)?;
        Ok(Response::new(LeaseRevokeResponse { header: Some(self.node.header(outcome.revision)) }))
    }

    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let calls = Box::new(KeepAlives { requests: request.into_inner(), service: self.clone(), failed: false });
        let answers = futures::stream::unfold(calls, |mut calls| async move {
            let answer = calls.next().await?;
            Some((answer, calls))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        self.in_time(self.confirm_leader()).await.map_err(status)?;
        let remaining = self.lessor.remaining(id).map_err(|_| status(Error::LeaderChanged))?;
        let reader = self.node.reader();
        let header = Some(self.node.header(reader.revision()));
        let Some((granted_ttl, ttl)) = remaining else {
            return Ok(Response::new(LeaseTimeToLiveResponse { header, id, ttl: -1, ..Default::default() }));
        };
        let keys = if keys { reader.lease_keys(id).into_iter().map(Bytes::from).collect() } else { Vec::new() };
        Ok(Response::new(LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, keys }))
    }

    async fn lease_leases(
        &self,
        _request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let reader = self.node.reader();
        // Only the leader knows the expiries; other members answer by id.
        let ids = self.lessor.by_expiry();
        let ids = ids.unwrap_or_else(|| reader.leases().into_iter().map(|(id, _)| id).collect());
        let leases = ids.into_iter().map(|id| LeaseStatus { id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: Some(self.node.header(reader.revision())), leases }))
    }
}
