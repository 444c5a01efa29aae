//! Endpoints that are dead, silent, or end connections at the worst moment.

use super::client_of;
use crate::cutter::{Cutter, MARK};
use anyhow::{Context, Result, ensure};
use client::{Client, Error, Options, message};
use harness::ports::Port;
use harness::{Kind, Server};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let (server, dead) = (Server::start(kind).await?, Port::reserve()?);
        let dead = format!("127.0.0.1:{}", dead.number());
        // A write as the first call: it never left for the dead endpoint.
        let client = client_of(&[dead.clone(), server.endpoint()])?;
        client.put(message::put("a", "1")).await?;
        let client = client_of(&[dead.clone(), dead, server.endpoint()])?;
        ensure!(client.get("a").await?.context("it was put")?.version == 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_call_that_reaches_nobody_says_so_in_time() -> Result<()> {
    let dead = Port::reserve()?;
    let endpoint = format!("127.0.0.1:{}", dead.number());
    let request_timeout = Duration::from_millis(300);
    let options = Options { endpoints: vec![endpoint.clone()], request_timeout, ..Options::default() };
    let client = Client::new(&options)?;
    let begun = Instant::now();
    let error = client.put(message::put("a", "1")).await.err().context("nobody listens")?;
    ensure!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    ensure!(matches!(&error, Error::Unreachable { endpoint: named, .. } if *named == endpoint), "{error:?}");
    ensure!(!error.may_be_done() && error.to_string().contains("Connection refused"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() -> Result<()> {
    let mut server = Server::start(Kind::Cleat).await?;
    let client = client_of(&[server.endpoint()])?;
    client.put(message::put("a", "1")).await?;
    server.kill()?;
    server.restart().await?;
    // Reads hide the broken connection.
    ensure!(client.get("a").await?.is_some());
    client.put(message::put("a", "2")).await?;
    Ok(())
}

#[tokio::test]
async fn a_silent_endpoint_leaves_time_for_the_others() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    // Connections to it wait in its queue: they are made, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let silent_endpoint = silent.local_addr()?.to_string();
    let options =
        |endpoints: Vec<String>| Options { endpoints, request_timeout: Duration::from_secs(4), ..Options::default() };
    let client = Client::new(&options(vec![silent_endpoint.clone(), server.endpoint()]))?;
    ensure!(client.get("a").await?.is_none());
    let client = Client::new(&options(vec![silent_endpoint, server.endpoint()]))?;
    let error = client.put(message::put("a", "1")).await.err().context("nobody answers")?;
    ensure!(matches!(error, Error::Timeout { .. }) && error.may_be_done(), "{error:?}");
    // It was not sent to the other, but the next call is.
    ensure!(client.get("a").await?.is_none());
    client.put(message::put("a", "1")).await?;
    Ok(())
}

#[tokio::test]
async fn a_put_whose_connection_dies_is_not_repeated() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = Server::start(kind).await?;
        let cutter = Cutter::before(&server).await?;
        let client = client_of(&[cutter.endpoint.clone(), server.endpoint()])?;
        client.put(message::put("a", "1")).await?;
        let error = client.put(message::put("a", MARK)).await.err().context("its answer is cut off")?;
        ensure!(matches!(&error, Error::Lost { endpoint, .. } if *endpoint == cutter.endpoint), "{error:?}");
        ensure!(error.may_be_done(), "{error:?}");
        let version = client.get("a").await?.context("it was put")?.version;
        ensure!(version <= 2, "{kind}: the put was done {} times", version - 1);
        // A read whose connection dies is asked again, elsewhere.
        let cutter = Cutter::before(&server).await?;
        let client = client_of(&[cutter.endpoint.clone(), server.endpoint()])?;
        ensure!(client.get(MARK).await?.is_none());
    }
    Ok(())
}
