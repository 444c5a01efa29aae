//! What `/metrics` says after some traffic: every metric that traffic should move has moved.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, DeleteRangeRequest, HashKvRequest, HashRequest,
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, MemberAddRequest, MemberPromoteRequest, PutRequest,
    RangeRequest, RequestOp, SnapshotRequest, TxnRequest, WatchCreateRequest, WatchRequest, request_op,
};
use harness::{Client, Kind, Options, Server, http};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);

type Values = BTreeMap<String, f64>;

/// What `/metrics` says.
async fn text(server: &Server) -> Result<String> {
    let (status, _, text) = http::get(&server.client_url(), "/metrics").await?;
    ensure!(status == 200, "/metrics answers {status}");
    Ok(text)
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
const MOVED: [(&str, f64); 21] = [
    ("etcd_disk_wal_write_duration_seconds_count", 10.0),
    ("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_count", 1.0),
    ("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds_count", 1.0),
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
const ABSENT: [&str; 8] = [
    // Of Go.
    "go_",
    "promhttp_",
    "etcd_server_go_version",
    // Of bbolt: parts of its commits; a transaction for every reader, where here all that read between two flushes share one.
    "etcd_debugging_disk_backend_commit_",
    "etcd_mvcc_db_open_read_transactions",
    // Of raft's snapshot files and the proxy, which are not here.
    "etcd_snap_fsync_",
    "etcd_debugging_snap_",
    "etcd_grpc_proxy_",
];

/// What etcd has added since 3.4, as `name type labels`.
const ADDED: &str = include_str!("metrics_added.txt");

/// A family: its type, the names of its labels, and its buckets.
#[derive(Debug, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
    buckets: BTreeSet<String>,
}

/// The families that a scrape shows.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            name.clone_into(&mut current);
            families.insert(current.clone(), Family { kind: kind.to_owned(), ..Family::default() });
        } else if let Some((name, labels)) = line.split_once('{')
            && let Some(family) = families.get_mut(&current).filter(|_| name.starts_with(&current))
        {
            let labels = labels.rsplit_once('}').map_or("", |(labels, _)| labels);
            for (label, value) in labels.split("\",").filter_map(|pair| pair.split_once("=\"")) {
                if label == "le" {
                    // Large ones are written in two ways.
                    let bucket = value.trim_end_matches('"').parse::<f64>().map(|bound| bound.to_string());
                    family.buckets.extend(bucket);
                } else {
                    family.labels.insert(label.to_owned());
                }
            }
        }
    }
    families
}

/// Uses what has metrics that begin with their first value.
async fn use_once(server: &Server) -> Result<()> {
    let mut client = server.client().await?;
    client.kv.put(put()).await?;
    client.kv.range(range()).await?;
    use_watch(&mut client).await?;
    let add = MemberAddRequest { peer_urls: vec!["http://127.0.0.1:1".to_owned()], is_learner: true };
    let id = client.cluster.member_add(add).await?.into_inner().member.context("a member")?.id;
    let promoted = client.cluster.member_promote(MemberPromoteRequest { id }).await;
    ensure!(promoted.is_err(), "a member that never ran is promoted");
    // A series for each kind of request of the v2 API: what etcd does there by itself, and one that is refused.
    for (method, path) in [
        ("PUT", "/a"),
        ("GET", "/a"),
        ("GET", "/a?recursive=true"),
        ("PUT", "/none?prevExist=true"),
        ("DELETE", "/none"),
        ("GET", "/none"),
    ] {
        let request = hyper::Request::builder().method(method).uri(format!("/v2/keys{path}"));
        http::send(&server.endpoint(), request.body(http::full(String::new()))?).await?;
    }
    // Where there is one. Anything goes: it is counted.
    http::get(&server.client_url(), "/readyz").await?;
    let (action, alarm) = (AlarmAction::Activate as i32, AlarmType::Corrupt as i32);
    client.maintenance.alarm(AlarmRequest { action, member_id: 1, alarm }).await?;
    Ok(())
}

#[tokio::test]
async fn names_types_labels_and_buckets_are_etcds() -> Result<()> {
    let v2 = Options { flags: vec!["--enable-v2=true".to_owned()], ..Options::default() };
    let (cleat, etcd) = tokio::try_join!(Server::start(Kind::Cleat), Server::start_with(Kind::Etcd, v2))?;
    let mut seen = Vec::new();
    for server in [&cleat, &etcd] {
        use_once(server).await?;
        seen.push(families(&text(server).await?));
    }
    let (ours, theirs) = (&seen[0], &seen[1]);
    ensure!(theirs.len() > 80, "etcd has {} names only", theirs.len());
    for (name, theirs) in theirs {
        let is_left_out = ABSENT.iter().any(|start| name.starts_with(start));
        let found = ours.get(name);
        ensure!(found.is_some() != is_left_out, "{name} is there: {}", found.is_some());
        let Some(found) = found else { continue };
        ensure!(found.kind == theirs.kind && found.buckets == theirs.buckets, "{name}: {found:?}, etcd: {theirs:?}");
        // Without a series there are no labels.
        let is_seen = !found.labels.is_empty() && !theirs.labels.is_empty();
        ensure!(!is_seen || found.labels == theirs.labels, "{name}: {found:?}, etcd: {theirs:?}");
    }
    for line in ADDED.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let (name, kind) = (words.next().context("a name")?, words.next().context("a type")?);
        let labels: BTreeSet<String> = words.map(str::to_owned).collect();
        let found = ours.get(name).with_context(|| format!("{name} is not there"))?;
        ensure!(found.kind == kind && found.labels == labels, "{name}: {found:?}");
        // What the reference has as well, it has alike.
        if let Some(theirs) = theirs.get(name) {
            ensure!(theirs.kind == kind && theirs.labels.is_subset(&labels), "{name}: etcd: {theirs:?}");
        }
    }
    Ok(())
}

/// Requests are counted by what they are, with the time that they took.
#[tokio::test]
async fn durations_are_counted_by_kind() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    let before = scrape(&server).await?;
    use_keys(&mut client).await?;
    use_watch(&mut client).await?;
    let refused = client.lease.lease_revoke(LeaseRevokeRequest { id: 404 }).await;
    ensure!(refused.is_err());
    let after = scrape(&server).await?;
    let request =
        |kind: &str| format!("etcd_server_request_duration_seconds_count{{success=\"true\",type=\"{kind}\"}}");
    let apply = |op: &str, success: bool| {
        format!("etcd_server_apply_duration_seconds_count{{op=\"{op}\",success=\"{success}\",version=\"v3\"}}")
    };
    for (name, expected) in [
        (request("Put"), 3.0),
        (request("DeleteRange"), 1.0),
        (request("Txn"), 2.0),
        (request("ReadonlyTxn"), 2.0),
        (request("Range"), 2.0),
        (request("Compaction"), 1.0),
        (request("LeaseRevoke"), 1.0),
        (apply("Put", true), 3.0),
        (apply("Txn", true), 2.0),
        (apply("LeaseRevoke", false), 1.0),
        ("etcd_server_range_duration_seconds_count{success=\"true\"}".to_owned(), 2.0),
        // The watch is created, and sees one event.
        ("etcd_debugging_server_watch_send_loop_control_stream_duration_seconds_count".to_owned(), 1.0),
    ] {
        let count = value(&after, &name) - value(&before, &name);
        ensure!((count - expected).abs() < f64::EPSILON, "{name} rose by {count}, not {expected}");
    }
    let sum = "etcd_server_request_duration_seconds_sum{success=\"true\",type=\"Put\"}";
    ensure!(value(&after, sum) > 0.0, "puts take no time");
    Ok(())
}
