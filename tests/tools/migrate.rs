//! `cleatctl migrate`: data comes from etcd, and goes back, and its hash stays the same.

use crate::restore::{fails, succeeds, text};
use anyhow::{Context, Result, ensure};
use api::authpb::Permission;
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserGrantRoleRequest, AuthenticateRequest, CompactionRequest, DeleteRangeRequest, HashKvRequest,
    LeaseGrantRequest, LeaseLeasesRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use harness::tool::run;
use harness::{Client, Kind, Options, Server};
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

const KEYS: usize = 200;
const LIMIT: Duration = Duration::from_secs(30);

/// History with deletes, transactions, leases and large values.
async fn fill(client: &mut Client, compact: bool) -> Result<()> {
    for id in [5, -7, 1 << 40] {
        client.lease.lease_grant(LeaseGrantRequest { id, ttl: 600 }).await?;
    }
    let put = |n: usize, lease| PutRequest {
        key: format!("k{:03}", n % 60).into(),
        value: vec![b'v'; if n.is_multiple_of(50) { 1 << 20 } else { n }].into(),
        lease,
        ..Default::default()
    };
    for n in 0..KEYS {
        client.kv.put(put(n, if n % 9 == 0 { 5 } else { 0 })).await?;
        if n % 40 == 39 {
            let range = DeleteRangeRequest { key: "k01".into(), range_end: "k02".into(), prev_kv: false };
            client.kv.delete_range(range).await?;
        }
        if n == KEYS / 2 && compact {
            let revision = client.kv.range(RangeRequest { key: "x".into(), ..Default::default() }).await?.into_inner();
            let revision = revision.header.context("no header")?.revision - 30;
            client.kv.compact(CompactionRequest { revision, physical: true }).await?;
        }
    }
    let ops = (0..20).map(|n| RequestOp { request: Some(Request::RequestPut(put(n, -7))) }).collect();
    client.kv.txn(TxnRequest { success: ops, ..Default::default() }).await?;
    Ok(())
}

/// Everything that a client can tell.
async fn content(server: &Server) -> Result<(u32, i64, Vec<i64>, RangeAnswer)> {
    let mut client = server.client().await?;
    let hash = client.maintenance.hash_kv(HashKvRequest::default()).await?.into_inner();
    let revision = hash.header.context("no header")?.revision;
    let mut leases: Vec<i64> = client
        .lease
        .lease_leases(LeaseLeasesRequest {})
        .await?
        .into_inner()
        .leases
        .iter()
        .map(|lease| lease.id)
        .collect();
    leases.sort_unstable();
    let all = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let kvs = client.kv.range(all).await?.into_inner().kvs;
    let kvs = kvs.into_iter().map(|kv| (kv.key.to_vec(), kv.value.to_vec(), kv.version, kv.create_revision, kv.lease));
    Ok((hash.hash, revision, leases, kvs.collect()))
}

type RangeAnswer = Vec<(Vec<u8>, Vec<u8>, i64, i64, i64)>;

/// A server that was not started yet, with a data directory made by `cleatctl migrate from-etcd`.
fn migrated(source: &Path) -> Result<Server> {
    let server = Server::prepare(Kind::Cleat, Options::default())?;
    let (data_dir, peer) = (server.data_dir(), server.peer_url());
    let args = ["migrate", "from-etcd", text(source)?, "--data-dir", text(&data_dir)?];
    succeeds(&[&args[..], &["--initial-advertise-peer-urls", &peer]].concat())?;
    Ok(server)
}

async fn etcdctl(args: &[&str]) -> Result<()> {
    let mut command = Command::new(harness::tool::etcdctl_binary());
    command.env("ETCDCTL_API", "3").args(args);
    let output = run(command, b"", LIMIT).await?;
    ensure!(output.code == Some(0), "{args:?}: {output:?}");
    Ok(())
}

/// An etcd that was not started yet, restored from a file.
async fn restored(file: &Path) -> Result<Server> {
    let server = Server::prepare(Kind::Etcd, Options::default())?;
    let (data_dir, peer) = (server.data_dir(), server.peer_url());
    let cluster = format!("default={peer}");
    let args = ["snapshot", "restore", text(file)?, "--data-dir", text(&data_dir)?, "--name", "default"];
    let flags = ["--initial-cluster", &cluster, "--initial-advertise-peer-urls", &peer];
    etcdctl(&[&args[..], &flags].concat()).await?;
    Ok(server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_comes_from_etcd_and_goes_back_with_the_same_hash() -> Result<()> {
    for compact in [false, true] {
        let mut etcd = Server::start(Kind::Etcd).await?;
        fill(&mut etcd.client().await?, compact).await?;
        let (snapshot, endpoint) = (etcd.scratch().join("snapshot"), etcd.endpoint());
        etcdctl(&["--endpoints", &endpoint, "snapshot", "save", text(&snapshot)?]).await?;
        let at_snapshot = content(&etcd).await?;
        // Only in the log: its process ends before the database has it.
        etcd.client().await?.kv.put(PutRequest { key: "last".into(), ..Default::default() }).await?;
        let at_end = content(&etcd).await?;
        etcd.kill()?;

        let mut from_directory = migrated(&etcd.data_dir())?;
        from_directory.restart().await?;
        ensure!(content(&from_directory).await? == at_end, "the member's directory, compacted: {compact}");
        let mut cleat = migrated(&snapshot)?;
        cleat.restart().await?;
        ensure!(content(&cleat).await? == at_snapshot, "the snapshot, compacted: {compact}");

        let (ours, back) = (etcd.scratch().join("ours"), etcd.scratch().join("back"));
        succeeds(&["snapshot", "save", text(&ours)?, "--endpoints", &cleat.endpoint()])?;
        succeeds(&["migrate", "to-etcd", text(&ours)?, text(&back)?])?;
        fails(&["migrate", "to-etcd", text(&ours)?, text(&back)?], "exists")?;
        let mut again = restored(&back).await?;
        again.restart().await?;
        ensure!(content(&again).await? == at_snapshot, "back in etcd, compacted: {compact}");
        again.client().await?.kv.put(PutRequest { key: "more".into(), ..Default::default() }).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_migrated_is_refused() -> Result<()> {
    let etcd = Server::start(Kind::Etcd).await?;
    let (snapshot, into, endpoint) = (etcd.scratch().join("snapshot"), etcd.scratch().join("into"), etcd.endpoint());
    etcdctl(&["--endpoints", &endpoint, "snapshot", "save", text(&snapshot)?]).await?;
    let refused = |source: &Path, with: &str| -> Result<()> {
        fails(&["migrate", "from-etcd", text(source)?, "--data-dir", text(&into)?], with)?;
        ensure!(!into.exists(), "{} was left", into.display());
        Ok(())
    };
    refused(&etcd.data_dir(), "in use")?;
    refused(&etcd.scratch().join("missing"), "No such file")?;
    let cut = etcd.scratch().join("cut");
    std::fs::write(&cut, &std::fs::read(&snapshot)?[..9000])?;
    refused(&cut, "")?;
    Ok(())
}

fn as_user<T>(message: T, token: &str) -> Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("token", token.parse()?);
    Ok(request)
}

/// What a user may, on either server.
async fn grants(server: &Server) -> Result<()> {
    let mut client = server.client().await?;
    let login = AuthenticateRequest { name: "eve".to_owned(), password: "secret".to_owned() };
    let token = client.auth.authenticate(login).await?.into_inner().token;
    let get = |key: &'static str| RangeRequest { key: key.into(), ..Default::default() };
    let mine = client.kv.range(as_user(get("mine"), &token)?).await?.into_inner();
    ensure!(mine.kvs.len() == 1, "{mine:?}");
    let error = client.kv.range(as_user(get("other"), &token)?).await.expect_err("it was not granted");
    ensure!(error.message() == "etcdserver: permission denied", "{error}");
    let error = client.kv.range(get("mine")).await.expect_err("nobody may");
    ensure!(error.message() == "etcdserver: user name is empty", "{error}");
    let wrong = AuthenticateRequest { name: "eve".to_owned(), password: "guess".to_owned() };
    client.auth.authenticate(wrong).await.expect_err("another password");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_roles_come_along_and_go_back() -> Result<()> {
    let etcd = Server::start(Kind::Etcd).await?;
    let mut client = etcd.client().await?;
    for key in ["mine", "other"] {
        client.kv.put(PutRequest { key: key.into(), ..Default::default() }).await?;
    }
    for (user, role) in [("root", "root"), ("eve", "reader")] {
        client.auth.role_add(AuthRoleAddRequest { name: role.to_owned() }).await?;
        let add = AuthUserAddRequest { name: user.to_owned(), password: "secret".to_owned(), ..Default::default() };
        client.auth.user_add(add).await?;
        client.auth.user_grant_role(AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() }).await?;
    }
    let perm = Some(Permission { key: "mine".into(), ..Default::default() });
    client.auth.role_grant_permission(AuthRoleGrantPermissionRequest { name: "reader".to_owned(), perm }).await?;
    client.auth.auth_enable(AuthEnableRequest {}).await?;
    grants(&etcd).await?;
    let (snapshot, endpoint) = (etcd.scratch().join("snapshot"), etcd.endpoint());
    etcdctl(&["--endpoints", &endpoint, "--user", "root:secret", "snapshot", "save", text(&snapshot)?]).await?;
    let mut cleat = migrated(&snapshot)?;
    cleat.restart().await?;
    grants(&cleat).await?;

    let (ours, back) = (etcd.scratch().join("ours"), etcd.scratch().join("back"));
    etcdctl(&["--endpoints", &cleat.endpoint(), "--user", "root:secret", "snapshot", "save", text(&ours)?]).await?;
    succeeds(&["migrate", "to-etcd", text(&ours)?, text(&back)?])?;
    let mut again = restored(&back).await?;
    again.restart().await?;
    grants(&again).await
}
