//! Files of a real etcd are read as its API answers, and etcd serves what is written.

mod member;
mod read;
mod write;

use ::bolt::etcd::{Change, HashKv};
use ::bolt::{Database, OpenOptions};
use anyhow::{Context, Result, ensure};
use api::authpb::{Permission, permission};
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::{
    AlarmRequest, AlarmType, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserGrantRoleRequest, CompactionRequest, DeleteRangeRequest, HashKvRequest, HashKvResponse, LeaseGrantRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request,
};
use api::mvccpb::KeyValue;
use bytes::Bytes;
use harness::tool::{etcdctl_binary, run};
use harness::{Client, Output, Server, etcdctl};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_mins(1);
const LARGE: usize = 1 << 20;
/// The last revision whose history [`fill`] compacts.
const COMPACTED: i64 = 20;

fn put(key: &str, value: impl Into<Bytes>) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.into(), ..PutRequest::default() }
}

fn every_key() -> (Bytes, Bytes) {
    (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"))
}

/// One of everything that a database holds.
async fn fill(client: &mut Client) -> Result<()> {
    for id in [0x1000, 0x7fff_ffff_ffff_ffff] {
        client.lease.lease_grant(LeaseGrantRequest { ttl: 10_000, id }).await?;
    }
    for round in 0..3 {
        for number in 0..12 {
            client.kv.put(put(&format!("key/{number}"), format!("{round}"))).await?;
        }
        let key = Bytes::from(format!("key/{round}"));
        client.kv.delete_range(DeleteRangeRequest { key, ..DeleteRangeRequest::default() }).await?;
    }
    client.kv.put(PutRequest { lease: 0x1000, ..put("leased", "1") }).await?;
    client.kv.put(put("large", vec![b'x'; LARGE])).await?;
    client.kv.put(put("empty", "")).await?;
    // Several changes in one revision, deletions among them.
    let (key, range_end) = (Bytes::from_static(b"key/4"), Bytes::from_static(b"key/7"));
    let mut success = vec![Request::RequestPut(put("txn/1", "1")), Request::RequestPut(put("txn/2", "2"))];
    success.push(Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() }));
    let success = success.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
    client.kv.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
    client.kv.compact(CompactionRequest { revision: COMPACTED, physical: true }).await?;
    client.kv.put(put("key/0", "after")).await?;
    fill_auth(client).await?;
    alarm(client, AlarmAction::Activate).await
}

/// Raises the alarm that [`fill`] leaves, or takes it back; while it is there nothing can be written.
async fn alarm(client: &mut Client, action: AlarmAction) -> Result<()> {
    let alarm = AlarmRequest { action: action.into(), member_id: 0x77, alarm: AlarmType::Corrupt.into() };
    client.maintenance.alarm(alarm).await?;
    Ok(())
}

/// Users and roles; authentication stays off.
async fn fill_auth(client: &mut Client) -> Result<()> {
    for role in ["root", "reader"] {
        client.auth.role_add(AuthRoleAddRequest { name: role.to_owned() }).await?;
    }
    for (perm_type, key, range_end) in
        [(permission::Type::Read, "key/", "key0"), (permission::Type::Readwrite, "one", "")]
    {
        let (key, range_end) = (Bytes::from(key), Bytes::from(range_end));
        let perm = Some(Permission { perm_type: perm_type.into(), key, range_end });
        client.auth.role_grant_permission(AuthRoleGrantPermissionRequest { name: "reader".to_owned(), perm }).await?;
    }
    for (name, role) in [("root", "root"), ("alice", "reader")] {
        let user = AuthUserAddRequest {
            name: name.to_owned(),
            password: format!("{name}'s secret"),
            ..AuthUserAddRequest::default()
        };
        client.auth.user_add(user).await?;
        let grant = AuthUserGrantRoleRequest { user: name.to_owned(), role: role.to_owned() };
        client.auth.user_grant_role(grant).await?;
    }
    Ok(())
}

/// A snapshot by etcdctl, beside the data directory.
async fn snapshot(server: &Server, name: &str) -> Result<PathBuf> {
    let path = server.scratch().join(name);
    let file = path.to_str().context("the path is text")?;
    let output = etcdctl(server, &["snapshot", "save", file], b"", LIMIT).await?;
    ensure!(output.code == Some(0), "{output:?}");
    Ok(path)
}

fn open(path: &Path) -> Result<Database> {
    Ok(Database::open(path, OpenOptions::default())?)
}

/// etcdctl without a server.
async fn offline(args: &[&str]) -> Result<Output> {
    let mut command = Command::new(etcdctl_binary());
    command.env("ETCDCTL_API", "3").args(args);
    run(command, b"", LIMIT).await
}

/// What `etcdctl snapshot status` says: hash, revision, entries, bytes. It checks all pages first.
async fn status(path: &Path) -> Result<[u64; 4]> {
    let output = offline(&["snapshot", "status", path.to_str().context("the path is text")?, "-w", "json"]).await?;
    ensure!(output.code == Some(0), "{output:?}");
    let status: serde_json::Value = serde_json::from_str(&output.stdout)?;
    let field = |name: &str| status[name].as_u64().with_context(|| format!("{name} in {}", output.stdout));
    Ok([field("hash")?, field("revision")?, field("totalKey")?, field("totalSize")?])
}

fn our_status(database: &Database) -> Result<[u64; 4]> {
    let summary = database.summary()?;
    Ok([summary.hash.into(), summary.revision.try_into()?, summary.entries, summary.bytes])
}

/// Every key at a revision, 0 for the last.
async fn keys(client: &mut Client, revision: i64) -> Result<Vec<KeyValue>> {
    let (key, range_end) = every_key();
    let request = RangeRequest { key, range_end, revision, ..RangeRequest::default() };
    Ok(client.kv.range(request).await?.into_inner().kvs)
}

/// Every key that the file has at a revision.
fn keys_in(database: &Database, revision: i64) -> Result<Vec<KeyValue>> {
    let mut keys = BTreeMap::new();
    for change in database.records::<Change>()? {
        let change = change?;
        if change.revision.main > revision {
            break;
        }
        let kv = change.to_stored().to_message()?;
        if change.is_tombstone {
            keys.remove(&kv.key);
        } else {
            keys.insert(kv.key.clone(), kv);
        }
    }
    Ok(keys.into_values().collect())
}

async fn hash_kv(client: &mut Client, revision: i64) -> Result<HashKvResponse> {
    Ok(client.maintenance.hash_kv(HashKvRequest { revision }).await?.into_inner())
}

/// The hash of a file is what a server answers.
fn same_hash(ours: HashKv, theirs: &HashKvResponse) -> Result<()> {
    ensure!((ours.hash, ours.compacted) == (theirs.hash, theirs.compact_revision), "{ours:?}, but {theirs:?}");
    Ok(())
}
