//! Networks that are cut, lose packets or are slow, between members and in one direction. Clients reach everyone.

use crate::{FAULT_MILLIS, Scenario, last};
use anyhow::{Result, ensure};
use api::etcdserverpb::PutRequest;
use harness::network::Network;
use harness::{Cluster, Place, Subject};
use std::time::{Duration, Instant};

/// Share of packets that are lost.
const LOSS_PERCENT: u32 = 50;
/// A few hundred small messages a second, as over a bad mobile connection.
const SLOW_KILOBITS: u32 = 512;
const DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(100);

/// Runs a scenario whose fault is one of the network.
async fn run(name: &'static str, break_it: impl AsyncFn(&Cluster, &Network) -> Result<()>) -> Result<()> {
    Scenario::new(name, Place::Namespaces)?
        .run(async |cluster, _| {
            break_it(cluster, cluster.network()?).await?;
            last(FAULT_MILLIS).await;
            cluster.network()?.heal()
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_leader_is_cut_off() -> Result<()> {
    run("leader is cut off", async |cluster, network| network.isolate(cluster.leader().await?)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_follower_is_cut_off() -> Result<()> {
    run("follower is cut off", async |cluster, network| network.isolate(cluster.follower().await?)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_leader_hears_nobody() -> Result<()> {
    run("leader hears nobody", async |cluster, network| {
        let leader = cluster.leader().await?;
        cluster.members().into_iter().filter(|&other| other != leader).try_for_each(|other| network.cut(other, leader))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_follower_is_not_heard() -> Result<()> {
    run("follower is not heard", async |cluster, network| {
        let follower = cluster.follower().await?;
        let others = cluster.members().into_iter().filter(|&other| other != follower);
        others.into_iter().try_for_each(|other| network.cut(follower, other))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_two_of_three_are_parted() -> Result<()> {
    run("leader and one follower are parted", async |cluster, network| {
        network.part(cluster.leader().await?, cluster.follower().await?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_loses_half_of_the_packets() -> Result<()> {
    run("leader loses half of the packets", async |cluster, network| {
        network.lose(cluster.leader().await?, LOSS_PERCENT)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_of_the_leader_is_slow() -> Result<()> {
    run("leader has a slow network", async |cluster, network| network.slow(cluster.leader().await?, SLOW_KILOBITS))
        .await
}

/// Nobody in half of a cluster has a leader, not even who still hears the old one: clients that require one leave.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_a_cluster_has_no_leader() -> Result<()> {
    let mut cluster = Cluster::start(&Subject::under_test()?, Place::Namespaces, 4).await?;
    let leader = cluster.leader().await?;
    let beside = cluster.follower().await?;
    let mut requiring = tonic::Request::new(tokio_stream::pending());
    requiring.metadata_mut().insert("hasleader", "true".parse()?);
    let mut watch = cluster.client(beside).await?.watch.watch(requiring).await?.into_inner();
    for one in [leader, beside] {
        for other in cluster.members().into_iter().filter(|other| ![leader, beside].contains(other)) {
            cluster.network()?.part(one, other)?;
        }
    }
    leaders_become(&cluster, |leader| leader == 0).await?;
    let mut put = tonic::Request::new(PutRequest { key: "a".into(), ..Default::default() });
    put.metadata_mut().insert("hasleader", "true".parse()?);
    let refused = cluster.client(beside).await?.kv.put(put).await.expect_err("there is no leader");
    ensure!(refused.message() == "etcdserver: no leader", "{refused:?}");
    let ended = tokio::time::timeout(DEADLINE, watch.message()).await?.expect_err("there is no leader");
    ensure!(ended.message() == "etcdserver: no leader", "{ended:?}");
    cluster.network()?.heal()?;
    leaders_become(&cluster, |leader| leader != 0).await?;
    cluster.wait_healthy().await
}

/// Waits until every member says that of its leader.
async fn leaders_become(cluster: &Cluster, expected: impl Fn(u64) -> bool) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    for member in cluster.members() {
        while !expected(cluster.status(member).await?.leader) {
            ensure!(Instant::now() < deadline, "member {member} has another leader\n{}", cluster.logs());
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}
