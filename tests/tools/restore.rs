//! `cleatctl snapshot`: save, status, and clusters that begin with a restored store.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{
    HashKvRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, MemberAddRequest, PutRequest, RangeRequest,
    WatchCreateRequest, WatchRequest,
};
use harness::server::built_binary;
use harness::{Client, Kind, Options, Server};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const KEYS: usize = 300;
const LEASE: i64 = 77;
const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);
/// What the revision is moved up by, unless a flag says otherwise.
const BUMP: i64 = 1_000_000_000;

/// `cleatctl` without what the environment says to etcdctl.
pub(crate) fn command(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(built_binary("cleatctl")?);
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("ETCDCTL_")) {
        command.env_remove(key);
    }
    command.args(args);
    Ok(command)
}

pub(crate) fn cleatctl(args: &[&str]) -> Result<Output> {
    Ok(command(args)?.output()?)
}

pub(crate) fn succeeds(args: &[&str]) -> Result<String> {
    let output = cleatctl(args)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cleatctl {args:?}: {stderr}");
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) fn fails(args: &[&str], with: &str) -> Result<()> {
    let output = cleatctl(args)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && stderr.contains(with), "cleatctl {args:?}: {:?} {stderr}", output.status);
    Ok(())
}

pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("not UTF-8")
}

async fn fill(client: &mut Client) -> Result<()> {
    client.lease.lease_grant(LeaseGrantRequest { id: LEASE, ttl: 600 }).await?;
    for n in 0..KEYS {
        let lease = if n % 10 == 1 { LEASE } else { 0 };
        let put =
            PutRequest { key: format!("k{}", n / 2).into(), value: n.to_string().into(), lease, ..Default::default() };
        client.kv.put(put).await?;
    }
    Ok(())
}

async fn all(client: &mut Client) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let range = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let answer = client.kv.range(range).await?.into_inner();
    Ok(answer.kvs.into_iter().map(|kv| (kv.key.to_vec(), kv.value.to_vec())).collect())
}

/// Three members that are not started, and the list of them.
fn founders() -> Result<(Vec<Server>, String)> {
    let mut servers = Vec::new();
    for name in ["m1", "m2", "m3"] {
        servers.push(Server::prepare(Kind::Cleat, Options { name: name.to_owned(), ..Options::default() })?);
    }
    let list: Vec<String> =
        servers.iter().enumerate().map(|(n, server)| format!("m{}={}", n + 1, server.peer_url())).collect();
    let list = list.join(",");
    for server in &mut servers {
        server.options_mut().initial_cluster.clone_from(&list);
    }
    Ok((servers, list))
}

fn restore(server: &Server, name: &str, list: &str, snapshot: &Path, flags: &[&str]) -> Result<()> {
    let (data_dir, peer_url) = (server.data_dir(), server.peer_url());
    let mut args = vec!["snapshot", "restore", text(snapshot)?, "--data-dir", text(&data_dir)?, "--name", name];
    args.extend(["--initial-cluster", list, "--initial-advertise-peer-urls", &peer_url]);
    args.extend(flags);
    succeeds(&args).map(drop)
}

async fn hash(server: &Server) -> Result<(u32, i64)> {
    let answer = server.client().await?.maintenance.hash_kv(HashKvRequest::default()).await?.into_inner();
    Ok((answer.hash, answer.header.context("no header")?.revision))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_begins_with_a_restored_snapshot() -> Result<()> {
    let source = Server::start(Kind::Cleat).await?;
    let mut client = source.client().await?;
    fill(&mut client).await?;
    let (before, (source_hash, revision)) = (all(&mut client).await?, hash(&source).await?);
    let file = source.scratch().join("snapshot");
    let endpoint = source.endpoint();
    let said = succeeds(&["snapshot", "save", text(&file)?, "--endpoints", &endpoint])?;
    ensure!(said == format!("Snapshot saved at {}\n", file.display()), "{said}");
    let status: serde_json::Value =
        serde_json::from_str(&succeeds(&["snapshot", "status", text(&file)?, "-w", "json"])?)?;
    ensure!(status["hash"] == source_hash && status["revision"] == revision, "{status}");
    ensure!(status["totalKey"] == KEYS / 2, "{status}");

    let (mut servers, list) = founders()?;
    for (n, server) in servers.iter_mut().enumerate() {
        restore(server, &format!("m{}", n + 1), &list, &file, &[])?;
        server.spawn()?;
    }
    for server in &mut servers {
        server.wait_ready().await?;
    }
    let mut client = servers[1].client().await?;
    ensure!(all(&mut client).await? == before, "the keys are others");
    let lease = LeaseTimeToLiveRequest { id: LEASE, keys: true };
    let lease = client.lease.lease_time_to_live(lease).await?.into_inner();
    ensure!(lease.granted_ttl == 600 && lease.keys.len() == KEYS / 10, "{lease:?}");
    // Whoever saw what came after the snapshot notices.
    let create = WatchCreateRequest { key: "k1".into(), start_revision: revision + 1, ..Default::default() };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let mut events = client.watch.watch(tokio_stream::iter([create])).await?.into_inner();
    let mut compacted = 0;
    while let Some(event) = events.message().await? {
        compacted = event.compact_revision;
        if event.canceled {
            break;
        }
    }
    ensure!(compacted == revision + BUMP, "compacted at {compacted}");
    let put = client.kv.put(PutRequest { key: "new".into(), ..Default::default() }).await?.into_inner();
    ensure!(put.header.context("no header")?.revision == revision + BUMP + 1);

    // Who joins gets the store, not only what was logged since.
    let joins = Options {
        name: "m4".to_owned(),
        flags: vec!["--initial-cluster-state=existing".to_owned()],
        ..Options::default()
    };
    let mut joiner = Server::prepare(Kind::Cleat, joins)?;
    client.cluster.member_add(MemberAddRequest { peer_urls: vec![joiner.peer_url()], is_learner: false }).await?;
    joiner.options_mut().initial_cluster = format!("{list},m4={}", joiner.peer_url());
    joiner.restart().await?;
    let deadline = Instant::now() + DEADLINE;
    while hash(&joiner).await? != hash(&servers[0]).await? {
        ensure!(Instant::now() < deadline, "{:?} {:?}", hash(&joiner).await?, hash(&servers[0]).await?);
        tokio::time::sleep(POLL).await;
    }
    ensure!(all(&mut joiner.client().await?).await?.len() == KEYS / 2 + 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_restored_is_refused_and_leaves_nothing() -> Result<()> {
    let source = Server::start(Kind::Cleat).await?;
    let mut client = source.client().await?;
    fill(&mut client).await?;
    let (file, endpoint) = (source.scratch().join("snapshot"), source.endpoint());
    succeeds(&["snapshot", "save", text(&file)?, "--endpoints", &endpoint])?;
    let bytes = std::fs::read(&file)?;
    let (damaged, cut, into) =
        (source.scratch().join("damaged"), source.scratch().join("cut"), source.scratch().join("restored"));
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    std::fs::write(&damaged, flipped)?;
    std::fs::write(&cut, &bytes[..bytes.len() - 32])?;
    let restore = |file: &Path, flags: &[&str], with: &str| -> Result<()> {
        let args = ["snapshot", "restore", text(file)?, "--data-dir", text(&into)?];
        fails(&[&args, flags].concat(), with)?;
        ensure!(!into.exists(), "{} was left", into.display());
        Ok(())
    };
    restore(&damaged, &[], "expected sha256 ")?;
    restore(&damaged, &["--skip-hash-check"], "a checksum is wrong")?;
    restore(&cut, &[], "snapshot missing hash but --skip-hash-check=false")?;
    restore(&source.scratch().join("missing"), &[], "no such file or directory")?;
    restore(&file, &["--bump-revision", "0", "--mark-compacted"], "--mark-compacted goes with")?;
    restore(&file, &["--initial-cluster", "other=http://127.0.0.1:1"], "default")?;
    restore(&file, &["--initial-cluster", "default"], "--initial-cluster: ")?;
    succeeds(&["snapshot", "restore", text(&cut)?, "--data-dir", text(&into)?, "--skip-hash-check"])?;
    fails(&["snapshot", "restore", text(&file)?, "--data-dir", text(&into)?], "exists")?;
    let two = format!("{endpoint},{endpoint}");
    fails(&["snapshot", "save", text(&cut)?, "--endpoints", &two], "snapshot must be requested to one selected node")?;
    fails(&["snapshot", "save", text(&cut)?, "--endpoints", "127.0.0.1:1"], "Connection refused")?;
    Ok(())
}
