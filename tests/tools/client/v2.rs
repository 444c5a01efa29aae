//! The client of the v2 API against servers that have one, and against some that misbehave.

use super::DEADLINE;
use super::tls::Authority;
use crate::cutter::{Cutter, MARK};
use anyhow::{Context, Result, ensure};
use client::TlsOptions;
use client::v2::{Change, Client, Condition, Delete, Error, Event, Get, Options, Put, User, code};
use harness::http::{full, send};
use harness::ports::Port;
use harness::{Kind, Server};
use http::Request;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Who has a v2 API.
pub(crate) const MAKERS: [Kind; 2] = [Kind::Etcd, Kind::Cleat];

/// A server with the v2 API.
pub(crate) async fn v2_server(kind: Kind, flags: &[&str]) -> Result<Server> {
    let flags = ["--enable-v2=true"].iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
    Server::start_with(kind, harness::Options { flags, ..harness::Options::default() }).await
}

fn options(endpoints: &[String]) -> Options {
    let (dial_timeout, request_timeout) = (Duration::from_secs(5), Duration::from_secs(20));
    Options { endpoints: endpoints.to_vec(), dial_timeout, request_timeout, ..Options::default() }
}

/// A client with long limits.
pub(crate) fn v2_client(server: &Server) -> Result<Client> {
    Ok(Client::new(&options(&[server.endpoint()]))?)
}

fn error<T>(result: Result<T, Error>) -> Result<Error> {
    result.err().context("it did not fail")
}

async fn event(watch: &mut client::v2::Watch) -> Result<Event> {
    match tokio::time::timeout(DEADLINE, watch.next()).await.context("no change")?? {
        Change::Event(event) => Ok(event),
        Change::Present(present) => anyhow::bail!("no event, but {present:?}"),
    }
}

#[tokio::test]
async fn keys_are_written_under_every_condition() -> Result<()> {
    for kind in MAKERS {
        let server = v2_server(kind, &[]).await?;
        let client = v2_client(&server)?;
        let set = client.set("/a b/\u{fc}", "x&y=z %+").await?;
        ensure!(
            set.event.action == "set" && set.event.prev_node.is_none() && set.index >= set.event.node.modified_index
        );
        let read = client.get("a b/\u{fc}", Get { quorum: true, ..Get::default() }).await?.event.node;
        ensure!(read.value.as_deref() == Some("x&y=z %+") && read.key == "/a b/\u{fc}", "{read:?}");
        let put = |condition| Put { value: Some("v".to_owned()), condition, ..Put::default() };
        let created = client.put("/c", put(Condition::Absent)).await?.event;
        let refused = error(client.put("/c", put(Condition::Absent)).await)?;
        ensure!(refused.is(code::NODE_EXISTS) && !refused.may_be_done(), "{refused}");
        ensure!(client.put("/c", put(Condition::Exists)).await?.event.action == "update");
        let matches = |value: Option<&str>, index| Condition::Matches { value: value.map(str::to_owned), index };
        let refused = error(client.put("/c", put(matches(Some("w"), None))).await)?;
        let Error::Answered { code: 101, status: 412, message, cause, index, .. } = refused else {
            panic!("{refused}")
        };
        ensure!(
            (message.as_str(), cause.as_str()) == ("Compare failed", "[w != v]") && index > created.node.created_index
        );
        let index = client.get("/c", Get::default()).await?.event.node.modified_index;
        let swapped = client.put("/c", put(matches(Some("v"), Some(index)))).await?.event;
        ensure!(swapped.action == "compareAndSwap" && swapped.prev_node.is_some(), "{swapped:?}");
        let with_ttl = Put { ttl: Some(500), no_value_on_success: true, ..put(Condition::Any) };
        ensure!(client.put("/c", with_ttl).await?.event.node.value.is_none());
        let refresh = Put { ttl: Some(1000), refresh: true, condition: Condition::Exists, ..Put::default() };
        let refreshed = client.put("/c", refresh).await?.event.node;
        ensure!(refreshed.value.as_deref() == Some("v") && refreshed.ttl.is_some_and(|ttl| ttl > 900), "{refreshed:?}");
        let first = client.create_in_order("/q", "1".to_owned(), None).await?.event.node.key;
        let second = client.create_in_order("/q", "2".to_owned(), Some(100)).await?.event.node.key;
        ensure!(first < second && first.starts_with("/q/"), "{first} {second}");
        client.put("/d", Put { dir: true, ..Put::default() }).await?;
        let tree = client.get("/", Get { recursive: true, sorted: true, quorum: false }).await?.event.node;
        let keys: Vec<&str> = tree.nodes.iter().map(|node| node.key.as_str()).collect();
        ensure!(keys == ["/a b", "/c", "/d", "/q"] && tree.nodes[3].nodes.len() == 2, "{keys:?}");
        let by_value = Delete { value: Some("w".to_owned()), ..Delete::default() };
        ensure!(error(client.delete("/c", by_value).await)?.is(code::COMPARE_FAILED));
        ensure!(error(client.delete("/q", Delete::default()).await)?.is(code::NOT_A_FILE));
        client.delete("/d", Delete { dir: true, ..Delete::default() }).await?;
        let gone = client.delete("/q", Delete { recursive: true, ..Delete::default() }).await?.event;
        ensure!(gone.action == "delete" && gone.prev_node.is_some_and(|node| node.dir));
        ensure!(error(client.get("/q", Get::default()).await)?.is(code::KEY_NOT_FOUND));
    }
    Ok(())
}

#[tokio::test]
async fn a_watch_misses_nothing_between_two_polls() -> Result<()> {
    for kind in MAKERS {
        let server = v2_server(kind, &[]).await?;
        let client = v2_client(&server)?;
        let start = client.set("/w/a", "0").await?.index;
        let mut watch = client.watch("/w", true, Some(start));
        for value in 1..20 {
            client.set("/w/a", value.to_string()).await?;
            client.set("/elsewhere", "x").await?;
        }
        for value in 1..20 {
            ensure!(event(&mut watch).await?.node.value == Some(value.to_string()));
        }
        client.put("/w/a", Put { value: Some("v".to_owned()), ttl: Some(1), ..Put::default() }).await?;
        ensure!(event(&mut watch).await?.action == "set");
        let expired = event(&mut watch).await?;
        ensure!(expired.action == "expire" && expired.prev_node.is_some_and(|node| node.value.as_deref() == Some("v")));
    }
    Ok(())
}

#[tokio::test]
async fn a_watch_whose_history_is_gone_reads_how_things_are() -> Result<()> {
    for kind in MAKERS {
        let server = v2_server(kind, &[]).await?;
        let client = v2_client(&server)?;
        client.set("/w/a", "0").await?;
        let mut watch = client.watch("/w", true, Some(1));
        let mut missing = client.watch("/nowhere", false, Some(1));
        for value in 0..1010 {
            client.set("/w/a", value.to_string()).await?;
        }
        let Change::Present(Some(present)) = watch.next().await? else { panic!("the history was not cleared") };
        ensure!(present.event.node.nodes[0].value.as_deref() == Some("1009"), "{present:?}");
        ensure!(missing.next().await? == Change::Present(None));
        client.set("/w/b", "next").await?;
        ensure!(event(&mut watch).await?.node.key == "/w/b");
    }
    Ok(())
}

#[tokio::test]
async fn a_watch_survives_a_cut_connection() -> Result<()> {
    for kind in MAKERS {
        let server = v2_server(kind, &[]).await?;
        let cutter = Cutter::before(&server).await?;
        let through = Client::new(&options(std::slice::from_ref(&cutter.endpoint)))?;
        let client = v2_client(&server)?;
        let start = client.set(MARK, "0").await?.index;
        // The answer to the first poll is lost.
        let mut watch = through.watch(MARK, false, Some(start));
        client.set(MARK, "1").await?;
        client.set(MARK, "2").await?;
        ensure!(event(&mut watch).await?.node.value.as_deref() == Some("1"));
        ensure!(event(&mut watch).await?.node.value.as_deref() == Some("2"));
    }
    Ok(())
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_not_repeated() -> Result<()> {
    for kind in MAKERS {
        let server = v2_server(kind, &[]).await?;
        let cutter = Cutter::before(&server).await?;
        let client = Client::new(&options(&[cutter.endpoint.clone(), server.endpoint()]))?;
        let lost = error(client.create_in_order("/q", MARK.to_owned(), None).await)?;
        ensure!(matches!(lost, Error::Lost(_)) && lost.may_be_done(), "{lost}");
        // A read is, at the other endpoint.
        ensure!(client.get("/q", Get::default()).await?.event.node.nodes.len() == 1);
    }
    Ok(())
}

#[tokio::test]
async fn endpoints_are_those_of_the_members() -> Result<()> {
    for kind in MAKERS {
        let (server, dead) = (v2_server(kind, &[]).await?, Port::reserve()?);
        let dead = format!("127.0.0.1:{}", dead.number());
        let client = Client::new(&options(&[dead.clone(), server.endpoint()]))?;
        // A write as the first call: it never left for the dead endpoint.
        client.set("/a", "1").await?;
        ensure!(client.endpoints() == [format!("http://{dead}"), server.client_url()]);
        client.sync().await?;
        ensure!(client.endpoints() == [server.client_url()]);
        let (members, leader) = (client.members().await?, client.leader().await?);
        ensure!(members == [leader.clone()] && leader.name == "default", "{members:?}");
        ensure!(leader.peer_urls == [server.peer_url()] && leader.client_urls == [server.client_url()]);
        let alone = Client::new(&Options { request_timeout: Duration::from_millis(300), ..options(&[dead]) })?;
        let (begun, unreachable) = (Instant::now(), error(alone.set("/a", "2").await)?);
        ensure!(matches!(unreachable, Error::Unreachable(_)) && !unreachable.may_be_done(), "{unreachable}");
        ensure!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
    }
    Ok(())
}

#[tokio::test]
async fn users_have_passwords() -> Result<()> {
    for kind in MAKERS {
        let server = v2_server(kind, &[]).await?;
        let put = |path: &str, body: &'static str| {
            let request = Request::put(path).header("Content-Type", "application/json").body(full(body));
            let endpoint = server.endpoint();
            async move { anyhow::Ok(send(&endpoint, request?).await?.status) }
        };
        ensure!(put("/v2/auth/users/root", r#"{"user":"root","password":"s:e cret"}"#).await? < 300);
        ensure!(put("/v2/auth/enable", "").await? == 200);
        let delete = Request::delete("/v2/auth/users/x").body(full(""))?;
        ensure!(send(&server.endpoint(), delete).await?.status == 401, "authentication is not enabled");
        let as_user = |password: &str| {
            let user = Some(User { name: "root".to_owned(), password: password.to_owned() });
            Client::new(&Options { user, ..options(&[server.endpoint()]) })
        };
        as_user("s:e cret")?.set("/a", "1").await?;
        let refused = error(as_user("wrong")?.set("/a", "2").await)?;
        ensure!(refused.is(110) && !refused.to_string().contains("wrong"), "{refused}");
        ensure!(!format!("{:?}", as_user("wrong")?).contains("wrong"));
    }
    Ok(())
}

#[tokio::test]
async fn connections_are_encrypted() -> Result<()> {
    let dir = tempfile::TempDir::new()?;
    let authority = Authority::new()?;
    let (cert, key) = authority.sign("store.test", dir.path())?;
    let ca = authority.write(dir.path())?;
    for kind in MAKERS {
        let flags = vec![
            "--enable-v2=true".to_owned(),
            format!("--cert-file={}", cert.display()),
            format!("--key-file={}", key.display()),
        ];
        let mut server =
            Server::prepare(kind, harness::Options { flags, is_secure: true, ..harness::Options::default() })?;
        server.restart().await?;
        let trusting = |server_name: Option<&str>| {
            let server_name = server_name.map(str::to_owned);
            let tls = Some(TlsOptions { ca_file: Some(ca.clone()), server_name, ..TlsOptions::default() });
            Client::new(&Options { tls, ..options(&[server.client_url()]) })
        };
        trusting(Some("store.test"))?.set("/a", "1").await?;
        let refused = error(trusting(None)?.set("/a", "1").await)?;
        ensure!(matches!(refused, Error::Unreachable(_)), "{refused}");
    }
    Ok(())
}

/// Answers each connection with the next of these texts, and returns what was asked.
async fn answering(answers: Vec<String>) -> Result<(String, tokio::task::JoinHandle<Result<Vec<String>>>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let served = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            let head = String::from_utf8(head)?;
            // What is not read would break the connection before the answer is.
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            stream.read_exact(&mut vec![0; length]).await?;
            stream.write_all(answer.as_bytes()).await?;
            asked.push(head);
        }
        Ok(asked)
    });
    Ok((url, served))
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n{body}")
}

const EVENT: &str =
    "{\"action\":\"get\",\"node\":{\"key\":\"/a\",\"value\":\"v\",\"modifiedIndex\":7,\"createdIndex\":7}}\n";

#[tokio::test]
async fn a_redirect_is_followed_and_strangers_are_not_told_who_asks() -> Result<()> {
    let user = Some(User { name: "u".to_owned(), password: "p".to_owned() });
    let (stranger, served_by_stranger) = answering(vec![answer("200 OK", "", EVENT)]).await?;
    let (member, served_by_member) = answering(vec![answer("200 OK", "X-Etcd-Index: 9\r\n", EVENT)]).await?;
    for (target, is_member) in [(&stranger, false), (&member, true)] {
        let moved = answer("307 Temporary Redirect", &format!("Location: {target}/v2/keys/a?x=y\r\n"), "");
        let (first, served) = answering(vec![moved]).await?;
        let endpoints = if is_member { vec![first, member.clone()] } else { vec![first] };
        let client = Client::new(&Options { user: user.clone(), ..options(&endpoints) })?;
        let response = client.get("/a", Get::default()).await?;
        ensure!(response.index == if is_member { 9 } else { 7 }, "{response:?}");
        ensure!(served.await??[0].contains("authorization: Basic dTpw\r\n"));
    }
    let (asked_stranger, asked_member) = (served_by_stranger.await??, served_by_member.await??);
    ensure!(asked_stranger[0].starts_with("GET /v2/keys/a?x=y ") && !asked_stranger[0].contains("authorization"));
    ensure!(asked_member[0].contains("authorization: Basic dTpw\r\n"));
    Ok(())
}

#[tokio::test]
async fn a_server_error_sends_reads_to_the_next_endpoint_and_writes_home() -> Result<()> {
    let body = "{\"errorCode\":300,\"message\":\"Raft Internal Error\",\"cause\":\"etcdserver: request timed out\",\"index\":0}\n";
    let failing = || answer("500 Internal Server Error", "", body);
    let ((first, _served), (second, _also_served)) =
        (answering(vec![failing(), failing()]).await?, answering(vec![answer("200 OK", "", EVENT)]).await?);
    let client = Client::new(&options(&[first.clone(), second]))?;
    ensure!(client.get("/a", Get::default()).await?.event.node.value.as_deref() == Some("v"));
    let client = Client::new(&options(std::slice::from_ref(&first)))?;
    let failed = error(client.set("/a", "v").await)?;
    ensure!(failed.is(code::RAFT_INTERNAL) && failed.may_be_done(), "{failed}");
    let expected = format!("{first}: 300: Raft Internal Error (etcdserver: request timed out) [0]");
    ensure!(failed.to_string() == expected, "{failed}");
    Ok(())
}

#[tokio::test]
async fn what_is_no_v2_api_is_said() -> Result<()> {
    let (url, _served) = answering(vec![answer("404 Not Found", "", "404 page not found\n")]).await?;
    let refused = error(Client::new(&options(std::slice::from_ref(&url)))?.get("/a", Get::default()).await)?;
    ensure!(refused.to_string() == format!("{url} answers 404: \"404 page not found\""), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_value_that_cannot_be_read_is_not_shown() -> Result<()> {
    for (body, why) in [
        ("{\"action\":\"get\",\"node\":\"s3cret\"}\n", "it is other JSON, at line 1, column 31"),
        ("s3cret", "it is no JSON, at line 1, column 1"),
        ("{\"action\":\"s3cret", "it ends too early, at line 1, column 17"),
    ] {
        let (url, _served) = answering(vec![answer("200 OK", "", body)]).await?;
        let refused = error(Client::new(&options(std::slice::from_ref(&url)))?.get("/a", Get::default()).await)?;
        let expected = format!("{url} answers 200: something that is no event: {why}");
        ensure!(refused.to_string() == expected, "{refused}, not {expected}");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_not_asked_for_again() -> Result<()> {
    // Whoever asks again is not answered any more.
    let (url, served) = answering(vec![answer("200 OK", "", EVENT)]).await?;
    let client = Client::new(&Options { max_answer_bytes: EVENT.len() - 1, ..options(std::slice::from_ref(&url)) })?;
    let refused = error(client.get("/a", Get::default()).await)?;
    ensure!(matches!(refused, Error::TooLong(_)), "{refused}");
    ensure!(refused.to_string() == format!("{url} answers with more than {} bytes", EVENT.len() - 1), "{refused}");
    ensure!(served.await??.len() == 1);
    Ok(())
}

/// Answers polls and reads for ever: the history is gone, and how things are cannot be read for the first times.
async fn forgetful(failures: usize) -> Result<(String, tokio::task::JoinHandle<Result<()>>)> {
    let cleared = answer("400 Bad Request", "", "{\"errorCode\":401,\"message\":\"cleared\",\"index\":2000}\n");
    let failed = answer("500 Internal Server Error", "", "{\"errorCode\":301,\"message\":\"election\"}\n");
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let served = tokio::spawn(async move {
        let (mut failures, mut polls) = (failures, 0);
        loop {
            let (mut stream, _) = listener.accept().await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            let head = String::from_utf8(head)?;
            let good = |body| answer("200 OK", "X-Etcd-Index: 2000\r\n", body);
            let answer = if head.contains("waitIndex=2001") {
                polls += 1;
                good(if polls == 1 { "s3cret\n" } else { EVENT })
            } else if head.contains("wait=true") {
                cleared.clone()
            } else if failures > 0 {
                failures -= 1;
                failed.clone()
            } else {
                good(EVENT)
            };
            // Who ran out of time asks again.
            drop(stream.write_all(answer.as_bytes()).await);
        }
    });
    Ok((url, served))
}

#[tokio::test]
async fn a_watch_goes_on_after_failures_that_pass() -> Result<()> {
    // More than one read makes in its time, whose pauses are longer each time.
    let (url, served) = forgetful(12).await?;
    let client = Client::new(&Options { request_timeout: Duration::from_secs(3), ..options(&[url]) })?;
    let mut watch = client.watch("/a", false, Some(1));
    let present = tokio::time::timeout(DEADLINE, watch.next()).await??;
    ensure!(matches!(present, Change::Present(Some(_))), "{present:?}");
    // After an answer that cannot be read, the next question is another one.
    let unreadable = error(tokio::time::timeout(DEADLINE, watch.next()).await?)?;
    ensure!(unreadable.to_string().contains("no event") && !unreadable.to_string().contains("s3cret"), "{unreadable}");
    ensure!(event(&mut watch).await?.node.value.as_deref() == Some("v"));
    served.abort();
    Ok(())
}
