//! Discovery URLs: members of etcd and ours at one token, in every order.

use crate::process::{DiscoveryService, http};
use crate::{DEADLINE, Member, etcd, ids, names, options, resolve, sorted_ids, v2_store};
use anyhow::{Context, Result, ensure};
use discovery::{Options, Source};
use harness::ports::Port;
use harness::{Kind, Server};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Makes a token of the v2 API itself, and returns its URL.
pub(crate) async fn token(store: &Server, name: &str, size: &str) -> Result<String> {
    put(store, name, "_config/size", size).await?;
    Ok(format!("{}/v2/keys/tokens/{name}", store.client_url()))
}

pub(crate) async fn put(store: &Server, token: &str, key: &str, value: &str) -> Result<()> {
    let (status, body) =
        http(&store.endpoint(), "PUT", &format!("/v2/keys/tokens/{token}/{key}"), &format!("value={value}")).await?;
    ensure!(status < 300, "{status} {body}");
    Ok(())
}

pub(crate) fn source(url: &str) -> Source {
    Source::Url { url: url.to_owned(), proxy: None }
}

/// How many registrations a token has.
async fn registered(url: &str) -> Result<usize> {
    let (address, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).context("no path")?;
    let (_, body) = http(address, "GET", &format!("/{path}"), "").await?;
    let node: serde_json::Value = serde_json::from_str(&body)?;
    Ok(node["node"]["nodes"].as_array().map_or(0, Vec::len))
}

async fn wait_registered(url: &str, count: usize) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while registered(url).await? < count {
        ensure!(Instant::now() < deadline, "{url} has no {count} members");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Two members of etcd and one of ours, which comes first or last. All of them compute the same ids.
async fn one_cluster_with_etcd(url: &str, ours_first: bool) -> Result<()> {
    let (mut first, mut second) = (etcd("e1", &["--discovery", url])?, etcd("e2", &["--discovery", url])?);
    let ours = Member::new("m3")?;
    let (source, me) = (source(url), ours.me.clone());
    let found = if ours_first {
        let found = tokio::spawn(async move { resolve(&source, &me).await });
        wait_registered(url, 1).await?;
        first.spawn()?;
        second.spawn()?;
        found.await?
    } else {
        first.spawn()?;
        second.spawn()?;
        wait_registered(url, 2).await?;
        resolve(&source, &me).await
    };
    let cluster = found.map_err(anyhow::Error::msg)?;
    first.wait_ready().await?;
    assert_eq!(ids(&first).await?, sorted_ids(&cluster));
    assert_eq!(cluster.token, url);
    let place = if ours_first { 0 } else { 2 };
    assert_eq!(names(&cluster)[place], "m3", "{cluster}");
    Ok(())
}

/// Tokens of the v2 API itself, of Debian's service on it, and of ours.
async fn in_every_service(kind: Kind, ours_first: bool) -> Result<()> {
    let store = v2_store(kind).await?;
    one_cluster_with_etcd(&token(&store, "plain", "3").await?, ours_first).await?;
    let service = DiscoveryService::start(&store.client_url()).await?;
    one_cluster_with_etcd(&service.token(3).await?, ours_first).await?;
    let service = DiscoveryService::start_own(&store.client_url()).await?;
    one_cluster_with_etcd(&service.token(3).await?, ours_first).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_completes_a_cluster_of_etcd() -> Result<()> {
    in_every_service(Kind::Etcd, false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_completes_a_cluster_of_ours() -> Result<()> {
    in_every_service(Kind::Etcd, true).await
}

/// The store of the tokens is ours, also that of Debian's service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_completes_a_cluster_by_our_v2_api() -> Result<()> {
    in_every_service(Kind::Cleat, true).await
}

#[tokio::test]
async fn a_start_that_was_cut_off_is_taken_up() -> Result<()> {
    let store = v2_store(Kind::Etcd).await?;
    let url = token(&store, "cut", "2").await?;
    let (first, second) = (Member::new("m1")?, Member::new("m2")?);
    let (source_of_first, me) = (source(&url), first.me.clone());
    let started = tokio::spawn(async move { resolve(&source_of_first, &me).await });
    wait_registered(&url, 1).await?;
    started.abort();
    let impatient = Options { member_patience: Duration::from_millis(200), ..options() };
    let alone = discovery::resolve(&source(&url), &first.me, &impatient).await.unwrap_err().to_string();
    assert!(alone.contains("discovery: 1 of 2 members registered within 200ms: m1=http://127.0.0.1:"), "{alone}");
    let (source, source_again) = (source(&url), source(&url));
    let (one, two) = tokio::join!(resolve(&source, &first.me), resolve(&source_again, &second.me));
    assert_eq!(one, two);
    assert_eq!(names(&one.map_err(anyhow::Error::msg)?), ["m1", "m2"]);
    // Once more, when the cluster is complete.
    assert_eq!(resolve(&source, &first.me).await, two);
    assert_eq!(registered(&url).await?, 2);
    Ok(())
}

#[tokio::test]
async fn who_comes_too_late_is_told_who_was_there() -> Result<()> {
    let store = v2_store(Kind::Etcd).await?;
    let url = token(&store, "race", "2").await?;
    let members = ["m1", "m2", "m3", "m4"].map(Member::new).into_iter().collect::<Result<Vec<_>>>()?;
    let source = source(&url);
    let found = futures::future::join_all(members.iter().map(|member| resolve(&source, &member.me))).await;
    let (joined, refused): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
    assert_eq!(joined.len(), 2, "{joined:?} {refused:?}");
    assert_eq!(joined[0], joined[1]);
    for error in refused.into_iter().filter_map(Result::err) {
        assert!(error.starts_with("failed to join discovery cluster (discovery: cluster is full; its 2 members are m"));
    }
    Ok(())
}

#[tokio::test]
async fn a_service_that_comes_back_is_found_again() -> Result<()> {
    let mut store = v2_store(Kind::Etcd).await?;
    let url = token(&store, "back", "1").await?;
    let member = Member::new("m1")?;
    store.kill()?;
    let error = resolve(&source(&url), &member.me).await.unwrap_err();
    assert!(error.contains("discovery: too many retries; ") && error.contains("failed 3 times"), "{error}");
    let (patient, source) = (Options { tries: 1000, ..options() }, source(&url));
    let (found, restarted) = tokio::join!(discovery::resolve(&source, &member.me, &patient), store.restart());
    restarted?;
    assert_eq!(names(&found?), ["m1"]);
    Ok(())
}

/// Takes requests for other servers, one for each connection.
async fn serve_proxy(listener: TcpListener) -> Result<()> {
    loop {
        let (mut client, _) = listener.accept().await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await?);
        }
        let head = String::from_utf8(head)?;
        ensure!(head.contains("proxy-authorization: Basic dTpwIHc=\r\n"), "{head}");
        let (method, rest) = head.split_once(" http://").context("the whole URL is sent to a proxy")?;
        let (address, path) = rest.split_once('/').context("no path")?;
        let mut server = TcpStream::connect(address).await?;
        server.write_all(format!("{method} /{path}").as_bytes()).await?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    }
}

#[tokio::test]
async fn a_proxy_is_used() -> Result<()> {
    let store = v2_store(Kind::Etcd).await?;
    let (url, member, port) = (token(&store, "proxied", "1").await?, Member::new("m1")?, Port::reserve()?);
    let proxy = format!("127.0.0.1:{}", port.number());
    let source = Source::Url { url, proxy: Some(format!("u:p%20w@{proxy}")) };
    let without = resolve(&source, &member.me).await.unwrap_err();
    assert!(without.contains("too many retries") && !without.contains("p%20w"), "{without}");
    let listener = TcpListener::bind(&proxy).await?;
    let found = tokio::select! {
        found = resolve(&source, &member.me) => found,
        ended = serve_proxy(listener) => return ended,
    };
    assert_eq!(found.map(|cluster| names(&cluster).join(",")), Ok("m1".to_owned()));
    Ok(())
}
