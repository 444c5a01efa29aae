//! Members that come and go while clients work.

use crate::{CALM_MILLIS, FAULT_MILLIS, Scenario, last};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::CompactionRequest;
use harness::load::LoadOptions;
use harness::{Cluster, Place, Subject};
use std::time::{Duration, Instant};

/// More writes than etcd 3.4 keeps in its log (5,000 entries) and has between two snapshots.
const FAR_BEHIND_ETCD: i64 = 6_000;
/// An entry of Cleat holds writes of many clients, so what is kept is counted small.
const FAR_BEHIND: i64 = 2_000;
const FAR_BEHIND_DEADLINE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(50);

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
