//! The line about a slow request says where its time went, names keys, and shows no value.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest, request_op};
use harness::{Client, Kind, Options, Server};
use serde_json::Value;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// Calls are all slow with this.
const ALL_ARE_SLOW: &str = "--warning-unary-request-duration=1ns";

/// Waits for the line about a call with a key.
async fn line(server: &Server, method: &str, key: &str) -> Result<Value> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let log = server.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut slow = lines.filter(|line| line["msg"] == "request took too long" && line["method"] == method);
        if let Some(found) = slow.find(|line| line["key"] == key) {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "no line about {method} {key}:\n{log}");
        tokio::time::sleep(POLL).await;
    }
}

/// The names of the steps in a line.
fn steps(line: &Value) -> Result<Vec<&str>> {
    let steps = line["steps"].as_str().with_context(|| format!("no steps: {line}"))?;
    Ok(steps.split(", ").filter_map(|step| step.split(' ').next()).collect())
}

async fn use_keys(client: &mut Client) -> Result<()> {
    let put = |key: &str| PutRequest { key: key.to_owned().into(), value: "hidden-value".into(), ..Default::default() };
    client.kv.put(put("put-key")).await?;
    let range = RangeRequest { key: "put".into(), range_end: "puu".into(), ..Default::default() };
    client.kv.range(range).await?;
    let op = RequestOp { request: Some(request_op::Request::RequestPut(put("txn-key"))) };
    client.kv.txn(TxnRequest { success: vec![op], ..Default::default() }).await?;
    Ok(())
}

#[tokio::test]
async fn a_line_has_the_steps_of_its_request() -> Result<()> {
    let flags = vec![ALL_ARE_SLOW.to_owned(), "--log-format=json".to_owned()];
    let server = Server::start_with(Kind::Cleat, Options { flags, ..Default::default() }).await?;
    use_keys(&mut server.client().await?).await?;

    let put = line(&server, "/etcdserverpb.KV/Put", "put-key").await?;
    ensure!(steps(&put)? == ["decode", "quota", "queue", "replicate", "apply", "serve", "encode"], "{put}");
    ensure!(put["code"] == "Ok" && put["level"] == "warn", "{put}");
    ensure!(put["request_bytes"].as_u64() > Some(19) && put["response_bytes"].as_u64() > Some(5), "{put}");
    ensure!(put["remote"].as_str().is_some_and(|remote| remote.starts_with("127.0.0.1:")), "{put}");

    let range = line(&server, "/etcdserverpb.KV/Range", "put").await?;
    ensure!(steps(&range)? == ["decode", "read", "serve", "encode"], "{range}");
    ensure!(range["range_end"] == "puu" && range["keys"] == 1, "{range}");

    let txn = line(&server, "/etcdserverpb.KV/Txn", "txn-key").await?;
    ensure!(txn["ops"] == 1, "{txn}");
    ensure!(!server.log().contains("hidden-value"), "a value is in the log");
    Ok(())
}
