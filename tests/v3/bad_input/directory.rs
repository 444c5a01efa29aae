//! Data directories that a member must not take: used, of another format, of another program, incomplete.

use super::{prepared, refusal, says};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{PutRequest, RangeRequest};
use harness::{Kind, Options, Server};
use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Every name below a path, with its mode and a hash of its bytes.
fn listing(path: &Path) -> Result<BTreeMap<PathBuf, (u32, u64)>> {
    let mut found = BTreeMap::new();
    let mut rest = vec![path.to_owned()];
    while let Some(path) = rest.pop() {
        let metadata = fs::metadata(&path)?;
        let mut hasher = DefaultHasher::new();
        if metadata.is_dir() {
            for item in fs::read_dir(&path)? {
                rest.push(item?.path());
            }
        } else {
            fs::read(&path)?.hash(&mut hasher);
        }
        found.insert(path, (metadata.permissions().mode(), hasher.finish()));
    }
    Ok(found)
}

/// A start on `path` is refused in words that contain `parts`, and changes nothing there.
async fn refused_untouched(path: &Path, parts: &[&str]) -> Result<()> {
    let before = listing(path)?;
    let printed = refusal(&prepared()?, path, &[]).await?;
    says(&printed, &[&path.display().to_string(), "--data-dir"])?;
    says(&printed, parts)?;
    ensure!(listing(path)? == before, "{} was changed by a start that was refused", path.display());
    Ok(())
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_directory() -> Result<()> {
    let first = Server::start(Kind::Cleat).await?;
    let mut client = first.client().await?;
    client.kv.put(PutRequest { key: "a".into(), value: "1".into(), ..Default::default() }).await?;
    let printed = refusal(&prepared()?, &first.data_dir(), &[]).await?;
    let path = first.data_dir().display().to_string();
    says(&printed, &[&path, "used by another process (pid ", "stop that one first"])?;
    client.kv.put(PutRequest { key: "b".into(), value: "2".into(), ..Default::default() }).await?;
    let found = client.kv.range(RangeRequest { key: "a".into(), ..Default::default() }).await?.into_inner();
    ensure!(found.kvs.len() == 1 && found.kvs[0].value == "1", "the first process lost a key: {found:?}");
    Ok(())
}

#[tokio::test]
async fn a_directory_of_a_newer_release_is_refused() -> Result<()> {
    let mut server = Server::start(Kind::Cleat).await?;
    server.terminate().await?;
    let path = server.data_dir();
    fs::write(path.join("FORMAT"), "2\n")?;
    let before = listing(&path)?;
    let printed = refusal(&server, &path, &[]).await?;
    says(
        &printed,
        &[&path.display().to_string(), "has format 2", "reads format 1", "start the release that wrote it"],
    )?;
    ensure!(listing(&path)? == before, "the directory was changed by a start that was refused");

    fs::write(path.join("FORMAT"), [0xff, 0xfe, 0])?;
    says(&refusal(&server, &path, &[]).await?, &[&path.display().to_string(), "reads format 1"])
}

#[tokio::test]
async fn a_directory_of_etcd_is_refused() -> Result<()> {
    let mut etcd = Server::start(Kind::Etcd).await?;
    let mut client = etcd.client().await?;
    client.kv.put(PutRequest { key: "a".into(), value: "1".into(), ..Default::default() }).await?;
    etcd.terminate().await?;
    refused_untouched(&etcd.data_dir(), &["belongs to etcd", "cleatctl migrate from-etcd"]).await
}

#[tokio::test]
async fn what_is_no_data_directory_is_refused() -> Result<()> {
    let scratch = prepared()?;
    let home = scratch.scratch().join("home");
    fs::create_dir_all(home.join("pictures"))?;
    fs::write(home.join("pictures/one.jpg"), "a picture")?;
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755))?;
    refused_untouched(&home, &["is not empty and not a Cleat data directory"]).await?;

    let file = scratch.scratch().join("file");
    fs::write(&file, "a file")?;
    refused_untouched(&file, &["is not a directory"]).await
}

/// A member that ran and was stopped, with one key.
async fn stopped() -> Result<Server> {
    let mut server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    client.kv.put(PutRequest { key: "a".into(), value: "1".into(), ..Default::default() }).await?;
    server.terminate().await?;
    Ok(server)
}

#[tokio::test]
async fn a_directory_without_its_log_is_refused() -> Result<()> {
    let mut server = stopped().await?;
    let log = server.data_dir().join("member/wal");
    let elsewhere = server.scratch().join("elsewhere");
    fs::rename(&log, &elsewhere)?;
    let printed = refusal(&server, &server.data_dir(), &[]).await?;
    says(&printed, &[&log.display().to_string(), "there is no log", "put the log back", "--wal-dir"])?;
    ensure!(!log.exists(), "a new log was begun beside the database");

    fs::rename(&elsewhere, &log)?;
    server.restart().await?;
    let found = server.client().await?.kv.range(RangeRequest { key: "a".into(), ..Default::default() }).await?;
    ensure!(found.into_inner().count == 1, "the key is gone");
    Ok(())
}

/// Others may have joined: it would serve an empty cluster with the ids of theirs.
#[tokio::test]
async fn a_member_that_lost_its_data_does_not_found_its_cluster_again() -> Result<()> {
    let mut server = stopped().await?;
    let member = server.data_dir().join("member");
    let elsewhere = server.scratch().join("elsewhere");
    fs::rename(&member, &elsewhere)?;
    for _ in 0..2 {
        let printed = refusal(&server, &server.data_dir(), &[]).await?;
        says(&printed, &[&server.data_dir().display().to_string(), "is gone", "second time", "add it again"])?;
    }
    fs::remove_dir_all(&member)?;
    fs::rename(&elsewhere, &member)?;
    server.restart().await?;
    let found = server.client().await?.kv.range(RangeRequest { key: "a".into(), ..Default::default() }).await?;
    ensure!(found.into_inner().count == 1, "the key is gone");
    server.terminate().await?;

    // A first start that was killed: before its log had an entry, and before its identity had its name.
    let identity = server.data_dir().join("IDENTITY");
    let written = fs::read(&identity)?;
    for has_log in [true, false] {
        fs::rename(&identity, identity.with_extension("new"))?;
        if !has_log {
            fs::remove_dir_all(&member)?;
        }
        server.restart().await?;
        ensure!(fs::read(&identity)? == written, "the identity is another one");
        let found = server.client().await?.kv.range(RangeRequest { key: "a".into(), ..Default::default() }).await?;
        ensure!(found.into_inner().count == i64::from(has_log));
        server.terminate().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_log_of_another_life_is_refused() -> Result<()> {
    let mut server = stopped().await?;
    // A second start has a later term, which the database of the first has not.
    let log = server.data_dir().join("member/wal");
    let young = Server::prepare(Kind::Cleat, Options::default())?;
    server.restart().await?;
    server.terminate().await?;
    let mut other = Server::start(Kind::Cleat).await?;
    other.terminate().await?;
    fs::remove_dir_all(&log)?;
    fs::rename(other.data_dir().join("member/wal"), &log)?;
    let printed = refusal(&young, &server.data_dir(), &[]).await?;
    says(&printed, &[&log.display().to_string(), "does not go with the database", "put the log back"])
}

#[tokio::test]
async fn an_identity_of_another_member_is_refused() -> Result<()> {
    let server = stopped().await?;
    let path = server.data_dir().join("IDENTITY");
    let written = fs::read_to_string(&path)?;
    let (cluster, member) = written.split_once("member_id: ").context("the file names the member")?;
    let first = if member.starts_with('1') { '2' } else { '1' };
    fs::write(&path, format!("{cluster}member_id: {first}{}", &member[1..]))?;
    let printed = refusal(&server, &server.data_dir(), &[]).await?;
    says(&printed, &[&path.display().to_string(), "as written", "restore"])?;

    // Whole, but of another directory.
    let mut other = Server::start(Kind::Cleat).await?;
    other.terminate().await?;
    fs::copy(other.data_dir().join("IDENTITY"), &path)?;
    let printed = refusal(&server, &server.data_dir(), &[]).await?;
    says(&printed, &[&server.data_dir().display().to_string(), "IDENTITY", "put back"])?;

    fs::write(&path, "")?;
    says(&refusal(&server, &server.data_dir(), &[]).await?, &[&path.display().to_string(), "restore"])
}
