//! How long writes wait when the leader goes, for the server under test and for the peers in `CLEAT_PEERS`.
//!
//! The figures are printed for people. What is asserted is only that writes go on at all in a generous time.

use crate::{CLUSTERS, rounds};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::PutRequest;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use harness::cluster::{ELECTION, HEARTBEAT};
use harness::{Client, Cluster, Place, Subject};
use std::time::{Duration, Instant};

/// A write is begun on every remaining member this often, whether or not the last one has returned.
const PROBE_EVERY: Duration = Duration::from_millis(10);
/// Far more than any election takes, in election timeouts.
const BOUND: u32 = 30;

/// How the leader goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Killed,
    Asked,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_after_a_kill() -> Result<()> {
    compare(End::Killed, "election timeouts", ELECTION).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_after_a_termination() -> Result<()> {
    compare(End::Asked, "heartbeats", HEARTBEAT).await
}

async fn compare(end: End, unit: &str, one: Duration) -> Result<()> {
    let subjects = [vec![Subject::under_test()?], Subject::peers()?].concat();
    for subject in subjects {
        let _turn = CLUSTERS.acquire().await?;
        let mut cluster = Cluster::start(&subject, Place::Loopback, 3).await?;
        let mut gaps = Vec::new();
        for round in 0..rounds()? {
            let gap = measure(&mut cluster, end).await;
            gaps.push(gap.with_context(|| format!("{}, round {round}\n{}", subject.label, cluster.logs()))?);
        }
        gaps.sort_unstable();
        let at = |share: f64| {
            let gap = gaps[((gaps.len() - 1) as f64 * share).round() as usize];
            gap.as_secs_f64() / one.as_secs_f64()
        };
        let what = if end == End::Killed { "killed" } else { "asked to end" };
        eprintln!(
            "leader is {what}, time to the next write ({}, {} rounds): p50 {:.2}, p99 {:.2}, most {:.2} {unit}",
            subject.label,
            gaps.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
    Ok(())
}

/// Ends the leader, and returns how long no write succeeded on the others.
async fn measure(cluster: &mut Cluster, end: End) -> Result<Duration> {
    cluster.wait_healthy().await?;
    let leader = cluster.leader().await?;
    let mut clients = Vec::new();
    for member in cluster.running().into_iter().filter(|&member| member != leader) {
        clients.push(cluster.client(member).await?);
    }
    let started = Instant::now();
    match end {
        End::Killed => cluster.kill(leader)?,
        End::Asked => cluster.ask_to_end(leader)?,
    }
    // A leader that is asked to end still answers for a moment: what counts is the longest time without an answer.
    let gap = longest_gap(&clients, started, end).await?;
    if end == End::Asked {
        cluster.wait_end(leader).await?;
    }
    cluster.restart(leader).await?;
    Ok(gap)
}

/// Writes to all clients all the time and measures the longest time without a success.
async fn longest_gap(clients: &[Client], started: Instant, end: End) -> Result<Duration> {
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    let mut running = FuturesUnordered::new();
    let (mut newest, mut longest) = (started, Duration::ZERO);
    // After an orderly end the old leader is gone within two election timeouts, and its successor has answered.
    let watched = if end == End::Asked { ELECTION * 2 } else { Duration::ZERO };
    while longest.is_zero() || started.elapsed() < watched {
        ensure!(newest.elapsed() < ELECTION * BOUND, "no write succeeded in {BOUND} election timeouts");
        tokio::select! {
            _ = ticks.tick() => {
                for client in clients {
                    running.push(write(client.clone()));
                }
            }
            Some(written) = running.next() => {
                if written {
                    longest = longest.max(newest.elapsed());
                    newest = Instant::now();
                }
            }
        }
    }
    Ok(longest)
}

async fn write(mut client: Client) -> bool {
    let request = PutRequest { key: Bytes::from_static(b"failover"), ..Default::default() };
    let written = tokio::time::timeout(ELECTION * BOUND, client.kv.put(request)).await;
    matches!(written, Ok(Ok(_)))
}
