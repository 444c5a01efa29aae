//! What Lock and Election share: etcd's `concurrency` package, which is a client of the KV and Lease services.
//!
//! Who wants a lock or an election creates the key `<name>/<lease in hex>`, and has it when no older key is left under
//! the name. Everybody waits for the deletion of the key just before its own, so a release wakes one. A key goes with its
//! lease, so whoever is gone is not waited for.
//!
//! Every step is a request to [`KvService`] or [`LeaseService`] with what came with the caller's request, so whatever they
//! check they check of the caller.
//!
//! A call goes on in a task of its own when its client has left: a proposal under way can not be taken back, and what it
//! creates is to be removed.

use super::kv::KvService;
use super::lease::LeaseService;
use super::status::{mismatched, status, without_code};
use crate::node::Node;
use crate::watch::hub::Hub;
use crate::watch::next_delete::NextDelete;
use api::encoded::{KeyValue, RangeResponse, Response as OpResponse, TxnResponse};
use api::error::Error;
use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use api::etcdserverpb::request_op::Request as RequestKind;
use api::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest,
};
use api::mvccpb;
use api::server::kv_server::Kv as _;
use api::server::lease_server::Lease as _;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status};

/// Calls of both services at the same time, most of which wait. More are refused with "too many requests". As many as may
/// wait for a read.
const CALLS: usize = 16_384;

/// Time to live of the lease that a call without one is given, in seconds. Nobody keeps it alive but its client.
const SESSION_TTL: i64 = 60;

/// Another member of an election leads, or this one is no member any more.
pub(super) const NOT_LEADER: &str = "election: not leader";

/// What both services are built on. Clones share the places.
#[derive(Clone)]
pub(crate) struct Concurrency {
    kv: Arc<KvService>,
    leases: LeaseService,
    pub(super) node: Node,
    pub(super) hub: Arc<Hub>,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Concurrency {
    /// Calls are spawned on `tasks` and end with `stop`.
    pub(crate) fn new(
        kv: Arc<KvService>,
        leases: LeaseService,
        hub: Arc<Hub>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let node = kv.node.clone();
        Self { kv, leases, node, hub, places: Arc::new(Semaphore::new(CALLS)), tasks, stop }
    }

    /// Takes one of the places for calls.
    ///
    /// # Errors
    /// All are taken.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| without_code(Error::TooManyRequests.text()))
    }

    /// The caller of a request and what it asks.
    pub(super) fn caller<T>(&self, request: Request<T>) -> (Caller, T) {
        let (metadata, extensions, message) = request.into_parts();
        (Caller { services: self.clone(), metadata, extensions, left: self.stop.child_token() }, message)
    }

    /// Does the work of a call, to its end even when the client leaves. The work is told with [`Caller::left`].
    pub(super) async fn run<T, R, F>(
        &self,
        request: Request<T>,
        work: impl FnOnce(Caller, T) -> F,
    ) -> Result<Response<R>, Status>
    where
        F: Future<Output = Result<R, Status>> + Send + 'static,
        R: Send + 'static,
    {
        let place = self.place()?;
        let (caller, message) = self.caller(request);
        let _leaving = caller.left.clone().drop_guard();
        let work = work(caller, message);
        let done = self.tasks.spawn(async move {
            let _place = place;
            work.await
        });
        done.await.map_err(|_| status(Error::Stopped))?.map(Response::new)
    }
}

/// Whoever made a call.
pub(super) struct Caller {
    pub(super) services: Concurrency,
    metadata: MetadataMap,
    extensions: Extensions,
    /// The client is gone, or the member stops.
    pub(super) left: CancellationToken,
}

/// A key that waits for its turn, or has it.
pub(super) struct Entry {
    prefix: Bytes,
    pub(super) key: Bytes,
    /// Its create revision.
    pub(super) rev: i64,
    /// As of the transaction that created or found the key.
    pub(super) header: ResponseHeader,
    /// The value of a key that the lease had before.
    pub(super) found: Option<Bytes>,
    has_turn: bool,
}

/// Who has to go before an entry has its turn.
enum Ahead {
    Nobody,
    Key(Vec<u8>),
    /// The entry's own key is gone.
    Lost,
}

impl Caller {
    /// A step of the call, as if the client had asked for it.
    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }

    async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        self.services.kv.txn(self.request(request)).await.map(Response::into_inner).map_err(|error| unnumbered(&error))
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.services
            .kv
            .range(self.request(request))
            .await
            .map(Response::into_inner)
            .map_err(|error| unnumbered(&error))
    }

    pub(super) async fn delete(&self, key: Bytes) -> Result<Option<ResponseHeader>, Status> {
        let request = DeleteRangeRequest { key, ..Default::default() };
        let deleted = self.services.kv.delete_range(self.request(request)).await.map_err(|error| unnumbered(&error))?;
        Ok(deleted.into_inner().header)
    }

    /// The lease of the caller's keys: the one given, or a new one for 0.
    pub(super) async fn session(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let request = LeaseGrantRequest { ttl: SESSION_TTL, id: 0 };
        let granted =
            self.services.leases.lease_grant(self.request(request)).await.map_err(|error| unnumbered(&error))?;
        Ok(granted.into_inner().id)
    }

    /// Creates the key of a lease under a name, or finds the one that is there.
    pub(super) async fn enter(&self, name: &[u8], lease: i64, value: Bytes) -> Result<Entry, Status> {
        let prefix = prefix(name);
        let key = Bytes::from([&prefix, hex(lease).as_bytes()].concat());
        let put = PutRequest { key: key.clone(), value, lease, ..Default::default() };
        let own = RangeRequest { key: key.clone(), ..Default::default() };
        let oldest = || op(RequestKind::RequestRange(oldest(&prefix)));
        let response = self
            .txn(TxnRequest {
                compare: vec![created_at(&key, 0)],
                success: vec![op(RequestKind::RequestPut(put)), oldest()],
                failure: vec![op(RequestKind::RequestRange(own)), oldest()],
            })
            .await?;
        let header = response.header.unwrap_or_default();
        let [own, oldest] = &response.responses[..] else { return Err(mismatched(&self.services.node)) };
        let found = match &own.response {
            Some(OpResponse::Range(own)) => own.kvs.first().map(|kv| self.message(kv)).transpose()?,
            _ => None,
        };
        let rev = found.as_ref().map_or(header.revision, |kv| kv.create_revision);
        let oldest = match &oldest.response {
            Some(OpResponse::Range(oldest)) => oldest.kvs.first().map(|kv| self.message(kv)).transpose()?,
            _ => None,
        };
        let has_turn = oldest.is_none_or(|oldest| oldest.create_revision == rev);
        Ok(Entry { prefix, key, rev, header, found: found.map(|kv| kv.value), has_turn })
    }

    /// Waits until nobody is ahead of an entry. A header of that time; an error leaves no key behind.
    ///
    /// # Errors
    /// `lost` if the entry's key is gone, most likely with its lease: then it has nothing. Otherwise the member can not
    /// tell, or the client left.
    pub(super) async fn turn(&self, entry: &Entry, lost: &str) -> Result<ResponseHeader, Status> {
        let came = if entry.has_turn { Ok(Some(entry.header)) } else { self.wait(entry).await };
        match came {
            // Who found its key has it from an earlier call, which may have been told so.
            Ok(Some(_)) if self.left.is_cancelled() && !(entry.has_turn && entry.found.is_some()) => {
                self.leave(entry).await;
                Err(self.gone())
            }
            Ok(Some(header)) => Ok(header),
            Ok(None) => Err(without_code(lost)),
            Err(error) => {
                self.leave(entry).await;
                Err(error)
            }
        }
    }

    /// None if the key is gone.
    async fn wait(&self, entry: &Entry) -> Result<Option<ResponseHeader>, Status> {
        let Concurrency { node, hub, .. } = &self.services;
        let mut watching: Option<(Vec<u8>, NextDelete)> = None;
        loop {
            match self.ahead(entry).await? {
                Ahead::Nobody => break,
                Ahead::Lost => return Ok(None),
                Ahead::Key(key) => match watching.take() {
                    Some((watched, deletion)) if watched == key => tokio::select! {
                        biased;
                        () = self.left.cancelled() => return Err(self.gone()),
                        () = deletion.happened() => {}
                    },
                    // Once more, in case that it was deleted before it was watched.
                    _ => {
                        let deletion = NextDelete::of(hub, node.reader(), [&key[..], &entry.key]);
                        watching = Some((key, deletion));
                    }
                },
            }
        }
        // Nobody comes back who was ahead, so that holds. But this member may be behind: the key may be gone, with a lease
        // that expired while it waited.
        let own = self.range(RangeRequest { key: entry.key.clone(), ..Default::default() }).await?;
        let is_held =
            own.kvs.first().map(|kv| self.message(kv)).transpose()?.is_some_and(|kv| kv.create_revision == entry.rev);
        Ok(if is_held { own.header } else { None })
    }

    /// Looks at one revision of this member, however old.
    async fn ahead(&self, entry: &Entry) -> Result<Ahead, Status> {
        let own = RangeRequest { key: entry.key.clone(), serializable: true, ..Default::default() };
        let before = RangeRequest {
            max_create_revision: entry.rev - 1,
            sort_order: SortOrder::Descend as i32,
            serializable: true,
            ..oldest(&entry.prefix)
        };
        let ranges = [own, before].map(|range| op(RequestKind::RequestRange(range)));
        let response = self.txn(TxnRequest { success: ranges.into(), ..Default::default() }).await?;
        let first = |at: usize| match response.responses.get(at).and_then(|op| op.response.as_ref()) {
            Some(OpResponse::Range(range)) => range.kvs.first().map(|kv| self.message(kv)).transpose(),
            _ => Err(mismatched(&self.services.node)),
        };
        // Another call may have created the key anew, behind others.
        if first(0)?.is_none_or(|own| own.create_revision != entry.rev) {
            return Ok(Ahead::Lost);
        }
        Ok(first(1)?.map_or(Ahead::Nobody, |before| Ahead::Key(before.key.to_vec())))
    }

    /// Changes the value of an entry, or of what a client says is one.
    pub(super) async fn proclaim(
        &self,
        (key, rev): (&Bytes, i64),
        lease: i64,
        value: Bytes,
    ) -> Result<Option<ResponseHeader>, Status> {
        let put = PutRequest { key: key.clone(), value, lease, ..Default::default() };
        let success = vec![op(RequestKind::RequestPut(put))];
        let response = self.txn(TxnRequest { compare: vec![created_at(key, rev)], success, failure: vec![] }).await?;
        if response.succeeded { Ok(response.header) } else { Err(without_code(NOT_LEADER)) }
    }

    /// Deletes a key if it is still the one created at `rev`.
    pub(super) async fn resign(&self, key: &Bytes, rev: i64) -> Result<Option<ResponseHeader>, Status> {
        let delete = DeleteRangeRequest { key: key.clone(), ..Default::default() };
        let success = vec![op(RequestKind::RequestDeleteRange(delete))];
        let compare = vec![created_at(key, rev)];
        Ok(self.txn(TxnRequest { compare, success, failure: vec![] }).await?.header)
    }

    /// Takes back an entry. If that fails, its lease does it.
    pub(super) async fn leave(&self, entry: &Entry) {
        if let Err(error) = self.resign(&entry.key, entry.rev).await {
            tracing::debug!(%error, "the key of a call that ended stays until its lease ends");
        }
    }

    fn gone(&self) -> Status {
        status(if self.services.stop.is_cancelled() { Error::Stopped } else { Error::RequestCanceled })
    }

    pub(super) fn message(&self, kv: &KeyValue) -> Result<mvccpb::KeyValue, Status> {
        kv.to_message().map_err(|_| mismatched(&self.services.node))
    }
}

/// Under which the keys of a name are.
pub(super) fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The key under a prefix that was created first.
pub(super) fn oldest(prefix: &Bytes) -> RangeRequest {
    let mut range_end = prefix.to_vec();
    if let Some(last) = range_end.last_mut() {
        // It is a slash.
        *last += 1;
    }
    RangeRequest {
        key: prefix.clone(),
        range_end: range_end.into(),
        limit: 1,
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..Default::default()
    }
}

/// As Go writes it.
fn hex(lease: i64) -> String {
    let sign = if lease < 0 { "-" } else { "" };
    format!("{sign}{:x}", lease.unsigned_abs())
}

fn created_at(key: &Bytes, rev: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(rev)),
    }
}

fn op(request: RequestKind) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// What is left of a step's error.
fn unnumbered(error: &Status) -> Status {
    without_code(error.message())
}

#[cfg(test)]
mod tests {
    use super::hex;

    #[test]
    fn leases_are_written_as_go_does() {
        for (lease, text) in [(16, "10"), (i64::MAX, "7fffffffffffffff"), (-5, "-5"), (i64::MIN, "-8000000000000000")] {
            assert_eq!(hex(lease), text);
        }
    }
}
