//! What a learner serves, request by request, beside a learner of etcd.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{
    MemberAddRequest, MemberListRequest, MemberPromoteRequest, PutRequest, RangeRequest, SnapshotRequest, StatusRequest,
};
use bytes::Bytes;
use harness::{Client, Cluster, Kind, Place, Subject, http};
use prost::Message as _;
use std::time::{Duration, Instant};
use tonic::Code;

const DEADLINE: Duration = Duration::from_secs(30);
const CALL_DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

const REFUSED: (Code, &str) = (Code::Unavailable, "etcdserver: rpc not supported for learner");

/// Everything that etcd 3.4 refuses on a learner, with an empty message: it is refused before anybody looks at that. A
/// learner of Cleat serves Defragment and Snapshot, as later releases of etcd do; etcd's users and roles it does not know.
const REFUSED_METHODS: [&str; 30] = [
    "etcdserverpb.KV/Range",
    "etcdserverpb.KV/Put",
    "etcdserverpb.KV/DeleteRange",
    "etcdserverpb.KV/Txn",
    "etcdserverpb.KV/Compact",
    "etcdserverpb.Watch/Watch",
    "etcdserverpb.Lease/LeaseGrant",
    "etcdserverpb.Lease/LeaseRevoke",
    "etcdserverpb.Lease/LeaseKeepAlive",
    "etcdserverpb.Lease/LeaseTimeToLive",
    "etcdserverpb.Lease/LeaseLeases",
    "etcdserverpb.Cluster/MemberAdd",
    "etcdserverpb.Cluster/MemberRemove",
    "etcdserverpb.Cluster/MemberUpdate",
    "etcdserverpb.Cluster/MemberList",
    "etcdserverpb.Cluster/MemberPromote",
    "etcdserverpb.Maintenance/Alarm",
    "etcdserverpb.Maintenance/Hash",
    "etcdserverpb.Maintenance/HashKV",
    "etcdserverpb.Maintenance/MoveLeader",
    "v3lockpb.Lock/Lock",
    "v3lockpb.Lock/Unlock",
    "v3electionpb.Election/Campaign",
    "v3electionpb.Election/Proclaim",
    "v3electionpb.Election/Leader",
    "v3electionpb.Election/Observe",
    "v3electionpb.Election/Resign",
    "grpc.health.v1.Health/Check",
    "etcdserverpb.Maintenance/Defragment",
    "etcdserverpb.Maintenance/Snapshot",
];
const REFUSED_BY_ETCD_ONLY: usize = 2;

async fn start(kind: Kind) -> Result<(Cluster, usize, usize)> {
    let mut cluster = Cluster::start(&Subject::of(kind)?, Place::Loopback, 1).await?;
    let voter = cluster.leader().await?;
    cluster.client(voter).await?.kv.put(PutRequest { key: "a".into(), ..Default::default() }).await?;
    let learner = cluster.add_learner().await?;
    Ok((cluster, voter, learner))
}

fn range(serializable: bool) -> RangeRequest {
    RangeRequest { key: "a".into(), serializable, ..Default::default() }
}

/// The code and text of a call that must not succeed, be it refused at once or as the first thing of its stream.
async fn refusal(client: &Client, method: &str, payload: Bytes) -> Result<(Code, String)> {
    let called = tokio::time::timeout(CALL_DEADLINE, client.raw(&format!("/{method}"), payload)).await;
    match called.with_context(|| format!("{method} waits"))? {
        Ok(_) => anyhow::bail!("{method} is served"),
        Err(status) => Ok((status.code(), status.message().to_owned())),
    }
}

/// What a learner answers; the same for both makers.
async fn check(kind: Kind) -> Result<()> {
    let (cluster, voter, learner) = start(kind).await?;
    let mut client = cluster.client(learner).await?;
    let methods = match kind {
        Kind::Etcd => &REFUSED_METHODS[..],
        Kind::Cleat => &REFUSED_METHODS[..REFUSED_METHODS.len() - REFUSED_BY_ETCD_ONLY],
    };
    for method in methods {
        let (code, text) = refusal(&client, method, Bytes::new()).await?;
        ensure!((code, text.as_str()) == REFUSED, "{kind}: {method} is refused with {code:?} {text}");
    }
    let linearizable = refusal(&client, "etcdserverpb.KV/Range", range(false).encode_to_vec().into()).await?;
    ensure!((linearizable.0, linearizable.1.as_str()) == REFUSED, "{kind}: a range is refused with {linearizable:?}");

    let found = client.kv.range(range(true)).await?.into_inner();
    ensure!(found.count == 1, "{kind}: {found:?}");
    let empty = client.kv.range(RangeRequest { serializable: true, ..Default::default() }).await;
    ensure!(
        empty.is_err_and(|status| status.message() == "etcdserver: key is not provided"),
        "{kind}: a range without a key"
    );
    let status = client.maintenance.status(StatusRequest {}).await?.into_inner();
    ensure!(status.is_learner && status.leader != 0, "{kind}: {status:?}");

    let url = cluster.url(learner);
    ensure!(http::get(&url, "/health").await?.0 == 200, "{kind}: a learner is healthy");
    let (_, _, metrics) = http::get(&url, "/metrics").await?;
    ensure!(metrics.contains("\netcd_server_is_learner 1\n"), "{kind}: the metrics do not say that it is a learner");
    for member in [voter, learner] {
        members_at_peer_url(&cluster, voter, member).await.with_context(|| format!("{kind}: member {member}"))?;
    }
    promote(&cluster, voter, learner).await
}

/// What a peer URL says of the members, byte for byte in etcd's form.
async fn members_at_peer_url(cluster: &Cluster, voter: usize, member: usize) -> Result<()> {
    let listed = cluster.client(voter).await?.cluster.member_list(MemberListRequest::default()).await?.into_inner();
    let expected = listed.members.iter().map(|member| {
        let is_learner = if member.is_learner { "\"isLearner\":true," } else { "" };
        format!(
            r#"{{"id":{},"peerURLs":{},{is_learner}"name":"{}","clientURLs":{}}}"#,
            member.id,
            serde_json::json!(member.peer_urls),
            member.name,
            serde_json::json!(member.client_urls)
        )
    });
    let expected = format!("[{}]", expected.collect::<Vec<_>>().join(","));
    let deadline = Instant::now() + DEADLINE;
    let found = loop {
        let (_, _, found) = http::get(&cluster.peer_url(member), "/members").await?;
        // A learner hears of the list behind the voter.
        if found.trim_end() == expected {
            break found;
        }
        ensure!(Instant::now() < deadline, "{found} instead of {expected}");
        tokio::time::sleep(POLL).await;
    };
    ensure!(found.matches("isLearner").count() == 1, "{found}");
    Ok(())
}

/// Makes a voter of the learner, which serves everything soon after.
async fn promote(cluster: &Cluster, voter: usize, learner: usize) -> Result<()> {
    let mut client = cluster.client(voter).await?;
    let listed = client.cluster.member_list(MemberListRequest::default()).await?.into_inner();
    let id = listed.members.iter().find(|member| member.is_learner).context("there is a learner")?.id;
    let deadline = Instant::now() + DEADLINE;
    // At first it may lag behind.
    while let Err(status) = client.cluster.member_promote(MemberPromoteRequest { id }).await {
        ensure!(Instant::now() < deadline, "it is not promoted: {status}");
        tokio::time::sleep(POLL).await;
    }
    let mut promoted = cluster.client(learner).await?;
    while let Err(status) = promoted.kv.range(range(false)).await {
        ensure!(Instant::now() < deadline, "promoted, it does not serve: {status}");
        tokio::time::sleep(POLL).await;
    }
    promoted.kv.put(PutRequest { key: "b".into(), ..Default::default() }).await?;
    let (_, _, metrics) = http::get(&cluster.url(voter), "/metrics").await?;
    ensure!(metrics.contains("\netcd_server_learner_promote_successes 1\n"), "the promotion is not counted");
    promote_voters(&mut client, id).await
}

/// Voters are refused: one that takes part as such, one that never started because it has nothing.
async fn promote_voters(client: &mut Client, voter: u64) -> Result<()> {
    let nobody = MemberAddRequest { peer_urls: vec!["http://127.0.0.1:1".to_owned()], is_learner: false };
    let added = client.cluster.member_add(nobody).await?.into_inner().member.context("a member")?.id;
    for (id, text) in [
        (voter, "etcdserver: can only promote a learner member"),
        (added, "etcdserver: can only promote a learner member which is in sync with leader"),
    ] {
        let refused = client.cluster.member_promote(MemberPromoteRequest { id }).await;
        let status = refused.err().context("a voter is promoted")?;
        ensure!((status.code(), status.message()) == (Code::FailedPrecondition, text), "{status}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learner_refuses_what_etcds_does() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        check(kind).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learner_serves_what_later_releases_serve() -> Result<()> {
    let (cluster, _, learner) = start(Kind::Cleat).await?;
    let mut client = cluster.client(learner).await?;
    client.maintenance.defragment(api::etcdserverpb::DefragmentRequest {}).await?;
    let mut snapshot = client.maintenance.snapshot(SnapshotRequest {}).await?.into_inner();
    let mut bytes = 0;
    while let Some(piece) = snapshot.message().await? {
        bytes += piece.blob.len();
    }
    ensure!(bytes > 0, "the snapshot is empty");

    let url = cluster.url(learner);
    let (status, _, body) = http::get(&url, "/readyz").await?;
    ensure!((status, body.contains("[-]non_learner failed: not supported for learner\n")) == (503, true), "{body}");
    for path in ["/readyz?exclude=non_learner", "/livez"] {
        let (status, _, body) = http::get(&url, path).await?;
        ensure!((status, body.as_str()) == (200, "ok\n"), "{path}: {status} {body}");
    }
    Ok(())
}
