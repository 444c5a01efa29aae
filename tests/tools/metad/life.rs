//! metad and its store: it starts without, outlives it, and shows all of a write or nothing.

use super::Metad;
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest};
use harness::http::{self, Answer};
use harness::server::built_binary;
use harness::{Client, Cluster, Kind, Options, Place, Server, Subject};
use hyper::Request;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Command;
use std::time::{Duration, Instant};

pub(super) const ME: Option<&str> = Some("1.1.1.1");

pub(super) async fn on(url: &str, more: &[&str]) -> Result<Metad> {
    Metad::start(&[&["--backend=etcdv3", "--nodes", url, "--xff"], more].concat()).await
}

pub(super) fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() }
}

async fn compact(client: &mut Client) -> Result<()> {
    let answer = client.kv.range(RangeRequest { key: "/a".into(), ..RangeRequest::default() }).await?.into_inner();
    let revision = answer.header.context("no header")?.revision;
    client.kv.compact(CompactionRequest { revision, physical: true }).await?;
    Ok(())
}

async fn outlives(kind: Kind) -> Result<()> {
    let mut server = Server::prepare(kind, Options::default())?;
    let probes = ["--ready_path=/probes/ready", "--health_path=/probes/health"];
    let guarded = [&probes[..], &["--required_header=X-Guard", "--rate_limit=1"]].concat();
    let probed = on(&server.client_url(), &guarded).await?;
    let metad = on(&server.client_url(), &[]).await?;
    assert_eq!(metad.manage("GET", "/health", "").await?.status, 200);
    assert_eq!(metad.manage("GET", "/ready", "").await?.status, 503);
    assert_eq!(probed.ask("/probes/ready", None).await?.status, 503);
    // Whoever ends it for that would only make others wait longer.
    assert_eq!(probed.ask("/probes/health", None).await?.status, 200);
    let early = metad.ask("/self", ME).await?;
    assert_eq!((early.status, early.header("retry-after")), (503, "1"));
    server.restart().await?;
    // Written by yunify's metad, or by hand.
    let mut client = server.client().await?;
    for (key, value) in [
        ("/nodes/1/name", "one"),
        ("/nodes/1/old", "x"),
        ("/_metad/mapping/default/1.1.1.1/node", "/nodes/1"),
        ("/_metad/rule/default/9.9.9.9", "[{\"path\":\"/nodes\",\"mode\":1}]"),
        ("/_metad/mapping/defaults/1.1.1.1/no", "/nodes"),
    ] {
        client.kv.put(put(key, value)).await?;
    }
    metad.until("/self", ME, &json!({"node": {"name": "one", "old": "x"}})).await?;
    metad.until("/nodes", Some("9.9.9.9"), &json!({"1": {"name": "one", "old": "x"}})).await?;
    assert_eq!(metad.manage("GET", "/ready", "").await?.status, 200);
    let deadline = Instant::now() + Duration::from_secs(30);
    while probed.ask("/probes/ready", None).await?.status != 200 {
        ensure!(Instant::now() < deadline, "{}", probed.log());
    }
    assert_eq!(probed.ask("/", None).await?.status, 403);
    // Nothing of metad's own keys is data.
    let all = metad.manage("GET", "/v1/data", "").await?.json()?;
    assert_eq!(all, json!({"nodes": {"1": {"name": "one", "old": "x"}}}));
    let version = metad.ask("/self", ME).await?.header("x-metad-version").to_owned();

    // The store goes away, changes meanwhile, and forgets what happened.
    server.kill()?;
    assert_eq!(metad.ask("/self", ME).await?.json()?, json!({"node": {"name": "one", "old": "x"}}));
    assert_eq!(metad.manage("PUT", "/v1/data/a", "\"b\"").await?.status, 500);
    server.restart().await?;
    let mut client = server.client().await?;
    client.kv.put(put("/nodes/1/name", "uno")).await?;
    client.kv.delete_range(DeleteRangeRequest { key: "/nodes/1/old".into(), ..Default::default() }).await?;
    compact(&mut client).await?;
    metad.until("/self", ME, &json!({"node": {"name": "uno"}})).await?;
    // Another instance is told the same, and has the same tag.
    let other = on(&server.client_url(), &[]).await?;
    other.until("/self", ME, &json!({"node": {"name": "uno"}})).await?;
    let (one, two) = (metad.ask("/self", ME).await?, other.ask("/self", ME).await?);
    assert_eq!(one.header("etag"), two.header("etag"));
    ensure!(one.header("x-metad-version").parse::<i64>()? > version.parse()?, "{one:?}");
    // What one writes, both show, with the same version.
    let written = metad.write("PUT", "/v1/data/nodes/1/name", "\"dos\"").await?;
    assert_eq!(metad.ask("/self/node/name", ME).await?.json()?, json!("dos"));
    other.until("/self/node/name", ME, &json!("dos")).await?;
    let seen = other.ask("/self", ME).await?;
    assert_eq!(seen.header("x-metad-version"), written.header("x-metad-version"));
    Ok(())
}

#[tokio::test]
async fn metad_outlives_cleat() -> Result<()> {
    outlives(Kind::Cleat).await
}

#[tokio::test]
async fn metad_outlives_etcd() -> Result<()> {
    outlives(Kind::Etcd).await
}

/// So many leaves with the same text.
pub(super) fn many(count: usize, text: &str) -> String {
    let leaves = (0..count).map(|number| (format!("k{number:04}"), json!(text)));
    Value::Object(leaves.collect()).to_string()
}

/// Reads until it is stopped; everything that is read must be of one write.
pub(super) async fn never_torn(metad: &Metad, until: tokio::sync::watch::Receiver<bool>) -> Result<usize> {
    let mut reads = 0;
    while !*until.borrow() {
        let answer: Answer = metad.ask("/self/all", ME).await?;
        ensure!(answer.status == 200, "there was a moment without data: {answer:?}");
        let body = answer.json()?;
        let leaves = body.as_object().context("an object")?;
        let first = leaves.values().next().context("a leaf")?;
        ensure!(leaves.values().all(|leaf| leaf == first), "parts of two writes");
        let expected = first.as_str().and_then(|text| text.parse::<usize>().ok());
        ensure!(expected == Some(leaves.len()), "{} leaves of {first}", leaves.len());
        reads += 1;
    }
    Ok(reads)
}

async fn is_atomic(kind: Kind) -> Result<()> {
    let server = Server::start(kind).await?;
    let (writer, reader) = (on(&server.client_url(), &[]).await?, on(&server.client_url(), &[]).await?);
    writer.write("PUT", "/v1/mapping/1.1.1.1", r#"{"all":"/all"}"#).await?;
    writer.write("PUT", "/v1/data/all", &many(5, "5")).await?;
    reader.until("/self/all/k0000", ME, &json!("5")).await?;
    let (done, until) = tokio::sync::watch::channel(false);
    let writing = async {
        for round in 0..6 {
            // Within one transaction of the store, and in several; growing and shrinking.
            let count = [700, 50, 300, 1000, 3, 128][round];
            writer.write("POST", "/v1/data/all", &many(count, &count.to_string())).await?;
        }
        writer.write("POST", "/v1/data/all", &many(600, "600")).await?;
        reader.until("/self/all/k0599", ME, &json!("600")).await?;
        done.send(true)?;
        anyhow::Ok(())
    };
    let (written, here, there) =
        tokio::join!(writing, never_torn(&writer, until.clone()), never_torn(&reader, until.clone()));
    written?;
    ensure!(here? > 0 && there? > 0, "nothing was read meanwhile");
    // Nothing but the data is left in the store.
    let mut client = server.client().await?;
    let staged = RangeRequest {
        key: "/_metad/mapping-stage/".into(),
        range_end: "/_metad/mapping-stage0".into(),
        ..Default::default()
    };
    assert_eq!(client.kv.range(staged).await?.into_inner().kvs.len(), 0);
    // The root is all but metad's own keys.
    writer.write("POST", "/v1/data", r#"{"one":"1"}"#).await?;
    assert_eq!(writer.manage("GET", "/v1/data", "").await?.json()?, json!({"one": "1"}));
    assert_eq!(writer.manage("GET", "/v1/mapping", "").await?.json()?, json!({"1.1.1.1": {"all": "/all"}}));
    writer.write("DELETE", "/v1/data", "").await?;
    assert_eq!(writer.manage("GET", "/v1/data", "").await?.json()?, json!({}));
    assert_eq!(writer.manage("PUT", "/v1/data", r#"{"_metad":{"x":"1"}}"#).await?.status, 500);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_to_cleat_is_seen_whole() -> Result<()> {
    is_atomic(Kind::Cleat).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_to_etcd_is_seen_whole() -> Result<()> {
    is_atomic(Kind::Etcd).await
}

#[tokio::test]
async fn what_has_a_time_goes_by_itself() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let (memory, store) = (Metad::start(&["--xff"]).await?, on(&server.client_url(), &[]).await?);
    let goes = async |metad: &Metad| {
        metad.write("PUT", "/v1/data/a?ttl=10s", r#"{"x":"1"}"#).await?;
        metad.write("PUT", "/v1/mapping?ttl=10s", r#"{"1.1.1.1":{"a":"/a"},"default":{"b":"/b"}}"#).await?;
        metad.write("PUT", "/v1/rule?ttl=10s", r#"{"8.8.8.8":[{"path":"/b","mode":1}]}"#).await?;
        metad.write("PUT", "/v1/data/b", "\"stays\"").await?;
        assert_eq!(metad.ask("/b", Some("8.8.8.8")).await?.status, 200);
        assert_eq!(metad.manage("PUT", "/v1/rule?ttl=soon", "{}").await?.status, 500);
        metad.write("PUT", "/v1/mapping", r#"{"10.0.0.0/8":{"b":"/b"}}"#).await?;
        assert_eq!(metad.ask("/self", ME).await?.json()?, json!({"a": {"x": "1"}}));
        assert_eq!(metad.ask("/self", Some("3.3.3.3")).await?.json()?, json!({"b": "stays"}));
        let deadline = Instant::now() + Duration::from_secs(30);
        while metad.ask("/self", ME).await?.status != 404 || metad.ask("/self", Some("3.3.3.3")).await?.status != 404 {
            ensure!(Instant::now() < deadline, "it stays");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        while metad.manage("GET", "/v1/rule", "").await?.json()? != json!({}) {
            ensure!(Instant::now() < deadline, "the rules stay");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(metad.ask("/self", Some("10.1.2.3")).await?.json()?, json!({"b": "stays"}));
        let names = metad.ask("/?recursive=false", Some("10.1.2.3")).await?.json()?;
        assert_eq!(names, json!(["b", "self/"]));
        anyhow::Ok(())
    };
    tokio::try_join!(goes(&memory), goes(&store))?;
    Ok(())
}

#[tokio::test]
async fn an_end_answers_who_waits_and_is_told_by_its_signal() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let pid_file = dir.path().join("pid").display().to_string();
    let mut metad = Metad::start(&["--xff", "--pid_file", &pid_file]).await?;
    assert_eq!(std::fs::read_to_string(&pid_file)?, metad.child.id().to_string());
    metad.write("PUT", "/v1/data/a", "\"secret-1\"").await?;
    metad.write("PUT", "/v1/mapping/1.1.1.1", r#"{"a":"/a"}"#).await?;
    let request = Request::get("/self/a?wait=true").header("x-forwarded-for", "1.1.1.1").body(http::full(""))?;
    let address = metad.query.clone();
    let waits = tokio::spawn(async move { http::send(&address, request).await });
    metad.waiting(1).await?;
    metad.signal(Signal::TERM)?;
    let answer = waits.await??;
    assert_eq!((answer.status, answer.body.as_ref()), (200, b"secret-1".as_slice()));
    let status = metad.ended().await?;
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()), "{}", metad.log());
    ensure!(!std::fs::exists(&pid_file)? && !metad.log().contains("secret-1"), "{}", metad.log());
    Ok(())
}

/// Members go one by one; what is written through a metad is answered by it and by another, to the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_goes_away_is_not_missed() -> Result<()> {
    let mut cluster = Cluster::start(&Subject::of(Kind::Cleat)?, Place::Loopback, 3).await?;
    let urls: Vec<String> = (0..3).map(|member| cluster.url(member)).collect();
    let nodes: Vec<&str> = urls.iter().flat_map(|url| ["--nodes", url]).collect();
    let flags = [&["--backend=etcdv3", "--xff"], nodes.as_slice()].concat();
    let (one, two) = (Metad::start(&flags).await?, Metad::start(&flags).await?);
    one.write("PUT", "/v1/mapping/1.1.1.1", r#"{"a":"/a"}"#).await?;
    for member in 0..3 {
        cluster.kill(member)?;
        assert_eq!(one.ask("/", ME).await?.status, 200);
        // What the client library cannot prove to be undone is told, and asked for again here.
        let deadline = Instant::now() + Duration::from_mins(1);
        while one.manage("PUT", "/v1/data/a", &format!("\"{member}\"")).await?.status != 200 {
            ensure!(Instant::now() < deadline, "no write succeeds: {}", one.log());
        }
        let expected = json!(member.to_string());
        one.until("/self/a", ME, &expected).await?;
        two.until("/self/a", ME, &expected).await?;
        cluster.restart(member).await?;
    }
    Ok(())
}

/// The name by which it was called, even if that is no text.
#[test]
fn log_lines_have_the_programs_name() -> Result<()> {
    for (name, shown) in [(b"other".as_slice(), " other["), (b"meta\xff", " meta\u{fffd}[")] {
        // An address that nobody has, so it ends.
        let mut command = Command::new(built_binary("metad")?);
        let output = command.arg0(OsStr::from_bytes(name)).args(["--listen", "192.0.2.1:80"]).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains(shown), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn who_reads_no_log_ends_nothing() -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let flags = ["--backend", "local", "--access_log", "--log_level", "debug"];
    let mut metad = Metad::spawn_into(writer.into(), tempfile::tempdir()?, &flags, &[])?;
    metad.serves().await?;
    for value in ["one", "two"] {
        metad.write("PUT", "/v1/data/a", &format!("\"{value}\"")).await?;
        let answer = metad.manage("GET", "/v1/data/a", "").await?;
        ensure!(answer.json()? == value, "{answer:?}");
    }
    ensure!(metad.child.try_wait()?.is_none(), "metad has ended");
    Ok(())
}
