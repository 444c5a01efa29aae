//! Members that come and go while clients work.

use crate::{CALM_MILLIS, CLUSTERS, FAULT_MILLIS, Scenario, last};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{CompactionRequest, MemberListRequest, MemberRemoveRequest, PutRequest};
use harness::load::LoadOptions;
use harness::{Cluster, Place, Subject};
use std::time::{Duration, Instant};
use tonic::Code;

/// More writes than etcd 3.4 keeps in its log (5,000 entries) and has between two snapshots.
const FAR_BEHIND_ETCD: i64 = 6_000;
/// An entry of Cleat holds writes of many clients, so what is kept is counted small.
const FAR_BEHIND: i64 = 2_000;
const FAR_BEHIND_DEADLINE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(50);
const CALL_DEADLINE: Duration = Duration::from_secs(20);

/// Fails when no write is acknowledged for a while.
async fn goes_on(cluster: &Cluster) -> Result<()> {
    let member = cluster.leader().await?;
    let before = cluster.revision(member).await?;
    last(FAULT_MILLIS).await;
    let after = cluster.revision(cluster.leader().await?).await?;
    ensure!(after > before, "the cluster stands still at revision {after}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_that_lost_its_data_is_replaced() -> Result<()> {
    let mut leads = true;
    Scenario::new("member is replaced", Place::Loopback)?
        .run(async |cluster, _| {
            let member = if leads { cluster.leader().await? } else { cluster.follower().await? };
            leads = !leads;
            cluster.lose(member)?;
            cluster.remove(member).await?;
            cluster.add().await?;
            Ok(())
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_count_grows_and_shrinks() -> Result<()> {
    let mut scenario = Scenario::new("1 to 5 members and back", Place::Loopback)?;
    scenario.size = 1;
    scenario.rounds = scenario.rounds.div_ceil(2);
    let report = scenario
        .run(async |cluster, _| {
            for _ in 0..4 {
                cluster.add().await?;
                cluster.wait_healthy().await?;
                last(CALM_MILLIS).await;
            }
            for _ in 0..4 {
                // Sooner or later the leader is the first.
                let first = *cluster.members().first().context("there is a member")?;
                cluster.remove(first).await?;
                cluster.wait_healthy().await?;
                last(CALM_MILLIS).await;
            }
            Ok(())
        })
        .await?;
    // etcd stands still from the announcement of the second voter until that has started, which may take long.
    let may_fail = !Subject::under_test()?.is_cleat;
    ensure!(may_fail || report.failed_requests == 0, "retries did not absorb {} requests", report.failed_requests);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_of_three_never_starts() -> Result<()> {
    Scenario::new("a fourth voter never starts", Place::Loopback)?
        .run(async |cluster, _| {
            let absent = cluster.announce().await?;
            goes_on(cluster).await?;
            cluster.remove(absent).await
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_of_one_never_starts() -> Result<()> {
    let mut scenario = Scenario::new("a second voter never starts", Place::Loopback)?;
    scenario.size = 1;
    // etcd cannot take the voter back, so there is one round.
    scenario.rounds = 1;
    scenario
        .run(async |cluster, _| {
            let absent = cluster.announce().await?;
            if cluster.subject().is_cleat {
                goes_on(cluster).await?;
                return cluster.remove(absent).await;
            }
            // etcd counts the voter at once and has no quorum until it starts.
            last(FAULT_MILLIS).await;
            cluster.restart(absent).await
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_far_behind_catches_up() -> Result<()> {
    let mut scenario = Scenario::new("member far behind", Place::Loopback)?;
    let is_cleat = Subject::under_test()?.is_cleat;
    let (flags, writes): (&[&str], i64) = if is_cleat {
        (&["--snapshot-count=20", "--snapshot-catchup-entries=10"], FAR_BEHIND)
    } else {
        (&["--snapshot-count=500"], FAR_BEHIND_ETCD)
    };
    scenario.flags = flags;
    scenario.rounds = 1;
    scenario.load = LoadOptions {
        clients: 24,
        keys: 200,
        pause: Duration::ZERO,
        lease_clients: 0,
        writes: 95,
        ..LoadOptions::default()
    };
    scenario
        .run(async |cluster, load| {
            let behind = cluster.follower().await?;
            cluster.terminate(behind).await?;
            let leader = cluster.leader().await?;
            let mut client = cluster.client(leader).await?;
            let start = cluster.revision(leader).await?;
            let deadline = Instant::now() + FAR_BEHIND_DEADLINE;
            let mut revision = start;
            while revision < start + writes {
                ensure!(Instant::now() < deadline, "only {} writes in time", revision - start);
                tokio::time::sleep(POLL).await;
                revision = cluster.revision(leader).await?;
            }
            // Watchers that follow are at the end; the member that is behind has none of what goes.
            let oldest = revision - writes / 10;
            load.compacted(oldest);
            client.kv.compact(CompactionRequest { revision: oldest, physical: true }).await?;
            cluster.restart(behind).await
        })
        .await?;
    Ok(())
}

/// The cluster has a majority.
async fn put(cluster: &Cluster, member: usize) -> Result<()> {
    cluster.leader().await?;
    let mut client = cluster.client(member).await?;
    let put = client.kv.put(PutRequest { key: "a".into(), ..Default::default() });
    tokio::time::timeout(CALL_DEADLINE, put).await.context("the cluster stands still")??;
    Ok(())
}

async fn id(cluster: &Cluster, member: usize) -> Result<u64> {
    Ok(cluster.status(member).await?.header.context("a status has a header")?.member_id)
}

/// Asks once for a removal that must not be made.
async fn refuses_to_remove(cluster: &Cluster, through: usize, id: u64) -> Result<()> {
    let mut client = cluster.client(through).await?;
    let removal = client.cluster.member_remove(MemberRemoveRequest { id });
    let removed = tokio::time::timeout(CALL_DEADLINE, removal).await.context("no answer in time")?;
    let refused = removed.err().with_context(|| format!("{id:x} was removed"))?;
    let told = (refused.code(), refused.message());
    ensure!(told == (Code::Unavailable, "etcdserver: unhealthy cluster"), "{id:x} is not removed: {told:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_that_completes_the_majority_stays() -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let mut cluster = Cluster::start(&Subject::under_test()?, Place::Loopback, 3).await?;
    let leader = cluster.leader().await?;
    let down = cluster.follower().await?;
    cluster.kill(down)?;
    // Longer than the leader takes to notice.
    last(FAULT_MILLIS).await;
    let other = cluster.follower().await?;
    for goes in [other, leader] {
        let id = id(&cluster, goes).await?;
        for through in [leader, other] {
            refuses_to_remove(&cluster, through, id).await.with_context(|| cluster.logs())?;
        }
    }
    ensure!(cluster.leader().await? == leader, "a leader that stays handed over");
    put(&cluster, other).await?;
    // One that is down is no part of the majority, and a cluster of two that is whole may become one of one.
    cluster.remove(down).await?;
    put(&cluster, other).await?;
    cluster.remove(leader).await?;
    put(&cluster, other).await
}

/// The vote of a member that was added is waited for, and the wait does not hold it up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_that_was_alone_goes_as_soon_as_another_has_come() -> Result<()> {
    let mut cluster = Cluster::start(&Subject::under_test()?, Place::Loopback, 1).await?;
    let alone = cluster.leader().await?;
    let gone = id(&cluster, alone).await?;
    let added = cluster.announce().await?;
    cluster.spawn(added)?;
    let mut client = cluster.client(alone).await?.cluster;
    let deadline = Instant::now() + CALL_DEADLINE;
    loop {
        let members = client.member_list(MemberListRequest { linearizable: false }).await?.into_inner().members;
        if members.iter().all(|member| !member.name.is_empty()) {
            break;
        }
        ensure!(Instant::now() < deadline, "it does not come\n{}", cluster.logs());
    }
    let removed = client.member_remove(MemberRemoveRequest { id: gone }).await?.into_inner();
    ensure!(removed.members.len() == 1, "{:?}", removed.members);
    Ok(())
}
