//! What etcd and its imitations left open, each with the hole's name.

use super::{FREE_LEASE, LEASE_OF_Z, Secured, Who, put};
use anyhow::{Result, ensure};
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{
    AuthRoleGrantPermissionRequest, AuthUserChangePasswordRequest, AuthUserGrantRoleRequest, Compare,
    DeleteRangeRequest, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, RangeRequest, RequestOp,
    TxnRequest,
};
use harness::{Kind, with_token};
use prost::Message;
use std::path::Path;
use tonic::Code;

const DENIED: Code = Code::PermissionDenied;

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn nested(depth: usize, inner: Request) -> TxnRequest {
    let success = match depth {
        0 => vec![op(inner)],
        _ => vec![op(Request::RequestTxn(nested(depth - 1, inner)))],
    };
    TxnRequest { success, ..TxnRequest::default() }
}

/// CVE-2026-33343 and CVE-2026-44283: transactions inside transactions, previous values, leases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_hidden_in_a_transaction() -> Result<()> {
    let secured = Secured::start(Kind::Cleat, &[]).await?;
    let range = |key: &'static str, end: &'static str| {
        Request::RequestRange(RangeRequest { key: key.into(), range_end: end.into(), ..RangeRequest::default() })
    };
    let forbidden = [
        range("z", ""),
        range("a", "\0"),
        Request::RequestPut(put("z", "1", 0)),
        Request::RequestPut(put("a", "1", LEASE_OF_Z)),
        Request::RequestPut(PutRequest { prev_kv: true, ..put("w", "1", 0) }),
        Request::RequestDeleteRange(DeleteRangeRequest { key: "z".into(), ..DeleteRangeRequest::default() }),
        Request::RequestDeleteRange(DeleteRangeRequest { key: "w".into(), prev_kv: true, ..Default::default() }),
        Request::RequestTxn(TxnRequest {
            compare: vec![Compare { key: "z".into(), ..Compare::default() }],
            ..TxnRequest::default()
        }),
    ];
    for inner in forbidden {
        for depth in 0..4 {
            // In the branch that is taken, and in the one that is not.
            let taken = nested(depth, inner.clone());
            let untaken = TxnRequest {
                compare: vec![Compare { key: "a".into(), result: 3, ..Compare::default() }],
                success: vec![op(range("a", ""))],
                failure: taken.success.clone(),
            };
            for request in [taken, untaken] {
                let answer = secured.ask(Who::Ann, "/etcdserverpb.KV/Txn", &request).await;
                ensure!(answer.as_ref().is_err_and(|(code, _)| *code == DENIED), "{request:?}: {answer:?}");
            }
        }
    }
    let allowed = nested(3, Request::RequestPut(put("a", "1", FREE_LEASE)));
    ensure!(secured.ask(Who::Ann, "/etcdserverpb.KV/Txn", &allowed).await.is_ok());
    Ok(())
}

/// CVE-2023-32082: the keys of a lease tell their names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_a_lease_are_for_those_who_may_read_them() -> Result<()> {
    let secured = Secured::start(Kind::Cleat, &[]).await?;
    let path = "/etcdserverpb.Lease/LeaseTimeToLive";
    let with_keys = LeaseTimeToLiveRequest { id: LEASE_OF_Z, keys: true };
    ensure!(secured.ask(Who::Ann, path, &with_keys).await.is_err_and(|(code, _)| code == DENIED));
    let without = secured.ask(Who::Ann, path, &LeaseTimeToLiveRequest { id: LEASE_OF_Z, keys: false }).await;
    ensure!(without.is_ok_and(|answer| LeaseTimeToLiveResponse::decode(&*answer).is_ok_and(|r| r.keys.is_empty())));
    let roots = secured.ask(Who::Root, path, &with_keys).await;
    ensure!(roots.is_ok_and(|answer| LeaseTimeToLiveResponse::decode(&*answer).is_ok_and(|r| r.keys == ["z"])));
    Ok(())
}

/// fastetcd #31: any user could make itself root. And nobody changes another one's password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_does_not_make_itself_root() -> Result<()> {
    let secured = Secured::start(Kind::Cleat, &[]).await?;
    let grant = AuthUserGrantRoleRequest { user: "ann".to_owned(), role: "root".to_owned() };
    let password = AuthUserChangePasswordRequest {
        name: "root".to_owned(),
        password: "x".to_owned(),
        ..AuthUserChangePasswordRequest::default()
    };
    for who in [Who::Nobody, Who::Forger, Who::Ann] {
        ensure!(secured.ask(who, "/etcdserverpb.Auth/UserGrantRole", &grant).await.is_err());
        ensure!(secured.ask(who, "/etcdserverpb.Auth/UserChangePassword", &password).await.is_err());
    }
    ensure!(secured.client.login("root", "x").await.is_err());
    Ok(())
}

/// etcd 3.4.23 ends in a panic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_without_a_permission_is_refused() -> Result<()> {
    let secured = Secured::start(Kind::Cleat, &[]).await?;
    let request = AuthRoleGrantPermissionRequest { name: "r".to_owned(), perm: None };
    let answer = secured.ask(Who::Root, "/etcdserverpb.Auth/RoleGrantPermission", &request).await;
    ensure!(answer == Err((Code::InvalidArgument, "etcdserver: permission not given".to_owned())), "{answer:?}");
    Ok(())
}

/// True if a file below a directory contains a text.
fn contains(dir: &Path, text: &str) -> Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_found = if path.is_dir() {
            contains(&path, text)?
        } else {
            std::fs::read(&path)?.windows(text.len()).any(|window| window == text.as_bytes())
        };
        if is_found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// CVE-2021-28235, and 3.6.7, which wrote tokens into its log: neither passwords nor tokens are in the log, in raft's log
/// or in the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_written_anywhere() -> Result<()> {
    let mut secured = Secured::start(Kind::Cleat, &["--log-level=debug", "--backend-batch-interval=10ms"]).await?;
    let (root, ann) = (secured.root.clone(), secured.ann.clone());
    // Refused and accepted.
    ensure!(secured.client.login("ann", "wrongpw").await.is_err());
    ensure!(secured.ask(Who::Ann, "/etcdserverpb.KV/Put", &put("z", "1", 0)).await.is_err());
    let password = AuthUserChangePasswordRequest {
        name: "ann".to_owned(),
        password: "newsecret".to_owned(),
        ..AuthUserChangePasswordRequest::default()
    };
    secured.client.auth.user_change_password(with_token(password, Some(&root))).await?;
    let token = secured.client.login("ann", "newsecret").await?;
    secured.server.terminate().await?;
    let log = secured.server.log();
    ensure!(log.contains("DEBUG") || log.contains("debug"), "nothing was logged: {log}");
    let secrets = ["rootpw", "annpw", "wrongpw", "newsecret", &root[..16], &ann[..16], &token[..16]];
    for secret in secrets {
        ensure!(!log.contains(secret), "{secret} is in the log");
        ensure!(!contains(&secured.server.data_dir(), secret)?, "{secret} is in the data directory");
    }
    // The search would find one.
    ensure!(contains(&secured.server.data_dir(), "$2a$04$")?);
    Ok(())
}
