//! etcd restores what is written, serves the same, and goes on with it.

use super::{COMPACTED, alarm, fill, hash_kv, keys, offline, open, our_status, put, same_hash, snapshot, status};
use ::bolt::etcd::{Auth, Change, Cluster, Lease, Member, Meta, RemovedMember};
use ::bolt::{Database, WriteOptions, Writer};
use anyhow::{Context, Result, ensure};
use api::authpb::{Role, User};
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::{
    AlarmMember, AuthEnableRequest, AuthUserGetRequest, AuthenticateRequest, CompactionRequest, DefragmentRequest,
    LeaseLeasesRequest, LeaseTimeToLiveRequest,
};
use harness::{Kind, Options, Server};
use std::path::Path;

/// Reads every bucket as records and writes them again.
pub(super) fn rewrite(database: &Database, to: &Path) -> Result<()> {
    let mut writer = Writer::create(to, &WriteOptions::default())?;
    writer.records(database.records::<Change>()?)?;
    writer.settings(&database.settings::<Meta>()?)?;
    writer.records(database.records::<Lease>()?)?;
    writer.records(database.records::<AlarmMember>()?)?;
    writer.settings(&database.settings::<Cluster>()?)?;
    writer.records(database.records::<Member>()?)?;
    writer.records(database.records::<RemovedMember>()?)?;
    writer.settings(&database.settings::<Auth>()?)?;
    writer.records(database.records::<User>()?)?;
    writer.records(database.records::<Role>()?)?;
    Ok(writer.finish()?)
}

/// Restores a file with etcdctl into the data directory of a server that was not started yet.
async fn restore(file: &Path, server: &Server) -> Result<()> {
    let text = |path: &Path| path.to_str().map(str::to_owned).context("the path is text");
    let (file, directory) = (text(file)?, text(&server.data_dir())?);
    let (cluster, peer) = (format!("default={}", server.peer_url()), server.peer_url());
    let args = ["snapshot", "restore", &file, "--data-dir", &directory, "--name", "default"];
    let cluster = ["--initial-cluster", &cluster, "--initial-advertise-peer-urls", &peer];
    let output = offline(&[&args[..], &cluster].concat()).await?;
    ensure!(output.code == Some(0), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn etcd_restores_and_serves_what_is_written() -> Result<()> {
    let original = Server::start(Kind::Etcd).await?;
    let mut client = original.client().await?;
    fill(&mut client).await?;
    let path = snapshot(&original, "snapshot").await?;
    let database = open(&path)?;
    let copy = original.scratch().join("copy");
    rewrite(&database, &copy)?;
    // The same entries in every bucket, byte for byte, in the eyes of both.
    ensure!(our_status(&open(&copy)?)?[..3] == our_status(&database)?[..3]);
    ensure!(status(&copy).await?[..3] == status(&path).await?[..3]);

    let mut server = Server::prepare(Kind::Etcd, Options::default())?;
    restore(&copy, &server).await?;
    server.restart().await?;
    let mut restored = server.client().await?;
    let current = hash_kv(&mut client, 0).await?;
    ensure!(hash_kv(&mut restored, 0).await?.hash == current.hash);
    let revision = current.header.context("a header")?.revision;
    for revision in COMPACTED..=revision {
        ensure!(keys(&mut restored, revision).await? == keys(&mut client, revision).await?, "at revision {revision}");
    }
    let leases = restored.lease.lease_leases(LeaseLeasesRequest {}).await?.into_inner().leases;
    ensure!(leases.len() == 2, "{leases:?}");
    let lease = LeaseTimeToLiveRequest { id: 0x1000, keys: true };
    let lease = restored.lease.lease_time_to_live(lease).await?.into_inner();
    ensure!((lease.granted_ttl, &lease.keys[..]) == (10_000, &["leased".into()]), "{lease:?}");
    let alice = AuthUserGetRequest { name: "alice".to_owned() };
    ensure!(restored.auth.user_get(alice).await?.into_inner().roles == ["reader"]);
    goes_on(&mut server, revision).await
}

/// Writes, compacts, defragments, and starts again on the restored file; at last with authentication.
async fn goes_on(server: &mut Server, revision: i64) -> Result<()> {
    let mut client = server.client().await?;
    let error = client.kv.put(put("more", "")).await.err().context("the alarm is there")?;
    ensure!(error.message() == "etcdserver: corrupt cluster", "{error}");
    alarm(&mut client, AlarmAction::Deactivate).await?;
    for number in 0..300 {
        client.kv.put(put(&format!("more/{number}"), vec![b'x'; 500])).await?;
    }
    client.kv.compact(CompactionRequest { revision: revision + 250, physical: true }).await?;
    client.maintenance.defragment(DefragmentRequest {}).await?;
    client.kv.put(put("last", "1")).await?;
    let (before, hash) = (keys(&mut client, 0).await?, hash_kv(&mut client, 0).await?);
    let path = snapshot(server, "after").await?;
    same_hash(open(&path)?.hash_kv(0)?, &hash)?;
    ensure!(server.terminate().await?.success() || server.exit_status()?.is_none());
    server.restart().await?;
    let mut client = server.client().await?;
    ensure!(keys(&mut client, 0).await? == before && hash_kv(&mut client, 0).await?.hash == hash.hash);
    client.auth.auth_enable(AuthEnableRequest {}).await?;
    let secret = AuthenticateRequest { name: "alice".to_owned(), password: "alice's secret".to_owned() };
    ensure!(!client.auth.authenticate(secret).await?.into_inner().token.is_empty());
    Ok(())
}

/// Pages of another size than the machine's, keys and values at the limits, and no leaf but the root.
#[tokio::test]
async fn etcdctl_takes_every_shape() -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("cleat-test-").tempdir()?;
    for (page_size, entries) in [(4096, 0), (4096, 3), (4096, 8000), (16_384, 8000), (65_536, 8000)] {
        let path = scratch.path().join(format!("{page_size} {entries}"));
        let mut writer = Writer::create(&path, &WriteOptions { page_size, digest: true })?;
        writer.bucket("alarm")?;
        writer.bucket("auth")?;
        for number in 0..entries {
            // Up to 2,000 bytes, so that branches have few children.
            writer.put(format!("{number:08}{}", "x".repeat(number % 7 * 300)).as_bytes(), &vec![b'v'; number % 90])?;
        }
        writer.bucket("lease")?;
        if entries > 3 {
            writer.put(&vec![b'k'; ::bolt::MAX_KEY_BYTES], &vec![b'v'; 3 << 20])?;
            writer.put(b"l", b"")?;
        }
        writer.finish()?;
        ensure!(status(&path).await? == our_status(&open(&path)?)?, "{page_size}, {entries}");
    }
    Ok(())
}

/// FNV-1a, of a meta page's fields.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// bbolt reads a list of free pages as it is read here.
#[tokio::test]
async fn free_pages_are_those_that_etcdctl_finds() -> Result<()> {
    const PAGE: usize = 4096;
    let scratch = tempfile::Builder::new().prefix("cleat-test-").tempdir()?;
    let path = scratch.path().join("db");
    Writer::create(&path, &WriteOptions { digest: false, ..WriteOptions::default() })?.finish()?;
    let mut bytes = std::fs::read(&path)?;
    let pages = bytes.len() / PAGE;
    let list = (pages - 1) * PAGE;
    ensure!(bytes[list + 8..list + 12] == [0x10, 0, 0, 0], "the last page is an empty list");
    // A page behind it, which belongs to the file.
    bytes.resize(bytes.len() + PAGE, 0);
    for meta in [16, PAGE + 16] {
        bytes[meta + 40..meta + 48].copy_from_slice(&(pages as u64 + 1).to_le_bytes());
        let sum = checksum(&bytes[meta..meta + 56]);
        bytes[meta + 56..meta + 64].copy_from_slice(&sum.to_le_bytes());
    }
    std::fs::write(&path, &bytes)?;
    ensure!(open(&path)?.check().is_err() && status(&path).await.is_err(), "a page is lost");
    bytes[list + 10] = 1;
    bytes[list + 16..list + 24].copy_from_slice(&(pages as u64).to_le_bytes());
    std::fs::write(&path, &bytes)?;
    ensure!(open(&path)?.check()?.free == 1);
    ensure!(status(&path).await? == our_status(&open(&path)?)?);
    Ok(())
}
