//! Watches that go on behind restarts, and those that cannot.

use super::{DEADLINE, client_of};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::CompactionRequest;
use client::{Client, Error, Watch, WatchOptions, message};
use harness::{Kind, Server};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;

async fn watch_prefix(client: &Client, prefix: &'static str, start_revision: i64) -> Result<Watch> {
    let (key, range_end) = message::prefix_range(prefix);
    Ok(client.watch(WatchOptions { key, range_end, start_revision, ..WatchOptions::default() }).await?)
}

/// Takes events until one is about `last`, and returns the revisions.
async fn revisions_until(watch: &mut Watch, last: &str) -> Result<Vec<i64>> {
    let mut revisions = Vec::new();
    loop {
        let events = timeout(DEADLINE, watch.next()).await.context("no event in time")??;
        for event in events.events {
            let kv = event.kv.context("an event is about a key")?;
            revisions.push(kv.mod_revision);
            if kv.key == last.as_bytes() {
                ensure!(events.revision >= kv.mod_revision);
                return Ok(revisions);
            }
        }
    }
}

#[tokio::test]
async fn no_event_is_lost_when_the_server_restarts() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let mut server = Server::start(kind).await?;
        let client = client_of(&[server.endpoint()])?;
        let mut watch = watch_prefix(&client, "k/", 0).await?;
        let mut put = BTreeSet::new();
        let mut seen = Vec::new();
        for round in 0..3 {
            for n in 0..20 {
                let answer = client.put(message::put(format!("k/{round}/{n}"), "v")).await?;
                put.insert(answer.header.context("header")?.revision);
            }
            if round == 1 {
                // Nothing of the second round has been taken when the connection breaks.
                server.kill()?;
                server.restart().await?;
                client.get("k/0/0").await?;
                continue;
            }
            seen.extend(revisions_until(&mut watch, &format!("k/{round}/19")).await?);
        }
        let put: Vec<i64> = put.into_iter().collect();
        ensure!(seen == put, "{kind}: put {put:?}, seen {seen:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_caller_that_looks_in_short_ticks_connects_again() -> Result<()> {
    let mut server = Server::start(Kind::Cleat).await?;
    let client = client_of(&[server.endpoint()])?;
    let mut watch = watch_prefix(&client, "k/", 0).await?;
    server.kill()?;
    server.restart().await?;
    let put = client.put(message::put("k/1", "v")).await?.header.context("header")?.revision;
    let ticks = async {
        loop {
            // Shorter than the first pause.
            if let Ok(events) = timeout(Duration::from_millis(20), watch.next()).await {
                return events;
            }
        }
    };
    let events = timeout(DEADLINE, ticks).await.context("it does not connect again")??;
    ensure!(events.revision == put, "{events:?}");
    Ok(())
}

#[tokio::test]
async fn a_watch_moves_to_another_endpoint_of_the_cluster() -> Result<()> {
    let mut server = Server::start(Kind::Cleat).await?;
    let (elsewhere, name) = (server.endpoint(), server.endpoint().replace("127.0.0.1", "localhost"));
    let client = client_of(&[name, elsewhere])?;
    let mut watch = watch_prefix(&client, "k", 0).await?;
    server.kill()?;
    server.restart().await?;
    client.get("k").await?;
    let revision = client.put(message::put("k", "v")).await?.header.context("header")?.revision;
    ensure!(revisions_until(&mut watch, "k").await? == [revision]);
    Ok(())
}

#[tokio::test]
async fn compacted_history_is_an_error_with_the_revision() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = Server::start(kind).await?;
        let client = client_of(&[server.endpoint()])?;
        for _ in 0..5 {
            client.put(message::put("k", "v")).await?;
        }
        client.compact(CompactionRequest { revision: 4, physical: true }).await?;
        let mut watch = watch_prefix(&client, "k", 2).await?;
        let error = timeout(DEADLINE, watch.next()).await?.err().context("the start is compacted")?;
        ensure!(matches!(error, Error::Compacted { compact_revision: 4, .. }), "{kind}: {error:?}");
        let mut watch = watch_prefix(&client, "k", 5).await?;
        ensure!(revisions_until(&mut watch, "k").await? == [5]);
    }
    Ok(())
}

#[tokio::test]
async fn a_quiet_watch_hears_how_far_it_is() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        // etcd's gate for a shorter interval than ten minutes.
        let flags = ["--experimental-watch-progress-notify-interval=1s".to_owned()].to_vec();
        let server = Server::start_with(kind, harness::Options { flags, ..harness::Options::default() }).await?;
        let client = client_of(&[server.endpoint()])?;
        let options = WatchOptions { key: "quiet".into(), progress_notify: true, ..WatchOptions::default() };
        let mut watch = client.watch(options).await?;
        let revision = client.put(message::put("loud", "v")).await?.header.context("header")?.revision;
        let mut progress = timeout(DEADLINE, watch.next()).await??;
        // The first may be from before the put.
        while progress.events.is_empty() && progress.revision < revision {
            progress = timeout(DEADLINE, watch.next()).await??;
        }
        ensure!(progress.events.is_empty() && progress.revision == revision, "{kind}: {progress:?}");
    }
    Ok(())
}
