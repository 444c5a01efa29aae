//! What `cleatctl` does to files while no member uses them: `hashkv`, `wal inspect`, `defrag --data-dir`, and `snapshot status`
//! beside etcdctl's.

use crate::restore::{cleatctl, fails, succeeds, text};
use anyhow::{Context as _, Result, ensure};
use api::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, HashKvRequest, HashKvResponse, PutRequest, RangeRequest,
};
use harness::tool::etcdctl_binary;
use harness::{Kind, Server};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const KEYS: usize = 60;
const VALUE_BYTES: usize = 20_000;

/// A server with some history, and the hash of it.
async fn filled(kind: Kind) -> Result<(Server, HashKvResponse)> {
    let server = Server::start(kind).await?;
    let mut client = server.client().await?;
    for n in 0..KEYS {
        let put =
            PutRequest { key: format!("k{n}").into(), value: vec![b'v'; VALUE_BYTES].into(), ..PutRequest::default() };
        client.kv.put(put).await?;
    }
    let delete = DeleteRangeRequest { key: "k1".into(), range_end: "k5".into(), ..DeleteRangeRequest::default() };
    client.kv.delete_range(delete).await?;
    client.kv.compact(CompactionRequest { revision: 30, physical: true }).await?;
    let hash = client.maintenance.hash_kv(HashKvRequest { revision: 0 }).await?.into_inner();
    Ok((server, hash))
}

/// Every file below a directory with what is in it.
fn contents(directory: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(contents(&path)?);
        } else {
            found.insert(path.clone(), std::fs::read(&path)?);
        }
    }
    Ok(found)
}

#[tokio::test]
async fn a_history_has_one_hash_in_every_file() -> Result<()> {
    let (mut server, hash) = filled(Kind::Cleat).await?;
    let file = server.scratch().join("backup.db");
    let (file, directory) = (text(&file)?, server.data_dir());
    let directory_text = text(&directory)?;
    succeeds(&["--endpoints", &server.endpoint(), "snapshot", "save", file])?;
    // A member uses it.
    fails(&["hashkv", directory_text], "is used by another process")?;
    server.terminate().await?;
    let before = contents(&directory)?;
    let revision = hash.header.context("a header")?.revision;
    for path in [file, directory_text] {
        let expected = format!("{}, {revision}, {}\n", hash.hash, hash.compact_revision);
        ensure!(succeeds(&["hashkv", path])? == expected, "{path}: {expected}");
        let json: serde_json::Value = serde_json::from_str(&succeeds(&["hashkv", path, "-w", "json"])?)?;
        ensure!(json["hash"] == hash.hash && json["compactRevision"] == hash.compact_revision, "{json}");
        let earlier: serde_json::Value =
            serde_json::from_str(&succeeds(&["hashkv", path, "--rev", "40", "-w", "json"])?)?;
        ensure!(earlier["hash"] != hash.hash && earlier["hashRevision"] == 40, "{earlier}");
    }
    ensure!(contents(&directory)? == before, "something in the directory was changed");
    // The environment says how, as for every command.
    let mut command = crate::restore::command(&["hashkv", file])?;
    let output = command.env("ETCDCTL_WRITE_OUT", "json").output()?;
    ensure!(output.stdout.starts_with(b"{\"hash\":"), "{output:?}");
    let mut command = crate::restore::command(&["hashkv", file])?;
    let output = command.env("TMPDIR", "/none").output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        errors.contains("cannot make a temporary directory in /none; name another directory with TMPDIR: "),
        "{output:?}"
    );
    fails(&["hashkv", text(server.scratch())?], "is not empty and not a Cleat data directory")?;
    Ok(())
}

#[tokio::test]
async fn a_log_is_read_up_to_the_first_damage() -> Result<()> {
    let (mut server, _) = filled(Kind::Cleat).await?;
    server.terminate().await?;
    let directory = server.data_dir();
    let whole = succeeds(&["wal", "inspect", text(&directory)?])?;
    ensure!(whole.contains(" records, none is damaged"), "{whole}");
    let count: usize = whole.split(' ').next().context("a number")?.parse()?;
    let listed = succeeds(&["wal", "inspect", text(&directory)?, "--records"])?;
    ensure!(listed.lines().filter(|line| line.contains(" term ")).count() == count && count > KEYS, "{count}");
    // The name of a file once, and then its records, with offsets as those of errors are. At the end stands where it ends.
    let (names, records): (Vec<_>, Vec<_>) = listed
        .lines()
        .filter(|line| line.contains(".wal") || line.contains(" term "))
        .partition(|line| !line.contains(" term "));
    ensure!(
        names.len() >= 2 && names.iter().collect::<std::collections::BTreeSet<_>>().len() == names.len(),
        "{names:?}"
    );
    let offset = |line: &&str| line.trim_start().split(' ').next().is_some_and(|offset| offset.parse::<u64>().is_ok());
    ensure!(records.iter().take(count).all(offset), "{records:?}");
    // A flipped bit in the middle of what is used of a segment; those for later are empty.
    let segments = contents(&directory.join("member/wal"))?.into_iter();
    let used = segments.filter_map(|(path, bytes)| Some((bytes.iter().rposition(|byte| *byte != 0)?, path, bytes)));
    let (used, segment, mut bytes) = used.max_by_key(|(used, ..)| *used).context("a record")?;
    bytes[used / 2] ^= 1;
    std::fs::write(&segment, bytes)?;
    let output = cleatctl(&["wal", "inspect", text(&directory)?])?;
    let shown = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1) && shown.contains(" records are whole up to the damage"), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(told.contains(" is damaged at offset ") && told.contains("\n  do:   the member cannot vouch "), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_database_gives_back_what_it_does_not_use() -> Result<()> {
    let (mut server, _) = filled(Kind::Cleat).await?;
    let mut client = server.client().await?;
    let all = DeleteRangeRequest { key: "k".into(), range_end: "l".into(), ..DeleteRangeRequest::default() };
    let deleted = client.kv.delete_range(all).await?.into_inner().header.context("a header")?.revision;
    client.kv.compact(CompactionRequest { revision: deleted, physical: true }).await?;
    client.kv.put(PutRequest { key: "last".into(), value: "v".into(), ..PutRequest::default() }).await?;
    server.terminate().await?;
    let database = server.data_dir().join("member/store.redb");
    let before = std::fs::metadata(&database)?.len();
    let output = cleatctl(&["defrag", "--data-dir", text(&server.data_dir())?])?;
    let after = std::fs::metadata(&database)?.len();
    ensure!(output.status.success() && after < before, "{before} {after} {output:?}");
    server.restart().await?;
    let range = RangeRequest { key: "last".into(), ..RangeRequest::default() };
    ensure!(server.client().await?.kv.range(range).await?.into_inner().count == 1);
    Ok(())
}

#[tokio::test]
async fn a_snapshot_of_etcd_has_the_status_that_etcdctl_says() -> Result<()> {
    let (server, _) = filled(Kind::Etcd).await?;
    let file = server.scratch().join("backup.db");
    succeeds(&["--endpoints", &server.endpoint(), "snapshot", "save", text(&file)?])?;
    for format in ["simple", "json", "fields", "table"] {
        let mut theirs = Command::new(etcdctl_binary());
        let theirs =
            theirs.env("ETCDCTL_API", "3").args(["snapshot", "status", text(&file)?, "-w", format]).output()?;
        let ours = succeeds(&["snapshot", "status", text(&file)?, "-w", format])?;
        ensure!(theirs.status.success() && String::from_utf8_lossy(&theirs.stdout) == ours, "{theirs:?} {ours}");
    }
    Ok(())
}
