//! What a lock and an election share, by the recipes of etcd's client library: a lease that is kept alive, a key of it that
//! is created under a name, and the wait until no older key is there.

use super::renewal::{Renewal, Renewed};
use crate::failure::{Failure, code, text_of};
use crate::people::explain;
use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use api::etcdserverpb::response_op::Response;
use api::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RangeResponse, ResponseHeader,
    TxnRequest,
};
use api::mvccpb::KeyValue;
use api::mvccpb::event::EventType;
use client::message::{self, op};
use client::{Client, WatchOptions};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Of a session that asks for no time or less, in seconds; etcd's client library has the same.
pub(super) const TTL: i64 = 60;

/// A lease that lives as long as this process, and ends with it.
pub(super) struct Session {
    client: Client,
    lease: i64,
    /// Why the lease could not be renewed, for people; empty if there is no more to say. Has a value or is closed when the
    /// lease is over.
    over: watch::Receiver<Option<String>>,
    renewing: JoinHandle<()>,
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
    /// Grants the lease, and keeps it alive from then on, whatever else is waited for. `is_etcdctl`: nobody is told why it
    /// could not be renewed.
    pub(super) async fn begin(client: Client, ttl_seconds: i64, is_etcdctl: bool) -> Result<Self, Failure> {
        let ttl = if ttl_seconds > 0 { ttl_seconds } else { TTL };
        let granted = client.lease_grant(LeaseGrantRequest { ttl, id: 0 }).await?;
        let ttl = Duration::from_secs(granted.ttl.unsigned_abs());
        let mut renewal = Renewal::granted(client.clone(), granted.id, ttl);
        let (end, over) = watch::channel(None);
        let renewing = tokio::spawn(async move {
            let why = loop {
                match renewal.next().await {
                    Ok(Renewed::Alive(_)) => {}
                    Ok(Renewed::Gone) => break None,
                    Ok(Renewed::Unheard(why)) => break why,
                    Err(refused) => break Some(refused),
                }
            };
            let why = why.filter(|_| !is_etcdctl).map(|why| explain(&why, &text_of(&why)));
            end.send_replace(Some(why.unwrap_or_default()));
        });
        Ok(Self { client, lease: granted.id, over, renewing })
    }

    /// Returns when the lease is over, with what to say of it.
    pub(super) async fn expired(&self) -> Failure {
        let mut over = self.over.clone();
        let why = over.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()).unwrap_or_default();
        let why = if why.is_empty() { why } else { format!(": {why}") };
        Failure::new(code::ERROR, format!("session expired{why}"))
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
        if answer.succeeded { Ok(()) } else { Err(Failure::new(code::ERROR, "election: not leader")) }
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
            return Err(Failure::new(code::ERROR, "mutex: session is expired"));
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
        self.renewing.abort();
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

/// What asks this process to end. Made once and before anything is held: what comes while nobody waits is not lost.
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    pub(super) fn listen() -> Result<Self, Failure> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Returns when this process is asked to end, or has been since the last time.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};

    #[tokio::test]
    async fn a_signal_that_comes_while_nobody_waits_is_not_lost() {
        let mut interrupts = Interrupts::listen().unwrap();
        kill_process(getpid(), Signal::INT).unwrap();
        tokio::time::timeout(Duration::from_mins(1), interrupts.next()).await.unwrap();
    }
}
