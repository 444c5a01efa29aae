//! Waits: what ends them, what does not, and how many there can be.

use super::Metad;
use anyhow::{Context, Result, ensure};
use harness::http::{self, Answer};
use hyper::Request;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const ONE: Option<&str> = Some("1.1.1.1");
const TWO: Option<&str> = Some("2.2.2.2");

const DATA: &str = r#"{"nodes":{"1":{"ip":"a","name":"one"},"2":{"ip":"b","name":"two"}}}"#;
const MAPPING: &str = r#"{"1.1.1.1":{"node":"/nodes/1"},"2.2.2.2":{"node":"/nodes/2"}}"#;

async fn filled(flags: &[&str]) -> Result<Metad> {
    let metad = Metad::start(&[&["--xff"], flags].concat()).await?;
    metad.write("PUT", "/v1/data", DATA).await?;
    metad.write("PUT", "/v1/mapping", MAPPING).await?;
    Ok(metad)
}

/// Begins a wait, and returns when it waits.
async fn begin(metad: &Metad, path: &str, client: Option<&str>) -> Result<JoinHandle<Result<Answer>>> {
    let mut request = Request::get(path).header("accept", "application/json");
    if let Some(client) = client {
        request = request.header("x-forwarded-for", client);
    }
    let (address, request) = (metad.query.clone(), request.body(http::full(""))?);
    let before = waiting(metad).await?;
    let answer = tokio::spawn(async move { http::send(&address, request).await });
    metad.waiting(before + 1).await?;
    Ok(answer)
}

async fn waiting(metad: &Metad) -> Result<usize> {
    let metrics = metad.manage("GET", "/metrics", "").await?;
    let text = String::from_utf8(metrics.body.to_vec())?;
    let line = text.lines().find_map(|line| line.strip_prefix("metad_waiting "));
    Ok(line.context("no metric")?.parse()?)
}

async fn end(answer: JoinHandle<Result<Answer>>) -> Result<(u16, Value)> {
    let answer = timeout(Duration::from_secs(30), answer).await.context("the wait does not end")???;
    Ok((answer.status, answer.json()?))
}

#[tokio::test]
async fn a_wait_ends_with_what_the_client_sees_then() -> Result<()> {
    let metad = filled(&[]).await?;
    let leaf = begin(&metad, "/nodes/1/name?wait=true", ONE).await?;
    let own = begin(&metad, "/self?wait=true", ONE).await?;
    let root = begin(&metad, "/?wait=TRUE", TWO).await?;
    metad.write("PUT", "/v1/data/nodes/1", r#"{"name":"uno","new":"x"}"#).await?;
    assert_eq!(end(leaf).await?, (200, json!("uno")));
    assert_eq!(end(own).await?, (200, json!({"node": {"ip": "a", "name": "uno", "new": "x"}})));
    ensure!(!root.is_finished(), "what a client cannot see ended its wait");
    // A change of the mapping is one of what is seen.
    metad.write("PUT", "/v1/mapping/2.2.2.2", r#"{"peer":"/nodes/1/name"}"#).await?;
    let (status, body) = end(root).await?;
    assert_eq!((status, &body["self"]["peer"], &body["nodes"]["1"]), (200, &json!("uno"), &json!({"name": "uno"})));
    // Rules are, too.
    let gone = begin(&metad, "/nodes?wait=true", ONE).await?;
    metad.write("PUT", "/v1/rule", r#"{"1.1.1.1":[{"path":"/nodes","mode":1}]}"#).await?;
    let (status, body) = end(gone).await?;
    assert_eq!((status, body.as_object().map(serde_json::Map::len)), (200, Some(2)));
    Ok(())
}

#[tokio::test]
async fn a_client_goes_on_from_a_version_or_a_tag() -> Result<()> {
    let metad = filled(&[]).await?;
    let first = metad.ask("/self/node", ONE).await?;
    let (version, tag) = (first.header("x-metad-version").to_owned(), first.header("etag").to_owned());
    // Another version than the present one is answered at once.
    assert_eq!(metad.ask("/self/node?wait=true&prev_version=1", ONE).await?.status, 200);
    let waits = begin(&metad, &format!("/self/node?wait=true&prev_version={version}"), ONE).await?;
    metad.write("PUT", "/v1/data/nodes/1/ip", "\"c\"").await?;
    assert_eq!(end(waits).await?.1["ip"], "c");
    let with_tag = async |path: &str, tag: &str| {
        let request = Request::get(path).header("accept", "application/json").header("x-forwarded-for", "1.1.1.1");
        http::send(&metad.query, request.header("if-none-match", tag).body(http::full(""))?).await
    };
    let second = with_tag("/self/node", &tag).await?;
    assert_eq!((second.status, second.json()?), (200, json!({"ip": "c", "name": "one"})));
    let tag = second.header("etag").to_owned();
    assert_eq!(with_tag("/self/node", &tag).await?.status, 304);
    assert_eq!(with_tag("/self/node?wait=true&timeout=50ms", &tag).await?.status, 304);
    assert_eq!(with_tag("/self/node?wait=true", "\"other\"").await?.status, 200);
    assert_eq!(metad.ask("/self/node?wait=true&timeout=10ms", ONE).await?.json()?["ip"], "c");
    // The same content has the same tag, whatever happened in between.
    metad.write("PUT", "/v1/data/nodes/1/ip", "\"d\"").await?;
    metad.write("PUT", "/v1/data/nodes/1/ip", "\"c\"").await?;
    assert_eq!(with_tag("/self/node", &tag).await?.status, 304);
    Ok(())
}

#[tokio::test]
async fn odd_waits_are_metads_or_the_right_ones() -> Result<()> {
    for (compat, below, gone) in [("--compat=true", true, 200), ("--compat=false", false, 404)] {
        let metad = filled(&[compat]).await?;
        let answer = metad.ask("/self/node/name?wait=true&timeout=300ms", ONE).await?;
        assert_eq!((answer.status, answer.json()?), (200, json!("one")));
        let waits = metad.manage("GET", "/metrics", "").await?;
        let waited = String::from_utf8(waits.body.to_vec())?.contains("metad_waits_total{end=\"over\"} 1");
        assert_eq!(waited, !below, "{compat}");
        // Who may see nothing does not wait, whatever there is.
        for path in ["/nodes/1?wait=true", "/nothing?wait=true", "/self?wait=true"] {
            assert_eq!(metad.ask(path, Some("9.9.9.9")).await?.status, 404);
        }
        let deleted = begin(&metad, "/nodes/1/name?wait=true", ONE).await?;
        metad.write("DELETE", "/v1/data/nodes/1/name", "").await?;
        assert_eq!(end(deleted).await?.0, gone, "{compat}");
        // What is forbidden is waited for like what is absent, and nothing there ends the wait.
        let absent = begin(&metad, "/nothing?wait=true&timeout=2s", ONE).await?;
        let forbidden = begin(&metad, "/nodes/2?wait=true&timeout=2s", ONE).await?;
        metad.write("PUT", "/v1/data/nodes/2/name", "\"dos\"").await?;
        assert_eq!(end(forbidden).await?, end(absent).await?);
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_tells_each_change() -> Result<()> {
    let metad = filled(&[]).await?;
    let request = Request::get("/self/node/name?stream=true").header("x-forwarded-for", "1.1.1.1");
    let stream = http::open(&metad.query, request.body(http::full(""))?).await?;
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    metad.waiting(1).await?;
    metad.write("PUT", "/v1/data/nodes/1/name", "\"uno\"").await?;
    // The process ends, and with it the stream.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !String::from_utf8(metad.manage("GET", "/metrics", "").await?.body.to_vec())?.contains("metad_waiting 1") {
        ensure!(Instant::now() < deadline, "the stream does not go on");
    }
    metad.write("DELETE", "/v1/data/nodes/1/name", "").await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    metad.signal(rustix::process::Signal::TERM)?;
    let text = String::from_utf8(stream.lines.rest().await?.to_vec())?;
    let events: Vec<&str> = text.lines().filter(|line| line.starts_with("data") || line.starts_with("event")).collect();
    let expected = ["event: data", "data: \"one\"", "event: data", "data: \"uno\"", "event: gone", "data:"];
    assert_eq!(events, expected, "{text}");
    Ok(())
}

#[tokio::test]
async fn waits_are_bounded_and_a_change_ends_them_all() -> Result<()> {
    let metad = filled(&["--max_waits=60", "--max_waits_per_source=50"]).await?;
    let mut waits = Vec::new();
    for _ in 0..50 {
        waits.push(begin(&metad, "/self/node?wait=true", ONE).await?);
    }
    let refused = metad.ask("/self/node?wait=true", ONE).await?;
    assert_eq!((refused.status, refused.header("retry-after")), (429, "1"));
    assert_eq!(metad.ask("/self/node", ONE).await?.status, 200);
    let other = begin(&metad, "/self/node?wait=true", TWO).await?;
    metad.write("PUT", "/v1/data/nodes/1/name", "\"uno\"").await?;
    for wait in waits {
        assert_eq!(end(wait).await?.1["name"], "uno");
    }
    metad.waiting(1).await?;
    other.abort();
    // A client that has left is not waited for.
    metad.waiting(0).await
}
