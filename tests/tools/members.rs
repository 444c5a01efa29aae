//! Members that are added, changed, promoted and removed by `cleatctl` as etcdctl does, over both APIs.

use anyhow::{Context as _, Result, ensure};
use harness::cluster::{Place, Subject};
use harness::ports::Port;
use harness::server::built_binary;
use harness::tool::{Output, cleatctl_as_etcdctl, etcdctl_binary, run};
use harness::{Cluster, Kind};
use std::ffi::OsString;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// etcd changes nothing before its members have known each other for five seconds.
const DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(300);

async fn give(program: &OsString, cluster: &Cluster, api: &str, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(program);
    command.env("ETCDCTL_API", api).args(["--endpoints", &cluster.url(0)]).args(args);
    run(command, b"", DEADLINE).await
}

/// Gives a command again until it succeeds.
async fn soon(program: &OsString, cluster: &Cluster, api: &str, args: &[&str]) -> Result<String> {
    let begun = Instant::now();
    loop {
        let output = give(program, cluster, api, args).await?;
        if output.code == Some(0) {
            return Ok(output.stdout);
        }
        ensure!(begun.elapsed() < DEADLINE, "{args:?}: {output:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// What two tools print the same: without ids, and in one order.
fn shown(text: &str) -> Vec<String> {
    let word = |word: &str| {
        let is_id = word.len() > 12 && word.chars().all(|c| c.is_ascii_hexdigit());
        if is_id { "ID".to_owned() } else { word.to_owned() }
    };
    let line = |line: &str| match line.split_once("INITIAL_CLUSTER=") {
        Some((name, list)) => {
            let mut members: Vec<&str> = list.trim_matches('"').split(',').collect();
            members.sort_unstable();
            format!("{name} {}", members.join(","))
        }
        None => line.split_whitespace().map(word).collect::<Vec<_>>().join(" "),
    };
    text.lines().map(line).collect()
}

/// The id that stands behind a word.
fn id_behind(text: &str, word: &str) -> Result<String> {
    let mut words = text.split_whitespace().skip_while(|found| *found != word);
    Ok(words.nth(1).with_context(|| format!("no id in {text}"))?.to_owned())
}

/// A learner is added, changed and removed.
async fn change(program: &OsString, cluster: &Cluster, peers: [&str; 2]) -> Result<Vec<String>> {
    let added = soon(program, cluster, "3", &["member", "add", "n9", "--learner", "--peer-urls", peers[0]]).await?;
    let id = id_behind(&added, "Member")?;
    let updated = soon(program, cluster, "3", &["member", "update", &id, "--peer-urls", peers[1]]).await?;
    let listed = soon(program, cluster, "3", &["member", "list"]).await?;
    ensure!(listed.lines().any(|line| line.contains(&id) && line.contains(peers[1])), "{listed}");
    let removed = soon(program, cluster, "3", &["member", "remove", &id]).await?;
    let listed = soon(program, cluster, "3", &["member", "list"]).await?;
    ensure!(!listed.contains(&id) && listed.lines().count() == 3, "{listed}");
    Ok(shown(&[added, updated, removed].concat()))
}

#[tokio::test]
async fn members_come_and_go_as_with_etcdctl() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let mut cluster = Cluster::start(&Subject::of(kind)?, Place::Loopback, 3).await?;
        cluster.wait_healthy().await?;
        let (one, other) = (Port::reserve()?, Port::reserve()?);
        let peers = [&one, &other].map(|port| format!("http://127.0.0.1:{}", port.number()));
        let peers = [peers[0].as_str(), peers[1].as_str()];
        let theirs = change(&etcdctl_binary(), &cluster, peers).await?;
        let ours = change(&built_binary("cleatctl")?.into(), &cluster, peers).await?;
        ensure!(theirs == ours, "{kind}: {theirs:#?} {ours:#?}");
        // One that runs gets its vote.
        let learner = cluster.add_learner().await?;
        let header = cluster.status(learner).await?.header.context("a header")?;
        let id = format!("{:x}", header.member_id);
        let promoted = soon(&built_binary("cleatctl")?.into(), &cluster, "3", &["member", "promote", &id]).await?;
        let expected = format!("Member {:16x} promoted in cluster {:16x}\n", header.member_id, header.cluster_id);
        ensure!(promoted == expected, "{promoted} {expected}");
    }
    Ok(())
}

/// A voter that never runs is added, changed and removed.
async fn change_v2(program: &OsString, cluster: &Cluster, peers: [&str; 2]) -> Result<Vec<String>> {
    let added = soon(program, cluster, "2", &["member", "add", "n9", peers[0]]).await?;
    let id = id_behind(&added, "ID")?;
    let updated = soon(program, cluster, "2", &["member", "update", &id, peers[1]]).await?;
    let listed = soon(program, cluster, "2", &["member", "list"]).await?;
    ensure!(listed.lines().any(|line| line.contains(&id) && line.contains(peers[1])), "{listed}");
    let removed = soon(program, cluster, "2", &["member", "remove", &id]).await?;
    ensure!(!soon(program, cluster, "2", &["member", "list"]).await?.contains(&id));
    Ok(shown(&[added, updated, removed].concat()))
}

#[tokio::test]
async fn members_come_and_go_over_the_v2_api() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let mut cluster = Cluster::start_with(&Subject::of(kind)?, Place::Loopback, 3, &["--enable-v2=true"]).await?;
        cluster.wait_healthy().await?;
        let (one, other) = (Port::reserve()?, Port::reserve()?);
        let peers = [&one, &other].map(|port| format!("http://127.0.0.1:{}", port.number()));
        let peers = [peers[0].as_str(), peers[1].as_str()];
        let directory = tempfile::tempdir()?;
        let theirs = change_v2(&etcdctl_binary(), &cluster, peers).await?;
        let ours = change_v2(&cleatctl_as_etcdctl(directory.path())?.into(), &cluster, peers).await?;
        ensure!(theirs == ours, "{kind}: {theirs:#?} {ours:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_list_of_members_is_as_certain_as_is_asked_for() -> Result<()> {
    let mut cluster = Cluster::start(&Subject::of(Kind::Cleat)?, Place::Loopback, 3).await?;
    cluster.wait_healthy().await?;
    let cleatctl: OsString = built_binary("cleatctl")?.into();
    let list = async |more: &[&str]| {
        give(&cleatctl, &cluster, "3", &[&["--command-timeout", "20s", "member", "list"], more].concat()).await
    };
    ensure!(list(&[]).await?.code == Some(0) && list(&["--consistency", "s"]).await?.code == Some(0));
    let refused = list(&["--consistency", "x"]).await?;
    ensure!(refused.code == Some(4) && refused.stderr.contains("unknown consistency flag \"x\""), "{refused:?}");
    cluster.kill(1)?;
    cluster.kill(2)?;
    let list = async |limit: &str, more: &[&str]| {
        give(&cleatctl, &cluster, "3", &[&["--command-timeout", limit, "member", "list"], more].concat()).await
    };
    // Without a majority nobody knows for certain.
    ensure!(list("2s", &[]).await?.code == Some(1));
    let known = list("20s", &["--consistency", "s"]).await?;
    ensure!(known.code == Some(0) && known.stdout.lines().count() == 3, "{known:?}");
    Ok(())
}
