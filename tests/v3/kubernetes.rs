//! The requests of kube-apiserver, in the shapes that it sends.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    TxnResponse, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, compare, request_op,
    response_op,
};
use bytes::Bytes;
use harness::{Client, Kind, Server};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

const PREFIX: &str = "/registry/pods/";
const PREFIX_END: &str = "/registry/pods0";
const DEADLINE: Duration = Duration::from_secs(10);

fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn get(key: &str) -> RequestOp {
    op(request_op::Request::RequestRange(RangeRequest { key: key.to_owned().into(), ..Default::default() }))
}

fn put(key: &str, value: &str, lease: i64) -> RequestOp {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    op(request_op::Request::RequestPut(PutRequest { key, value, lease, ..Default::default() }))
}

fn delete(key: &str) -> RequestOp {
    let request = DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
    op(request_op::Request::RequestDeleteRange(request))
}

fn if_mod_revision(key: &str, revision: i64) -> Compare {
    Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Mod.into(),
        key: key.to_owned().into(),
        target_union: Some(compare::TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}

async fn guarded(
    client: &mut Client,
    (key, revision): (&str, i64),
    success: RequestOp,
    failure: Vec<RequestOp>,
) -> Result<TxnResponse> {
    let request = TxnRequest { compare: vec![if_mod_revision(key, revision)], success: vec![success], failure };
    Ok(client.kv.txn(request).await?.into_inner())
}

async fn create(client: &mut Client, key: &str, value: &str, lease: i64) -> Result<i64> {
    let answer = guarded(client, (key, 0), put(key, value, lease), Vec::new()).await?;
    ensure!(answer.succeeded, "{key} exists already");
    Ok(answer.header.context("a header")?.revision)
}

#[tokio::test]
async fn objects_are_created_updated_and_deleted_by_guarded_transactions() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    let key = "/registry/pods/default/a";
    let created = create(&mut client, key, "1", 0).await?;
    let again = guarded(&mut client, (key, 0), put(key, "x", 0), Vec::new()).await?;
    ensure!(!again.succeeded && again.responses.is_empty());
    let updated = guarded(&mut client, (key, created), put(key, "2", 0), vec![get(key)]).await?;
    ensure!(updated.succeeded);
    let stale = guarded(&mut client, (key, created), put(key, "3", 0), vec![get(key)]).await?;
    ensure!(!stale.succeeded);
    let Some(response_op::Response::ResponseRange(found)) = &stale.responses[0].response else {
        anyhow::bail!("a stale update returns the object: {stale:?}")
    };
    ensure!(found.kvs[0].value == "2" && found.kvs[0].mod_revision == created + 1, "{found:?}");
    let deleted = guarded(&mut client, (key, created + 1), delete(key), vec![get(key)]).await?;
    let Some(response_op::Response::ResponseDeleteRange(gone)) = &deleted.responses[0].response else {
        anyhow::bail!("{deleted:?}")
    };
    ensure!(deleted.succeeded && gone.deleted == 1);
    let absent = guarded(&mut client, (key, created + 1), delete(key), vec![get(key)]).await?;
    let Some(response_op::Response::ResponseRange(found)) = &absent.responses[0].response else {
        anyhow::bail!("{absent:?}")
    };
    ensure!(found.kvs.is_empty() && found.count == 0);
    Ok(())
}

#[tokio::test]
async fn lists_are_read_in_pages_at_one_revision() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    for n in 0..25 {
        create(&mut client, &format!("{PREFIX}p{n:02}"), "v", 0).await?;
    }
    let page = |key: Bytes, revision| RangeRequest {
        key,
        range_end: PREFIX_END.into(),
        limit: 10,
        revision,
        ..Default::default()
    };
    let mut answer = client.kv.range(page(PREFIX.into(), 0)).await?.into_inner();
    let revision = answer.header.context("a header")?.revision;
    let mut keys: Vec<Bytes> = Vec::new();
    let mut remaining = 25;
    loop {
        ensure!(answer.count == remaining, "count {} of {remaining}", answer.count);
        remaining -= answer.kvs.len() as i64;
        keys.extend(answer.kvs.into_iter().map(|kv| kv.key));
        if !answer.more {
            break;
        }
        // Writes between pages do not show.
        create(&mut client, &format!("{PREFIX}p{}x", keys.len()), "v", 0).await?;
        let next = [&keys[keys.len() - 1][..], b"\0"].concat();
        answer = client.kv.range(page(next.into(), revision)).await?.into_inner();
    }
    let expected: Vec<Bytes> = (0..25).map(|n| format!("{PREFIX}p{n:02}").into()).collect();
    ensure!(keys == expected && remaining == 0, "{keys:?}");
    let count = RangeRequest { count_only: true, ..page(PREFIX.into(), 0) };
    let counted = client.kv.range(count).await?.into_inner();
    ensure!(counted.count == 27 && counted.kvs.is_empty(), "{counted:?}");
    Ok(())
}

/// A watch stream as the apiserver holds it: many watchers on one stream.
struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Stream {
    async fn open(client: &mut Client, first: WatchCreateRequest) -> Result<Self> {
        let (requests, queue) = mpsc::channel(512);
        requests.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(first)) }).await?;
        let responses = client.watch.watch(ReceiverStream::new(queue)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    async fn send(&self, request: RequestUnion) -> Result<()> {
        Ok(self.requests.send(WatchRequest { request_union: Some(request) }).await?)
    }

    async fn next(&mut self) -> Result<WatchResponse> {
        let next = tokio::time::timeout(DEADLINE, self.responses.message()).await.context("no response in time")?;
        next?.context("the stream ended")
    }
}

fn watch_prefix(prefix: &str, end: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: prefix.to_owned().into(),
        range_end: end.to_owned().into(),
        start_revision,
        prev_kv: true,
        progress_notify: true,
        ..Default::default()
    }
}

#[tokio::test]
async fn watches_continue_behind_a_list_and_report_progress() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    let key = "/registry/pods/default/a";
    let created = create(&mut client, key, "1", 0).await?;
    let mut stream = Stream::open(&mut client, watch_prefix(PREFIX, PREFIX_END, created + 1)).await?;
    ensure!(stream.next().await?.created);
    guarded(&mut client, (key, created), put(key, "2", 0), Vec::new()).await?;
    guarded(&mut client, (key, created + 1), delete(key), Vec::new()).await?;
    let mut events = Vec::new();
    while events.len() < 2 {
        events.extend(stream.next().await?.events);
    }
    let before = |index: usize| events[index].prev_kv.as_ref().map(|kv| kv.value.clone());
    ensure!(events[0].r#type == 0 && before(0) == Some("1".into()), "{events:?}");
    ensure!(events[1].r#type == 1 && before(1) == Some("2".into()), "{events:?}");
    let elsewhere = create(&mut client, "/registry/services/x", "1", 0).await?;
    // etcd before 3.4.25 may answer with an older revision than it has delivered; it must never be newer.
    stream.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await?;
    let progress = stream.next().await?;
    let revision = progress.header.context("a header")?.revision;
    ensure!(progress.watch_id == -1 && progress.events.is_empty() && revision == elsewhere, "progress at {revision}");
    Ok(())
}

#[tokio::test]
async fn hundreds_of_watchers_share_a_stream() -> Result<()> {
    const WATCHERS: usize = 300;
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    let watch = |n: usize| watch_prefix(&format!("/registry/{n}/"), &format!("/registry/{n}0"), 0);
    let mut stream = Stream::open(&mut client, watch(0)).await?;
    for n in 1..WATCHERS {
        stream.send(RequestUnion::CreateRequest(watch(n))).await?;
    }
    for n in 0..WATCHERS {
        let response = stream.next().await?;
        ensure!(response.created && response.watch_id == n as i64, "{response:?}");
    }
    for n in (0..WATCHERS).rev() {
        create(&mut client, &format!("/registry/{n}/x"), "v", 0).await?;
        let response = stream.next().await?;
        ensure!(response.watch_id == n as i64 && response.events.len() == 1, "watcher {n}: {response:?}");
    }
    Ok(())
}

#[tokio::test]
async fn compaction_is_elected_by_a_key_and_ends_old_watches() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    for n in 0..10 {
        create(&mut client, &format!("{PREFIX}{n}"), "v", 0).await?;
    }
    let version = Compare {
        target: compare::CompareTarget::Version.into(),
        key: "compact_rev_key".into(),
        target_union: Some(compare::TargetUnion::Version(0)),
        ..Default::default()
    };
    let request = TxnRequest {
        compare: vec![version],
        success: vec![put("compact_rev_key", "6", 0)],
        failure: vec![get("compact_rev_key")],
    };
    ensure!(client.kv.txn(request.clone()).await?.into_inner().succeeded);
    ensure!(!client.kv.txn(request).await?.into_inner().succeeded, "only one apiserver compacts");
    client.kv.compact(CompactionRequest { revision: 6, physical: false }).await?;
    let old = RangeRequest { key: PREFIX.into(), range_end: PREFIX_END.into(), revision: 3, ..Default::default() };
    let refused = client.kv.range(old).await.err().context("a compacted revision was read")?;
    ensure!(refused.code() == Code::OutOfRange, "{refused:?}");
    let mut stream = Stream::open(&mut client, watch_prefix(PREFIX, PREFIX_END, 3)).await?;
    let mut response = stream.next().await?;
    if response.created && !response.canceled {
        response = stream.next().await?;
    }
    ensure!(response.canceled && response.compact_revision == 6, "{response:?}");
    Ok(())
}

#[tokio::test]
async fn events_share_a_lease() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    let lease = client.lease.lease_grant(LeaseGrantRequest { ttl: 2, id: 0 }).await?.into_inner();
    ensure!(lease.ttl >= 2 && lease.id > 0);
    let first = create(&mut client, "/registry/events/a", "1", lease.id).await?;
    create(&mut client, "/registry/events/b", "1", lease.id).await?;
    let mut stream = Stream::open(&mut client, watch_prefix("/registry/events/", "/registry/events0", first)).await?;
    let mut events = Vec::new();
    while events.len() < 4 {
        events.extend(stream.next().await?.events);
    }
    let gone: Vec<_> = events[2..].iter().filter_map(|event| event.kv.as_ref()).collect();
    ensure!(events[2..].iter().all(|event| event.r#type == 1), "{events:?}");
    ensure!(gone[0].mod_revision == gone[1].mod_revision, "an expired lease takes its keys in one revision: {gone:?}");
    Ok(())
}
