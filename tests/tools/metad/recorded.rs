//! Requests with the answers that yunify's metad gave (`recorded.jsonl`), in order, to a new metad on each store.
//!
//! A case names the API, method, path, headers, body and client, and what is expected. With `async` it goes on while those
//! up to `completes_after` are made. Versions are not compared: there they count events since the start, here they are the
//! store's revisions; but they never go down.

use super::{LIMIT, Metad};
use anyhow::{Context, Result, ensure};
use harness::http::{self, Answer};
use harness::{Kind, Server};
use hyper::Request;
use serde_json::{Map, Value};
use tokio::task::JoinHandle;
use tokio::time::timeout;

type Case = Map<String, Value>;

async fn replayed(flags: &[&str]) -> Result<()> {
    let metad = Metad::start(flags).await?;
    let mut waiting: Vec<(Case, JoinHandle<Result<Answer>>)> = Vec::new();
    let (mut count, mut version) = (0, 0);
    for line in include_str!("recorded.jsonl").lines() {
        let case: Case = serde_json::from_str(line)?;
        let name = text(&case, "name").context("a name")?.to_owned();
        let (address, request) = (address(&metad, &case)?, request(&case)?);
        count += 1;
        if case.get("async").is_some_and(|value| *value != Value::Bool(false)) {
            let answer = tokio::spawn(async move { http::send(&address, request).await });
            // The change that ends it must not come before.
            metad.waiting(waiting.len() + 1).await.with_context(|| format!("{name} did not wait"))?;
            waiting.push((case, answer));
            continue;
        }
        let answer = http::send(&address, request).await?;
        check(&case, &answer, &mut version).with_context(|| format!("{name}\n{}", metad.log()))?;
        let (ended, rest): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(case, _)| text(case, "completes_after") == Some(&name));
        waiting = rest;
        for (case, answer) in ended {
            let answer = timeout(LIMIT, answer).await.with_context(|| format!("{case:?} does not end"))???;
            check(&case, &answer, &mut version).with_context(|| format!("{case:?}"))?;
        }
    }
    ensure!(count == 95 && waiting.is_empty(), "{count} cases");
    Ok(())
}

fn text<'c>(case: &'c Case, name: &str) -> Option<&'c str> {
    case.get(name).and_then(Value::as_str)
}

fn address(metad: &Metad, case: &Case) -> Result<String> {
    match text(case, "api") {
        Some("query") => Ok(metad.query.clone()),
        Some("manage") => Ok(metad.manage.clone()),
        other => anyhow::bail!("no such API: {other:?}"),
    }
}

fn request(case: &Case) -> Result<Request<http::Body>> {
    let mut request =
        Request::builder().method(text(case, "method").context("a method")?).uri(text(case, "path").context("a path")?);
    for (name, value) in case.get("headers").and_then(Value::as_object).into_iter().flatten() {
        request = request.header(name, value.as_str().context("a header's value")?);
    }
    if let Some(client) = text(case, "client_ip") {
        request = request.header("x-forwarded-for", client);
    }
    Ok(request.body(http::full(text(case, "body").unwrap_or_default().to_owned()))?)
}

fn check(case: &Case, answer: &Answer, version: &mut u64) -> Result<()> {
    ensure!(case["status"].as_u64() == Some(answer.status.into()), "{answer:?}");
    ensure!(text(case, "response").unwrap_or_default().as_bytes() == answer.body, "{answer:?}");
    if let Some(expected) = text(case, "content_type") {
        ensure!(answer.header("content-type") == expected, "{answer:?}");
    }
    if let Some(expected) = text(case, "location") {
        ensure!(answer.header("location") == expected, "{answer:?}");
    }
    let found = answer.header("x-metad-version");
    if case.get("x_metad_version").is_some_and(Value::is_u64) {
        let found: u64 = found.parse().with_context(|| format!("{answer:?}"))?;
        ensure!(found == 0 || found >= *version, "the version was {version}: {answer:?}");
        *version = found.max(*version);
        ensure!(answer.header("x-metad-requestid").starts_with("REQ-"), "{answer:?}");
    } else {
        ensure!(found.is_empty(), "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn answers_are_those_that_metad_was_recorded_to_give_from_memory() -> Result<()> {
    replayed(&["--xff"]).await
}

async fn on_a_store(kind: Kind) -> Result<()> {
    let server = Server::start(kind).await?;
    replayed(&["--backend", "etcdv3", "--nodes", &server.client_url(), "--xff"]).await
}

#[tokio::test]
async fn answers_are_those_that_metad_was_recorded_to_give_on_cleat() -> Result<()> {
    on_a_store(Kind::Cleat).await
}

#[tokio::test]
async fn answers_are_those_that_metad_was_recorded_to_give_on_etcd() -> Result<()> {
    on_a_store(Kind::Etcd).await
}
