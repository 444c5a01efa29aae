//! What keeps leases alive, and ends them, through a member that does not lead and has too much to do.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest, RangeRequest};
use harness::flood::{Flood, revision};
use harness::{Client, Cluster, Kind, Place, Subject};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

const DEADLINE: Duration = Duration::from_secs(30);
/// Streams, each with a renewal under way at the same time: more than the leader works on for one member.
const STREAMS: i64 = 1000;
const ON_A_CONNECTION: i64 = 250;
const ROUNDS: usize = 3;

/// Keeps a lease alive for some rounds, each of which begins for all streams together.
async fn keep_alive(client: Client, id: i64, rounds: Arc<tokio::sync::Barrier>) -> Result<()> {
    let mut lease = client.lease.clone();
    let (requests, receiver) = mpsc::channel(1);
    let mut answers = lease.lease_keep_alive(ReceiverStream::new(receiver)).await?.into_inner();
    for _ in 0..ROUNDS {
        rounds.wait().await;
        requests.send(LeaseKeepAliveRequest { id }).await?;
        let answer = answers.message().await.with_context(|| format!("lease {id}"))?.context("the stream ended")?;
        ensure!((answer.id, answer.ttl) == (id, 600), "{answer:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_renews_for_a_thousand_clients() -> Result<()> {
    let cluster = Cluster::start_with(&Subject::of(Kind::Cleat)?, Place::Loopback, 3, &[]).await?;
    let follower = cluster.follower().await?;
    let mut clients = Vec::new();
    for _ in 0..STREAMS / ON_A_CONNECTION {
        clients.push(cluster.client(follower).await?);
    }
    let client = |id: i64| clients[(id % (STREAMS / ON_A_CONNECTION)) as usize].clone();
    let grants =
        (1..=STREAMS).map(|id| async move { client(id).lease.lease_grant(LeaseGrantRequest { id, ttl: 600 }).await });
    futures::future::try_join_all(grants).await?;
    let rounds = Arc::new(tokio::sync::Barrier::new(STREAMS as usize));
    let mut streams = JoinSet::new();
    for id in 1..=STREAMS {
        streams.spawn(keep_alive(client(id), id, Arc::clone(&rounds)));
    }
    let all = async {
        while let Some(kept) = streams.join_next().await {
            kept??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DEADLINE, all).await.context("renewals are not answered")??;
    // One that is gone is told so, among the others.
    let mut lease = client(1).lease;
    lease.lease_revoke(LeaseRevokeRequest { id: 1 }).await?;
    let gone = tokio_stream::once(LeaseKeepAliveRequest { id: 1 });
    let answer = lease.lease_keep_alive(gone).await?.into_inner().message().await?.context("an answer")?;
    ensure!(answer.ttl == 0, "{answer:?}");
    Ok(())
}

/// What each sync of the followers' logs takes longer: one of them is in every majority. So long that puts wait for the
/// disks on a busy machine, too, and not for the processor: else none would be refused.
const SYNC: Duration = Duration::from_millis(400);
/// So that a busy machine loses neither its leader nor a request, which may take five seconds and two of these.
const ELECTION: &str = "--election-timeout=5000";
const CONNECTIONS: usize = 4;
/// Puts that may be ahead of a revocation: those of the entries that were on their way.
const AHEAD_MAX: i64 = 1500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_passes_the_full_queue_of_a_follower() -> Result<()> {
    let cluster = Cluster::start_with(&Subject::of(Kind::Cleat)?, Place::Loopback, 3, &[ELECTION]).await?;
    let (leader, follower) = (cluster.leader().await?, cluster.follower().await?);
    let mut client = cluster.client(follower).await?;
    for id in 1..=ROUNDS as i64 {
        client.lease.lease_grant(LeaseGrantRequest { id, ttl: 600 }).await?;
        client.kv.put(PutRequest { key: format!("lease/{id}").into(), lease: id, ..Default::default() }).await?;
    }
    let (mut slow, mut connections) = (Vec::new(), Vec::new());
    for member in cluster.running().into_iter().filter(|member| *member != leader) {
        slow.push(cluster.slow_disk(member, SYNC).await?);
    }
    for _ in 0..CONNECTIONS {
        connections.push(cluster.client(follower).await?);
    }
    let flood = Flood::start(&connections);
    for id in 1..=ROUNDS as i64 {
        flood.refuses().await?;
        let before = revision(&client).await?;
        let revoked = client.lease.lease_revoke(LeaseRevokeRequest { id }).await.context("a revocation")?;
        let ahead = revoked.into_inner().header.unwrap_or_default().revision - before;
        ensure!(ahead < AHEAD_MAX, "{ahead} puts were ahead of a revocation");
        let here = RangeRequest { key: format!("lease/{id}").into(), serializable: true, ..Default::default() };
        ensure!(client.kv.range(here).await?.into_inner().kvs.is_empty(), "the key outlives its lease");
    }
    drop(slow);
    flood.end().await;
    Ok(())
}
