//! `cleatctl migrate v2-to-v3`: a tree becomes keys, first on paper.

use crate::client::client_of;
use crate::client::v2::{MAKERS, v2_client, v2_server};
use crate::restore::{fails, succeeds};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::LeaseTimeToLiveRequest;
use client::message;
use client::v2::{Client as V2Client, Put};
use harness::{Kind, Server};
use serde_json::Value;
use std::collections::BTreeSet;

const KEYS: usize = 250;

async fn put(client: &V2Client, key: &str, ttl: Option<u64>) -> Result<()> {
    client.put(key, Put { value: Some(format!("of {key}")), ttl, ..Put::default() }).await?;
    Ok(())
}

/// Files in directories, some of which expire, hidden ones, and directories without any.
async fn fill(client: &V2Client) -> Result<()> {
    for n in 0..KEYS {
        put(client, &format!("/app/k{n:03}"), (n % 50 == 0).then_some(5000)).await?;
    }
    client.put("/app/session", Put { dir: true, ttl: Some(3000), ..Put::default() }).await?;
    put(client, "/app/session/a", None).await?;
    put(client, "/app/session/b", Some(9000)).await?;
    put(client, "/app/_config/size", None).await?;
    put(client, "/app/session/_config/size", None).await?;
    put(client, "/other", None).await?;
    client.put("/app/empty", Put { dir: true, ..Put::default() }).await?;
    Ok(())
}

struct Migration {
    source: String,
    target: String,
}

impl Migration {
    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let args =
            ["--endpoints", &self.target, "-w", "json", "migrate", "v2-to-v3", "--source-endpoints", &self.source];
        [&args[..], more].concat()
    }

    fn run(&self, more: &[&str]) -> Result<Value> {
        let output = succeeds(&self.args(more))?;
        serde_json::from_str(&output).context(output)
    }
}

async fn migration(kind: Kind) -> Result<(Server, Server, Migration)> {
    let (source, target) = tokio::try_join!(v2_server(kind, &[]), Server::start(Kind::Cleat))?;
    fill(&v2_client(&source)?).await?;
    let migration = Migration { source: source.client_url(), target: target.endpoint() };
    Ok((source, target, migration))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_becomes_keys_with_leases_after_a_dry_run() -> Result<()> {
    for kind in MAKERS {
        let (_source, target, migration) = migration(kind).await?;
        let client = client_of(&[target.endpoint()])?;
        let named = ["--source-prefix", "/app", "--hidden", "_config"];
        let planned = migration.run(&named)?;
        ensure!(planned["dryRun"] == true && client.list("").await?.kvs.is_empty(), "{planned}");
        let done = migration.run(&[&named[..], &["--yes"]].concat())?;
        for field in ["created", "conflicts", "directories", "emptyDirectories", "index"] {
            ensure!(planned[field] == done[field], "{field}: {planned} {done}");
        }
        ensure!(done["created"] == KEYS + 4 && done["emptyDirectories"][0] == "/app/empty", "{done}");
        // Keys with the same time left share a lease. Those that were made one after the other may differ by a second or two.
        for told in [&planned, &done] {
            let leases = told["leases"].as_u64().context("a number")?;
            ensure!((2..=1 + KEYS as u64 / 50).contains(&leases), "{told}");
        }
        let listing = client.list("/app/").await?.kvs;
        ensure!(listing.len() == KEYS + 4, "{}", listing.len());
        ensure!(listing.iter().all(|kv| kv.value == format!("of {}", String::from_utf8_lossy(&kv.key))));
        let leases: BTreeSet<i64> = listing.iter().map(|kv| kv.lease).collect();
        // And none, of those that stay.
        ensure!(Some(leases.len() as u64 - 1) == done["leases"].as_u64(), "{leases:?} {done}");
        for (key, most) in [("/app/k000", 5000), ("/app/session/a", 3000), ("/app/session/_config/size", 3000)] {
            let id = client.get(key).await?.context("it was copied")?.lease;
            let request = LeaseTimeToLiveRequest { id, keys: false };
            let ttl = target.client().await?.lease.lease_time_to_live(request).await?.into_inner().ttl;
            ensure!(ttl <= most && ttl > most - 100, "{key} has {ttl} of {most}");
        }
        // Once more: nothing is left to do.
        let again = migration.run(&[&named[..], &["--yes"]].concat())?;
        ensure!(again["created"] == 0 && again["unchanged"] == KEYS + 4 && again["leases"] == 0, "{again}");
        let text = succeeds(&migration.args(&["-w", "simple"]))?;
        ensure!(text.contains("would be created 1, overwritten 0, unchanged 252, conflicts 0"), "{text}");
        ensure!(text.contains("nothing was written; add --yes"), "{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_target_has_already_is_not_lost() -> Result<()> {
    for kind in MAKERS {
        let (source, target, migration) = migration(kind).await?;
        let client = client_of(&[target.endpoint()])?;
        // As a migration that was interrupted leaves it, and one key that somebody else wrote.
        client.put(message::put("new/k001", "of /app/k001")).await?;
        client.put(message::put("new/k002", "another")).await?;
        // Permanent, where the source has one that expires.
        client.put(message::put("new/k050", "of /app/k050")).await?;
        let named = ["--source-prefix", "/app", "--target-prefix", "new", "--yes"];
        fails(
            &migration.args(&named),
            "2 keys of the target have other values and were left as they are; --overwrite",
        )?;
        ensure!(client.get("new/k002").await?.context("it was there")?.value == "another");
        ensure!(client.get("new/k003").await?.context("it was copied")?.value == "of /app/k003");
        let done = migration.run(&[&named[..], &["--overwrite"]].concat())?;
        ensure!(done["overwritten"] == 2 && done["created"] == 0 && done["unchanged"] == KEYS, "{done}");
        ensure!(client.get("new/k002").await?.context("it was there")?.value == "of /app/k002");
        ensure!(client.get("new/k050").await?.context("it was there")?.lease != 0);
        // What changes in the source meanwhile comes with the next run, as what the target has does not expire by itself.
        put(&v2_client(&source)?, "/app/late", None).await?;
        ensure!(migration.run(&named)?["created"] == 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_sources_are_named() -> Result<()> {
    let target = Server::start(Kind::Cleat).await?;
    let migration = |source: &str| Migration { source: source.to_owned(), target: target.endpoint() };
    let source = v2_server(Kind::Etcd, &[]).await?;
    fails(
        &migration(&source.client_url()).args(&["--source-prefix", "/nowhere"]),
        "the source has no key \"/nowhere\"",
    )?;
    fails(&migration("127.0.0.1:1").args(&[]), "127.0.0.1:1: Connection refused")?;
    fails(
        &migration(&source.client_url()).args(&["--source-user", "secret"]),
        "--source-user is written as NAME:PASSWORD",
    )?;
    Ok(())
}
