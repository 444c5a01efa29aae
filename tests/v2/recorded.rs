//! Requests with the answers that etcd 3.4.23 gave (`recorded.jsonl`), in order, to a new server.
//!
//! A case names method, path, body and headers, and what is expected: status, headers, and text or JSON. `null` means that
//! it is there, whatever it is. `during` are requests that are made while the case's own waits.

use anyhow::{Context, Result, ensure};
use harness::http::{self, Body};
use harness::{Kind, Server};
use hyper::Request;
use serde_json::{Map, Value};
use std::time::Duration;

/// Members of JSON objects that Cleat has and etcd 3.4 has not: of the releases since, or its own.
const MORE: [(&str, &str); 2] = [("version", "cleat"), ("health", "reason")];

#[tokio::test]
async fn answers_are_those_that_etcd_was_recorded_to_give() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let mut count = 0;
    for line in include_str!("recorded.jsonl").lines() {
        let case: Map<String, Value> = serde_json::from_str(line)?;
        let name = case.get("name").and_then(Value::as_str).context("a name")?;
        check(&server.endpoint(), name, &case).await.with_context(|| name.to_owned())?;
        count += 1;
    }
    ensure!(count == 166, "{count} cases");
    Ok(())
}

async fn check(address: &str, name: &str, case: &Map<String, Value>) -> Result<()> {
    if let Some(seconds) = case.get("sleep").and_then(Value::as_f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }
    for _ in 1..case.get("repeat").and_then(Value::as_u64).unwrap_or(1) {
        http::send(address, request(case)?).await?;
    }
    let opened = http::open(address, request(case)?).await?;
    // The head says that the wait has begun.
    for during in case.get("during").and_then(Value::as_array).into_iter().flatten() {
        http::send(address, request(during.as_object().context("a request")?)?).await?;
    }
    ensure!(case["status"].as_u64() == Some(opened.status.into()), "status {}", opened.status);
    for (header, expected) in case["headers"].as_object().into_iter().flatten() {
        let found = opened.headers.get(header).with_context(|| format!("no header {header}"))?.to_str()?;
        ensure!(expected.is_null() || expected == found, "{header}: {found}");
    }
    let mut lines = opened.lines;
    if let Some(expected) = case.get("json_lines").and_then(Value::as_array) {
        for expected in expected {
            let line = lines.next().await?.context("a line is missing")?;
            same(expected, &line, name, "")?;
        }
        return Ok(());
    }
    let body = lines.rest().await?;
    if let Some(expected) = case.get("json") {
        let found = serde_json::from_slice(&body).with_context(|| String::from_utf8_lossy(&body).into_owned())?;
        same(expected, &found, name, "")?;
    } else if let Some(expected) = case.get("text").and_then(Value::as_str) {
        ensure!(expected.as_bytes() == body, "{:?}", String::from_utf8_lossy(&body));
    }
    Ok(())
}

fn request(case: &Map<String, Value>) -> Result<Request<Body>> {
    let text = |name: &str| case.get(name).and_then(Value::as_str);
    let mut request =
        Request::builder().method(text("method").context("a method")?).uri(text("path").context("a path")?);
    for (name, value) in case.get("req_headers").and_then(Value::as_object).into_iter().flatten() {
        request = request.header(name, value.as_str().context("a header's value")?);
    }
    let body = match (case.get("form").and_then(Value::as_object), case.get("body")) {
        (Some(form), _) => {
            request = request.header("content-type", "application/x-www-form-urlencoded");
            let pair =
                |(name, value): (&String, &Value)| format!("{name}={}", encoded(value.as_str().unwrap_or_default()));
            form.iter().map(pair).collect::<Vec<_>>().join("&")
        }
        (None, Some(Value::String(body))) => body.clone(),
        (None, Some(body)) => body.to_string(),
        (None, None) => String::new(),
    };
    Ok(request.body(http::full(body))?)
}

fn encoded(text: &str) -> String {
    let byte = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(byte).collect()
}

/// Compares what was expected with what came. Seconds that are left may be one less.
fn same(expected: &Value, found: &Value, name: &str, at: &str) -> Result<()> {
    match (expected, found) {
        (Value::Null, _) => Ok(()),
        (Value::Object(expected), Value::Object(found)) => {
            for (member, expected) in expected {
                let at = format!("{at}.{member}");
                same(expected, found.get(member).with_context(|| format!("{at} is missing"))?, name, &at)?;
            }
            let more = found.keys().find(|key| !expected.contains_key(*key) && !MORE.contains(&(name, key.as_str())));
            ensure!(more.is_none(), "{at} has {more:?}");
            Ok(())
        }
        (Value::Array(expected), Value::Array(found)) => {
            ensure!(expected.len() == found.len(), "{at}: {found:?}");
            expected.iter().zip(found).try_for_each(|(expected, found)| same(expected, found, name, at))
        }
        (Value::Number(expected), Value::Number(found)) if at.rsplit('.').next() == Some("ttl") => {
            let (expected, found) = (expected.as_i64().unwrap_or_default(), found.as_i64().unwrap_or_default());
            ensure!((0..=3).contains(&(expected - found)), "{at}: {found} for {expected}");
            Ok(())
        }
        _ => {
            ensure!(expected == found, "{at}: {found} for {expected}");
            Ok(())
        }
    }
}
