//! Clusters of a real etcd that start through the service.

use super::DEADLINE;
use super::service::{Service, Store, member, member_of};
use anyhow::{Context, Result, ensure};
use harness::{Kind, Server};

/// Starts members together and waits until all serve.
async fn start(members: &mut [Server]) -> Result<()> {
    for member in members.iter_mut() {
        member.spawn()?;
    }
    for member in members {
        member.wait_ready().await?;
    }
    Ok(())
}

fn members(service: &Service, token: &str, names: &[&str]) -> Result<Vec<Server>> {
    names.iter().map(|name| member(name, &service.url(token), &[])).collect()
}

async fn check_cluster(members: &[Server]) -> Result<()> {
    let endpoints: Vec<String> = members.iter().map(Server::endpoint).collect();
    let client = crate::client::client_of(&endpoints)?;
    let mut names: Vec<String> = client.member_list().await?.members.into_iter().map(|member| member.name).collect();
    names.sort();
    ensure!(names == ["a", "b", "c"], "{names:?}");
    client.put(client::message::put("k", "v")).await?;
    Ok(())
}

async fn a_cluster_starts(store: Store<'_>) -> Result<()> {
    let service = Service::start(store, &[]).await?;
    let token = service.token(3).await?;
    let mut cluster = members(&service, &token, &["a", "b", "c"])?;
    start(&mut cluster).await?;
    check_cluster(&cluster).await?;

    let mut fourth = member("d", &service.url(&token), &["--discovery-fallback=exit"])?;
    fourth.spawn()?;
    let status = fourth.wait_exit(DEADLINE).await?;
    ensure!(status.code() == Some(1) && fourth.log().contains("discovery: cluster is full"), "{}", fourth.log());

    let mut unknown = member("e", &service.url("/0123456789abcdef0123456789abcdef"), &[])?;
    unknown.spawn()?;
    let status = unknown.wait_exit(DEADLINE).await?;
    ensure!(status.code() == Some(1) && unknown.log().contains("100: Key not found"), "{}", unknown.log());
    Ok(())
}

#[tokio::test]
async fn etcd_starts_through_an_embedded_store() -> Result<()> {
    a_cluster_starts(Store::Embedded).await
}

#[tokio::test]
async fn etcd_starts_through_a_store_in_etcd() -> Result<()> {
    let store = Server::start(Kind::Etcd).await?;
    a_cluster_starts(Store::Server(&store)).await
}

#[tokio::test]
async fn etcd_starts_through_a_store_in_cleat() -> Result<()> {
    let store = Server::start(Kind::Cleat).await?;
    a_cluster_starts(Store::Server(&store)).await
}

#[tokio::test]
async fn cleat_starts_through_the_service() -> Result<()> {
    let service = Service::start(Store::Embedded, &[]).await?;
    let url = service.url(&service.token(3).await?);
    let named = |name: &&str| member_of(Kind::Cleat, name, &url, &[]);
    let mut cluster = ["a", "b", "c"].iter().map(named).collect::<Result<Vec<_>>>()?;
    start(&mut cluster).await?;
    check_cluster(&cluster).await?;
    // The token means nothing to a member that has data.
    let first = &mut cluster[0];
    first.terminate().await?;
    drop(service);
    first.restart().await?;
    check_cluster(&cluster).await?;

    Ok(())
}

#[tokio::test]
async fn a_bootstrap_goes_on_when_the_service_restarts() -> Result<()> {
    let mut service = Service::start(Store::Embedded, &[]).await?;
    let token = service.token(3).await?;
    let mut cluster = members(&service, &token, &["a", "b", "c"])?;
    for (waiting, member) in cluster.iter_mut().enumerate().take(2) {
        member.spawn()?;
        // A member whose registration is cut off gives up; one that waits asks again.
        service.wait_for_polls(waiting + 1).await?;
        if waiting == 0 {
            service.kill()?;
        } else {
            ensure!(service.terminate().await?.success(), "{}", service.log());
        }
        service.restart().await?;
    }
    // The index that the first two wait for is older than what the new process has seen.
    cluster[2].spawn()?;
    for member in &mut cluster {
        member.wait_ready().await?;
    }
    check_cluster(&cluster).await
}

#[tokio::test]
async fn a_member_that_lost_its_data_is_told_that_it_has_registered() -> Result<()> {
    let service = Service::start(Store::Embedded, &[]).await?;
    let token = service.token(2).await?;
    let mut first = member("a", &service.url(&token), &[])?;
    first.spawn()?;
    service.wait_for_polls(1).await?;
    first.kill()?;
    std::fs::remove_dir_all(first.data_dir()).context("its data")?;
    first.spawn()?;
    let status = first.wait_exit(DEADLINE).await?;
    ensure!(status.code() == Some(1), "{status}");
    // Common to the words of 3.4 and 3.5.
    ensure!(first.log().contains("registered with discovery service"), "{}", first.log());
    Ok(())
}
