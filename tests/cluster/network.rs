//! Networks that are cut, lose packets or are slow, between members and in one direction. Clients reach everyone.

use crate::{FAULT_MILLIS, Scenario, last};
use anyhow::Result;
use harness::network::Network;
use harness::{Cluster, Place};

/// Share of packets that are lost.
const LOSS_PERCENT: u32 = 50;
/// A few hundred small messages a second, as over a bad mobile connection.
const SLOW_KILOBITS: u32 = 512;

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
