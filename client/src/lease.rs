//! Leases: granting, revoking, and keeping one alive.

use crate::call::Effect;
use crate::client::Client;
use crate::error::Error;
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseRevokeRequest, LeaseRevokeResponse,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic::{Code, Response, Status};

/// A lease is renewed when this part of its time is over, so that two renewals may fail before it is lost.
const RENEWALS_PER_TTL: u32 = 3;

/// Longest pause before a failed renewal is tried again.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(1);

impl Client {
    /// Grants a lease of `ttl_seconds`; the server chooses the id if it is 0.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn lease_grant(&self, id: i64, ttl_seconds: i64) -> Result<LeaseGrantResponse, Error> {
        let send = |channel, request| async move {
            LeaseClient::new(channel).lease_grant(request).await.map(Response::into_inner)
        };
        self.call(Effect::Write, LeaseGrantRequest { ttl: ttl_seconds, id }, send).await
    }

    /// Revokes a lease, and with it deletes its keys.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn lease_revoke(&self, id: i64) -> Result<LeaseRevokeResponse, Error> {
        let send = |channel, request| async move {
            LeaseClient::new(channel).lease_revoke(request).await.map(Response::into_inner)
        };
        self.call(Effect::Write, LeaseRevokeRequest { id }, send).await
    }

    /// Renews a lease once and returns the time it has from now on.
    ///
    /// # Errors
    /// As [`Client::range`]: renewing twice does no harm. etcd's error for an unknown lease if it is gone.
    pub async fn lease_keep_alive(&self, id: i64) -> Result<Duration, Error> {
        let send = |channel, request: LeaseKeepAliveRequest| async move {
            let requests = futures::stream::iter([request]);
            let mut answers = LeaseClient::new(channel).lease_keep_alive(requests).await?.into_inner();
            let answer = answers.message().await?.ok_or_else(|| Status::unavailable("the stream has ended"))?;
            // The stream has no error for a lease that is gone, it has a TTL of 0.
            match u64::try_from(answer.ttl) {
                Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
                _ => Err(Status::new(Code::NotFound, api::error::Error::LeaseNotFound.text())),
            }
        };
        self.call(Effect::Read, LeaseKeepAliveRequest { id }, send).await
    }

    /// Keeps a lease alive for as long as the future is polled, and returns only when that has failed: the lease is
    /// gone, or could not be renewed in its time.
    pub async fn lease_hold(&self, id: i64) -> Error {
        let mut ttl = match self.lease_keep_alive(id).await {
            Ok(ttl) => ttl,
            Err(error) => return error,
        };
        let mut lost_at = Instant::now() + ttl;
        loop {
            sleep(ttl / RENEWALS_PER_TTL).await;
            loop {
                let asked_at = Instant::now();
                match self.lease_keep_alive(id).await {
                    Ok(renewed) => {
                        ttl = renewed;
                        // The server began to count when it answered, which is later.
                        lost_at = asked_at + ttl;
                        break;
                    }
                    Err(error) if !error.may_pass() || Instant::now() >= lost_at => return error,
                    Err(_) => sleep((ttl / 10).min(MAX_RETRY_PAUSE)).await,
                }
            }
        }
    }
}
