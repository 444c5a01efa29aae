//! `cleatctl snapshot save` when connections break, members restart, and the command itself is killed.

use crate::cutter::{Fate, Limiter};
use crate::restore::{command, fails, succeeds, text};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{CompactionRequest, DefragmentRequest, HashKvRequest, PutRequest, RequestOp, TxnRequest};
use harness::{Kind, Server};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

/// etcdctl's exit code of a snapshot that was not saved.
const INTERRUPTED: i32 = 5;
/// Of different values, so that nothing makes them smaller: about 3 MB.
const KEYS: usize = 1500;
const VALUE_BYTES: usize = 2000;
const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// A server with some megabytes in it, and a place for files.
async fn filled(kind: Kind) -> Result<(Server, PathBuf)> {
    let server = Server::start(kind).await?;
    let mut client = server.client().await?;
    for n in 0..KEYS {
        let value = (0..VALUE_BYTES).map(|at| (at * 31 + n * 7) as u8).collect::<Vec<_>>();
        client.kv.put(PutRequest { key: format!("k{n}").into(), value: value.into(), ..Default::default() }).await?;
    }
    let file = server.scratch().join("snapshot");
    Ok((server, file))
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}.{ending}", file.display()))
}

fn nothing_is_left_beside(file: &Path) -> Result<()> {
    for ending in ["part", "part.id"] {
        ensure!(!beside(file, ending).exists(), "{} was left", beside(file, ending).display());
    }
    Ok(())
}

/// Runs a save away from the runtime, which a proxy needs.
async fn save(file: &Path, endpoint: &str) -> Result<Output> {
    let mut command = command(&["snapshot", "save", text(file)?, "--endpoints", endpoint])?;
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What the file says of itself is what the member said at that revision.
async fn is_snapshot_of(file: &Path, server: &Server, revision: i64) -> Result<()> {
    has_hash(file, hash_at(server, revision).await?, revision)
}

async fn hash_at(server: &Server, revision: i64) -> Result<u32> {
    Ok(server.client().await?.maintenance.hash_kv(HashKvRequest { revision }).await?.into_inner().hash)
}

fn has_hash(file: &Path, hash: u32, revision: i64) -> Result<()> {
    let status: serde_json::Value =
        serde_json::from_str(&succeeds(&["snapshot", "status", text(file)?, "-w", "json"])?)?;
    ensure!(status["hash"] == hash && status["revision"] == revision, "{status}, not {hash:x} at {revision}");
    Ok(())
}

async fn put(server: &Server, key: &str) -> Result<i64> {
    let put = PutRequest { key: key.to_owned().into(), ..Default::default() };
    let answer = server.client().await?.kv.put(put).await?.into_inner();
    Ok(answer.header.context("a header")?.revision)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_survives_connections_that_break() -> Result<()> {
    let (server, file) = filled(Kind::Cleat).await?;
    let revision = put(&server, "last").await?;
    let limits: Vec<_> = (0..5).map(|n| (300_000 + 70_001 * n, Fate::Cut)).collect();
    let proxy = Limiter::before(&server, &limits, false).await?;
    // What is written meanwhile changes nothing in the snapshot that was begun.
    let mut client = server.client().await?;
    let writes = async {
        loop {
            client.kv.put(PutRequest { key: "k1".into(), value: "other".into(), ..Default::default() }).await?;
            tokio::time::sleep(POLL).await;
        }
        #[allow(unreachable_code, reason = "names the type of the errors")]
        anyhow::Ok(())
    };
    let output = tokio::select! {
        output = save(&file, &proxy.endpoint) => output?,
        failed = writes => return failed.context("a write"),
    };
    let stderr = said(&output);
    ensure!(output.status.success(), "{stderr}");
    ensure!(stderr.matches("interrupted after ").count() == limits.len(), "{stderr}");
    ensure!(
        stderr.matches("going on behind ").count() == limits.len() && !stderr.contains("starting over"),
        "{stderr}"
    );
    nothing_is_left_beside(&file)?;
    let status: serde_json::Value =
        serde_json::from_str(&succeeds(&["snapshot", "status", text(&file)?, "-w", "json"])?)?;
    let at = status["revision"].as_i64().context("a revision")?;
    ensure!(at >= revision, "{status} is older than what was asked for at {revision}");
    is_snapshot_of(&file, &server, at).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_command_goes_on_with_what_it_left() -> Result<()> {
    let (server, file) = filled(Kind::Cleat).await?;
    let revision = put(&server, "last").await?;
    let hash = hash_at(&server, revision).await?;
    let proxy = Limiter::before(&server, &[(1_000_000, Fate::Cut)], true).await?;
    let output = save(&file, &proxy.endpoint).await?;
    let stderr = said(&output);
    ensure!(output.status.code() == Some(INTERRUPTED) && stderr.contains("give the same command again"), "{stderr}");
    let part = std::fs::metadata(beside(&file, "part"))?.len();
    ensure!((900_000..1_000_000).contains(&part) && !file.exists(), "{part} bytes");
    // What is written, compacted and defragmented in between changes nothing in the snapshot that was begun.
    // In few requests, for it is kept a minute.
    let mut client = server.client().await?;
    for first in (0..KEYS / 2).step_by(100) {
        let put = |n: usize| PutRequest { key: format!("k{n}").into(), ..Default::default() };
        let puts = (first..first + 100).map(|n| RequestOp { request: Some(Request::RequestPut(put(n))) });
        client.kv.txn(TxnRequest { success: puts.collect(), ..Default::default() }).await?;
    }
    let compaction = CompactionRequest { revision: put(&server, "later").await?, physical: true };
    client.kv.compact(compaction).await?;
    client.maintenance.defragment(DefragmentRequest {}).await?;
    ensure!(hash_at(&server, revision).await.is_err(), "revision {revision} is still there");
    let output = save(&file, &server.endpoint()).await?;
    let stderr = said(&output);
    ensure!(output.status.success() && stderr.contains("going on behind "), "{stderr}");
    nothing_is_left_beside(&file)?;
    has_hash(&file, hash, revision)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_that_is_killed_leaves_a_part_that_is_good() -> Result<()> {
    let (server, file) = filled(Kind::Cleat).await?;
    let revision = put(&server, "last").await?;
    let proxy = Limiter::before(&server, &[(1_000_000, Fate::Stall)], false).await?;
    let mut first = command(&["snapshot", "save", text(&file)?, "--endpoints", &proxy.endpoint])?;
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let begun = Instant::now();
    let grown = || std::fs::metadata(beside(&file, "part")).is_ok_and(|part| part.len() > 900_000);
    while !grown() {
        ensure!(begun.elapsed() < DEADLINE, "nothing arrives");
        tokio::time::sleep(POLL).await;
    }
    // One file has one writer.
    let path = text(&file)?.to_owned();
    let endpoint = server.endpoint();
    fails(&["snapshot", "save", &path, "--endpoints", &endpoint], "is being written by another process")?;
    first.kill()?;
    first.wait()?;
    ensure!(!file.exists());
    put(&server, "later").await?;
    let output = save(&file, &endpoint).await?;
    ensure!(output.status.success() && said(&output).contains("going on behind "), "{}", said(&output));
    nothing_is_left_beside(&file)?;
    is_snapshot_of(&file, &server, revision).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_gone_on_with_begins_again() -> Result<()> {
    let (mut server, file) = filled(Kind::Cleat).await?;
    let revision = put(&server, "last").await?;
    let once = [(1_000_000, Fate::Cut)];
    let proxy = Limiter::before(&server, &once, true).await?;
    // A part that is not what was sent: the hash says so.
    ensure!(save(&file, &proxy.endpoint).await?.status.code() == Some(INTERRUPTED));
    let part = beside(&file, "part");
    let mut bytes = std::fs::read(&part)?;
    ensure!(!bytes.is_empty());
    bytes[500_000] ^= 1;
    std::fs::write(&part, bytes)?;
    let output = save(&file, &server.endpoint()).await?;
    let stderr = said(&output);
    ensure!(output.status.success() && stderr.contains("is damaged") && stderr.contains("starting over"), "{stderr}");
    nothing_is_left_beside(&file)?;
    is_snapshot_of(&file, &server, revision).await?;
    // A member that has forgotten the snapshot.
    std::fs::remove_file(&file)?;
    let proxy = Limiter::before(&server, &once, true).await?;
    ensure!(save(&file, &proxy.endpoint).await?.status.code() == Some(INTERRUPTED));
    ensure!(part.exists() && !file.exists());
    server.kill()?;
    server.restart().await?;
    let revision = put(&server, "after").await?;
    let output = save(&file, &server.endpoint()).await?;
    let stderr = said(&output);
    ensure!(output.status.success() && stderr.contains("cannot go on behind"), "{stderr}");
    nothing_is_left_beside(&file)?;
    is_snapshot_of(&file, &server, revision).await
}

/// etcd knows nothing of it: the download starts over, and in the end gives up instead of beginning for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_from_etcd_starts_over() -> Result<()> {
    let (server, file) = filled(Kind::Etcd).await?;
    let proxy = Limiter::before(&server, &[(1_000_000, Fate::Cut)], false).await?;
    let output = save(&file, &proxy.endpoint).await?;
    let stderr = said(&output);
    ensure!(output.status.success() && stderr.contains("starting over") && !stderr.contains("going on"), "{stderr}");
    nothing_is_left_beside(&file)?;
    let mut etcdctl = std::process::Command::new(harness::tool::etcdctl_binary());
    let checked = etcdctl.env("ETCDCTL_API", "3").args(["snapshot", "status", text(&file)?]).output()?;
    ensure!(checked.status.success(), "{checked:?}");
    std::fs::remove_file(&file)?;
    let always = [(1_000_000, Fate::Cut); 20];
    let proxy = Limiter::before(&server, &always, true).await?;
    let output = save(&file, &proxy.endpoint).await?;
    ensure!(output.status.code() == Some(INTERRUPTED) && !said(&output).contains("again within"), "{}", said(&output));
    nothing_is_left_beside(&file)?;
    ensure!(!file.exists());
    Ok(())
}
