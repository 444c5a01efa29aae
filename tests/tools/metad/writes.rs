//! Writes through several metads at once, large ones, and ones whose writer goes away: what is read is always all of one
//! write, and nobody waits for what does not come.

use super::Metad;
use super::life::{ME, many, never_torn, on, put};
use crate::cutter::{Cutter, MARK};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest};
use harness::{Kind, Server};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// Longer than metad waits for the echo of a write, and much shorter than it waits for a writer that has died.
const SOON: Duration = Duration::from_secs(20);

/// Keys of the store with a prefix.
async fn keys(server: &Server, prefix: &str) -> Result<Vec<String>> {
    let (key, range_end) = client::message::prefix_range(prefix.to_owned());
    let request = RangeRequest { key, range_end, keys_only: true, ..RangeRequest::default() };
    let kvs = server.client().await?.kv.range(request).await?.into_inner().kvs;
    Ok(kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect())
}

/// A value that is larger than what one transaction of many keys would have, and that etcd takes.
#[tokio::test]
async fn one_large_value_is_seen_at_once() -> Result<()> {
    for kind in [Kind::Cleat, Kind::Etcd] {
        let server = Server::start(kind).await?;
        let (writer, reader) = (on(&server.client_url(), &[]).await?, on(&server.client_url(), &[]).await?);
        writer.write("PUT", "/v1/mapping/1.1.1.1", r#"{"a":"/a"}"#).await?;
        let large = "x".repeat(1_200_000);
        let begin = Instant::now();
        writer.write("PUT", "/v1/data/a", &json!({"large": large, "small": "1"}).to_string()).await?;
        reader.until("/self/a/small", ME, &json!("1")).await?;
        writer.write("PUT", "/v1/data/a/small", "\"2\"").await?;
        reader.until("/self/a/small", ME, &json!("2")).await?;
        ensure!(reader.ask("/self/a/large", ME).await?.json()? == json!(large), "another value");
        ensure!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
        // Alone it is one transaction.
        writer.write("PUT", "/v1/data/b", &json!(large).to_string()).await?;
        writer.write("PUT", "/v1/data/a/small", "\"3\"").await?;
        reader.until("/self/a/small", ME, &json!("3")).await?;
        ensure!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
    }
    Ok(())
}

/// What a replacing write in several transactions takes away lies on both sides of where its marker is.
#[tokio::test]
async fn replacing_takes_away_all_but_the_marker() -> Result<()> {
    let server = Server::start(Kind::Etcd).await?;
    let metad = on(&server.client_url(), &["--prefix=/p"]).await?;
    let begin = Instant::now();
    let mapping = r#"{"10.0.0.1":{"x":"/x"},"192.168.1.1":{"x":"/x"},"default":{"x":"/x"}}"#;
    metad.write("PUT", "/v1/mapping", mapping).await?;
    let links = (0..300).map(|number| (format!("n{number:03}"), json!("/x"))).collect::<serde_json::Map<_, _>>();
    metad.write("POST", "/v1/mapping", &json!({"1.1.1.1": links}).to_string()).await?;
    assert_eq!(metad.manage("GET", "/v1/mapping", "").await?.json()?, json!({"1.1.1.1": links}));
    assert_eq!(keys(&server, "/_metad/").await?.len(), 300);

    metad.write("PUT", "/v1/data", r#"{"Z":"1","_a":"1","_metad":{"a":"1","z":"1"},"z":"1"}"#).await?;
    metad.write("POST", "/v1/data", &many(300, "2")).await?;
    assert_eq!(metad.manage("GET", "/v1/data", "").await?.body, many(300, "2").as_bytes());
    assert_eq!(keys(&server, "/p/").await?.len(), 300);
    metad.write("PUT", "/v1/data/_metad", r#"{"a":"1","z":"1"}"#).await?;
    metad.write("DELETE", "/v1/data/_metad", "").await?;
    metad.write("DELETE", "/v1/data", "").await?;
    assert_eq!(keys(&server, "/p/").await?, [""; 0]);
    ensure!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
    // Where the marker is nobody writes.
    for path in ["/v1/data/_metad/mapping-stage/x", "/v1/data/_metad/mapping-stage"] {
        let answer = metad.manage("PUT", path, r#"{"a":"1"}"#).await?;
        assert_eq!(answer.status, 500, "{path}: {answer:?}");
    }
    for host in ["_stage/x", "a/b", ".."] {
        let answer = metad.manage("PUT", "/v1/rule", &json!({host: [{"path": "/", "mode": 1}]}).to_string()).await?;
        ensure!(answer.status == 500 && String::from_utf8_lossy(&answer.body).contains("the host"), "{answer:?}");
    }
    Ok(())
}

/// With the data at the root metad's own keys are below it, and are no data.
#[tokio::test]
async fn deleting_data_takes_away_nothing_of_metads_own() -> Result<()> {
    let server = Server::start(Kind::Etcd).await?;
    let metad = on(&server.client_url(), &[]).await?;
    metad.write("PUT", "/v1/data", r#"{"a":"1","_metadx":"1"}"#).await?;
    metad.write("PUT", "/v1/mapping/1.1.1.1", r#"{"a":"/a"}"#).await?;
    metad.write("PUT", "/v1/rule", r#"{"1.1.1.1":[{"path":"/a","mode":1}]}"#).await?;
    let mut client = server.client().await?;
    // Of a write to the mappings that is under way.
    client.kv.put(put("/_metad/mapping/default/_stage/0123", "[]")).await?;
    let own = keys(&server, "/_metad/").await?;
    assert_eq!(own.len(), 3);
    for key in &own {
        metad.write("DELETE", &format!("/v1/data{key}"), "").await?;
        assert_eq!(keys(&server, "/_metad/").await?, own, "{key}");
    }
    for path in ["/_metad", "/_metad/rule/default", "/_metad?subs=mapping,rule", "?subs=_metad"] {
        metad.write("DELETE", &format!("/v1/data{path}"), "").await?;
        assert_eq!(keys(&server, "/_metad/").await?, own, "{path}");
    }
    assert_eq!(metad.ask("/self/a", ME).await?.json()?, json!("1"));
    metad.write("DELETE", "/v1/data/_metadx", "").await?;
    assert_eq!(metad.manage("GET", "/v1/data", "").await?.json()?, json!({"a": "1"}));
    // Who writes mappings still waits for the marker.
    let waits =
        tokio::time::timeout(Duration::from_millis(500), metad.write("DELETE", "/v1/mapping/1.1.1.1", "")).await;
    ensure!(waits.is_err(), "{waits:?}");
    Ok(())
}

/// What JSON said stands beside the texts, for those who ask for it.
#[tokio::test]
async fn types_come_back_and_texts_stay() -> Result<()> {
    let body = json!({"l": ["a", 1, [], {"x": null}], "n": 1.5, "t": true, "s": "5", "e": {}});
    let texts = json!({"l": {"0": "a", "1": "1", "2": {}, "3": {"x": ""}}, "n": "1.5", "t": "true", "s": "5", "e": {}});
    let server = Server::start(Kind::Etcd).await?;
    for prefix in ["", "/p"] {
        let flags = [format!("--prefix={prefix}")];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let (metad, other) = (on(&server.client_url(), &flags).await?, on(&server.client_url(), &flags).await?);
        metad.write("PUT", "/v1/mapping/1.1.1.1", r#"{"a":"/a"}"#).await?;
        metad.write("PUT", "/v1/data/a?typed=true", &body.to_string()).await?;
        let late = on(&server.client_url(), &flags).await?;
        for metad in [&metad, &other, &late] {
            metad.until("/self/a?typed=true", ME, &body).await?;
            metad.until("/self/a", ME, &texts).await?;
            metad.until("/self/a/l?typed=true", ME, &body["l"]).await?;
        }
        // The keys of the data are those that they are without types.
        let data: Vec<String> = keys(&server, &format!("{prefix}/a"))
            .await?
            .into_iter()
            .map(|key| key[prefix.len()..].to_owned())
            .collect();
        assert_eq!(data, ["/a/l/0", "/a/l/1", "/a/l/3/x", "/a/n", "/a/s", "/a/t"]);
        let types = format!("{prefix}/_metad/mapping-type/");
        assert_eq!(keys(&server, &types).await?.len(), 7);
        // A merge, one without types, and one element less.
        metad.write("PUT", "/v1/data/a?typed=true", r#"{"l":{"4":7},"n":"1.5"}"#).await?;
        metad.write("PUT", "/v1/data/a/t", "\"true\"").await?;
        let merged = json!({"l": {"0": "a", "1": 1, "2": [], "3": {"x": null}, "4": 7}, "n": "1.5", "t": "true", "s": "5", "e": {}});
        other.until("/self/a?typed=true", ME, &merged).await?;
        metad.write("POST", "/v1/data/a?typed=true", r#"{"l":[0,1,2,3,4,5,6,7,8,9,10]}"#).await?;
        let list = json!({"l": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]});
        other.until("/self/a?typed=true", ME, &list).await?;
        assert_eq!(keys(&server, &types).await?.len(), 12);
        metad.write("DELETE", "/v1/data/a/l?subs=10", "").await?;
        other.until("/self/a?typed=true", ME, &json!({"l": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]})).await?;
        metad.write("DELETE", "/v1/data/a", "").await?;
        assert_eq!(keys(&server, &types).await?, Vec::<String>::new());
        assert_eq!(metad.manage("GET", "/v1/data", "").await?.json()?, json!({}));
        let refused = metad.manage("PUT", "/v1/data?typed=true", "[1]").await?;
        assert!(refused.status == 500 && refused.body.starts_with(b"{"), "{refused:?}");
    }
    Ok(())
}

/// Lists and empty objects have no text, and what is written without types has none; in the store and in memory.
#[tokio::test]
async fn types_and_texts_take_each_others_place() -> Result<()> {
    let (etcd, cleat) = (Server::start(Kind::Etcd).await?, Server::start(Kind::Cleat).await?);
    let stored = [on(&etcd.client_url(), &[]).await?, on(&cleat.client_url(), &["--prefix=/p"]).await?];
    for metad in stored.into_iter().chain([Metad::start(&["--xff"]).await?]) {
        for (before, method, path, body, after) in [
            (r#"{"l":null}"#, "PUT", "?typed=true", r#"{"l":[1,2]}"#, json!({"l": [1, 2]})),
            (r#"{"e":5}"#, "PUT", "?typed=true", r#"{"e":{}}"#, json!({"e": {}})),
            (r#"{"e":5}"#, "PUT", "/e?typed=true", "{}", json!({"e": {}})),
            (r#"{"l":5}"#, "POST", "/l?typed=true", "[1]", json!({"l": [1]})),
            (r#"{"l":5}"#, "POST", "?typed=true", r#"{"l":[]}"#, json!({"l": []})),
            (r#"{"l":[1,2],"x":1}"#, "POST", "/l", "{}", json!({"x": 1})),
            (r#"{"l":[1,2],"x":1}"#, "PUT", "/l", r#"{"0":"1"}"#, json!({"l": {"0": "1", "1": 2}, "x": 1})),
            (r#"{"l":[1,[]],"x":1}"#, "DELETE", "/l", "", json!({"x": 1})),
        ] {
            metad.write("DELETE", "/v1/data", "").await?;
            metad.write("PUT", "/v1/data/a?typed=true", before).await?;
            metad.write(method, &format!("/v1/data/a{path}"), body).await?;
            let answer = metad.manage("GET", "/v1/data/a?typed=true", "").await?;
            assert_eq!(answer.json()?, after, "{before} {method} {path} {body}");
        }
    }
    Ok(())
}

/// Who knows no types has written over what has some.
#[tokio::test]
async fn types_that_others_left_behind_are_in_nobodys_way() -> Result<()> {
    let server = Server::start(Kind::Etcd).await?;
    let metad = on(&server.client_url(), &[]).await?;
    metad.write("PUT", "/v1/mapping/1.1.1.1", r#"{"a":"/a"}"#).await?;
    metad.write("PUT", "/v1/data?typed=true", r#"{"a":{"n":5}}"#).await?;
    let mut client = server.client().await?;
    client.kv.delete_range(DeleteRangeRequest { key: "/a/n".into(), ..DeleteRangeRequest::default() }).await?;
    client.kv.put(put("/a", "x")).await?;
    metad.until("/self/a", ME, &json!("x")).await?;
    metad.write("DELETE", "/v1/data/a", "").await?;
    assert_eq!(metad.manage("GET", "/v1/data/a", "").await?.status, 404);
    assert_eq!(keys(&server, "/_metad/mapping-type/").await?, [""; 0]);

    // A list that is written while a replacing write of texts waits, which knows nothing of it.
    let lease = client.lease.lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await?.into_inner().id;
    client.kv.put(PutRequest { lease, ..put("/_metad/mapping-stage/0123", "[]") }).await?;
    client.kv.put(put("/a/0", "1")).await?;
    client.kv.put(put("/_metad/mapping-type/a", "[]")).await?;
    let (written, ended) = tokio::join!(metad.write("POST", "/v1/data/a", r#"{"0":"2"}"#), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.lease.lease_revoke(LeaseRevokeRequest { id: lease }).await
    });
    written?;
    ended?;
    metad.until("/self/a?typed=true", ME, &json!({"0": "2"})).await?;
    assert_eq!(keys(&server, "/_metad/mapping-type/").await?, [""; 0]);
    Ok(())
}

/// Two metads replace the same directory again and again, each in several transactions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_do_not_mix() -> Result<()> {
    let server = Server::start(Kind::Etcd).await?;
    let (one, two) = (on(&server.client_url(), &[]).await?, on(&server.client_url(), &[]).await?);
    one.write("PUT", "/v1/mapping/1.1.1.1", r#"{"all":"/all"}"#).await?;
    one.write("PUT", "/v1/data/all", &many(5, "5")).await?;
    two.until("/self/all/k0000", ME, &json!("5")).await?;
    let (done, until) = tokio::sync::watch::channel(false);
    let writes = async |metad: &Metad, counts: [usize; 5]| {
        for count in counts {
            // Another may be quicker eight times; then it is said, and the client asks again.
            let deadline = Instant::now() + SOON;
            while metad.manage("POST", "/v1/data/all", &many(count, &count.to_string())).await?.status != 200 {
                ensure!(Instant::now() < deadline, "{}", metad.log());
            }
        }
        anyhow::Ok(())
    };
    let writing = async {
        let both = tokio::try_join!(writes(&one, [400, 20, 700, 3, 500]), writes(&two, [300, 600, 10, 450, 2]));
        done.send(true)?;
        both
    };
    let (written, here, there) =
        tokio::join!(writing, never_torn(&one, until.clone()), never_torn(&two, until.clone()));
    written?;
    ensure!(here? > 0 && there? > 0, "nothing was read meanwhile");
    let stored = keys(&server, "/all/").await?.len();
    ensure!([500, 2].contains(&stored), "{stored} keys are of no write");
    Ok(())
}

/// A writer that has written a marker and a part, and dies.
#[tokio::test]
async fn a_writer_that_dies_is_not_waited_for_for_ever() -> Result<()> {
    let server = Server::start(Kind::Etcd).await?;
    let metad = on(&server.client_url(), &[]).await?;
    metad.write("PUT", "/v1/mapping/1.1.1.1", r#"{"a":"/a","b":"/b"}"#).await?;
    metad.write("PUT", "/v1/data/a", "\"1\"").await?;
    let mut client = server.client().await?;
    let lease = client.lease.lease_grant(LeaseGrantRequest { ttl: 5, id: 0 }).await?.into_inner().id;
    let marker = PutRequest { lease, ..put("/_metad/mapping-stage/0123", "[]") };
    client.kv.put(marker).await?;
    for key in ["/a", "/new/x", "/new/y"] {
        client.kv.put(put(key, "half")).await?;
    }
    // Nothing of it is shown, and who writes waits for the marker to go. What is not shown yet is deleted all the same.
    let begin = Instant::now();
    assert_eq!(metad.ask("/self/a", ME).await?.json()?, json!("1"));
    metad.write("DELETE", "/v1/data/new", "").await?;
    ensure!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
    assert_eq!(keys(&server, "/_metad/mapping-stage/").await?, [""; 0]);
    assert_eq!(keys(&server, "/new/").await?, [""; 0]);
    assert_eq!(metad.ask("/self/a", ME).await?.json()?, json!("half"));
    assert_eq!(metad.manage("GET", "/v1/data/new", "").await?.status, 404);
    metad.write("PUT", "/v1/data/b", "\"2\"").await?;
    assert_eq!(metad.ask("/self/b", ME).await?.json()?, json!("2"));
    Ok(())
}

/// A client that goes away after it has sent its request leaves no half of a write.
#[tokio::test]
async fn a_client_that_leaves_leaves_no_half_of_its_write() -> Result<()> {
    let server = Server::start(Kind::Etcd).await?;
    let metad = on(&server.client_url(), &[]).await?;
    metad.write("PUT", "/v1/mapping/1.1.1.1", r#"{"all":"/all","b":"/b"}"#).await?;
    metad.write("PUT", "/v1/data/all", &many(5, "5")).await?;
    let begin = Instant::now();
    let body = many(9000, "9000");
    let head = format!("POST /v1/data/all HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut stream = TcpStream::connect(&metad.manage).await?;
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await?;
    while keys(&server, "/_metad/mapping-stage/").await?.is_empty() {
        ensure!(begin.elapsed() < SOON, "it does not begin: {}", metad.log());
    }
    drop(stream);
    let deadline = Instant::now() + SOON;
    loop {
        let all = metad.ask("/self/all", ME).await?.json()?;
        let leaves = all.as_object().context("an object")?;
        if leaves.len() == 9000 {
            break;
        }
        ensure!(leaves.len() == 5, "{} leaves of one write or another", leaves.len());
        ensure!(Instant::now() < deadline, "the write does not end: {}", metad.log());
    }
    metad.write("PUT", "/v1/data/b", "\"2\"").await?;
    assert_eq!(metad.ask("/self/b", ME).await?.json()?, json!("2"));
    assert_eq!(keys(&server, "/_metad/mapping-stage/").await?, [""; 0]);
    Ok(())
}

/// What walks the tree calls itself for each name, so paths are bounded, and refused before anything is done.
#[tokio::test]
async fn a_deep_path_is_refused_before_anything_is_done() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    for metad in [Metad::start(&["--xff"]).await?, on(&server.client_url(), &[]).await?] {
        metad.write("PUT", "/v1/mapping/1.1.1.1", r#"{"a":"/a"}"#).await?;
        metad.write("PUT", "/v1/data/a", r#"{"x":"1"}"#).await?;
        for depth in [128, 400_000] {
            let deep = vec!["n"; depth].join("/");
            let answer = metad.manage("POST", "/v1/data/a", &json!({"y": "2", (deep): "3"}).to_string()).await?;
            ensure!(answer.status == 500, "{answer:?}");
            assert_eq!(metad.ask("/self", ME).await?.json()?, json!({"a": {"x": "1"}}));
        }
        metad.write("PUT", "/v1/data/a", &json!({(vec!["n"; 127].join("/")): "3"}).to_string()).await?;
        assert_eq!(metad.ask("/self/a/x", ME).await?.json()?, json!("1"));
    }
    Ok(())
}

/// The store does a part of a write, and its answer gets lost: of the first, of one in between, and of the last.
#[tokio::test]
async fn a_part_whose_answer_is_lost_is_not_the_end() -> Result<()> {
    let server = Server::start(Kind::Etcd).await?;
    let reader = on(&server.client_url(), &[]).await?;
    reader.write("PUT", "/v1/mapping/1.1.1.1", r#"{"all":"/all"}"#).await?;
    for lost in [0, 130, 290] {
        let begin = Instant::now();
        let cutter = Cutter::before(&server).await?;
        let writer = on(&cutter.endpoint, &[]).await?;
        // All of the same length, so the parts are in the order of the keys.
        let text = |number| if number == lost { MARK } else { "keep-the-answer" };
        let leaves = (0..300).map(|number| (format!("{lost}-k{number:03}"), json!(text(number))));
        let leaves = serde_json::Value::Object(leaves.collect());
        writer.write("POST", "/v1/data/all", &leaves.to_string()).await?;
        reader.until("/self/all", ME, &leaves).await?;
        writer.until("/self/all", ME, &leaves).await?;
        assert_eq!(keys(&server, "/_metad/mapping-stage/").await?, [""; 0]);
        ensure!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
    }
    Ok(())
}

/// Written values go by themselves though the write had to wait for another.
#[tokio::test]
async fn a_time_begins_when_the_write_is_done() -> Result<()> {
    let server = Server::start(Kind::Etcd).await?;
    let metad = on(&server.client_url(), &[]).await?;
    let mut client = server.client().await?;
    let lease = client.lease.lease_grant(LeaseGrantRequest { ttl: 4, id: 0 }).await?.into_inner().id;
    client.kv.put(PutRequest { lease, ..put("/_metad/mapping-stage/0123", "[]") }).await?;
    metad.write("PUT", "/v1/data/a?ttl=2s", "\"1\"").await?;
    assert_eq!(keys(&server, "/_metad/mapping-stage/").await?, [""; 0]);
    let deadline = Instant::now() + SOON;
    while !keys(&server, "/a").await?.is_empty() {
        ensure!(Instant::now() < deadline, "it stays");
    }
    Ok(())
}
