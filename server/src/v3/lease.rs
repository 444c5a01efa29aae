//! The Lease service. Grants and revocations are proposals; keepalives and remaining times are answered from the
//! leader's memory, after it made sure that it still leads; other members ask it.

use super::renewals::{Renewals, UNDER_WAY};
use super::status::{mismatched, status};
use crate::auth::{Auth, Credentials};
use crate::lessor::{Lessor, Propose, Renewal};
use crate::node::{Node, peer_failure};
use crate::peer::PeerApi;
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
use std::time::Duration;
use store::{Asked, KeyRange, Reply};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// After a question that no leader answered, before it is asked again.
const RETRY: Duration = Duration::from_millis(20);

/// Shared by all calls; clones are cheap.
#[derive(Clone)]
pub(crate) struct LeaseService {
    node: Node,
    auth: Auth,
    lessor: Arc<Lessor>,
    quota: Arc<Quota>,
    propose: Arc<Propose>,
    renewals: Renewals,
    /// Requests of a keepalive stream that could not be received.
    failures: IntCounter,
    /// Ends keepalive streams: their clients never do, and ask another member.
    stop: CancellationToken,
}

/// How the lessor of a member proposes.
pub(crate) fn proposer(node: Node) -> Propose {
    Box::new(move |op, term| {
        let node = node.clone();
        Box::pin(async move { node.propose_in(term, op).await })
    })
}

impl LeaseService {
    pub(crate) fn new(
        (node, auth): (Node, Auth),
        lessor: Arc<Lessor>,
        quota: Arc<Quota>,
        failures: IntCounter,
        stop: CancellationToken,
    ) -> Self {
        let (propose, renewals) = (Arc::new(proposer(node.clone())), Renewals::new(node.clone()));
        Self { node, auth, lessor, quota, propose, renewals, failures, stop }
    }

    /// Makes sure that this member leads, in the term that its lessor keeps the time of, and returns that term.
    async fn confirm_leader(&self) -> Result<u64, Error> {
        if !self.node.is_leader() {
            return Err(Error::NotLeader);
        }
        let term = self.lessor.promoted().await;
        // Someone else may have been elected meanwhile and revoked the lease.
        if self.node.confirmed().await?.led_in == Some(term) { Ok(term) } else { Err(Error::NotLeader) }
    }

    /// Renews leases if this member leads. The times to live, 0 for a lease that is gone. A revocation that is under way is
    /// waited for, or makes the answer [`UNDER_WAY`].
    ///
    /// # Errors
    /// [`Error::NotLeader`], or leadership could not be confirmed.
    pub(crate) async fn renew_here(&self, ids: &[i64], waits: bool) -> Result<Vec<i64>, Error> {
        let term = self.confirm_leader().await?;
        let mut ttls = Vec::with_capacity(ids.len());
        for id in ids {
            ttls.push(if waits { self.renew(*id, term).await? } else { self.renew_at_once(*id, term)? });
        }
        Ok(ttls)
    }

    fn renew_at_once(&self, id: i64, term: u64) -> Result<i64, Error> {
        match self.lessor.renew_at_once(id, term) {
            Ok(Renewal::Done(ttl)) => Ok(ttl),
            Ok(Renewal::Checkpointed | Renewal::UnderWay) => Ok(UNDER_WAY),
            Err(Error::LeaseNotFound) => Ok(0),
            Err(error) => Err(error),
        }
    }

    async fn renew(&self, id: i64, term: u64) -> Result<i64, Error> {
        match self.lessor.renew(id, term, &self.propose).await {
            Err(Error::LeaseNotFound) => Ok(0),
            ttl => ttl,
        }
    }

    /// Answers for a lease if this member leads. The header is for whoever asked to fill in.
    ///
    /// # Errors
    /// [`Error::NotLeader`], or leadership could not be confirmed.
    pub(crate) async fn time_to_live_here(
        &self,
        request: LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, Error> {
        let LeaseTimeToLiveRequest { id, keys } = request;
        let term = self.confirm_leader().await?;
        let remaining = self.lessor.remaining(id, term)?;
        let Some((granted_ttl, ttl)) = remaining else {
            return Ok(LeaseTimeToLiveResponse { id, ttl: -1, ..Default::default() });
        };
        let reader = self.node.reader();
        let keys = if keys { reader.lease_keys(id).into_iter().map(Bytes::from).collect() } else { Vec::new() };
        Ok(LeaseTimeToLiveResponse { header: None, id, ttl, granted_ttl, keys })
    }

    /// Asks whoever leads, here or elsewhere, until there is an answer or the time of a request is over. What is asked may
    /// be asked twice.
    async fn ask_leader<T, H, E>(
        &self,
        here: impl Fn() -> H + Send,
        elsewhere: impl Fn(Arc<dyn PeerApi>) -> E + Send,
    ) -> Result<T, Error>
    where
        H: Future<Output = Result<T, Error>> + Send,
        E: Future<Output = Result<T, Error>> + Send,
    {
        let deadline = Instant::now() + self.node.limits().request_timeout;
        if self.node.is_leader() {
            match tokio::time::timeout_at(deadline, here()).await {
                Ok(Err(Error::NoLeader | Error::NotLeader | Error::LeaderChanged)) => {}
                Ok(answer) => return answer,
                Err(_) => return Err(Error::Timeout),
            }
        }
        let mut leader = self.node.watch_leader();
        let mut last = Error::Timeout;
        loop {
            leader.mark_unchanged();
            let asked = async {
                if self.node.is_leader() {
                    return here().await;
                }
                let peer = self.node.leading_peer()?;
                tokio::select! {
                    biased;
                    answer = elsewhere(peer) => answer,
                    // The one that was asked may never answer.
                    _ = leader.changed() => Err(Error::LeaderChanged),
                }
            };
            match tokio::time::timeout_at(deadline, asked).await {
                Ok(Err(Error::NoLeader | Error::NotLeader)) => {}
                Ok(Err(error @ (Error::LeaderChanged | Error::TimeoutConnectionLost))) => last = error,
                Ok(answer) => return answer,
                Err(_) => return Err(Error::Timeout),
            }
            if Instant::now() + RETRY >= deadline {
                return Err(last);
            }
            tokio::time::timeout(RETRY, leader.changed()).await.ok();
        }
    }

    /// Answers a client's keepalive, wherever the leader is.
    pub(crate) async fn keep_alive(
        &self,
        credentials: &Credentials,
        id: i64,
    ) -> Result<LeaseKeepAliveResponse, Status> {
        self.auth.permit(credentials, Asked::LeaseRenewal(id)).await.map_err(status)?;
        // Before the renewal, as in etcd: the revision is never newer than it.
        let header = Some(self.node.header(self.node.reader().revision()));
        let here = || async move {
            let term = self.confirm_leader().await?;
            self.renew(id, term).await
        };
        let elsewhere = |_: Arc<dyn PeerApi>| self.renewals.renew(id);
        let ttl = self.ask_leader(here, elsewhere).await.map_err(status)?;
        Ok(LeaseKeepAliveResponse { header, id, ttl })
    }
}

/// Requests of a keepalive stream and who answers them.
struct KeepAlives {
    requests: Streaming<LeaseKeepAliveRequest>,
    service: LeaseService,
    credentials: Credentials,
    failed: bool,
}

impl KeepAlives {
    /// The next answer; an error is the last, and so is the end of the requests.
    async fn next(&mut self) -> Option<Result<LeaseKeepAliveResponse, Status>> {
        if self.failed {
            return None;
        }
        let received = tokio::select! {
            biased;
            () = self.service.stop.cancelled() => {
                self.failed = true;
                return Some(Err(status(Error::Stopped)));
            }
            received = self.requests.message() => received,
        };
        let answer = match received {
            Ok(Some(request)) => self.service.keep_alive(&self.credentials, request.id).await,
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
        let credentials = Credentials::of(&request);
        let mut request = request.into_inner();
        request.ttl = request.ttl.max(self.lessor.minimum_ttl());
        while request.id == 0 {
            request.id = rand::random::<i64>() & i64::MAX;
        }
        self.quota.admit(&self.node, LEASE_COST).await.map_err(status)?;
        let outcome = self.auth.propose(&credentials, Op::LeaseGrant(request)).await.map_err(status)?;
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
        let credentials = Credentials::of(&request);
        let op = Op::LeaseRevoke(request.into_inner());
        let outcome = self.auth.propose(&credentials, op).await.map_err(status)?;
        outcome.result.map_err(status)?;
        Ok(Response::new(LeaseRevokeResponse { header: Some(self.node.header(outcome.revision)) }))
    }

    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (credentials, service) = (Credentials::of(&request), self.clone());
        let calls = Box::new(KeepAlives { requests: request.into_inner(), service, credentials, failed: false });
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
        let credentials = Credentials::of(&request);
        let request = request.into_inner();
        let asked = if request.keys { Asked::LeaseKeys(request.id) } else { Asked::Known };
        self.auth.permit(&credentials, asked).await.map_err(status)?;
        let here = || async move { self.time_to_live_here(request).await };
        let elsewhere = |peer: Arc<dyn PeerApi>| async move {
            peer.lease_time_to_live(request).await.map_err(|error| peer_failure(&error))
        };
        let mut response = self.ask_leader(here, elsewhere).await.map_err(status)?;
        // The leader may know of keys that this member did not when it looked.
        for key in &response.keys {
            let asked = Asked::Range(KeyRange::new(key, &[]));
            self.auth.permit(&credentials, asked).await.map_err(status)?;
        }
        response.header = Some(self.node.header(self.node.reader().revision()));
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.auth.permit(&Credentials::of(&request), Asked::Leases).await.map_err(status)?;
        let reader = self.node.reader();
        // Only the leader knows the expiries; other members answer by id.
        let ids = self.lessor.by_expiry();
        let ids = ids.unwrap_or_else(|| reader.leases().into_iter().map(|(id, _)| id).collect());
        let leases = ids.into_iter().map(|id| LeaseStatus { id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: Some(self.node.header(reader.revision())), leases }))
    }
}
