//! The client library against real servers of both makers.

mod failure;
mod mirror;
pub(crate) mod tls;
pub(crate) mod v2;
mod watch;

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{CompactionRequest, TxnRequest};
use client::message::{self, op};
use client::{Client, Error, Options};
use harness::{Kind, Server};
use std::time::Duration;

/// For what a busy machine may need; nothing waits that long when all is well.
const DEADLINE: Duration = Duration::from_mins(1);

/// A client with long limits.
pub(crate) fn client_of(endpoints: &[String]) -> Result<Client> {
    let (dial_timeout, request_timeout) = (Duration::from_secs(5), Duration::from_secs(20));
    Ok(Client::new(&Options { endpoints: endpoints.to_vec(), dial_timeout, request_timeout, ..Options::default() })?)
}

/// Keys, values and both revisions, for comparisons.
fn shown(kvs: &[api::mvccpb::KeyValue]) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let show = |kv: &api::mvccpb::KeyValue| {
        format!("{}={} {}/{} v{}", text(&kv.key), text(&kv.value), kv.create_revision, kv.mod_revision, kv.version)
    };
    kvs.iter().map(show).collect()
}

/// Everything that a fresh server answers to a session of calls.
async fn session(kind: Kind) -> Result<Vec<String>> {
    let server = Server::start(kind).await?;
    let client = client_of(&[server.endpoint()])?;
    let mut seen = Vec::new();
    client.put(message::put("a/1", "one")).await?;
    client.put(message::put("a/2", "two")).await?;
    let replaced = client.put(api::etcdserverpb::PutRequest { prev_kv: true, ..message::put("a/1", "uno") }).await?;
    seen.extend(shown(replaced.prev_kv.as_slice()));
    seen.extend(shown(client.get("a/1").await?.as_slice()));
    seen.push(format!("{:?}", client.get("b").await?));
    let create = || TxnRequest {
        compare: vec![message::is_absent("a/3")],
        success: vec![op::put(message::put("a/3", "three"))],
        failure: vec![op::range(message::get("a/3"))],
    };
    for _ in 0..2 {
        let answer = client.txn(create()).await?;
        seen.push(format!("{} {}", answer.succeeded, answer.header.context("header")?.revision));
    }
    let guarded = |revision| TxnRequest {
        compare: vec![message::created_at("a/3", 5), message::modified_at("a/3", revision)],
        success: vec![op::delete(message::delete("a/3"))],
        failure: Vec::new(),
    };
    for revision in [4, 5] {
        seen.push(client.txn(guarded(revision)).await?.succeeded.to_string());
    }
    let listing = client.list("a/").await?;
    seen.push(listing.revision.to_string());
    seen.extend(shown(&listing.kvs));
    seen.push(client.delete(message::delete_prefix("a/")).await?.deleted.to_string());
    client.compact(CompactionRequest { revision: 4, physical: true }).await?;
    let mut old = message::get("a/1");
    old.revision = 3;
    let error = client.range(old).await.err().context("the revision is compacted")?;
    ensure!(error.is(api::error::Error::Compacted), "{error}");
    seen.push(error.to_string().replace(&server.endpoint(), "ENDPOINT"));
    let error = client.put(message::put("", "x")).await.err().context("a key is needed")?;
    ensure!(error.is(api::error::Error::EmptyKey) && !error.may_be_done(), "{error}");
    seen.push(error.to_string().replace(&server.endpoint(), "ENDPOINT"));
    let members = client.member_list().await?.members;
    seen.extend(members.iter().map(|member| member.name.clone()));
    let status = client.status(&server.endpoint()).await?;
    ensure!(status.leader == members[0].id, "{status:?}");
    let unknown = client.status("other:1").await.err().context("it is not an endpoint")?;
    ensure!(matches!(unknown, Error::BadEndpoint { .. }), "{unknown}");
    Ok(seen)
}

#[tokio::test]
async fn both_makers_give_the_same_answers() -> Result<()> {
    let (etcd, cleat) = (session(Kind::Etcd).await?, session(Kind::Cleat).await?);
    ensure!(etcd == cleat, "etcd:  {etcd:#?}\ncleat: {cleat:#?}");
    ensure!(etcd.contains(&"a/1=uno 2/4 v2".to_owned()), "{etcd:#?}");
    ensure!(etcd.contains(&"ENDPOINT: etcdserver: key is not provided".to_owned()), "{etcd:#?}");
    Ok(())
}

#[tokio::test]
async fn a_long_listing_shows_one_revision() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let client = client_of(&[server.endpoint()])?;
    let keys: Vec<String> = (0..2500).map(|n| format!("k/{n:04}")).collect();
    for keys in keys.chunks(100) {
        let success = keys.iter().map(|key| op::put(message::put(key.clone(), "v"))).collect();
        client.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
    }
    client.put(message::put("l", "not in it")).await?;
    let listing = client.list("k/").await?;
    let listed: Vec<_> = listing.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
    ensure!(listed == keys && listing.revision == 27, "{} keys at {}", listed.len(), listing.revision);
    let exact = client.list("k/000").await?;
    ensure!(exact.kvs.len() == 10 && client.list("x").await?.kvs.is_empty());
    Ok(())
}
