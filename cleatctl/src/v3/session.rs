//! What a lock and an election share, by the recipes of etcd's client library: a lease that is kept alive, a key of it that
//! is created under a name, and the wait until no older key is there.

use crate::failure::Failure;
use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use api::etcdserverpb::response_op::Response;
use api::etcdserverpb::{
    DeleteRangeRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RangeResponse, ResponseHeader, TxnRequest,
};
use api::mvccpb::KeyValue;
use api::mvccpb::event::EventType;
use client::message::{self, op};
use client::{Client, WatchOptions};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Renewals within the time of a lease.
const RENEWALS: u32 = 3;
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// A lease that lives as long as this process, and ends with it.
pub(super) struct Session {
    pub(super) client: Client,
    lease: i64,
    ttl: Duration,
}

/// This session's key under a name.
pub(super) struct Claim {
    pub(super) key: Vec<u8>,
    /// When it was created.
    pub(super) revision: i64,
    /// Of the answer that it was claimed with.
    header: Option<ResponseHeader>,
    /// The oldest key under the name was this one.
    is_first: bool,
    /// The key was there already, with this value.
    found: Option<KeyValue>,
}

impl Session {
    pub(super) async fn begin(client: Client, ttl_seconds: i64) -> Result<Self, Failure> {
        let lease = client.grant(ttl_seconds).await?;
        Ok(Self { client, lease, ttl: Duration::from_secs(ttl_seconds.unsigned_abs()) })
    }

    /// Keeps the lease alive; returns when it is over.
    pub(super) async fn expired(&self) {
        loop {
            tokio::time::sleep((self.ttl / RENEWALS).max(PAUSE_MIN)).await;
            match self.client.keep_alive_once(self.lease).await {
                Ok(answer) if answer.ttl > 0 => {}
                // What cannot be reached may be back before the lease is over.
                Err(error) if error.may_pass() => {}
                _ => return,
            }
        }
    }

    /// Creates this session's key under the name, unless it is there already.
    pub(super) async fn claim(&self, name: &[u8], value: &[u8]) -> Result<Claim, Failure> {
        let prefix = [name, b"/"].concat();
        let key = [&*prefix, format!("{:x}", self.lease).as_bytes()].concat();
        let put = PutRequest { lease: self.lease, ..message::put(key.clone(), value.to_vec()) };
        let oldest = RangeRequest {
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            limit: 1,
            ..message::get_prefix(prefix)
        };
        let answer = self
            .client
            .txn(TxnRequest {
                compare: vec![message::is_absent(key.clone())],
                success: vec![op::put(put), op::range(oldest.clone())],
                failure: vec![op::range(message::get(key.clone())), op::range(oldest)],
            })
            .await?;
        let mut ranges = answer.responses.into_iter().filter_map(|response| match response.response {
            Some(Response::ResponseRange(range)) => Some(range),
            _ => None,
        });
        let found = if answer.succeeded { None } else { ranges.next().and_then(|mut range| range.kvs.pop()) };
        let created = answer.header.map_or(0, |header| header.revision);
        let revision = found.as_ref().map_or(created, |kv| kv.create_revision);
        let oldest = ranges.next().and_then(|mut range| range.kvs.pop());
        let is_first = oldest.is_none_or(|kv| kv.create_revision == revision);
        Ok(Claim { key, revision, header: answer.header, is_first, found })
    }

    /// Gives the key another value if it has another one.
    pub(super) async fn propose(&self, claim: &Claim, value: &[u8]) -> Result<(), Failure> {
        if claim.found.as_ref().is_none_or(|kv| kv.value == *value) {
            return Ok(());
        }
        let put = PutRequest { lease: self.lease, ..message::put(claim.key.clone(), value.to_vec()) };
        let txn = TxnRequest {
            compare: vec![message::created_at(claim.key.clone(), claim.revision)],
            success: vec![op::put(put)],
            failure: Vec::new(),
        };
        let answer = self.client.txn(txn).await?;
        if answer.succeeded { Ok(()) } else { Err(Failure::new(crate::failure::code::ERROR, "election: not leader")) }
    }

    /// Waits until no key under the name is older; returns the revision at which that was so.
    pub(super) async fn wait_for_first(&self, name: &[u8], claim: &Claim) -> Result<i64, Failure> {
        let revision_of = |header: Option<ResponseHeader>| header.map_or(0, |header| header.revision);
        if claim.is_first {
            return Ok(revision_of(claim.header));
        }
        let youngest = RangeRequest {
            sort_order: SortOrder::Descend.into(),
            sort_target: SortTarget::Create.into(),
            limit: 1,
            max_create_revision: claim.revision - 1,
            ..message::get_prefix([name, b"/"].concat())
        };
        loop {
            let mut answer = self.client.range(youngest.clone()).await?;
            let Some(before) = answer.kvs.pop() else { break };
            let start = revision_of(answer.header);
            wait_for_end(&self.client, &before.key, start).await?;
        }
        // The lease may have ended meanwhile.
        let own = self.client.range(message::get(claim.key.clone())).await?;
        if own.kvs.is_empty() {
            return Err(Failure::new(crate::failure::code::ERROR, "mutex: session is expired"));
        }
        Ok(revision_of(own.header))
    }

    /// The key and what it has.
    pub(super) async fn own(&self, claim: &Claim) -> Result<RangeResponse, Failure> {
        Ok(self.client.range(message::get(claim.key.clone())).await?)
    }

    /// Takes the key back.
    pub(super) async fn release(&self, claim: &Claim) -> Result<(), Failure> {
        self.client
            .delete(DeleteRangeRequest { key: claim.key.clone().into(), ..DeleteRangeRequest::default() })
            .await?;
        Ok(())
    }

    /// Ends the lease, and with it what is still there of it.
    pub(super) async fn end(self) {
        // Best effort: it ends by itself.
        drop(self.client.lease_revoke(LeaseRevokeRequest { id: self.lease }).await);
    }
}

/// Waits until a key is deleted.
async fn wait_for_end(client: &Client, key: &[u8], start_revision: i64) -> Result<(), Failure> {
    let options = WatchOptions { key: key.to_vec().into(), start_revision, ..WatchOptions::default() };
    let mut watch = client.watch(options).await?;
    loop {
        let events = watch.next().await?.events;
        if events.iter().any(|event| event.r#type() == EventType::Delete) {
            return Ok(());
        }
    }
}

/// Returns when this process is asked to end.
pub(super) async fn interrupted() -> Result<(), Failure> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
