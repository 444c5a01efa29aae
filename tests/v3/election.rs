//! The Election service: the same calls to etcd and to Cleat.

use crate::lock::{grant, keys, same_answers, wait_keys};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{CompactionRequest, DeleteRangeRequest, LeaseRevokeRequest, PutRequest, ResponseHeader};
use api::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ResignRequest,
};
use bytes::Bytes;
use harness::{Client, Kind, Server};
use std::time::Duration;
use tokio::task::JoinHandle;
use tonic::{Response, Status, Streaming};

const DEADLINE: Duration = Duration::from_secs(20);

async fn campaign(client: &Client, name: &str, lease: i64, value: &str) -> Result<CampaignResponse, Status> {
    let request = CampaignRequest { name: name.to_owned().into(), lease, value: value.to_owned().into() };
    client.clone().election.campaign(request).await.map(Response::into_inner)
}

/// Campaigns, and returns once the key is there.
async fn queue(
    client: &Client,
    name: &'static str,
    lease: i64,
    value: &'static str,
) -> Result<JoinHandle<Result<CampaignResponse, Status>>> {
    let caller = client.clone();
    let waiting = tokio::spawn(async move { campaign(&caller, name, lease, value).await });
    wait_keys(client, &format!("{name}/{lease:x}"), 1).await?;
    Ok(waiting)
}

async fn proclaim(client: &Client, leader: Option<LeaderKey>, value: &str) -> String {
    let request = ProclaimRequest { leader, value: value.to_owned().into() };
    told("proclaimed", client.clone().election.proclaim(request).await.map(|answer| answer.into_inner().header))
}

async fn resign(client: &Client, leader: Option<LeaderKey>) -> String {
    let resigned = client.clone().election.resign(ResignRequest { leader }).await;
    told("resigned", resigned.map(|answer| answer.into_inner().header))
}

async fn leader(client: &Client, name: &str) -> String {
    let asked = client.clone().election.leader(LeaderRequest { name: name.to_owned().into() }).await;
    asked.map_or_else(|status| failure(&status), |answer| told_leader(&answer.into_inner()))
}

fn failure(status: &Status) -> String {
    format!("{:?} {}", status.code(), status.message())
}

fn told(what: &str, answer: Result<Option<ResponseHeader>, Status>) -> String {
    answer.map_or_else(|status| failure(&status), |header| format!("{what} at {}", header.unwrap_or_default().revision))
}

fn told_leader(answer: &LeaderResponse) -> String {
    format!("{:?} at {}", answer.kv, answer.header.unwrap_or_default().revision)
}

fn told_campaign(answer: Result<CampaignResponse, Status>) -> String {
    answer.map_or_else(
        |status| failure(&status),
        |answer| format!("{:?} at {}", answer.leader, answer.header.unwrap_or_default().revision),
    )
}

async fn next(observed: &mut Streaming<LeaderResponse>) -> Result<String> {
    let next = tokio::time::timeout(DEADLINE, observed.message()).await.context("nobody is observed")?;
    Ok(match next {
        Ok(Some(answer)) => told_leader(&answer),
        Ok(None) => "the end".to_owned(),
        Err(status) => failure(&status),
    })
}

fn key(name: &str, lease: i64, rev: i64) -> LeaderKey {
    LeaderKey { name: name.to_owned().into(), key: format!("{name}/{lease:x}").into(), rev, lease }
}

async fn observe(client: &Client, name: &'static str) -> Result<Streaming<LeaderResponse>> {
    let name = Bytes::from_static(name.as_bytes());
    Ok(client.clone().election.observe(LeaderRequest { name }).await?.into_inner())
}

async fn ask(kind: Kind) -> Result<Vec<String>> {
    let server = Server::start(kind).await?;
    let client = server.client().await?;
    for lease in [16, 17, -5] {
        grant(&client, lease, 1000).await?;
    }
    let mut all = vec![
        leader(&client, "e").await,
        proclaim(&client, None, "x").await,
        resign(&client, None).await,
        proclaim(&client, Some(LeaderKey { lease: 16, ..Default::default() }), "x").await,
        resign(&client, Some(LeaderKey { lease: 16, ..Default::default() })).await,
        told_campaign(campaign(&client, "e", 404, "x").await),
        told_campaign(campaign(&client, "e", 16, "one").await),
        leader(&client, "e").await,
        // The same lease with another value proclaims it, with the same value does nothing.
        told_campaign(campaign(&client, "e", 16, "two").await),
        told_campaign(campaign(&client, "e", 16, "two").await),
        leader(&client, "e").await,
        told_campaign(campaign(&client, "", -5, "").await),
        leader(&client, "").await,
    ];
    let rev = keys(&client, "e/").await?[0].1;
    let mine = key("e", 16, rev);
    // The name in a leader key decides nothing.
    let renamed = LeaderKey { name: "other".into(), ..mine.clone() };
    all.push(proclaim(&client, Some(renamed), "three").await);
    all.push(leader(&client, "e").await);
    // A wrong revision, key and lease.
    let wrong = [
        LeaderKey { rev: rev - 1, ..mine.clone() },
        LeaderKey { key: "e/11".into(), ..mine.clone() },
        LeaderKey { lease: 404, ..mine.clone() },
    ];
    for leader in wrong {
        all.push(proclaim(&client, Some(leader.clone()), "x").await);
        if leader.lease != 404 {
            all.push(resign(&client, Some(leader)).await);
        }
    }
    let waiting = queue(&client, "e", 17, "next").await?;
    let behind = key("e", 17, keys(&client, "e/11").await?[0].1);
    // Who waits may proclaim; that makes no leader.
    all.push(proclaim(&client, Some(behind.clone()), "later").await);
    all.push(leader(&client, "e").await);
    all.push(resign(&client, Some(mine.clone())).await);
    all.push(told_campaign(tokio::time::timeout(DEADLINE, waiting).await.context("nobody leads")??));
    all.push(leader(&client, "e").await);
    all.push(resign(&client, Some(mine)).await);
    all.push(resign(&client, Some(behind)).await);
    all.push(leader(&client, "e").await);
    Ok(all)
}

#[tokio::test]
async fn answers_are_those_of_etcd() -> Result<()> {
    let (etcd, ours) = tokio::try_join!(ask(Kind::Etcd), ask(Kind::Cleat))?;
    same_answers(&etcd, &ours)
}

async fn watch_leaders(kind: Kind) -> Result<Vec<String>> {
    let server = Server::start(kind).await?;
    let client = server.client().await?;
    for lease in [16, 17, 18] {
        grant(&client, lease, 1000).await?;
    }
    // etcd begins its answer with the first leader.
    let observer = client.clone();
    let from_start = tokio::spawn(async move { observe(&observer, "e").await });
    // What is no put under the prefix, and what is under another.
    client.clone().kv.put(PutRequest { key: "e".into(), ..Default::default() }).await?;
    client.clone().kv.put(PutRequest { key: "e0".into(), ..Default::default() }).await?;
    campaign(&client, "e", 16, "one").await?;
    let mut from_start = tokio::time::timeout(DEADLINE, from_start).await.context("nobody is observed")???;
    let mut all = vec![next(&mut from_start).await?];
    let mut late = observe(&client, "e").await?;
    all.push(next(&mut late).await?);
    let leader = key("e", 16, keys(&client, "e/").await?[0].1);
    for value in ["two", "three", "four"] {
        proclaim(&client, Some(leader.clone()), value).await;
    }
    let second = queue(&client, "e", 17, "other").await?;
    let third = queue(&client, "e", 18, "third").await?;
    resign(&client, Some(leader)).await;
    let leader = second.await??.leader.context("a leader")?;
    // The three values, then the leader after them.
    for _ in 0..4 {
        all.push(next(&mut from_start).await?);
        all.push(next(&mut late).await?);
    }
    client.clone().lease.lease_revoke(LeaseRevokeRequest { id: leader.lease }).await?;
    third.await??;
    all.push(next(&mut from_start).await?);
    client.clone().kv.delete_range(DeleteRangeRequest { key: "e/12".into(), ..Default::default() }).await?;
    // Without a leader, the next one is the first put.
    campaign(&client, "e", 16, "again").await?;
    all.push(next(&mut from_start).await?);
    Ok(all)
}

#[tokio::test]
async fn observers_see_what_those_of_etcd_see() -> Result<()> {
    let (etcd, ours) = tokio::try_join!(watch_leaders(Kind::Etcd), watch_leaders(Kind::Cleat))?;
    same_answers(&etcd, &ours)
}

/// Observers of nobody and of a quiet leader, and those who wait for their turn, hold on to no revision.
#[tokio::test]
async fn waiting_outlives_compactions() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    grant(&client, 16, 1000).await?;
    grant(&client, 17, 1000).await?;
    let mut nobody = observe(&client, "none").await?;
    campaign(&client, "e", 16, "one").await?;
    let mut quiet = observe(&client, "e").await?;
    next(&mut quiet).await?;
    let waiting = queue(&client, "e", 17, "two").await?;
    for _ in 0..3 {
        let put = client.kv.put(PutRequest { key: "x".into(), ..Default::default() }).await?.into_inner();
        let revision = put.header.unwrap_or_default().revision;
        client.kv.compact(CompactionRequest { revision, physical: true }).await?;
    }
    let leader = key("e", 16, keys(&client, "e/10").await?[0].1);
    proclaim(&client, Some(leader.clone()), "heard").await;
    ensure!(next(&mut quiet).await?.contains("heard"));
    resign(&client, Some(leader)).await;
    tokio::time::timeout(DEADLINE, waiting).await.context("nobody leads")???;
    ensure!(next(&mut quiet).await?.contains("two"));
    campaign(&client, "none", 16, "first").await?;
    ensure!(next(&mut nobody).await?.contains("first"));
    Ok(())
}

/// A lease that expires while its client waits: etcd lets the client believe that it leads.
#[tokio::test]
async fn an_expired_lease_does_not_lead() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let client = server.client().await?;
    grant(&client, 16, 1000).await?;
    campaign(&client, "e", 16, "one").await?;
    // It has its whole time to get in line.
    grant(&client, 17, 2).await?;
    let expiring = queue(&client, "e", 17, "two").await?;
    let ended = tokio::time::timeout(DEADLINE, expiring).await.context("a client without a lease waits")??;
    ensure!(told_campaign(ended) == "Unknown election: not leader");
    Ok(())
}

/// A candidate that leaves is no candidate.
async fn leave(kind: Kind) -> Result<()> {
    let server = Server::start(kind).await?;
    let client = server.client().await?;
    grant(&client, 16, 1000).await?;
    grant(&client, 17, 1000).await?;
    campaign(&client, "e", 16, "one").await?;
    let canceled = queue(&client, "e", 17, "two").await?;
    canceled.abort();
    wait_keys(&client, "e/", 1).await.with_context(|| kind.to_string())
}

#[tokio::test]
async fn who_leaves_leaves_no_key_behind() -> Result<()> {
    tokio::try_join!(leave(Kind::Etcd), leave(Kind::Cleat)).map(drop)
}
