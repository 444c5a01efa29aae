//! A store with something of everything.

use anyhow::{Context, Result};
use api::authpb::{Permission, permission};
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest, AuthUserGrantRoleRequest,
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RequestOp, TxnRequest,
};
use futures::stream::{StreamExt as _, TryStreamExt as _};
use harness::Client;

/// Keys, unless `CLEAT_MIGRATE_KEYS` says otherwise.
const KEYS: usize = 300;
/// Puts of a transaction; etcd allows for 128.
const OPS: usize = 100;
/// Transactions under way.
const AT_ONCE: usize = 16;
const LEASES: [i64; 3] = [5, -7, 1 << 40];
const LARGE: usize = 1 << 20;

/// How many keys the store gets.
pub(crate) fn keys() -> usize {
    std::env::var("CLEAT_MIGRATE_KEYS").ok().and_then(|keys| keys.parse().ok()).unwrap_or(KEYS)
}

fn key(n: usize) -> String {
    format!("key/{n:08}")
}

/// Every ninth key has a lease.
fn put(n: usize, value: Vec<u8>) -> PutRequest {
    let lease = if n.is_multiple_of(9) { LEASES[n % 2] } else { 0 };
    PutRequest { key: key(n).into(), value: value.into(), lease, ..PutRequest::default() }
}

/// Puts keys, several in one revision. In which order transactions come is left to chance.
async fn put_all(client: &Client, all: impl Iterator<Item = usize>, value: fn(usize) -> Vec<u8>) -> Result<()> {
    let all: Vec<usize> = all.collect();
    let transactions = all.chunks(OPS).map(|some| {
        let puts = some.iter().map(|n| RequestOp { request: Some(Request::RequestPut(put(*n, value(*n)))) });
        let (txn, mut kv) = (TxnRequest { success: puts.collect(), ..TxnRequest::default() }, client.kv.clone());
        async move { kv.txn(txn).await.map(|answer| answer.into_inner().header.unwrap_or_default().revision) }
    });
    futures::stream::iter(transactions).buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await?;
    Ok(())
}

/// Keys with history: values that were replaced, deletions one by one and of ranges, keys that came again; leases, users
/// and roles.
pub(crate) async fn fill(client: &Client, compact: bool) -> Result<()> {
    let (mut kv, mut lease) = (client.kv.clone(), client.lease.clone());
    for id in LEASES {
        lease.lease_grant(LeaseGrantRequest { id, ttl: 100_000 }).await?;
    }
    users_and_roles(client).await?;
    let keys = keys();
    put_all(client, 0..keys, |n| format!("first value of {n}").into_bytes()).await?;
    put_all(client, (0..keys).step_by(5), |n| vec![b'v'; n % 300]).await?;
    for n in (0..keys).step_by(keys / 20) {
        let single = DeleteRangeRequest { key: key(n).into(), ..DeleteRangeRequest::default() };
        kv.delete_range(single).await?;
        let (from, to) = (key(n + 3).into(), key(n + 6).into());
        kv.delete_range(DeleteRangeRequest { key: from, range_end: to, prev_kv: false }).await?;
    }
    let answer = kv.put(put(keys / 2, vec![b'x'; LARGE])).await?.into_inner();
    if compact {
        let revision = answer.header.context("no header")?.revision - 30;
        kv.compact(CompactionRequest { revision, physical: true }).await?;
    }
    put_all(client, (0..keys).step_by(7), |n| format!("last value of {n}").into_bytes()).await?;
    // A put and deletions in one revision.
    let range = DeleteRangeRequest { key: key(10).into(), range_end: key(20).into(), prev_kv: false };
    let ops = [Request::RequestPut(put(keys + 1, Vec::new())), Request::RequestDeleteRange(range)];
    let success = ops.map(|request| RequestOp { request: Some(request) }).to_vec();
    kv.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
    Ok(())
}

async fn users_and_roles(client: &Client) -> Result<()> {
    let mut auth = client.auth.clone();
    for (user, role) in [("root", "root"), ("eve", "reader"), ("adam", "reader")] {
        if user != "adam" {
            auth.role_add(AuthRoleAddRequest { name: role.to_owned() }).await?;
        }
        let password = format!("{user}'s secret");
        auth.user_add(AuthUserAddRequest { name: user.to_owned(), password, ..Default::default() }).await?;
        auth.user_grant_role(AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() }).await?;
    }
    for (perm_type, key, range_end) in [(permission::Type::Read, "key/", "key0"), (permission::Type::Write, "one", "")]
    {
        let perm = Some(Permission { perm_type: perm_type.into(), key: key.into(), range_end: range_end.into() });
        auth.role_grant_permission(AuthRoleGrantPermissionRequest { name: "reader".to_owned(), perm }).await?;
    }
    Ok(())
}
