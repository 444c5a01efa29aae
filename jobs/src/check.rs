//! `helm test`: what a client does first, in order, each step named when it fails.

use crate::cluster;
use crate::reload;
use anyhow::{Context as _, Result, bail, ensure};
use api::etcdserverpb::{PutRequest, TxnRequest};
use api::mvccpb::event::EventType;
use bytes::Bytes;
use client::http::{Call, Server};
use client::{Client, WatchOptions, message};
use http::StatusCode;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Ends by itself if this program does not delete it.
const TTL_SECONDS: i64 = 60;
/// Longest time for an event, or for an answer about readiness.
const STEP: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    cluster: cluster::ClusterArgs,
    /// URL that says whether a member is ready; may be given several times
    #[arg(long, value_name = "URL")]
    ready: Vec<String>,
    /// What the name of the key begins with
    #[arg(long, value_name = "PREFIX", default_value = "/cleat-test/")]
    prefix: String,
}

/// Does all steps.
///
/// # Errors
/// The first step that fails.
pub(crate) async fn check(args: &Args) -> Result<()> {
    let client = args.cluster.client()?;
    let key = format!("{}{:x}", args.prefix, chrono::Utc::now().timestamp_micros());
    args.cluster.patiently(|| client.get(key.clone())).await.context("a read of a key")?;
    let checked = keys(&client, &Bytes::from(key.clone())).await;
    if checked.is_err() {
        // Best effort: the lease ends it otherwise.
        drop(client.delete(message::delete(key)).await);
    }
    checked?;
    say!("ok: put, get, watch, transaction, lease, delete");
    for url in &args.ready {
        ready(url, Duration::from_secs(args.cluster.wait)).await?;
        say!("ok: {url}");
    }
    Ok(())
}

async fn keys(client: &Client, key: &Bytes) -> Result<()> {
    let lease = client.grant(TTL_SECONDS).await.context("a lease")?;
    let options = WatchOptions { key: key.clone(), ..WatchOptions::default() };
    let mut watch = client.watch(options).await.context("a watch")?;
    let put = PutRequest { lease, ..message::put(key.clone(), "1") };
    client.put(put).await.context("a put with a lease")?;
    let value = client.get(key.clone()).await.context("a get")?.context("the key is not there after the put")?;
    ensure!(value.value == "1" && value.lease == lease, "the key has not what was put");
    let request = TxnRequest {
        compare: vec![message::modified_at(key.clone(), value.mod_revision)],
        success: vec![message::op::put(message::put(key.clone(), "2"))],
        failure: Vec::new(),
    };
    let done = client.txn(request).await.context("a transaction")?;
    ensure!(done.succeeded, "the key changed between a get and a transaction");
    client.delete(message::delete(key.clone())).await.context("a deletion")?;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let events = timeout(STEP, watch.next()).await.context("the watch was not told of all changes")??;
        seen.extend(events.events.iter().map(api::mvccpb::Event::r#type));
    }
    ensure!(seen == [EventType::Put, EventType::Put, EventType::Delete], "the watch was told of {seen:?}");
    Ok(())
}

/// Waits until a member says that it is ready.
async fn ready(url: &str, wait: Duration) -> Result<()> {
    let (server, path) = Server::parse(url).map_err(|reason| anyhow::anyhow!("{url:?}: {reason}"))?;
    let (http, call) = (reload::http(), Call::get(&path));
    let end = Instant::now() + wait;
    loop {
        let reason = match http.send(&server, &call, STEP).await {
            Ok(answer) if answer.status == StatusCode::OK => return Ok(()),
            Ok(answer) => format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body).trim()),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= end {
            bail!("{url} is not ready: {reason}");
        }
        tokio::time::sleep(cluster::PAUSE).await;
    }
}
