//! The service's own answers: against etcd's v2 API where that has them, and alone where not.

use super::DEADLINE;
use super::service::{Answer, Service, Store, request};
use crate::cutter::{Cutter, MARK};
use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use harness::{Kind, Server};
use serde_json::Value;
use std::collections::BTreeSet;
use tokio::time::timeout;

/// Requests under a token, and what etcd and the service must answer alike.
const REQUESTS: [(&str, &str, &str); 17] = [
    ("GET", "", ""),
    ("GET", "/_config/size", ""),
    ("GET", "/aa", ""),
    ("PUT", "/aa?prevExist=false", "value=a%3Dhttp%3A%2F%2Fa"),
    ("PUT", "/aa?prevExist=false", "value=again"),
    ("GET", "/aa?recursive=false&wait=true&waitIndex=OWN", ""),
    ("GET", "/aa?quorum=false&recursive=false&sorted=false", ""),
    ("PUT", "/bb", "value=<b>%26%E2%82%AC"),
    ("PUT", "/bb", "value=b2"),
    ("GET", "?recursive=true&sorted=true", ""),
    ("DELETE", "/bb", ""),
    ("DELETE", "/bb", ""),
    ("PUT", "/cc?prevExist=maybe", "value=c"),
    ("GET", "?wait=maybe", ""),
    ("GET", "?recursive=7", ""),
    ("GET", "/aa?wait=true&waitIndex=x", ""),
    ("PUT", "", "value=x"),
];

/// One session, with indexes as their distance from the token's.
async fn session(address: &str, prefix: &str) -> Result<Vec<(u16, Option<i64>, Value)>> {
    let mut base = 0;
    let mut own = 0;
    let mut answers = Vec::new();
    for (method, path, form) in REQUESTS {
        let path = format!("{prefix}{}", path.replace("OWN", &own.to_string()));
        let answer = timeout(DEADLINE, request(address, method, &path, form)).await.context(path)??;
        let mut body = answer.json()?;
        if base == 0 {
            base = body["node"]["createdIndex"].as_i64().context("the token's index")?;
        }
        if method == "PUT" && answer.status == 201 {
            own = body["node"]["createdIndex"].as_i64().context("an index")?;
        }
        shift(&mut body, base);
        let index = answer.index.map(|index| if index == 0 { 0 } else { index - base + 1 });
        answers.push((answer.status, index, body));
    }
    Ok(answers)
}

fn shift(value: &mut Value, base: i64) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_i64() {
                    Some(index) if name.ends_with("ndex") && index != 0 => *field = (index - base + 1).into(),
                    _ => shift(field, base),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| shift(item, base)),
        _ => {}
    }
}

#[tokio::test]
async fn members_see_what_etcds_v2_api_answers() -> Result<()> {
    let service = Service::start(Store::Embedded, &[]).await?;
    let token = service.token(5).await?;
    let flags = vec!["--enable-v2".to_owned()];
    let etcd = Server::start_with(Kind::Etcd, harness::Options { flags, ..harness::Options::default() }).await?;
    let prefix = format!("/v2/keys/_etcd/registry{token}");
    request(&etcd.endpoint(), "PUT", &format!("{prefix}/_config/size"), "value=5").await?;
    let (theirs, ours) = (session(&etcd.endpoint(), &prefix).await?, session(&service.address(), &token).await?);
    for ((theirs, ours), (method, path, _)) in theirs.iter().zip(&ours).zip(REQUESTS) {
        ensure!(theirs == ours, "{method} {path}:\netcd    {theirs:?}\nservice {ours:?}");
    }
    Ok(())
}

#[tokio::test]
async fn bad_requests_are_answered_with_what_is_wrong() -> Result<()> {
    let service = Service::start(Store::Embedded, &[]).await?;
    let token = service.token(1).await?;
    let long = "x".repeat(20_000);
    let (long_form, long_member, long_head) = (format!("value={long}"), format!("/{}", &long[..65]), &long);
    let unknown = "/0123456789abcdef0123456789abcdef";
    let under = |path: &str| format!("{token}{path}");
    let cases: Vec<(&str, String, &str, u16, &str)> = vec![
        ("GET", "/new?size=three".to_owned(), "", 400, "size \"three\" is not a number"),
        ("GET", "/new?size=0".to_owned(), "", 400, "size 0 is not between 1 and 100"),
        ("POST", "/new".to_owned(), "size=101", 400, "size 101 is not between 1 and 100"),
        ("PUT", "/new?size=3".to_owned(), "size=-1", 400, "size -1 is not between 1 and 100"),
        ("GET", "/new?size=99999999999999999999".to_owned(), "", 400, "is not a number"),
        ("DELETE", "/new".to_owned(), "", 405, ""),
        ("GET", unknown.to_owned(), "", 404, "\"errorCode\":100"),
        ("GET", format!("{unknown}/_config/size"), "", 404, "\"errorCode\":100"),
        ("PUT", format!("{unknown}/aa"), "value=x", 404, "\"errorCode\":100"),
        ("DELETE", format!("{unknown}/aa"), "", 404, "\"errorCode\":100"),
        ("GET", unknown.to_uppercase(), "", 404, "\"errorCode\":100"),
        ("GET", "/short".to_owned(), "", 404, "\"errorCode\":100"),
        ("GET", "/a/b/c/d".to_owned(), "", 404, "\"errorCode\":100"),
        ("GET", "/%ff%fe/aa".to_owned(), "", 400, ""),
        ("PUT", under("/_hidden"), "value=x", 400, "\"errorCode\":209"),
        ("PUT", under(&long_member), "value=x", 400, "at most 64"),
        ("PUT", under("/a%2Fb"), "value=x", 400, "\"errorCode\":209"),
        ("PUT", under("/aa"), &long_form, 400, "more than 16384 bytes"),
        ("PUT", under("/aa?ttl=5"), "value=x", 400, "ttl is not supported"),
        ("PUT", under("/aa?prevValue=y"), "value=x", 400, "prevValue is not supported"),
        ("PUT", under("/aa?prevExist=true"), "value=x", 400, "prevExist=true is not supported"),
        ("PUT", under("/_config/size"), "value=9", 405, ""),
        ("DELETE", token.clone(), "", 405, ""),
        ("GET", under("?wait=true&stream=true"), "", 400, "stream is not supported"),
        ("GET", under("?wait=true&waitIndex=-1"), "", 400, "\"errorCode\":203"),
        ("GET", format!("/{long_head}"), "", 431, ""),
    ];
    for (method, path, form, status, text) in cases {
        let answer = service.request(method, &path, form).await.with_context(|| path.clone())?;
        ensure!(answer.status == status && answer.body.contains(text), "{method} {path:.80}: {answer:?}");
    }
    ensure!(service.register(&token, "aa").await?.status == 201);
    let full = service.register(&token, "bb").await?;
    ensure!(full.status == 403 && full.json()?["errorCode"] == 103, "{full:?}");
    ensure!(service.get("/health").await?.body == "OK");
    ensure!(service.get("/").await?.body.contains("/new?size=3"));
    ensure!(service.get("/robots.txt").await?.body == "User-agent: *\nDisallow: /\n");
    let metrics = service.get("/metrics").await?.body;
    for line in [
        "endpoint_new_requests_total{code=\"400\",method=\"GET\"} 3",
        "endpoint_health_requests_total{code=\"200\",method=\"GET\"} 1",
        "endpoint_token_requests_total{code=\"403\",method=\"PUT\"} 1",
    ] {
        ensure!(metrics.lines().any(|have| have == line), "{line} is not in\n{metrics}");
    }
    Ok(())
}

/// The member that an event is about.
fn named(answer: &Answer) -> Result<String> {
    let json = answer.json()?;
    let key = json["node"]["key"].as_str().context("a key")?;
    Ok(format!("{} {}", json["action"].as_str().unwrap_or_default(), key.rsplit('/').next().unwrap_or_default()))
}

#[tokio::test]
async fn several_instances_work_on_one_store() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let store = Server::start(kind).await?;
        let (one, two) =
            (Service::start(Store::Server(&store), &[]).await?, Service::start(Store::Server(&store), &[]).await?);
        let token = one.token(5).await?;
        let from = one.get(&token).await?.index.context("an index")? + 1;
        let path = format!("{token}?recursive=true&wait=true&waitIndex={from}");
        let (waited, registered) = tokio::try_join!(two.get(&path), one.register(&token, "m0"))?;
        ensure!(named(&waited)? == "create m0" && registered.status == 201, "{waited:?}");

        // All at once, through both: exactly as many as fit are in, and nobody gets an answer that is not true.
        let registrations = (1..=20).map(|n| {
            let (service, token) = (if n % 2 == 0 { &one } else { &two }, &token);
            async move { anyhow::Ok((format!("m{n}"), service.register(token, &format!("m{n}")).await?.status)) }
        });
        let statuses = join_all(registrations).await.into_iter().collect::<Result<Vec<_>>>()?;
        ensure!(statuses.iter().all(|(_, status)| [201, 403].contains(status)), "{statuses:?}");
        let mut accepted: BTreeSet<String> =
            statuses.into_iter().filter(|(_, status)| *status == 201).map(|(member, _)| member).collect();
        accepted.insert("m0".to_owned());
        // A poller that was slow sees all of them, one after the other, in order.
        let (mut polled, mut next) = (BTreeSet::new(), from);
        while polled.len() < 5 {
            let answer = two.get(&format!("{token}?recursive=true&wait=true&waitIndex={next}")).await?;
            let index = answer.json()?["node"]["modifiedIndex"].as_i64().context("an index")?;
            ensure!(index >= next);
            next = index + 1;
            polled.insert(named(&answer)?.trim_start_matches("create ").to_owned());
        }
        ensure!(polled == accepted, "{polled:?} {accepted:?}");
        let gone = format!("{token}/m0?wait=true&waitIndex={next}");
        let member = format!("{token}/m0");
        let (waited, _) = tokio::try_join!(two.get(&gone), one.request("DELETE", &member, ""))?;
        ensure!(named(&waited)? == "delete m0", "{waited:?}");
    }
    Ok(())
}

#[tokio::test]
async fn members_of_etcds_v3_discovery_are_seen() -> Result<()> {
    let store = Server::start(Kind::Cleat).await?;
    let service = Service::start(Store::Server(&store), &[]).await?;
    let token = service.token(2).await?;
    let client = crate::client::client_of(&[store.endpoint()])?;
    let size = client.get(format!("/_etcd/registry{token}/_config/size")).await?.context("the size")?;
    ensure!(size.value == "2");
    client.put(client::message::put(format!("/_etcd/registry{token}/members/aa"), "a=http://a")).await?;
    let node = service.get(&format!("{token}/aa")).await?.json()?;
    ensure!(node["node"]["value"] == "a=http://a", "{node}");
    Ok(())
}

#[tokio::test]
async fn a_registration_whose_answer_is_lost_is_not_an_error() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let store = Server::start(kind).await?;
        let cutter = Cutter::before(&store).await?;
        let service = Service::start(Store::Endpoint(&cutter.endpoint), &[]).await?;
        let token = service.token(1).await?;
        // An error would end the member, and its next start would find the registration that nobody told it of.
        let answer = service.register(&token, MARK).await?;
        ensure!(answer.status == 201 && named(&answer)? == format!("create {MARK}"), "{answer:?}\n{}", service.log());
        ensure!(service.register(&token, "other").await?.status == 403);
        // The watch was on the same connection.
        let path = format!("{token}?recursive=true&wait=true&waitIndex={}", answer.index.context("an index")?);
        let polled = timeout(DEADLINE, service.get(&path)).await??;
        ensure!(named(&polled)? == format!("create {MARK}"), "{polled:?}");
    }
    Ok(())
}
