//! Locks of clients at all members, while leaders are killed.

use crate::CLUSTERS;
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{LeaseGrantRequest, RangeRequest};
use api::v3lockpb::{LockRequest, UnlockRequest};
use bytes::Bytes;
use harness::{Client, Cluster, Place, Subject};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::{Code, Response, Status};

const CLIENTS: i64 = 15;
const NAME: &str = "locked";
/// Longer than the test.
const TTL: i64 = 10_000;
const DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);
const HOLD: Duration = Duration::from_millis(100);

/// What all clients see together.
#[derive(Default)]
struct Seen {
    holders: AtomicUsize,
    /// Leases in the order in which they got the lock.
    order: Mutex<Vec<i64>>,
}

fn range() -> RangeRequest {
    RangeRequest { key: format!("{NAME}/").into(), range_end: format!("{NAME}0").into(), ..Default::default() }
}

/// Asks one member after the other until one of them does it.
async fn until_done<T, F>(urls: Vec<String>, first: usize, call: impl Fn(Client) -> F) -> Result<T>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    for at in first.. {
        if let Ok(client) = Client::connect(&urls[at % urls.len()]).await {
            match call(client).await {
                Ok(answer) => return Ok(answer.into_inner()),
                // What another member may do better, or this one later.
                Err(status) => ensure!(
                    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal),
                    "{status}"
                ),
            }
        }
        tokio::time::sleep(POLL).await;
    }
    unreachable!("the range has no end")
}

/// One client: locks at its member, or at another when that is gone, holds the lock for a while, unlocks.
async fn take_turn(urls: Vec<String>, lease: i64, seen: Arc<Seen>) -> Result<()> {
    let first = lease as usize;
    let ask = |mut client: Client| async move { client.lock.lock(LockRequest { name: NAME.into(), lease }).await };
    let key = until_done(urls.clone(), first, ask).await?.key;
    ensure!(key == format!("{NAME}/{lease:x}"), "{lease} got {key:?}");
    ensure!(seen.holders.fetch_add(1, Ordering::SeqCst) == 0, "two hold the lock, {lease} is one of them");
    seen.order.lock().expect("no panic").push(lease);
    let look = |mut client: Client| async move { client.kv.range(range()).await };
    let found = until_done(urls.clone(), first + 1, look).await?;
    let oldest = found.kvs.iter().min_by_key(|kv| kv.create_revision).context("the holder has a key")?;
    ensure!(oldest.key == key, "{lease} holds the lock, {:?} is older", oldest.key);
    tokio::time::sleep(HOLD).await;
    seen.holders.fetch_sub(1, Ordering::SeqCst);
    unlock(urls, first, key).await
}

async fn unlock(urls: Vec<String>, first: usize, key: Bytes) -> Result<()> {
    let unlock = |mut client: Client| {
        let key = key.clone();
        async move { client.lock.unlock(UnlockRequest { key }).await }
    };
    until_done(urls, first, unlock).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_go_round_while_leaders_are_killed() -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let mut cluster = Cluster::start(&Subject::under_test()?, Place::Loopback, 3).await?;
    let urls: Vec<String> = cluster.members().into_iter().map(|member| cluster.url(member)).collect();
    let mut client = cluster.client(cluster.follower().await?).await?;
    let seen = Arc::new(Seen::default());
    // Held by nobody of them until all wait.
    client.lease.lease_grant(LeaseGrantRequest { id: 1 << 40, ttl: TTL }).await?;
    let first = client.lock.lock(LockRequest { name: NAME.into(), lease: 1 << 40 }).await?.into_inner().key;
    let mut clients = JoinSet::new();
    for lease in 1..=CLIENTS {
        client.lease.lease_grant(LeaseGrantRequest { id: lease, ttl: TTL }).await?;
        clients.spawn(take_turn(urls.clone(), lease, Arc::clone(&seen)));
        let queued = async {
            while client.kv.range(range()).await?.into_inner().count != lease + 1 {
                tokio::time::sleep(POLL).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(DEADLINE, queued).await.with_context(|| format!("{lease} does not wait"))??;
    }
    let leader = cluster.leader().await?;
    cluster.kill(leader)?;
    unlock(urls, 0, first).await?;
    cluster.restart(leader).await?;
    cluster.wait_healthy().await?;
    let leader = cluster.leader().await?;
    cluster.kill(leader)?;
    let all = async {
        while let Some(done) = clients.join_next().await {
            done??;
        }
        anyhow::Ok(())
    };
    let done = tokio::time::timeout(DEADLINE, all).await.context("somebody waits for ever");
    let order = seen.order.lock().expect("no panic").clone();
    done.and_then(|done| done).with_context(|| format!("got it so far: {order:?}\n{}", cluster.logs()))?;
    ensure!(order == (1..=CLIENTS).collect::<Vec<_>>(), "who waited longer came later: {order:?}");
    Ok(())
}
