//! Waits: what ends them, what does not, and how many there can be.

use super::{LIMIT, Metad};
use anyhow::{Context, Result, ensure};
use harness::http::{self, Answer};
use hyper::Request;
use serde_json::{Value, json};
use std::time::Duration;
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
    begin_with(metad, path, client, None).await
}

/// The same with a tag.
async fn begin_with(
    metad: &Metad,
    path: &str,
    client: Option<&str>,
    tag: Option<&str>,
) -> Result<JoinHandle<Result<Answer>>> {
    let mut request = Request::get(path).header("accept", "application/json");
    for (name, value) in [("x-forwarded-for", client), ("if-none-match", tag)] {
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    let (address, request) = (metad.query.clone(), request.body(http::full(""))?);
    let before = waiting(metad).await?;
    let answer = tokio::spawn(async move { http::send(&address, request).await });
    metad.waiting(before + 1).await?;
    Ok(answer)
}

/// How many waits have ended in a way.
async fn ended(metad: &Metad, how: &str) -> Result<usize> {
    let metrics = metad.manage("GET", "/metrics", "").await?;
    let text = String::from_utf8(metrics.body.to_vec())?;
    let name = format!("metad_waits_total{{end=\"{how}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    Ok(line.map_or(Ok(0), str::parse)?)
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
        let (changed, over) = (ended(&metad, "changed").await?, ended(&metad, "over").await?);
        metad.write("PUT", "/v1/data/nodes/2/name", "\"dos\"").await?;
        assert_eq!(end(forbidden).await?, end(absent).await?);
        assert_eq!((ended(&metad, "changed").await?, ended(&metad, "over").await?), (changed, over + 2));
    }
    Ok(())
}

/// What is for networks and for everybody is for this client, too.
#[tokio::test]
async fn a_wait_ends_with_what_is_for_many() -> Result<()> {
    let metad = filled(&[]).await?;
    let client = Some("10.1.2.3");
    metad.write("PUT", "/v1/mapping", r#"{"default":{"a":"/nodes/1/ip"}}"#).await?;
    let own = |name: &str, value: &str| (200, json!({name: value}));
    for (method, path, body, expected) in [
        ("PUT", "/v1/mapping", r#"{"10.0.0.0/8":{"b":"/nodes/1/ip"}}"#, own("b", "a")),
        ("PUT", "/v1/mapping", r#"{"10.1.2.0/24":{"c":"/nodes/1/ip"}}"#, own("c", "a")),
        ("PUT", "/v1/mapping", r#"{"10.1.2.0/24":{"c":"/nodes/2/ip"}}"#, own("c", "b")),
        ("DELETE", "/v1/mapping/10.1.2.0_24", "", own("b", "a")),
        ("PUT", "/v1/mapping", r#"{"::ffff:10.1.2.3":{"d":"/nodes/1/name"}}"#, own("d", "one")),
        ("PUT", "/v1/rule", r#"{"default":[{"path":"/nodes/2","mode":1}]}"#, (200, json!({}))),
        ("PUT", "/v1/rule", r#"{"10.0.0.0/8":[{"path":"/nodes","mode":1}]}"#, own("d", "one")),
    ] {
        let wait = begin(&metad, "/self?wait=true", client).await?;
        metad.write(method, path, body).await?;
        assert_eq!(end(wait).await?, expected, "{method} {path} {body}");
    }
    Ok(())
}

/// Names alone are another content than all below them, with another tag.
#[tokio::test]
async fn a_wait_for_names_ends_with_other_names() -> Result<()> {
    let metad = filled(&[]).await?;
    let names = metad.ask("/self?recursive=false", ONE).await?;
    assert_eq!(names.json()?, json!(["node/"]));
    let path = "/self?recursive=false&wait=true";
    let wait = begin_with(&metad, path, ONE, Some(names.header("etag"))).await?;
    metad.write("PUT", "/v1/data/nodes/1/name", "\"uno\"").await?;
    metad.write("PUT", "/v1/mapping/1.1.1.1", r#"{"other":"/nodes/1"}"#).await?;
    assert_eq!(end(wait).await?, (200, json!(["node/", "other/"])));
    Ok(())
}

/// Reads events until one is this one: its kind and data.
async fn told(stream: &mut http::Lines, expected: (&str, &str)) -> Result<()> {
    let mut kind = String::new();
    let telling = async {
        loop {
            let line = String::from_utf8(stream.line().await?.context("the stream has ended")?)?;
            if let Some(text) = line.strip_prefix("event: ") {
                text.trim_end().clone_into(&mut kind);
            } else if let Some(data) = line.strip_prefix("data:")
                && (kind.as_str(), data.trim()) == expected
            {
                return Ok(());
            }
        }
    };
    // Heartbeats come for ever.
    timeout(LIMIT, telling).await.with_context(|| format!("{expected:?} is not told"))?
}

async fn stream(metad: &Metad, path: &str) -> Result<http::Lines> {
    let request = Request::get(format!("{path}?stream=true")).header("x-forwarded-for", "1.1.1.1");
    let stream = http::open(&metad.query, request.body(http::full(""))?).await?;
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    Ok(stream.lines)
}

#[tokio::test]
async fn a_stream_tells_each_change() -> Result<()> {
    let metad = filled(&[]).await?;
    let mut stream = stream(&metad, "/self/node/name").await?;
    told(&mut stream, ("data", "\"one\"")).await?;
    metad.write("PUT", "/v1/data/nodes/1/name", "\"uno\"").await?;
    told(&mut stream, ("data", "\"uno\"")).await?;
    metad.write("DELETE", "/v1/data/nodes/1/name", "").await?;
    told(&mut stream, ("gone", "")).await?;
    metad.write("PUT", "/v1/data/nodes/1/name", "\"dos\"").await?;
    told(&mut stream, ("data", "\"dos\"")).await?;
    // There is nothing more to wait for, and that is told before the end.
    metad.write("DELETE", "/v1/mapping/1.1.1.1", "").await?;
    told(&mut stream, ("gone", "")).await?;
    assert_eq!(stream.rest().await?.as_ref(), b"\n");
    metad.waiting(0).await
}

/// What changes while an event is sent is told with the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_tells_the_last_of_many_changes() -> Result<()> {
    let metad = filled(&[]).await?;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(stream(&metad, "/self/node/name").await?);
    }
    for number in 0..300 {
        metad.write("PUT", "/v1/data/nodes/1/name", &format!("\"{number}\"")).await?;
    }
    for stream in &mut streams {
        told(stream, ("data", "\"299\"")).await?;
    }
    // The process ends, and with it the streams.
    metad.signal(rustix::process::Signal::TERM)?;
    for stream in streams {
        stream.rest().await?;
    }
    Ok(())
}

/// Without metad's ways a version is one of what the client sees: it changes with that and with nothing else.
#[tokio::test]
async fn a_version_is_one_of_what_is_seen() -> Result<()> {
    let (metad, other) = (filled(&["--compat=false"]).await?, filled(&["--compat=false"]).await?);
    metad.write("PUT", "/v1/rule", r#"{"2.2.2.2":[{"path":"/nodes/*/ip","mode":1}]}"#).await?;
    let version = async |metad: &Metad, path: &str, client| {
        anyhow::Ok(metad.ask(path, client).await?.header("x-metad-version").to_owned())
    };
    let (own, ips) = (version(&metad, "/self", ONE).await?, version(&metad, "/nodes", TWO).await?);
    assert_eq!(version(&other, "/self", ONE).await?, own);
    // Nothing of this is seen.
    metad.write("PUT", "/v1/data/nodes/2/name", "\"dos\"").await?;
    assert_eq!(version(&metad, "/self", ONE).await?, own);
    assert_eq!(version(&metad, "/nodes", TWO).await?, ips);
    metad.write("PUT", "/v1/data/nodes/2/ip", "\"c\"").await?;
    assert_ne!(version(&metad, "/nodes", TWO).await?, ips);
    let wait = begin(&metad, &format!("/self?wait=true&prev_version={own}"), ONE).await?;
    // Less is another content as well.
    metad.write("DELETE", "/v1/mapping/1.1.1.1/node", "").await?;
    metad.write("PUT", "/v1/mapping/1.1.1.1", r#"{"node":"/nodes/1/ip"}"#).await?;
    end(wait).await?;
    assert_ne!(version(&metad, "/self", ONE).await?, own);
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

/// However many would wait, whoever does not is answered: an eighth of the connections is not for waits.
#[tokio::test]
async fn waits_leave_an_eighth_of_the_connections_to_others() -> Result<()> {
    let metad = filled(&["--max_connections=16"]).await?;
    let mut waits = Vec::new();
    for _ in 0..13 {
        waits.push(begin(&metad, "/self/node?wait=true", ONE).await?);
    }
    // A stream is a wait as well.
    let mut events = stream(&metad, "/self/node").await?;
    metad.waiting(14).await?;
    let more: Vec<_> = (0..50)
        .map(|_| {
            let request = Request::get("/self/node?wait=true").header("x-forwarded-for", "2.2.2.2");
            let (address, request) = (metad.query.clone(), request.body(http::full("")));
            tokio::spawn(async move { http::send(&address, request?).await })
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(metad.ask("/self/node/name", ONE).await?.status, 200);
    }
    for refused in more {
        let refused = refused.await??;
        assert_eq!((refused.status, refused.header("connection")), (429, "close"));
    }
    assert_eq!(waiting(&metad).await?, 14);
    metad.write("PUT", "/v1/data/nodes/1/name", "\"uno\"").await?;
    for wait in waits {
        assert_eq!(end(wait).await?.1["name"], "uno");
    }
    told(&mut events, ("data", r#"{"ip":"a","name":"one"}"#)).await?;
    told(&mut events, ("data", r#"{"ip":"a","name":"uno"}"#)).await
}

/// A host has as many addresses of its network as it likes; they are one source.
#[tokio::test]
async fn waits_of_one_network_are_counted_together() -> Result<()> {
    let metad = filled(&["--max_waits_per_source=2"]).await?;
    let rules = r#"{"2001:db8::_32":[{"path":"/nodes","mode":1}]}"#;
    metad.write("PUT", "/v1/rule", rules).await?;
    let path = "/nodes/1?wait=true";
    let waits = [begin(&metad, path, Some("2001:db8::1")).await?, begin(&metad, path, Some("2001:db8::2")).await?];
    assert_eq!(metad.ask(path, Some("2001:db8::3")).await?.status, 429);
    let other = begin(&metad, path, Some("2001:db8:0:1::1")).await?;
    metad.write("PUT", "/v1/data/nodes/1/name", "\"uno\"").await?;
    for wait in waits.into_iter().chain([other]) {
        assert_eq!(end(wait).await?.1["name"], "uno");
    }
    Ok(())
}
