//! What `/metrics` says after some traffic: every metric that traffic should move has moved.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{
    CompactionRequest, DefragmentRequest, DeleteRangeRequest, HashKvRequest, HashRequest, LeaseGrantRequest,
    LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, SnapshotRequest, TxnRequest,
    WatchCreateRequest, WatchRequest, request_op,
};
use harness::{Client, Kind, Server};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);

type Values = BTreeMap<String, f64>;

/// What `/metrics` says.
async fn text(server: &Server) -> Result<String> {
    let mut stream = TcpStream::connect(server.endpoint()).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

/// Series and their values.
async fn scrape(server: &Server) -> Result<Values> {
    let answer = text(server).await?;
    let series = answer.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    Ok(series.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}

fn value(values: &Values, name: &str) -> f64 {
    values.get(name).copied().unwrap_or_default()
}

fn range() -> RangeRequest {
    RangeRequest { key: "a".into(), ..Default::default() }
}

fn put() -> PutRequest {
    PutRequest { key: "a".into(), value: "value".into(), ..Default::default() }
}

/// A transaction with these operations and no comparison.
fn txn(ops: impl IntoIterator<Item = request_op::Request>) -> TxnRequest {
    let success = ops.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
    TxnRequest { success, ..Default::default() }
}

/// Keys, history and whole-store operations: 4 puts, 6 ranges, 1 delete, 2 transactions of more than one operation.
async fn use_keys(client: &mut Client) -> Result<()> {
    use request_op::Request::{RequestPut, RequestRange};
    client.kv.put(put()).await?;
    client.kv.put(put()).await?;
    client.kv.range(range()).await?;
    client.kv.range(RangeRequest { serializable: true, ..range() }).await?;
    client.kv.txn(txn([RequestRange(range()), RequestRange(range())])).await?;
    client.kv.txn(txn([RequestRange(range()), RequestPut(put())])).await?;
    client.kv.txn(txn([RequestRange(range())])).await?;
    let last = client.kv.txn(txn([RequestPut(put())])).await?.into_inner().header.context("a header")?.revision;
    client.kv.delete_range(DeleteRangeRequest { key: "a".into(), ..Default::default() }).await?;
    client.kv.compact(CompactionRequest { revision: last, physical: true }).await?;
    client.maintenance.hash(HashRequest {}).await?;
    client.maintenance.hash_kv(HashKvRequest { revision: 0 }).await?;
    client.maintenance.defragment(DefragmentRequest {}).await?;
    let mut snapshot = client.maintenance.snapshot(SnapshotRequest {}).await?.into_inner();
    while snapshot.message().await?.is_some() {}
    Ok(())
}

/// Three leases: one is renewed twice and revoked, one expires, one lives.
async fn use_leases(client: &mut Client) -> Result<()> {
    for (id, ttl) in [(1, 100), (2, 2), (3, 100)] {
        client.lease.lease_grant(LeaseGrantRequest { id, ttl }).await?;
    }
    let renewals = futures::stream::iter([1, 1].map(|id| LeaseKeepAliveRequest { id }));
    let mut renewed = client.lease.lease_keep_alive(renewals).await?.into_inner();
    while let Some(answer) = renewed.message().await? {
        ensure!(answer.ttl == 100, "{answer:?}");
    }
    client.lease.lease_revoke(LeaseRevokeRequest { id: 1 }).await?;
    Ok(())
}

/// One watcher that has seen one event.
async fn use_watch(client: &mut Client) -> Result<()> {
    let create = WatchCreateRequest { key: "w".into(), ..Default::default() };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = futures::StreamExt::chain(futures::stream::iter([request]), futures::stream::pending());
    let mut responses = client.watch.watch(requests).await?.into_inner();
    responses.message().await?.context("created")?;
    client.kv.put(PutRequest { key: "w".into(), ..put() }).await?;
    responses.message().await?.context("an event")?;
    Ok(())
}

/// The values that the same traffic gives on every server.
const SAME: [(&str, f64); 12] = [
    ("etcd_mvcc_put_total", 5.0),
    ("etcd_mvcc_delete_total", 1.0),
    ("etcd_debugging_mvcc_put_total", 5.0),
    ("etcd_debugging_mvcc_delete_total", 1.0),
    ("etcd_debugging_mvcc_txn_total", 2.0),
    ("etcd_mvcc_range_total", 6.0),
    ("etcd_mvcc_txn_total", 2.0),
    ("etcd_debugging_lease_granted_total", 3.0),
    ("etcd_debugging_lease_renewed_total", 2.0),
    ("etcd_debugging_lease_revoked_total", 2.0),
    ("etcd_debugging_server_lease_expired_total", 1.0),
    ("etcd_debugging_mvcc_events_total", 1.0),
];

/// The least that the traffic adds to values that depend on time and place.
const MOVED: [(&str, f64); 18] = [
    ("etcd_debugging_lease_ttl_total_count", 3.0),
    ("etcd_debugging_mvcc_current_revision", 6.0),
    ("etcd_debugging_mvcc_compact_revision", 5.0),
    ("etcd_debugging_mvcc_db_compaction_last", 1.0),
    ("etcd_debugging_mvcc_db_compaction_keys_total", 1.0),
    ("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count", 1.0),
    ("etcd_debugging_mvcc_total_put_size_in_bytes", 30.0),
    ("etcd_disk_backend_commit_duration_seconds_count", 1.0),
    ("etcd_disk_backend_defrag_duration_seconds_count", 1.0),
    ("etcd_disk_backend_snapshot_duration_seconds_count", 1.0),
    ("etcd_disk_wal_fsync_duration_seconds_count", 1.0),
    ("etcd_disk_wal_write_bytes_total", 1000.0),
    ("etcd_mvcc_hash_duration_seconds_count", 1.0),
    ("etcd_mvcc_hash_rev_duration_seconds_count", 1.0),
    ("etcd_network_client_grpc_received_bytes_total", 100.0),
    ("etcd_network_client_grpc_sent_bytes_total", 100.0),
    ("etcd_server_proposals_applied_total", 10.0),
    ("etcd_server_proposals_committed_total", 10.0),
];

/// What traffic adds to each value.
async fn used(kind: Kind) -> Result<Values> {
    let server = Server::start(kind).await?;
    let mut client = server.client().await?;
    let before = scrape(&server).await?;
    use_keys(&mut client).await?;
    use_leases(&mut client).await?;
    use_watch(&mut client).await?;
    let begun = Instant::now();
    loop {
        let values = scrape(&server).await?;
        if value(&values, "etcd_debugging_server_lease_expired_total") > 0.0 {
            return Ok(values.into_iter().map(|(name, now)| (name.clone(), now - value(&before, &name))).collect());
        }
        ensure!(begun.elapsed() < DEADLINE, "the lease does not expire");
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test]
async fn counts_are_etcds() -> Result<()> {
    let (cleat, etcd) = tokio::try_join!(used(Kind::Cleat), used(Kind::Etcd))?;
    for (name, expected) in SAME {
        // etcd's compaction reads a key to learn the revision, and counts that.
        let own = if name == "etcd_mvcc_range_total" { 1.0 } else { 0.0 };
        let found = (value(&cleat, name), value(&etcd, name) - own);
        ensure!(found == (expected, expected), "{name}: cleat and etcd count {found:?}, not {expected}");
    }
    for (name, least) in MOVED {
        ensure!(value(&cleat, name) >= least, "{name} rose by {}, not {least}", value(&cleat, name));
    }
    Ok(())
}

/// Beginnings of etcd's names that are not here, and why: docs/operations/observability.md says so to users.
const ABSENT: [&str; 11] = [
    // Of Go.
    "go_",
    "promhttp_",
    "etcd_server_go_version",
    // Of bbolt: parts of its commits, its pauses, its readers.
    "etcd_debugging_disk_backend_commit_",
    "etcd_debugging_mvcc_db_compaction_pause_",
    "etcd_debugging_mvcc_index_compaction_pause_",
    "etcd_mvcc_db_open_read_transactions",
    // Of files and programs that are not here.
    "etcd_snap_",
    "etcd_debugging_snap_",
    "etcd_debugging_store_",
    "etcd_grpc_proxy_",
];

fn types(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
}

#[tokio::test]
async fn names_and_types_are_etcds() -> Result<()> {
    let (cleat, etcd) = tokio::try_join!(Server::start(Kind::Cleat), Server::start(Kind::Etcd))?;
    let mut texts = Vec::new();
    for server in [&cleat, &etcd] {
        server.client().await?.kv.put(put()).await?;
        texts.push(text(server).await?);
    }
    let (ours, theirs) = (types(&texts[0]), types(&texts[1]));
    ensure!(theirs.len() > 80, "etcd has {} names only", theirs.len());
    for (name, kind) in theirs {
        let is_left_out = ABSENT.iter().any(|start| name.starts_with(start));
        let expected = Some(kind).filter(|_| !is_left_out);
        ensure!(ours.get(name).copied() == expected, "{name} {kind}: {:?}", ours.get(name));
    }
    Ok(())
}
