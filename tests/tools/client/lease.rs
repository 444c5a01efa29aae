//! Leases through the client.

use super::{DEADLINE, client_of};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::PutRequest;
use client::{WatchOptions, message};
use harness::{Kind, Server};
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test]
async fn a_held_lease_outlives_one_that_is_not() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = Server::start(kind).await?;
        let client = client_of(&[server.endpoint()])?;
        let held = client.lease_grant(0, 2).await?.id;
        let left = client.lease_grant(0, 2).await?.id;
        for (key, lease) in [("held", held), ("left", left)] {
            client.put(PutRequest { lease, ..message::put(key, "x") }).await?;
        }
        ensure!(client.lease_keep_alive(held).await? == Duration::from_secs(2));
        let mut expiry = client.watch(WatchOptions { key: "left".into(), ..WatchOptions::default() }).await?;
        tokio::select! {
            error = client.lease_hold(held) => return Err(error).context("the held lease is lost"),
            events = timeout(DEADLINE, expiry.next()) => ensure!(events??.events.len() == 1),
        }
        ensure!(client.get("held").await?.is_some(), "{kind}: the lease was held");

        let error = client.lease_keep_alive(left).await.err().context("it has expired")?;
        ensure!(error.is(api::error::Error::LeaseNotFound), "{error}");
        client.lease_revoke(held).await?;
        ensure!(client.get("held").await?.is_none());
        let error = timeout(DEADLINE, client.lease_hold(held)).await?;
        ensure!(error.is(api::error::Error::LeaseNotFound), "{error}");
    }
    Ok(())
}
