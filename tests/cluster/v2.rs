//! The v2 API of a cluster: what was acknowledged survives the leader, followers tell of every change, and TTLs come to
//! their end once and at the same index everywhere.

use crate::CLUSTERS;
use anyhow::{Context, Result, bail, ensure};
use harness::http::{self, Answer, Lines};
use harness::{Cluster, Place, Subject};
use hyper::Request;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Writers, and what each has acknowledged behind the end of the leader.
const WRITERS: usize = 3;
const WRITES: usize = 40;
/// Keys that expire.
const EXPIRING: usize = 20;
const POLL: Duration = Duration::from_millis(50);
const DEADLINE: Duration = Duration::from_mins(2);

async fn ask(address: &str, method: &str, path: &str, form: &str) -> Result<Answer> {
    let request = Request::builder().method(method).uri(format!("/v2/keys{path}"));
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    http::send(address, request.body(http::full(form.to_owned()))?).await
}

async fn stream(address: &str, path: &str) -> Result<Lines> {
    let path = format!("/v2/keys{path}?wait=true&stream=true&recursive=true");
    let opened = http::open(address, Request::get(path).body(http::full(""))?).await?;
    ensure!(opened.status == 200, "{}", opened.status);
    Ok(opened.lines)
}

/// The key and the index of an event.
fn key_and_index(event: &Value) -> Result<(String, u64)> {
    let node = &event["node"];
    let key = node["key"].as_str().with_context(|| format!("no key: {event}"))?;
    Ok((key.to_owned(), node["modifiedIndex"].as_u64().context("no index")?))
}

/// Appends to a queue, at one member or another, until enough was acknowledged of what was sent after the leader's end.
/// Returns value by key.
async fn write(
    addresses: Vec<String>,
    writer: usize,
    is_killed: Arc<AtomicBool>,
) -> Result<BTreeMap<String, (String, u64)>> {
    let (mut acknowledged, mut at, mut behind) = (BTreeMap::new(), writer, 0);
    for n in 0.. {
        if behind == WRITES {
            break;
        }
        let is_behind = is_killed.load(Ordering::SeqCst);
        let value = format!("{writer}-{n}");
        match ask(&addresses[at % addresses.len()], "POST", "/queue", &format!("value={value}")).await {
            Ok(answer) if answer.status == 201 => {
                let (key, index) = key_and_index(&answer.json()?)?;
                ensure!(acknowledged.insert(key.clone(), (value, index)).is_none(), "{key} was given out twice");
                behind += usize::from(is_behind);
            }
            Ok(answer) if answer.status < 500 => bail!("{answer:?}"),
            // The member is gone, or there is no leader: what became of the write is not known.
            Ok(_) | Err(_) => {
                at += 1;
                tokio::time::sleep(POLL).await;
            }
        }
    }
    Ok(acknowledged)
}

/// What all members answer to a read through consensus, which must be the same.
async fn read_everywhere(cluster: &Cluster, path: &str) -> Result<Value> {
    let mut answers = Vec::new();
    for member in cluster.members() {
        let address = cluster.server(member).endpoint();
        answers.push(ask(&address, "GET", &format!("{path}?quorum=true&recursive=true&sorted=true"), "").await?);
    }
    let first = answers.first().context("a member")?;
    for answer in &answers {
        ensure!(answer.body == first.body, "members differ: {answers:?}");
        ensure!(answer.header("x-etcd-index") == first.header("x-etcd-index"), "indexes differ: {answers:?}");
    }
    first.json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2_writes_outlive_the_leader_and_followers_tell_of_them() -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let mut cluster = Cluster::start(&Subject::under_test()?, Place::Loopback, 3).await?;
    let leader = cluster.leader().await?;
    let follower = cluster.follower().await?;
    let mut told = stream(&cluster.server(follower).endpoint(), "/queue").await?;
    let addresses: Vec<String> = cluster.members().into_iter().map(|m| cluster.server(m).endpoint()).collect();
    let is_killed = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(addresses.clone(), writer, Arc::clone(&is_killed)));
    }
    // Some of the writes before, some after.
    let first = told.next().await?.context("the watch ended")?;
    cluster.kill(leader)?;
    is_killed.store(true, Ordering::SeqCst);
    let (mut acknowledged, mut count) = (BTreeMap::new(), 0);
    let all = async {
        while let Some(done) = writers.join_next().await {
            let done = done??;
            count += done.len();
            acknowledged.extend(done);
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DEADLINE, all).await.with_context(|| cluster.logs())??;
    cluster.restart(leader).await?;
    cluster.wait_healthy().await?;
    ensure!(acknowledged.len() == count, "a key was acknowledged to two writers");
    let queue = read_everywhere(&cluster, "/queue").await?;
    let stored: BTreeMap<&str, &Value> = queue["node"]["nodes"]
        .as_array()
        .context("a directory")?
        .iter()
        .filter_map(|node| Some((node["key"].as_str()?, node)))
        .collect();
    for (key, (value, index)) in &acknowledged {
        let node = stored.get(key.as_str()).with_context(|| format!("{key} is lost"))?;
        ensure!(
            node["value"] == value.as_str() && node["createdIndex"] == *index,
            "{key}: {node}, not {value} {index}"
        );
    }
    // The follower told of every one of them, once and in order.
    let (mut last, mut event) = (0, first);
    for told_of in 1.. {
        let (key, index) = key_and_index(&event)?;
        ensure!(index > last && stored.contains_key(key.as_str()), "{key} {index} behind {last}");
        last = index;
        if told_of == stored.len() {
            return Ok(());
        }
        event = told.next().await?.context("the watch ended")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2_keys_expire_once_and_everywhere_at_the_same_index() -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let mut cluster = Cluster::start(&Subject::under_test()?, Place::Loopback, 3).await?;
    let leader = cluster.leader().await?;
    let others: Vec<usize> = cluster.members().into_iter().filter(|member| *member != leader).collect();
    // Before the keys, of which the first may be at its end when the last is written.
    let mut streams = Vec::new();
    for member in &others {
        streams.push(stream(&cluster.server(*member).endpoint(), "/t").await?);
    }
    for n in 0..EXPIRING {
        let address = cluster.server(cluster.members()[n % 3]).endpoint();
        let answer = ask(&address, "PUT", &format!("/t/{n}"), "value=v&ttl=2").await?;
        ensure!(answer.status == 201, "{answer:?}");
    }
    // Whoever leads next brings them to their end.
    cluster.kill(leader)?;
    let mut seen = Vec::new();
    for told in &mut streams {
        let mut expired = BTreeMap::new();
        while expired.len() < EXPIRING {
            let event = told.next().await.with_context(|| cluster.logs())?.context("the watch ended")?;
            if event["action"] == "set" {
                continue;
            }
            ensure!(event["action"] == "expire" && event["prevNode"]["value"] == "v", "{event}");
            let (key, index) = key_and_index(&event)?;
            ensure!(expired.insert(key.clone(), index).is_none(), "{key} expired twice");
        }
        seen.push(expired);
    }
    ensure!(seen[0] == seen[1], "members differ: {seen:?}");
    cluster.restart(leader).await?;
    cluster.wait_healthy().await?;
    let left = read_everywhere(&cluster, "/t").await?;
    ensure!(left["node"]["nodes"].is_null(), "{left}");
    // The member that was away has the same history.
    let (key, index) = seen[0].first_key_value().context("something expired")?;
    let path = format!("{key}?wait=true&waitIndex={index}");
    let answer = ask(&cluster.server(leader).endpoint(), "GET", &path, "").await?;
    ensure!(key_and_index(&answer.json()?)? == (key.clone(), *index), "{answer:?}");
    Ok(())
}
