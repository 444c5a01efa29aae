//! How confd 0.16 uses the v2 API: it reads its keys as a sorted tree that a majority agrees on, waits for the first change
//! since, and reads all of them again. Another client writes meanwhile.

use crate::server;
use anyhow::{Context, Result, ensure};
use client::v2::{Change, Client, Delete, Get, Node, Options, Put};
use harness::Kind;
use std::collections::BTreeMap;
use std::time::Duration;

const CHANGES: u64 = 300;
const DEADLINE: Duration = Duration::from_mins(1);

/// Files below a node, by key.
fn files(node: &Node, into: &mut BTreeMap<String, String>) {
    if let Some(value) = &node.value {
        into.insert(node.key.clone(), value.clone());
    }
    node.nodes.iter().for_each(|child| files(child, into));
}

async fn write(client: Client) -> Result<()> {
    for n in 0..CHANGES {
        let key = format!("/app/upstream/{}", n % 7);
        match n % 5 {
            4 => drop(client.delete(&key, Delete::default()).await),
            3 => {
                let put = Put { value: Some(n.to_string()), ttl: Some(600), ..Put::default() };
                client.put(&key, put).await?;
            }
            _ => drop(client.set(&key, n.to_string()).await?),
        }
        // Most of them are somebody else's.
        client.set(&format!("/elsewhere/{}", n % 3), n.to_string()).await?;
    }
    client.set("/app/done", "yes").await?;
    Ok(())
}

async fn follow(client: &Client) -> Result<(BTreeMap<String, String>, usize)> {
    let everything = Get { recursive: true, sorted: true, quorum: true };
    let mut reads = 0;
    loop {
        let response = client.get("/app", everything).await?;
        reads += 1;
        let mut seen = BTreeMap::new();
        files(&response.event.node, &mut seen);
        let keys: Vec<&str> = response.event.node.nodes.iter().map(|node| node.key.as_str()).collect();
        ensure!(keys.is_sorted(), "{keys:?}");
        if seen.contains_key("/app/done") {
            return Ok((seen, reads));
        }
        // A new wait for each change, as confd makes it.
        let mut watch = client.watch("/app", true, Some(response.index));
        let change = tokio::time::timeout(DEADLINE, watch.next()).await.context("a change was missed")??;
        if let Change::Event(event) = change {
            ensure!(event.node.modified_index > response.index, "{event:?} was seen at {}", response.index);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_waits_and_reads_again_misses_nothing() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = server(kind).await?;
        let options = Options { endpoints: vec![server.endpoint()], request_timeout: DEADLINE, ..Options::default() };
        let (reader, writer) = (Client::new(&options)?, Client::new(&options)?);
        writer.set("/app/first", "1").await?;
        let ((seen, reads), ()) = tokio::try_join!(follow(&reader), write(writer.clone()))?;
        let mut expected = BTreeMap::new();
        files(&writer.get("/app", Get { recursive: true, ..Get::default() }).await?.event.node, &mut expected);
        ensure!(seen == expected && reads > 2, "{reads} reads: {seen:?}\nexpected {expected:?}");
    }
    Ok(())
}
