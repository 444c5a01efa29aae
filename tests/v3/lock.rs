//! The Lock service: the same calls to etcd and to Cleat.

use anyhow::{Context, Result, bail, ensure};
use api::etcdserverpb::{
    LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, RangeRequest,
};
use api::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use bytes::Bytes;
use harness::{Client, Kind, Server};
use std::time::Duration;
use tokio::task::JoinHandle;
use tonic::{Response, Status};

const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

pub(super) async fn grant(client: &Client, id: i64, ttl: i64) -> Result<()> {
    client.clone().lease.lease_grant(LeaseGrantRequest { id, ttl }).await?;
    Ok(())
}

/// The keys that start with a prefix, with their create revisions.
pub(super) async fn keys(client: &Client, prefix: &str) -> Result<Vec<(String, i64)>> {
    let mut range_end = prefix.as_bytes().to_vec();
    *range_end.last_mut().context("a prefix")? += 1;
    let request = RangeRequest { key: prefix.to_owned().into(), range_end: range_end.into(), ..Default::default() };
    let found = client.clone().kv.range(request).await?.into_inner().kvs;
    Ok(found.into_iter().map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), kv.create_revision)).collect())
}

/// Waits until so many keys start with the prefix.
pub(super) async fn wait_keys(client: &Client, prefix: &str, count: usize) -> Result<()> {
    let enough = async {
        while keys(client, prefix).await?.len() != count {
            tokio::time::sleep(POLL).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DEADLINE, enough).await.with_context(|| format!("{prefix} never had {count} keys"))?
}

async fn lock(client: &Client, name: &'static str, lease: i64) -> Result<LockResponse, Status> {
    let request = LockRequest { name: Bytes::from_static(name.as_bytes()), lease };
    client.clone().lock.lock(request).await.map(Response::into_inner)
}

/// Asks for a lock, and returns once its key is there.
async fn queue(client: &Client, name: &'static str, lease: i64) -> Result<JoinHandle<Result<LockResponse, Status>>> {
    let caller = client.clone();
    let waiting = tokio::spawn(async move { lock(&caller, name, lease).await });
    let key = format!("{name}/{lease:x}");
    wait_keys(client, &key, 1).await?;
    Ok(waiting)
}

async fn unlock(client: &Client, key: &str) -> Result<UnlockResponse, Status> {
    client.clone().lock.unlock(UnlockRequest { key: key.to_owned().into() }).await.map(Response::into_inner)
}

/// What is the same on every server: code and text of an error; key and revision of an answer.
fn told(answer: Result<LockResponse, Status>) -> String {
    match answer {
        Ok(answer) => {
            let revision = answer.header.unwrap_or_default().revision;
            format!("{} at {revision}", String::from_utf8_lossy(&answer.key))
        }
        Err(status) => format!("{:?} {}", status.code(), status.message()),
    }
}

fn told_unlock(answer: Result<UnlockResponse, Status>) -> String {
    answer.map_or_else(
        |status| format!("{:?} {}", status.code(), status.message()),
        |answer| format!("unlocked at {}", answer.header.unwrap_or_default().revision),
    )
}

async fn ask(kind: Kind) -> Result<Vec<String>> {
    let server = Server::start(kind).await?;
    let client = server.client().await?;
    for lease in [16, 17, -5, i64::MIN] {
        grant(&client, lease, 1000).await?;
    }
    let mut all = Vec::new();
    for (name, lease) in
        [("a", 16), ("a", 16), ("b", -5), ("c", i64::MIN), ("d", 404), ("", 16), ("a/b", 17), ("x\n", 17)]
    {
        all.push(told(lock(&client, name, lease).await));
    }
    // It waits for every key below the name, those of other locks included.
    let waiting = queue(&client, "a", 17).await?;
    for key in ["nothing", "", "a/10", "a/10"] {
        all.push(told_unlock(unlock(&client, key).await));
    }
    ensure!(!waiting.is_finished(), "{kind}: two hold the lock");
    all.push(told_unlock(unlock(&client, "a/b/11").await));
    all.push(told(tokio::time::timeout(DEADLINE, waiting).await.context("nobody gets the lock")??));
    all.push(told_unlock(unlock(&client, "a/11").await));
    let mut too_large = client.clone().lock;
    let large = too_large.lock(LockRequest { name: vec![b'x'; 1 << 21].into(), lease: 16 }).await;
    all.push(told(large.map(Response::into_inner)));
    all.push(format!("{:?}", keys(&client, "\0").await?));
    Ok(all)
}

#[tokio::test]
async fn answers_are_those_of_etcd() -> Result<()> {
    let (etcd, ours) = tokio::try_join!(ask(Kind::Etcd), ask(Kind::Cleat))?;
    same_answers(&etcd, &ours)
}

pub(super) fn same_answers(etcd: &[String], ours: &[String]) -> Result<()> {
    for (at, (etcd, ours)) in etcd.iter().zip(ours).enumerate() {
        ensure!(etcd == ours, "answer {at}: etcd says {etcd:?}, we {ours:?}");
    }
    ensure!(etcd.len() == ours.len());
    Ok(())
}

/// A lock without a lease gets one of a minute, which nobody keeps alive, and which the lock outlives not.
#[tokio::test]
async fn a_lock_without_a_lease_gets_one() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = Server::start(kind).await?;
        let mut client = server.client().await?;
        let answer = lock(&client, "a", 0).await?;
        let leases = client.lease.lease_leases(LeaseLeasesRequest {}).await?.into_inner().leases;
        let [lease] = &leases[..] else { bail!("{kind}: {leases:?}") };
        ensure!(answer.key == format!("a/{:x}", lease.id), "{kind}: {answer:?}");
        let asked = LeaseTimeToLiveRequest { id: lease.id, keys: true };
        let left = client.lease.lease_time_to_live(asked).await?.into_inner();
        ensure!(left.granted_ttl == 60 && left.keys == [answer.key.clone()], "{kind}: {left:?}");
        client.lease.lease_revoke(LeaseRevokeRequest { id: lease.id }).await?;
        ensure!(keys(&client, "a/").await?.is_empty(), "{kind}: the lock outlives its lease");
    }
    Ok(())
}

/// Twenty clients get a lock one after the other, in the order of their keys, and nobody beside another.
async fn contend(kind: Kind) -> Result<()> {
    const CLIENTS: i64 = 20;
    let server = Server::start(kind).await?;
    let client = server.client().await?;
    let mut waiting = Vec::new();
    for lease in 1..=CLIENTS {
        grant(&client, lease, 1000).await?;
        waiting.push(queue(&client, "a", lease).await?);
    }
    let mut last = 0;
    for (lease, holder) in (1..).zip(waiting) {
        let answer =
            tokio::time::timeout(DEADLINE, holder).await.with_context(|| format!("{kind}: {lease} waits"))???;
        ensure!(answer.key == format!("a/{lease:x}"), "{kind}: {lease} got {answer:?}");
        let now = keys(&client, "a/").await?;
        let oldest = now.iter().min_by_key(|(_, created)| *created).context("a holder has a key")?;
        ensure!(oldest.0 == format!("a/{lease:x}") && now.len() as i64 == CLIENTS + 1 - lease, "{kind}: {now:?}");
        let revision = answer.header.unwrap_or_default().revision;
        ensure!(revision > last, "{kind}: a lock granted at {revision} after one at {last}");
        last = revision;
        unlock(&client, &format!("a/{lease:x}")).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_clients_take_turns() -> Result<()> {
    tokio::try_join!(contend(Kind::Etcd), contend(Kind::Cleat)).map(drop)
}

/// A lease that expires while its client waits: etcd 3.4 grants the lock without a key, newer releases and Cleat do not.
#[tokio::test]
async fn an_expired_lease_gets_no_lock() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let client = server.client().await?;
    grant(&client, 16, 1000).await?;
    grant(&client, 18, 1000).await?;
    lock(&client, "a", 16).await?;
    // It has its whole time to get in line.
    grant(&client, 17, 2).await?;
    let expiring = queue(&client, "a", 17).await?;
    let behind = queue(&client, "a", 18).await?;
    // The lease is not kept alive. The call hears of it though the lock is still held.
    let ended = tokio::time::timeout(DEADLINE, expiring).await.context("a client without a lease waits")??;
    ensure!(told(ended) == "Unknown mutex: session is expired");
    ensure!(!behind.is_finished(), "two hold the lock");
    unlock(&client, "a/10").await?;
    ensure!(told(tokio::time::timeout(DEADLINE, behind).await??).starts_with("a/12 at "));
    Ok(())
}

/// A key that was deleted and created again, by another call with the same lease, is no older than others any more.
#[tokio::test]
async fn a_key_made_anew_has_lost_its_place() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let client = server.client().await?;
    for lease in [16, 17, 18] {
        grant(&client, lease, 1000).await?;
    }
    lock(&client, "a", 16).await?;
    let first = queue(&client, "a", 17).await?;
    let other = queue(&client, "a", 18).await?;
    unlock(&client, "a/11").await?;
    ensure!(told(tokio::time::timeout(DEADLINE, first).await??) == "Unknown mutex: session is expired");
    let again = queue(&client, "a", 17).await?;
    unlock(&client, "a/10").await?;
    ensure!(told(tokio::time::timeout(DEADLINE, other).await??).starts_with("a/12 at "));
    ensure!(!again.is_finished(), "two hold the lock");
    unlock(&client, "a/12").await?;
    ensure!(told(tokio::time::timeout(DEADLINE, again).await??).starts_with("a/11 at "));
    Ok(())
}

/// Clients that leave while they wait, and those whose deadline is over.
async fn leave(kind: Kind) -> Result<()> {
    let server = Server::start(kind).await?;
    let client = server.client().await?;
    for lease in [16, 17, 18, 19] {
        grant(&client, lease, 1000).await?;
    }
    lock(&client, "a", 16).await?;
    let canceled = queue(&client, "a", 17).await?;
    // A connection of its own, which goes away.
    let other = server.client().await?;
    let lost = queue(&other, "a", 18).await?;
    wait_keys(&client, "a/", 3).await?;
    canceled.abort();
    lost.abort();
    drop(other);
    wait_keys(&client, "a/", 1).await.with_context(|| kind.to_string())?;
    let mut request = tonic::Request::new(LockRequest { name: "a".into(), lease: 19 });
    request.set_timeout(Duration::from_millis(300));
    let late = client.lock.clone().lock(request).await;
    ensure!(late.is_err(), "{kind}: {late:?}");
    wait_keys(&client, "a/", 1).await.with_context(|| kind.to_string())?;
    ensure!(keys(&client, "a/").await?[0].0 == "a/10", "{kind}: the holder's key is gone");
    // The holder asks again and has it at once.
    ensure!(told(lock(&client, "a", 16).await).starts_with("a/10 at "), "{kind}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_leaves_no_key_behind() -> Result<()> {
    tokio::try_join!(leave(Kind::Etcd), leave(Kind::Cleat)).map(drop)
}

/// Waits are streams of nothing: a member that stops ends them.
#[tokio::test]
async fn a_waiting_call_does_not_hold_up_the_end() -> Result<()> {
    let mut server = Server::start(Kind::Cleat).await?;
    let client = server.client().await?;
    grant(&client, 16, 1000).await?;
    grant(&client, 17, 1000).await?;
    lock(&client, "a", 16).await?;
    let waiting = queue(&client, "a", 17).await?;
    server.terminate().await?;
    let answer = waiting.await?;
    ensure!(told(answer) == "Unavailable etcdserver: server stopped");
    ensure!(!server.log().contains("closing connections whose calls did not end in time"), "{}", server.log_tail());
    Ok(())
}
