//! Members that are killed, that hang, or whose disk is slow.

use crate::{FAULT_MILLIS, Scenario, last};
use anyhow::{Result, bail, ensure};
use harness::{Cluster, Place, Subject};
use std::time::Duration;

/// Longer than a heartbeat, and shorter than the election timeout: a leader with such a disk stays leader or not.
const SLOW_SYNC: Duration = Duration::from_millis(200);

/// Longer than an election.
const STALLED_SYNC: Duration = Duration::from_millis(2_500);

fn on_loopback(name: &'static str) -> Result<Scenario> {
    Scenario::new(name, Place::Loopback)
}

async fn kill(cluster: &mut Cluster, member: usize) -> Result<()> {
    cluster.kill(member)?;
    last(FAULT_MILLIS).await;
    cluster.restart(member).await
}

async fn pause(cluster: &mut Cluster, member: usize) -> Result<()> {
    cluster.pause(member)?;
    last(FAULT_MILLIS).await;
    cluster.resume(member)
}

async fn slow(cluster: &mut Cluster, member: usize) -> Result<()> {
    let slow = cluster.slow_disk(member, SLOW_SYNC).await?;
    last(FAULT_MILLIS).await;
    drop(slow);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_leader_is_killed() -> Result<()> {
    on_loopback("leader is killed")?.run(async |cluster, _| kill(cluster, cluster.leader().await?).await).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_follower_is_killed() -> Result<()> {
    on_loopback("follower is killed")?.run(async |cluster, _| kill(cluster, cluster.follower().await?).await).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_all_are_killed() -> Result<()> {
    let scenario = on_loopback("all are killed")?;
    scenario
        .run(async |cluster, _| {
            let members = cluster.members();
            for &member in &members {
                cluster.kill(member)?;
            }
            // A member alone finds no leader, so none is waited for before all run.
            for &member in &members {
                cluster.spawn(member)?;
            }
            cluster.wait_healthy().await?;
            last(FAULT_MILLIS).await;
            Ok(())
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_leader_hangs() -> Result<()> {
    on_loopback("leader hangs")?.run(async |cluster, _| pause(cluster, cluster.leader().await?).await).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_follower_hangs() -> Result<()> {
    on_loopback("follower hangs")?.run(async |cluster, _| pause(cluster, cluster.follower().await?).await).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_leader_has_a_slow_disk() -> Result<()> {
    let scenario = on_loopback("leader has a slow disk")?;
    scenario.run(async |cluster, _| slow(cluster, cluster.leader().await?).await).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_follower_has_a_slow_disk() -> Result<()> {
    let scenario = on_loopback("follower has a slow disk")?;
    scenario.run(async |cluster, _| slow(cluster, cluster.follower().await?).await).await?;
    Ok(())
}

/// Lets syncs of the leader take long for a while: whether it led on, and how many writes there were meanwhile.
async fn stall(cluster: &mut Cluster) -> Result<(bool, i64)> {
    let leader = cluster.leader().await?;
    let before = cluster.status(leader).await?;
    let slow = cluster.slow_disk(leader, STALLED_SYNC).await?;
    let follower = cluster.follower().await?;
    let revision = cluster.revision(follower).await?;
    tokio::time::sleep(STALLED_SYNC * 2).await;
    let grown = cluster.revision(follower).await? - revision;
    let after = cluster.status(leader).await?;
    drop(slow);
    Ok((after.raft_term == before.raft_term, grown))
}

/// Syncs of the leader that take longer than an election neither silence its heartbeats nor hold up the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_leader_leads_on_while_its_disk_stalls() -> Result<()> {
    let mut scenario = on_loopback("leader's disk stalls")?;
    scenario.rounds = 1;
    // etcd's leader neither sends nor takes anything while it waits for its disk.
    let stays = Subject::under_test()?.is_cleat;
    scenario
        .run(async |cluster, _| {
            // A busy machine may depose a leader once, a disk that holds it up does each time.
            for _ in 0..3 {
                let (led_on, grown) = stall(cluster).await?;
                if led_on || !stays {
                    ensure!(grown > 0 || !stays, "no write was acknowledged");
                    return Ok(());
                }
                cluster.wait_healthy().await?;
            }
            bail!("the leader was deposed")
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_rolling_restart_fails_no_request() -> Result<()> {
    let scenario = on_loopback("rolling restart")?;
    let report = scenario
        .run(async |cluster, _| {
            for member in cluster.members() {
                cluster.terminate(member).await?;
                cluster.restart(member).await?;
                cluster.wait_healthy().await?;
            }
            Ok(())
        })
        .await?;
    ensure!(report.failed_requests == 0, "retries did not absorb {} requests", report.failed_requests);
    Ok(())
}
