//! The audit log names who changed what, and how it ended; and while it is required, nothing changes without it.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{
    AuthEnableRequest, AuthUserAddRequest, AuthUserGrantRoleRequest, AuthenticateRequest, CompactionRequest,
    DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
};
use harness::{Kind, Options, Server, json_lines};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tonic::Code;

const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

fn put(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: "hidden-value".into(), ..Default::default() }
}

#[tokio::test]
async fn changes_are_recorded_with_their_outcome() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("audit.log");
    let flags = vec![format!("--audit-log-outputs={}", path.display())];
    let server = Server::start_with(Kind::Cleat, Options { flags, ..Default::default() }).await?;
    let mut client = server.client().await?;
    let revision = client.kv.put(put("a")).await?.into_inner().header.context("a header")?.revision;
    client.kv.range(RangeRequest { key: "a".into(), ..Default::default() }).await?;
    client.kv.put(PutRequest { lease: 77, ..put("b") }).await.expect_err("there is no such lease");
    client.kv.put(put("")).await.expect_err("there is no key");
    let op = RequestOp { request: Some(request_op::Request::RequestPut(put("c"))) };
    client.kv.txn(TxnRequest { success: vec![op], ..Default::default() }).await?;
    let range = DeleteRangeRequest { key: "a".into(), range_end: "c".into(), ..Default::default() };
    client.kv.delete_range(range).await?;
    client.kv.compact(CompactionRequest { revision, physical: false }).await?;
    client.lease.lease_grant(LeaseGrantRequest { id: 255, ttl: 60 }).await?;

    let expected = [
        ("KV/Put", json!({"key": "a"}), "Ok", Some(revision)),
        ("KV/Put", json!({"key": "b", "lease": "4d"}), "NotFound", None),
        ("KV/Put", json!({"key": ""}), "InvalidArgument", None),
        ("KV/Txn", json!({"success": [{"op": "put", "key": "c"}]}), "Ok", Some(revision + 1)),
        ("KV/DeleteRange", json!({"key": "a", "range_end": "c"}), "Ok", Some(revision + 2)),
        ("KV/Compact", json!({"revision": revision, "physical": false}), "Ok", Some(revision + 2)),
        ("Lease/LeaseGrant", json!({"lease": "ff", "ttl": 60}), "Ok", Some(revision + 2)),
    ];
    let found = json_lines(&path, expected.len()).await?;
    ensure!(found.len() == expected.len(), "{found:#?}");
    for (found, (method, request, code, revision)) in found.iter().zip(expected) {
        let is_same = found["method"] == format!("/etcdserverpb.{method}")
            && found["request"] == request
            && found["code"] == code
            && found["revision"] == json!(revision)
            && found["user"].is_null();
        ensure!(is_same, "{found} is not {method} {request} {code} {revision:?}");
        ensure!(found["remote"].as_str().is_some_and(|remote| remote.starts_with("127.0.0.1:")), "{found}");
    }
    ensure!(!std::fs::read_to_string(&path)?.contains("hidden-value"), "a value is in the audit log");
    Ok(())
}

/// Who asked is the user, once requests need one; passwords and tokens are nowhere.
#[tokio::test]
async fn users_are_named_and_their_secrets_are_not() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("audit.log");
    let flags = vec![format!("--audit-log-outputs={}", path.display())];
    let server = Server::start_with(Kind::Cleat, Options { flags, ..Default::default() }).await?;
    let mut client = server.client().await?;
    let (name, password) = ("root".to_owned(), "hidden-password".to_owned());
    let user = AuthUserAddRequest { name: name.clone(), password: password.clone(), ..Default::default() };
    client.auth.user_add(user).await?;
    client.auth.user_grant_role(AuthUserGrantRoleRequest { user: name.clone(), role: name.clone() }).await?;
    client.auth.auth_enable(AuthEnableRequest {}).await?;
    let token = client.auth.authenticate(AuthenticateRequest { name, password }).await?.into_inner().token;
    let mut request = tonic::Request::new(put("a"));
    request.metadata_mut().insert("token", token.parse()?);
    client.kv.put(request).await?;
    client.kv.put(put("b")).await.expect_err("nobody may");

    let found = json_lines(&path, 6).await?;
    let puts: Vec<&Value> = found.iter().filter(|line| line["method"] == "/etcdserverpb.KV/Put").collect();
    ensure!(puts.len() == 2, "{found:#?}");
    ensure!(puts[0]["user"] == "root" && puts[0]["code"] == "Ok", "{}", puts[0]);
    ensure!(puts[1]["user"].is_null() && puts[1]["code"] == "InvalidArgument", "{}", puts[1]);
    let text = std::fs::read_to_string(&path)?;
    ensure!(!text.contains("hidden-password") && !text.contains(&token), "a secret is in the audit log");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_recorded_is_refused_where_the_log_is_required() -> Result<()> {
    for is_required in [false, true] {
        let flags = vec!["--audit-log-outputs=/dev/full".to_owned(), format!("--audit-log-required={is_required}")];
        let server = Server::start_with(Kind::Cleat, Options { flags, ..Default::default() }).await?;
        let mut client = server.client().await?;
        // The first finds out.
        client.kv.put(put("a")).await?;
        let deadline = Instant::now() + DEADLINE;
        while !server.log().contains("cannot write lines") {
            ensure!(Instant::now() < deadline, "{}", server.log());
            tokio::time::sleep(POLL).await;
        }
        let answer = client.kv.put(put("a")).await;
        match (is_required, answer) {
            (false, Ok(_)) => {}
            (true, Err(status)) if status.code() == Code::Unavailable => {
                ensure!(status.message().contains("audit log"), "{status:?}");
                client.kv.range(RangeRequest { key: "a".into(), ..Default::default() }).await.context("reads pass")?;
            }
            (_, answer) => anyhow::bail!("required: {is_required}, {answer:?}"),
        }
    }
    Ok(())
}
