//! Streams: requests one after the other, answers line by line.

use super::{Pair, normalised};
use ::http::Request;
use anyhow::{Context, Result, ensure};
use harness::http::{self, Lines, Opened};
use harness::{Kind, Server};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

fn watch(body: http::Body) -> Result<Request<http::Body>> {
    Ok(Request::post("/v3/watch").body(body)?)
}

/// Events of the next lines, until there are so many.
async fn events(lines: &mut Lines, count: usize) -> Result<Vec<Value>> {
    let mut events = Vec::new();
    while events.len() < count {
        let line = lines.next().await?.context("the stream goes on")?;
        events.extend(line["result"]["events"].as_array().cloned().unwrap_or_default());
    }
    Ok(events)
}

/// What is in `name` of the server's metrics.
async fn gauge(server: &Server, name: &str) -> Result<u64> {
    let (_, _, text) = http::get(&server.client_url(), "/metrics").await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {name}"))?.parse()?)
}

async fn until(server: &Server, name: &str, expected: u64) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while gauge(server, name).await? != expected {
        ensure!(Instant::now() < deadline, "{name} is {}", gauge(server, name).await?);
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_watch_is_the_same_as_etcds() -> Result<()> {
    let pair = Pair::start().await?;
    for body in [r#"{"key":"YQ==","value":"MQ=="}"#, r#"{"key":"YQ==","value":"Mg=="}"#, r#"{"key":"Yg=="}"#] {
        pair.post("/v3/kv/put", body).await?;
    }
    pair.post("/v3/kv/deleterange", r#"{"key":"YQ=="}"#).await?;
    let body =
        r#"{"create_request":{"key":"YQ==","rangeEnd":"eg==","start_revision":"2","prev_kv":true,"watch_id":7}}"#;
    let mut seen = Vec::new();
    for server in [&pair.etcd, &pair.cleat] {
        let mut opened = http::open(&server.endpoint(), watch(http::full(body))?).await?;
        ensure!(opened.status == 200 && opened.headers["content-type"] == "application/json", "{opened:?}");
        let created = normalised(opened.lines.next().await?.context("an answer")?);
        ensure!(created["result"]["created"] == json!(true), "{created}");
        seen.push((created, events(&mut opened.lines, 4).await?));
    }
    ensure!(seen[0] == seen[1], "{seen:#?}");
    let kinds: Vec<_> = seen[1].1.iter().map(|event| event["type"].as_str()).collect();
    ensure!(kinds == [None, None, None, Some("DELETE")], "{kinds:?}");

    // A watcher whose history is gone is told so.
    pair.post("/v3/kv/compaction", r#"{"revision":"4"}"#).await?;
    let mut seen = Vec::new();
    for server in [&pair.etcd, &pair.cleat] {
        let Opened { mut lines, .. } = http::open(&server.endpoint(), watch(http::full(body))?).await?;
        let (created, canceled) = (lines.next().await?, lines.next().await?.context("an answer")?);
        ensure!(canceled["result"]["compact_revision"] == "4", "{canceled}");
        seen.push((created.map(normalised), normalised(canceled)));
    }
    ensure!(seen[0] == seen[1], "{seen:#?}");
    Ok(())
}

/// Etcd 3.4 reads the whole body before it does anything; here a request counts when it has arrived.
#[tokio::test]
async fn requests_and_answers_of_a_watch_pass_each_other() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let (requests, body) = http::pieces();
    let send = async |text: &'static str| requests.send(text.into()).await;
    // In two pieces, the second one with the next request.
    send(r#"{"create_request":{"key":"#).await?;
    let (endpoint, request) = (server.endpoint(), watch(body)?);
    let opening = tokio::spawn(async move { http::open(&endpoint, request).await });
    send(r#""YQ==","watch_id":"5"}} {"create_request":{"key":"Yg==","watch_id":"6"}}"#).await?;
    let Opened { status, mut lines, .. } = opening.await??;
    ensure!(status == 200, "{status}");
    for id in ["5", "6"] {
        let line = lines.next().await?.context("an answer")?;
        ensure!(line["result"]["created"] == json!(true) && line["result"]["watch_id"] == id, "{line}");
    }
    http::post(&server.endpoint(), "/v3/kv/put", r#"{"key":"YQ=="}"#).await?;
    let line = lines.next().await?.context("an answer")?;
    ensure!(line["result"]["watch_id"] == "5" && line["result"]["events"][0]["kv"]["key"] == "YQ==", "{line}");
    send(r#"{"cancel_request":{"watch_id":5}}"#).await?;
    let line = lines.next().await?.context("an answer")?;
    ensure!(line["result"]["canceled"] == json!(true) && line["result"]["watch_id"] == "5", "{line}");
    send(r#"{"progress_request":{}}"#).await?;
    let line = lines.next().await?.context("an answer")?;
    ensure!(line["result"]["watch_id"] == "-1", "{line}");
    // The end of the requests is not that of the watch.
    drop(requests);
    http::post(&server.endpoint(), "/v3/kv/put", r#"{"key":"Yg=="}"#).await?;
    let line = lines.next().await?.context("an answer")?;
    ensure!(line["result"]["watch_id"] == "6", "{line}");
    Ok(())
}

#[tokio::test]
async fn a_watch_ends_with_its_client_and_with_its_server() -> Result<()> {
    let mut server = Server::start(Kind::Cleat).await?;
    let body = r#"{"create_request":{"key":"YQ=="}}"#;
    let Opened { mut lines, .. } = http::open(&server.endpoint(), watch(http::full(body))?).await?;
    lines.next().await?.context("an answer")?;
    until(&server, "etcd_debugging_mvcc_watcher_total", 1).await?;
    drop(lines);
    until(&server, "etcd_debugging_mvcc_watcher_total", 0).await?;

    let Opened { mut lines, .. } = http::open(&server.endpoint(), watch(http::full(body))?).await?;
    lines.next().await?.context("an answer")?;
    let (last, ended) = tokio::join!(lines.next(), server.terminate());
    ended?;
    let error = &last?.context("a last line")?["error"];
    ensure!(error["message"] == "etcdserver: server stopped" && error["grpc_code"] == error["code"], "{error}");
    ensure!(error["http_code"] == json!(503) && error["http_status"] == "Service Unavailable", "{error}");
    ensure!(!server.log().contains("closing connections whose calls did not end in time"), "{}", server.log_tail());
    Ok(())
}

/// What a client says in headers reaches the call.
#[tokio::test]
async fn a_stream_ends_at_its_deadline() -> Result<()> {
    let pair = Pair::start().await?;
    // etcd's gateway and its server both watch the deadline; if the server is first, its error has no code.
    let (known, unknown) = ((json!(4), json!(504)), (json!(2), json!(500)));
    for (server, expected) in [(&pair.etcd, &[&known, &unknown][..]), (&pair.cleat, &[&known])] {
        let mut last = Value::Null;
        // A busy machine may need all of the shortest for the first answer.
        for deadline in ["500m", "3S", "15S"] {
            let mut request = watch(http::full(r#"{"create_request":{"key":"YQ=="}}"#))?;
            request.headers_mut().insert("grpc-timeout", deadline.parse()?);
            let Opened { mut lines, .. } = http::open(&server.endpoint(), request).await?;
            let first = lines.next().await?.context("an answer")?;
            if first["result"]["created"] == true {
                last = lines.next().await?.context("a last line")?;
                ensure!(lines.next().await?.is_none(), "the stream goes on");
                break;
            }
        }
        let codes = (last["error"]["grpc_code"].clone(), last["error"]["http_code"].clone());
        ensure!(expected.contains(&&codes), "{last}");
        ensure!(last["error"]["message"] == "context deadline exceeded", "{last}");
    }
    Ok(())
}

#[tokio::test]
async fn keepalives_are_answered_one_by_one() -> Result<()> {
    let pair = Pair::start().await?;
    pair.post("/v3/lease/grant", r#"{"TTL":"600","ID":"7"}"#).await?;
    for body in [r#"{"ID":"7"}"#, r#"{"ID":"7"}{"ID":8} {"ID":"7"}"#, "", "{}"] {
        let [etcd, cleat] = pair.post("/v3/lease/keepalive", body).await?;
        let lines = |answer: &http::Answer| -> Result<Vec<Value>> {
            let text = std::str::from_utf8(&answer.body)?;
            ensure!(answer.status == 200 && (text.is_empty() || text.ends_with('\n')), "{answer:?}");
            text.lines().map(|line| Ok(normalised(serde_json::from_str(line)?))).collect()
        };
        let (theirs, ours) = (lines(&etcd)?, lines(&cleat)?);
        ensure!(theirs == ours, "{body}: {theirs:?} {ours:?}");
    }
    // A stream that begins with nonsense has a status of its own; 3.4 takes it for its own fault.
    let [etcd, cleat] = pair.post("/v3/lease/keepalive", "nonsense").await?;
    ensure!((etcd.status, cleat.status) == (500, 400), "{etcd:?} {cleat:?}");
    ensure!(cleat.json()?["code"] == json!(3), "{cleat:?}");
    // 3.4 ends such a stream without a word.
    let [etcd, cleat] = pair.post("/v3/lease/keepalive", r#"{"ID":"7"} nonsense"#).await?;
    let text = String::from_utf8(cleat.body.to_vec())?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(etcd.status == 200 && lines.len() == 2 && lines[0].starts_with(r#"{"result":"#), "{text}");
    let last: Value = serde_json::from_str(lines[1])?;
    ensure!(last["error"]["code"] == json!(3) && last["error"]["http_code"] == json!(400), "{text}");
    Ok(())
}

/// The chunks are the same as those of gRPC: put together, they end with their SHA-256.
#[tokio::test]
async fn a_snapshot_is_a_stream() -> Result<()> {
    use base64::Engine as _;
    let server = Server::start(Kind::Cleat).await?;
    let value = base64::engine::general_purpose::STANDARD.encode(vec![7; 300_000]);
    for key in ["YQ==", "Yg=="] {
        let body = format!(r#"{{"key":"{key}","value":"{value}"}}"#);
        http::post(&server.endpoint(), "/v3/kv/put", body).await?;
    }
    let request = Request::post("/v3/maintenance/snapshot").body(http::full("{}"))?;
    let Opened { mut lines, .. } = http::open(&server.endpoint(), request).await?;
    let (mut chunks, mut bytes, mut last) = (0, 0, Value::Null);
    while let Some(line) = lines.next().await? {
        let blob = line["result"]["blob"].as_str().context("a blob")?;
        bytes += base64::engine::general_purpose::STANDARD.decode(blob)?.len();
        chunks += 1;
        last = line;
    }
    ensure!(chunks > 10 && bytes > 600_000, "{chunks} {bytes}");
    ensure!(last["result"].get("remaining_bytes").is_none(), "{last}");
    Ok(())
}
