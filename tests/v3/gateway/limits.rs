//! Bodies that are large, deep or slow, and clients that do not read.

use super::{Pair, error_of};
use ::http::Request;
use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::http::{self, Opened};
use harness::{Kind, Server};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// Longer than a client may stand still.
const ENDED: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(200);
/// More than what 100 writes of one mebibyte may leave in memory that nobody needs, and less than their JSON.
const MEMORY_BYTES: u64 = 64 << 20;

fn put_of(bytes: usize) -> String {
    format!(r#"{{"key":"YQ==","value":"{}"}}"#, STANDARD.encode(vec![b'v'; bytes]))
}

#[tokio::test]
async fn large_requests_are_refused_as_in_etcd() -> Result<()> {
    let pair = Pair::start().await?;
    // Below all limits, above --max-request-bytes, above what gRPC receives.
    for (bytes, status) in [(1_500_000, 200), (1_600_000, 400), (3_000_000, 429)] {
        let [etcd, cleat] = pair.post("/v3/kv/put", &put_of(bytes)).await?;
        ensure!((etcd.status, cleat.status) == (status, status), "{bytes}: {etcd:?} {cleat:?}");
        if status != 200 {
            ensure!(error_of(&etcd)? == error_of(&cleat)?, "{bytes}: {etcd:?} {cleat:?}");
        }
    }
    // Above what is read at all.
    let cleat = http::post(&pair.cleat.endpoint(), "/v3/kv/put", put_of(4_000_000)).await?;
    ensure!(cleat.status == 429 && error_of(&cleat)?.0 == 8, "{cleat:?}");
    let blank = format!("{}{}", " ".repeat(6_000_000), r#"{"key":"YQ=="}"#);
    let cleat = http::post(&pair.cleat.endpoint(), "/v3/kv/range", blank).await?;
    ensure!(cleat.status == 429, "{cleat:?}");
    // The same for one request of a stream.
    let huge = format!(r#"{{"ID":"{}"}}"#, "0".repeat(6_000_000));
    let cleat = http::post(&pair.cleat.endpoint(), "/v3/lease/keepalive", huge).await?;
    ensure!(cleat.status == 429 && error_of(&cleat)?.0 == 8, "{cleat:?}");
    // A large answer comes in pieces, and whole.
    let [etcd, cleat] = pair.post("/v3/kv/range", r#"{"key":"YQ=="}"#).await?;
    ensure!(etcd.json()?["kvs"] == cleat.json()?["kvs"], "large answers differ");
    ensure!(cleat.header("transfer-encoding") == "chunked" && cleat.body.len() > 2_000_000, "{}", cleat.body.len());
    Ok(())
}

#[tokio::test]
async fn nesting_is_bounded() -> Result<()> {
    let pair = Pair::start().await?;
    let nested = |depth: usize| {
        let (open, close) = (r#"{"success":[{"request_txn":"#.repeat(depth), "}]}".repeat(depth));
        format!(r#"{open}{{"success":[{{"request_put":{{"key":"YQ=="}}}}]}}{close}"#)
    };
    let [etcd, cleat] = pair.post("/v3/kv/txn", &nested(30)).await?;
    ensure!((etcd.status, cleat.status) == (200, 200), "{etcd:?} {cleat:?}");
    ensure!(super::normalised(etcd.json()?) == super::normalised(cleat.json()?), "{etcd:?} {cleat:?}");
    // As over gRPC, where 50 are too many, too.
    let cleat = http::post(&pair.cleat.endpoint(), "/v3/kv/txn", nested(50)).await?;
    ensure!(cleat.status == 400 && error_of(&cleat)?.0 == 3, "{cleat:?}");
    let brackets = "[".repeat(1_000_000);
    for body in [brackets.clone(), format!(r#"{{"a":{brackets}"#), format!(r#"{{"success":{brackets}"#)] {
        let cleat = http::post(&pair.cleat.endpoint(), "/v3/kv/txn", body).await?;
        ensure!(cleat.status == 400, "{cleat:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_slow_body_is_waited_for_and_holds_up_nobody() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let (pieces, body) = http::pieces();
    let (endpoint, request) = (server.endpoint(), Request::post("/v3/kv/put").body(body)?);
    let slow = tokio::spawn(async move { http::send(&endpoint, request).await });
    for byte in br#"{"key":"YQ==","value":"Yg=="}"# {
        pieces.send(vec![*byte].into()).await?;
        let other = http::post(&server.endpoint(), "/v3/kv/range", r#"{"key":"YQ=="}"#).await?;
        ensure!(other.status == 200 && other.json()?.get("kvs").is_none(), "{other:?}");
    }
    drop(pieces);
    ensure!(slow.await??.status == 200, "the slow one");
    let other = http::post(&server.endpoint(), "/v3/kv/range", r#"{"key":"YQ=="}"#).await?;
    ensure!(other.json()?["kvs"][0]["value"] == "Yg==", "{other:?}");

    // A client that leaves within its body.
    let mut leaving = TcpStream::connect(server.endpoint()).await?;
    leaving.write_all(b"POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{\"key\":\"eA==\"}").await?;
    leaving.shutdown().await?;
    let mut answer = Vec::new();
    tokio::time::timeout(ENDED, leaving.read_to_end(&mut answer)).await??;
    let other = http::post(&server.endpoint(), "/v3/kv/range", r#"{"key":"eA=="}"#).await?;
    ensure!(other.json()?.get("kvs").is_none(), "half a request was carried out: {other:?}");
    Ok(())
}

/// What the process has in memory that is in no file.
fn memory_bytes(server: &Server) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()?.as_raw_nonzero()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("a line of the kernel's")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

async fn watchers(server: &Server) -> Result<bool> {
    let (_, _, text) = http::get(&server.client_url(), "/metrics").await?;
    Ok(text.contains("\netcd_debugging_mvcc_watcher_total 1\n"))
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_little_and_is_given_up() -> Result<()> {
    const WATCH: &str = r#"{"create_request":{"key":"YQ=="}}"#;
    let server = Server::start(Kind::Cleat).await?;
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(64 << 10)?;
    let mut idle = socket.connect(server.endpoint().parse()?).await?;
    let request = format!("POST /v3/watch HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{WATCH}", WATCH.len());
    idle.write_all(request.as_bytes()).await?;
    let begun = Instant::now();
    while !watchers(&server).await? {
        ensure!(begun.elapsed() < ENDED, "the watch does not begin");
        tokio::time::sleep(POLL).await;
    }
    // A client that reads sees everything all the while.
    let request = Request::post("/v3/watch").body(http::full(WATCH))?;
    let Opened { mut lines, .. } = http::open(&server.endpoint(), request).await?;
    lines.next().await?.context("an answer")?;

    let before = memory_bytes(&server)?;
    let put = put_of(1 << 20);
    let mut seen = 0;
    for _ in 0..100 {
        let answer = http::post(&server.endpoint(), "/v3/kv/put", put.clone()).await?;
        ensure!(answer.status == 200, "{answer:?}");
        let line = lines.next().await?.context("the stream goes on")?;
        seen += line["result"]["events"].as_array().map_or(0, Vec::len);
    }
    ensure!(seen == 100, "{seen}");
    let after = memory_bytes(&server)?;
    ensure!(after < before + MEMORY_BYTES, "{before} bytes before, {after} after");
    drop(lines);

    let begun = Instant::now();
    let (_, _, text) = loop {
        let scraped = http::get(&server.client_url(), "/metrics").await?;
        if scraped.2.contains("\netcd_debugging_mvcc_watcher_total 0\n") {
            break scraped;
        }
        ensure!(begun.elapsed() < ENDED, "the watch goes on");
        tokio::time::sleep(POLL).await;
    };
    ensure!(text.contains("\netcd_debugging_mvcc_watch_stream_total 0\n"), "{text}");
    let mut rest = Vec::new();
    // Reset or closed, what the kernel had is there.
    drop(tokio::time::timeout(ENDED, idle.read_to_end(&mut rest)).await?);
    ensure!(rest.len() < 20 << 20, "{} bytes", rest.len());
    Ok(())
}
