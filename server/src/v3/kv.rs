//! The KV service.

use super::check;
use super::large_range::{self, BUILT_BYTES, BUILT_BYTES_AT_MOST, LargeRanges};
use super::status::{mismatched, read_status, status};
use crate::auth::{Auth, Credentials};
use crate::listen::MayStream;
use crate::metrics::{Kind, MvccMetrics};
use crate::node::Node;
use crate::quota::Quota;
use crate::steps::{self, Step};
use crate::storage::Storage;
use api::cleatpb::command::Op;
use api::encoded::{
    DeleteRangeResponse, PutResponse, RangeResponse, RangeStreamResponse, Response as ResponseKind, TxnResponse,
};
use api::error::Error;
use api::etcdserverpb::request_op::Request as RequestKind;
use api::etcdserverpb::{
    CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, compare::TargetUnion,
};
use api::server::kv_server::Kv;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;
use store::{Asked, KeyRange, Outcome, ReadError, Reply};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Chunks of a streamed range that wait for the connection.
const STREAM_CHUNKS: usize = 4;

/// Keys in the first chunk of a streamed range; later chunks adapt to the size of the values.
const STREAM_FIRST_KEYS: i64 = 10;

/// Keys in the largest chunk.
const STREAM_KEYS_MAX: i64 = 10_000;

pub(crate) struct KvService {
    pub(crate) node: Node,
    pub(crate) auth: Auth,
    pub(crate) storage: Storage,
    pub(crate) quota: Arc<Quota>,
    pub(crate) max_txn_ops: usize,
    pub(crate) metrics: MvccMetrics,
    pub(crate) large_ranges: LargeRanges,
}

impl KvService {
    async fn propose(&self, credentials: &Credentials, op: Op) -> Result<Outcome, Status> {
        self.auth.propose(credentials, op).await.map_err(status)
    }

    /// As [`Self::propose`], for what takes space. Who may not write has no say in whether there is some.
    async fn propose_growth(&self, credentials: &Credentials, op: Op, cost: u64) -> Result<Outcome, Status> {
        self.auth.permit(credentials, Asked::Op(&op)).await.map_err(status)?;
        self.admit(cost).await?;
        self.propose(credentials, op).await
    }

    /// Reads what the caller may see, before as after: what was read between two looks is not given away if a permission was
    /// taken back meanwhile.
    async fn read<T>(
        &self,
        credentials: &Credentials,
        asked: Asked<'_>,
        read: impl FnOnce() -> Result<T, ReadError>,
    ) -> Result<T, Status> {
        self.auth.permit(credentials, asked).await.map_err(status)?;
        let before = self.auth.revision();
        let answer = read().map_err(read_status)?;
        if self.auth.revision() != before {
            self.auth.permit(credentials, asked).await.map_err(status)?;
        }
        Ok(answer)
    }

    /// Waits while there may be no space for a request of this cost.
    async fn admit(&self, cost: u64) -> Result<(), Status> {
        steps::decoded();
        let admitted = self.quota.admit(&self.node, cost).await;
        steps::done(Step::Quota);
        admitted.map_err(status)
    }

    /// A transaction that only reads needs no log entry.
    async fn read_txn(&self, credentials: &Credentials, request: &TxnRequest) -> Result<TxnResponse, Status> {
        let began = Instant::now();
        let answer = self.answer_read_txn(credentials, request).await;
        self.node.stats().answered(Kind::ReadonlyTxn, answer.is_ok(), began.elapsed());
        answer
    }

    async fn answer_read_txn(&self, credentials: &Credentials, request: &TxnRequest) -> Result<TxnResponse, Status> {
        if !all_serializable(request) {
            self.node.read_barrier().await.map_err(status)?;
        }
        steps::decoded();
        let read = || self.node.reader().txn(request);
        let read = self.read(credentials, Asked::Txn(request), read).await;
        steps::done(Step::Read);
        let (mut response, revision) = read?;
        self.count(&response);
        response.header = Some(self.node.header(revision));
        Ok(response)
    }

    /// Counts the ranges of a transaction, and the transaction if it did more than one thing: so etcd counts.
    fn count(&self, response: &TxnResponse) {
        let (ranges, ops) = executed(response);
        self.metrics.ranges.inc_by(ranges);
        self.metrics.txns.inc_by(u64::from(ops > 1));
    }

    /// Answers a range, built or streamed.
    async fn answer_range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let may_stream = request.extensions().get::<MayStream>().is_some();
        let credentials = Credentials::of(&request);
        let request = request.into_inner();
        steps::about(&request.key, &request.range_end, 0);
        // Before the shape, as in etcd. Everything else that a learner refuses, `listen` has refused already.
        if !request.serializable && self.node.is_learner() {
            return Err(status(Error::NotSupportedForLearner));
        }
        check::range(&request).map_err(status)?;
        if !request.serializable {
            self.node.read_barrier().await.map_err(status)?;
        }
        steps::decoded();
        let asked = Asked::Range(KeyRange::new(&request.key, &request.range_end));
        let built = if may_stream { BUILT_BYTES } else { BUILT_BYTES_AT_MOST };
        let read = || {
            let began = Instant::now();
            let read = self.node.reader().range_up_to(&request, built);
            self.metrics.range_seconds.observe(Kind::Range, read.is_ok(), began.elapsed());
            read
        };
        let read = self.read(&credentials, asked, read).await;
        steps::done(Step::Read);
        let response = match read? {
            Some((mut response, revision)) => {
                response.header = Some(self.node.header(revision));
                steps::counted(response.kvs.len() as i64);
                Response::new(response)
            }
            None if may_stream => {
                let (key, range_end) = (request.key.clone(), request.range_end.clone());
                let answer = self.large_ranges.answer(&self.node, request).await?;
                // It was read after the question above.
                let asked = Asked::Range(KeyRange::new(&key, &range_end));
                self.auth.permit(&credentials, asked).await.map_err(status)?;
                answer
            }
            None => return Err(large_range::too_large("ask for a part of it, with limit or range_end")),
        };
        self.metrics.ranges.inc();
        Ok(response)
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let began = Instant::now();
        let answer = self.answer_range(request).await;
        self.node.stats().answered(Kind::Range, answer.is_ok(), began.elapsed());
        answer
    }

    type RangeStreamStream = ReceiverStream<Result<RangeStreamResponse, Status>>;

    async fn range_stream(&self, request: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        let credentials = Credentials::of(&request);
        let request = request.into_inner();
        check::range(&request).map_err(status)?;
        check::range_stream(&request).map_err(super::status::unimplemented)?;
        if !request.serializable {
            self.node.read_barrier().await.map_err(status)?;
        }
        let asked = Asked::Range(KeyRange::new(&request.key, &request.range_end));
        self.auth.permit(&credentials, asked).await.map_err(status)?;
        self.metrics.ranges.inc();
        let (chunks, stream) = tokio::sync::mpsc::channel(STREAM_CHUNKS);
        let (node, guard) = (self.node.clone(), (self.auth.clone(), credentials));
        // Ends with the range, or when the client is gone and the channel with it.
        tokio::spawn(async move {
            if let Err(error) = stream_range(&node, &guard, request, &chunks).await {
                // The client may be gone: then nobody needs the error.
                drop(chunks.send(Err(error)).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let credentials = Credentials::of(&request);
        let request = request.into_inner();
        steps::about(&request.key, &Bytes::new(), 0);
        check::put(&request).map_err(status)?;
        let cost = crate::quota::put_cost(&request);
        let outcome = self.propose_growth(&credentials, Op::Put(own_put(request)), cost).await?;
        let revision = outcome.revision;
        match outcome.result.map_err(status)? {
            Reply::Put(mut response) => {
                response.header = Some(self.node.header(revision));
                Ok(Response::new(response))
            }
            _ => Err(mismatched(&self.node)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let credentials = Credentials::of(&request);
        let request = request.into_inner();
        steps::about(&request.key, &request.range_end, 0);
        check::delete_range(&request).map_err(status)?;
        let outcome = self.propose(&credentials, Op::DeleteRange(own_delete(request))).await?;
        let revision = outcome.revision;
        match outcome.result.map_err(status)? {
            Reply::DeleteRange(mut response) => {
                steps::counted(response.deleted);
                response.header = Some(self.node.header(revision));
                Ok(Response::new(response))
            }
            _ => Err(mismatched(&self.node)),
        }
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let credentials = Credentials::of(&request);
        let request = request.into_inner();
        about_txn(&request);
        check::txn(&request, self.max_txn_ops).map_err(status)?;
        if only_ranges(&request) {
            return self.read_txn(&credentials, &request).await.map(Response::new);
        }
        let cost = crate::quota::txn_cost(&request);
        let outcome = self.propose_growth(&credentials, Op::Txn(own_txn(request)), cost).await?;
        let revision = outcome.revision;
        match outcome.result.map_err(status)? {
            Reply::Txn(mut response) => {
                self.count(&response);
                response.header = Some(self.node.header(revision));
                Ok(Response::new(response))
            }
            _ => Err(mismatched(&self.node)),
        }
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        let credentials = Credentials::of(&request);
        let request = request.into_inner();
        let outcome = self.propose(&credentials, Op::Compaction(request)).await?;
        let revision = outcome.revision;
        outcome.result.map_err(status)?;
        if request.physical && !self.storage.compaction_finished(request.revision).await {
            return Err(status(Error::Stopped));
        }
        Ok(Response::new(CompactionResponse { header: Some(self.node.header(revision)) }))
    }
}

/// How many ranges a transaction ran, and how many operations in all.
fn executed(response: &TxnResponse) -> (u64, u64) {
    let counts = response.responses.iter().map(|op| match &op.response {
        Some(ResponseKind::Range(_)) => (1, 1),
        Some(ResponseKind::Txn(nested)) => executed(nested),
        _ => (0, 1),
    });
    counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

/// Reads a range in chunks at the revision of the first one.
async fn stream_range(
    node: &Node,
    (auth, credentials): &(Auth, Credentials),
    mut request: RangeRequest,
    chunks: &tokio::sync::mpsc::Sender<Result<RangeStreamResponse, Status>>,
) -> Result<(), Status> {
    let target = node.limits().request_bytes;
    let mut left = if request.limit > 0 { request.limit } else { i64::MAX };
    let mut keys = STREAM_FIRST_KEYS;
    let mut count = None;
    let mut header_revision = None;
    let mut auth_revision = auth.revision();
    loop {
        request.limit = keys.min(left);
        // The first chunk counts the whole range; to count what is left for every chunk would take the square.
        let page = if count.is_none() { node.reader().range(&request) } else { node.reader().range_page(&request) };
        let (mut response, revision) = page.map_err(read_status)?;
        if std::mem::replace(&mut auth_revision, auth.revision()) != auth.revision() {
            let asked = Asked::Range(KeyRange::new(&request.key, &request.range_end));
            auth.permit(credentials, asked).await.map_err(status)?;
        }
        if request.revision <= 0 {
            request.revision = revision;
        }
        let revision = *header_revision.get_or_insert(revision);
        let total = *count.get_or_insert(response.count);
        left -= response.kvs.len() as i64;
        let last = !response.more || left <= 0;
        let more = response.more;
        let bytes: usize = response.kvs.iter().map(|kv| kv.as_bytes().len()).sum();
        if let Some(kv) = response.kvs.last() {
            // The next chunk begins just after the last key.
            let mut next = kv.fields().map_err(|_| status(Error::Corrupt))?.key.to_vec();
            next.push(0);
            request.key = next.into();
        }
        response.more = last && more;
        response.count = if last { total } else { 0 };
        response.header = last.then(|| node.header(revision));
        let chunk = RangeStreamResponse { range_response: Some(response) };
        if chunks.send(Ok(chunk)).await.is_err() || last {
            return Ok(());
        }
        keys = if bytes > target { (keys / 2).max(1) } else { (keys * 2).min(STREAM_KEYS_MAX) };
    }
}

/// Names the first key of a transaction.
fn about_txn(request: &TxnRequest) {
    let mut ops = request.success.iter().chain(&request.failure);
    let none = Bytes::new();
    let of_op = ops.find_map(|op| match &op.request {
        Some(RequestKind::RequestRange(range)) => Some((&range.key, &range.range_end)),
        Some(RequestKind::RequestPut(put)) => Some((&put.key, &none)),
        Some(RequestKind::RequestDeleteRange(delete)) => Some((&delete.key, &delete.range_end)),
        Some(RequestKind::RequestTxn(_)) | None => None,
    });
    let (key, range_end) =
        request.compare.first().map(|one| (&one.key, &one.range_end)).or(of_op).unwrap_or((&none, &none));
    steps::about(key, range_end, request.success.len() + request.failure.len());
}

/// True when both branches are ranges alone, so that no log entry is needed. A nested transaction counts as a write in
/// etcd whatever it does, and meets what a write meets: alarms.
fn only_ranges(request: &TxnRequest) -> bool {
    let ops = request.success.iter().chain(&request.failure);
    ops.map(|op| &op.request).all(|op| matches!(op, Some(RequestKind::RequestRange(_))))
}

/// True when every range of a read-only transaction may be answered from local state.
fn all_serializable(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(RequestKind::RequestRange(range)) => range.serializable,
        // etcd asks only the ranges of the outer lists.
        _ => false,
    })
}

/// Copies what the store keeps: decoded fields are slices of the connection's receive buffer, and one kept key would
/// pin all of it.
fn own(bytes: &mut Bytes) {
    *bytes = Bytes::copy_from_slice(bytes);
}

fn own_put(mut request: PutRequest) -> PutRequest {
    own(&mut request.key);
    own(&mut request.value);
    request
}

fn own_delete(mut request: DeleteRangeRequest) -> DeleteRangeRequest {
    own(&mut request.key);
    own(&mut request.range_end);
    request
}

fn own_txn(mut request: TxnRequest) -> TxnRequest {
    for Compare { key, range_end, target_union, .. } in &mut request.compare {
        own(key);
        own(range_end);
        if let Some(TargetUnion::Value(value)) = target_union {
            own(value);
        }
    }
    for op in request.success.iter_mut().chain(&mut request.failure) {
        own_op(op);
    }
    request
}

fn own_op(op: &mut RequestOp) {
    match &mut op.request {
        Some(RequestKind::RequestRange(range)) => {
            own(&mut range.key);
            own(&mut range.range_end);
        }
        Some(RequestKind::RequestPut(put)) => *put = own_put(std::mem::take(put)),
        Some(RequestKind::RequestDeleteRange(delete)) => *delete = own_delete(std::mem::take(delete)),
        Some(RequestKind::RequestTxn(txn)) => *txn = own_txn(std::mem::take(txn)),
        None => {}
    }
}
