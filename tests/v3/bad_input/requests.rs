//! Wrong requests, each with the code and the text that etcd answers; run with `CLEAT_BIN` set to an etcd, the same
//! table holds. The differential test draws requests at random; here are the edges that it meets rarely or never.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    MemberListRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest, request_op,
};
use bytes::Bytes;
use futures::StreamExt;
use harness::{Client, Kind, Options, Server};
use prost::Message;
use std::fmt::Debug;
use std::time::{Duration, Instant};
use tonic::{Code, Response, Status};

/// The default of `--max-request-bytes`.
const MAX_REQUEST_BYTES: usize = 1_572_864;
/// What may come on top of it before the request is not even read.
const OVERHEAD_BYTES: usize = 512 << 10;
const DEADLINE: Duration = Duration::from_secs(10);
const NO_LEASE: i64 = 404;

const EMPTY_KEY: (Code, &str) = (Code::InvalidArgument, "etcdserver: key is not provided");
const TOO_LARGE: (Code, &str) = (Code::InvalidArgument, "etcdserver: request is too large");
const TOO_MANY_OPS: (Code, &str) = (Code::InvalidArgument, "etcdserver: too many operations in txn request");
const DUPLICATE_KEY: (Code, &str) = (Code::InvalidArgument, "etcdserver: duplicate key given in txn request");
const LEASE_NOT_FOUND: (Code, &str) = (Code::NotFound, "etcdserver: requested lease not found");
const COMPACTED: (Code, &str) = (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
const FUTURE: (Code, &str) = (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");

/// Checks that a request is refused with exactly this code and text.
fn refused<T: Debug>(what: &str, answer: Result<Response<T>, Status>, (code, text): (Code, &str)) -> Result<()> {
    match answer {
        Ok(answer) => anyhow::bail!("{what}: accepted with {answer:?}"),
        Err(status) => {
            ensure!(status.code() == code && status.message() == text, "{what}: {status:?}");
            Ok(())
        }
    }
}

fn put(key: &str) -> PutRequest {
    PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), value: "v".into(), ..Default::default() }
}

fn range(key: &str) -> RangeRequest {
    RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() }
}

fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() }
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put_op(key: &str) -> RequestOp {
    op(request_op::Request::RequestPut(put(key)))
}

fn success(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success, ..Default::default() }
}

/// A put that is encoded in exactly `bytes`.
fn put_of(bytes: usize) -> PutRequest {
    let mut request = put("big");
    request.value = vec![b'v'; bytes - 1_000].into();
    let missing = bytes - request.encoded_len();
    request.value = vec![b'v'; bytes - 1_000 + missing].into();
    assert_eq!(request.encoded_len(), bytes);
    request
}

#[tokio::test]
async fn sizes_at_their_limits() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    // The limit is on the command in the log, which has up to 18 bytes beside the request in etcd and 4 in Cleat.
    client.kv.put(put_of(MAX_REQUEST_BYTES - 20)).await?;
    refused("the limit", client.kv.put(put_of(MAX_REQUEST_BYTES - 3)).await, TOO_LARGE)?;
    let largest = MAX_REQUEST_BYTES + OVERHEAD_BYTES;
    refused("the largest that is read", client.kv.put(put_of(largest)).await, TOO_LARGE)?;
    let text = format!("grpc: received message larger than max ({} vs. {largest})", largest + 1);
    let answer = client.kv.put(put_of(largest + 1)).await;
    refused("a byte more than is read", answer, (Code::ResourceExhausted, &text))?;
    let halves = success(vec![
        op(request_op::Request::RequestPut(PutRequest { key: "x".into(), ..put_of(MAX_REQUEST_BYTES / 2) })),
        op(request_op::Request::RequestPut(PutRequest { key: "y".into(), ..put_of(MAX_REQUEST_BYTES / 2) })),
    ]);
    refused("a transaction of two halves", client.kv.txn(halves).await, TOO_LARGE)?;
    let found = client.kv.range(range("big")).await?.into_inner();
    ensure!(found.kvs[0].version == 1, "a refused value was stored");
    Ok(())
}

#[tokio::test]
async fn transactions_at_their_limits() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    let many = |n: usize| (0..n).map(|i| put_op(&format!("k{i}"))).collect::<Vec<_>>();
    let done = client.kv.txn(success(many(128))).await?.into_inner();
    ensure!(done.responses.len() == 128, "{} answers to 128 operations", done.responses.len());
    refused("129 operations", client.kv.txn(success(many(129))).await, TOO_MANY_OPS)?;
    let other = TxnRequest { failure: many(129), ..Default::default() };
    refused("129 operations in the branch that does not run", client.kv.txn(other).await, TOO_MANY_OPS)?;

    let twice = success(vec![put_op("a"), put_op("b"), put_op("a")]);
    refused("a key put twice", client.kv.txn(twice).await, DUPLICATE_KEY)?;
    let deletes = DeleteRangeRequest { range_end: "c".into(), ..delete("a") };
    let both = success(vec![put_op("b"), op(request_op::Request::RequestDeleteRange(deletes))]);
    refused("a key put and deleted", client.kv.txn(both).await, DUPLICATE_KEY)?;
    let unknown = op(request_op::Request::RequestPut(PutRequest { lease: NO_LEASE, ..put("b") }));
    refused("an unknown lease", client.kv.txn(success(vec![put_op("a"), unknown])).await, LEASE_NOT_FOUND)?;
    refused("an empty key", client.kv.txn(success(vec![put_op("a"), put_op("")])).await, EMPTY_KEY)?;
    let found = client.kv.range(range("a")).await?.into_inner();
    ensure!(found.count == 0, "a transaction that was refused has put a key");
    Ok(())
}

#[tokio::test]
async fn keys_and_leases_that_are_not_there() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    refused("put", client.kv.put(put("")).await, EMPTY_KEY)?;
    refused("range", client.kv.range(range("")).await, EMPTY_KEY)?;
    refused("delete", client.kv.delete_range(delete("")).await, EMPTY_KEY)?;
    let everything = RangeRequest { range_end: Bytes::from_static(b"\0"), ..range("") };
    refused("range from an empty key", client.kv.range(everything).await, EMPTY_KEY)?;

    refused("put", client.kv.put(PutRequest { lease: NO_LEASE, ..put("a") }).await, LEASE_NOT_FOUND)?;
    refused("revoke", client.lease.lease_revoke(LeaseRevokeRequest { id: NO_LEASE }).await, LEASE_NOT_FOUND)?;
    let asked = LeaseTimeToLiveRequest { id: NO_LEASE, keys: true };
    let left = client.lease.lease_time_to_live(asked).await?.into_inner();
    ensure!((left.id, left.ttl, left.granted_ttl) == (NO_LEASE, -1, 0) && left.keys.is_empty(), "{left:?}");
    let renewed = futures::stream::iter([LeaseKeepAliveRequest { id: NO_LEASE }]).chain(futures::stream::pending());
    let mut answers = client.lease.lease_keep_alive(renewed).await?.into_inner();
    let answer = tokio::time::timeout(DEADLINE, answers.message()).await??.context("an answer")?;
    ensure!((answer.id, answer.ttl) == (NO_LEASE, 0), "{answer:?}");
    Ok(())
}

/// The first answer that says how a watcher ended, or the second: a created watcher goes on.
async fn watch(client: &mut Client, start_revision: i64) -> Result<(bool, i64, String)> {
    let create = WatchCreateRequest { key: "a".into(), start_revision, ..Default::default() };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = futures::stream::iter([request]).chain(futures::stream::pending());
    let mut answers = client.watch.watch(requests).await?.into_inner();
    loop {
        let answer = tokio::time::timeout(DEADLINE, answers.message()).await??.context("an answer")?;
        if answer.canceled || !answer.events.is_empty() {
            return Ok((answer.canceled, answer.compact_revision, answer.cancel_reason));
        }
        if start_revision > 1_000 {
            ensure!(answer.created, "a watcher of the future was not created: {answer:?}");
            return Ok((false, 0, String::new()));
        }
    }
}

#[tokio::test]
async fn revisions_that_are_not_there() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    for _ in 0..9 {
        client.kv.put(put("a")).await?;
    }
    let at = |revision| RangeRequest { revision, ..range("a") };
    let compact = |revision| CompactionRequest { revision, physical: false };
    refused("compaction of the future", client.kv.compact(compact(11)).await, FUTURE)?;
    client.kv.compact(compact(5)).await?;
    refused("the same compaction again", client.kv.compact(compact(5)).await, COMPACTED)?;
    refused("an earlier compaction", client.kv.compact(compact(4)).await, COMPACTED)?;
    refused("range before the compaction", client.kv.range(at(4)).await, COMPACTED)?;
    refused("range in the future", client.kv.range(at(11)).await, FUTURE)?;
    let found = client.kv.range(at(5)).await?.into_inner();
    ensure!(found.kvs.len() == 1 && found.kvs[0].version == 4, "at the compaction itself: {found:?}");
    let inside = op(request_op::Request::RequestRange(at(4)));
    refused("range in a transaction", client.kv.txn(success(vec![put_op("b"), inside])).await, COMPACTED)?;
    let future = op(request_op::Request::RequestRange(at(99)));
    refused("future range in a transaction", client.kv.txn(success(vec![put_op("b"), future])).await, FUTURE)?;
    ensure!(client.kv.range(range("b")).await?.into_inner().count == 0, "a refused transaction has put a key");

    ensure!(watch(&mut client, 4).await? == (true, 5, String::new()), "a watch from a compacted revision");
    ensure!(watch(&mut client, 5).await? == (false, 0, String::new()), "a watch from the compaction itself");
    ensure!(watch(&mut client, 9_999).await? == (false, 0, String::new()), "a watch from the future");
    Ok(())
}

/// However small the requests of clients have to be, a member tells the others its name and URLs.
#[tokio::test]
async fn the_limit_of_requests_is_none_of_what_a_member_tells_of_itself() -> Result<()> {
    let flags = vec!["--max-request-bytes=1".to_owned()];
    let server = Server::start_with(Kind::Cleat, Options { flags, ..Options::default() }).await?;
    let mut client = server.client().await?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        let members = client.cluster.member_list(MemberListRequest::default()).await?.into_inner().members;
        if members.iter().all(|member| member.name == "default" && member.client_urls == [server.client_url()]) {
            break;
        }
        ensure!(Instant::now() < deadline, "{members:?}\n{}", server.log_tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    refused("a put", client.kv.put(put("a")).await, TOO_LARGE)
}
