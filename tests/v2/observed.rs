//! What is kept of requests of the v2 API: metrics, which are etcd's, and the audit log.

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::http;
use harness::{Kind, Options, Server, json_lines};
use hyper::Request;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// Sends a request with a form or JSON, and returns the status.
pub(crate) async fn send(server: &Server, method: &str, path: &str, body: &str, user: &str) -> Result<u16> {
    let kind = if body.starts_with('{') { "application/json" } else { "application/x-www-form-urlencoded" };
    let mut request = Request::builder().method(method).uri(path).header("content-type", kind);
    if !user.is_empty() {
        request = request.header("authorization", format!("Basic {}", STANDARD.encode(user)));
    }
    Ok(http::send(&server.endpoint(), request.body(http::full(body.to_owned()))?).await?.status)
}

/// The metrics of the v2 API, without times.
async fn counts(server: &Server) -> Result<BTreeMap<String, f64>> {
    let (status, _, text) = http::get(&server.client_url(), "/metrics").await?;
    ensure!(status == 200, "/metrics answers {status}");
    let is_counted = |name: &str| {
        (name.starts_with("etcd_http_") && !name.contains("_sum") && !name.contains("_bucket"))
            || name.starts_with("etcd_debugging_store_")
    };
    let series = text.lines().filter_map(|line| line.rsplit_once(' '));
    Ok(series
        .filter(|(name, _)| is_counted(name))
        .filter_map(|(name, n)| Some((name.to_owned(), n.parse().ok()?)))
        .collect())
}

/// Uses every kind of request, in vain and not.
async fn use_keys(server: &Server) -> Result<()> {
    for (method, path, form) in [
        ("PUT", "/a", "value=1"),
        ("PUT", "/a", "value=2&prevValue=1"),
        ("PUT", "/a", "value=2&prevValue=1"),
        ("PUT", "/a", "value=3&prevExist=true"),
        ("PUT", "/none", "value=3&prevExist=true"),
        ("PUT", "/a", "value=3&prevExist=false"),
        ("PUT", "/a", "value=x&ttl=x"),
        ("POST", "/queue", "value=1"),
        ("PUT", "/short", "value=1&ttl=1"),
        ("GET", "/a", ""),
        ("HEAD", "/a", ""),
        ("GET", "/none", ""),
        ("GET", "/?recursive=true", ""),
        ("GET", "/none?recursive=true", ""),
        ("GET", "/a?quorum=true", ""),
        ("GET", "/none?quorum=true", ""),
        ("GET", "/a?wait=true&waitIndex=4", ""),
        ("DELETE", "/a?prevValue=9", ""),
        ("DELETE", "/a?prevValue=3", ""),
        ("DELETE", "/none", ""),
        ("DELETE", "/queue?recursive=true", ""),
    ] {
        send(server, method, &format!("/v2/keys{path}"), form, "").await?;
    }
    let deadline = Instant::now() + DEADLINE;
    while send(server, "GET", "/v2/members/leader", "", "").await? != 200
        || counts(server).await?.get("etcd_debugging_store_expires_total") != Some(&1.0)
    {
        ensure!(Instant::now() < deadline, "the key with a TTL does not expire");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

#[tokio::test]
async fn counters_are_etcds() -> Result<()> {
    let v2 = Options { flags: vec!["--enable-v2=true".to_owned()], ..Options::default() };
    let (etcd, cleat) = tokio::try_join!(Server::start_with(Kind::Etcd, v2), Server::start(Kind::Cleat))?;
    let mut found = Vec::new();
    for server in [&etcd, &cleat] {
        let before = counts(server).await?;
        use_keys(server).await?;
        let mut risen = counts(server).await?;
        for (name, count) in &mut risen {
            *count -= before.get(name).copied().unwrap_or_default();
        }
        // What etcd itself has read and written before is not compared.
        risen.retain(|_, count| *count != 0.0);
        let failed = |kind: &str| format!("etcd_debugging_store_{kind}_failed_total");
        if server.kind() == Kind::Cleat {
            let failures = risen
                .iter()
                .filter(|(name, _)| name.starts_with(&failed("reads")) || name.starts_with(&failed("writes")));
            ensure!(failures.map(|(_, count)| *count as u64).sum::<u64>() == 7, "{risen:#?}");
        }
        // etcd counts those, and never shows them; and it reads by itself for every request.
        let is_alike =
            |name: &str| !name.contains("_failed_total{action") && !name.contains("reads_total{action=\"get\"");
        risen.retain(|name, _| is_alike(name));
        found.push(risen);
    }
    ensure!(found[0].len() > 20, "{:#?}", found[0]);
    ensure!(found[0] == found[1], "etcd {:#?}\ncleat {:#?}", found[0], found[1]);
    Ok(())
}

#[tokio::test]
async fn changes_are_in_the_audit_log() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("audit.log");
    let flags = vec![format!("--audit-log-outputs={}", path.display())];
    let server = Server::start_with(Kind::Cleat, Options { flags, ..Options::default() }).await?;
    let root = "root:hidden-password";
    for (method, path, body, user) in [
        ("PUT", "/v2/keys/a?value=hidden&ttl=60", "", ""),
        ("GET", "/v2/keys/a", "", ""),
        ("DELETE", "/v2/keys/none?recursive=true", "", ""),
        ("PUT", "/v2/auth/users/root", r#"{"user":"root","password":"hidden-password"}"#, ""),
        ("PUT", "/v2/auth/enable", "", ""),
        ("POST", "/v2/keys/a", "value=hidden", root),
        ("PUT", "/v2/keys/b", "value=hidden", root),
        ("PUT", "/v2/auth/roles/r", r#"{"role":"r"}"#, "root:wrong"),
    ] {
        send(&server, method, path, body, user).await?;
    }
    let expected = [
        ("PUT", json!({"path": "/v2/keys/a", "ttl": "60"}), 201, json!(4), None),
        ("DELETE", json!({"path": "/v2/keys/none", "recursive": "true"}), 404, Value::Null, None),
        ("PUT", json!({"path": "/v2/auth/users/root"}), 201, Value::Null, None),
        ("PUT", json!({"path": "/v2/auth/enable"}), 200, Value::Null, None),
        ("POST", json!({"path": "/v2/keys/a"}), 400, Value::Null, Some("root")),
        ("PUT", json!({"path": "/v2/keys/b"}), 201, json!(16), Some("root")),
        ("PUT", json!({"path": "/v2/auth/roles/r"}), 401, Value::Null, None),
    ];
    let found = json_lines(&path, expected.len()).await?;
    ensure!(found.len() == expected.len(), "{found:#?}");
    for (line, (method, request, code, index, user)) in found.iter().zip(expected) {
        let is_same = line["method"] == method
            && line["request"] == request
            && line["code"] == code
            && (line["index"] == index || (line["index"].is_u64() && index.is_u64()))
            && line["user"].as_str() == user
            && line["remote"].as_str().is_some_and(|remote| remote.starts_with("127.0.0.1:"));
        ensure!(is_same, "{line} is not {method} {request} {code} {index} {user:?}");
    }
    ensure!(!std::fs::read_to_string(&path)?.contains("hidden"), "a secret is in the audit log");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_recorded_is_refused_where_the_log_is_required() -> Result<()> {
    for (is_required, expected) in [(false, 201), (true, 503)] {
        let flags = vec!["--audit-log-outputs=/dev/full".to_owned(), format!("--audit-log-required={is_required}")];
        let server = Server::start_with(Kind::Cleat, Options { flags, ..Options::default() }).await?;
        let deadline = Instant::now() + DEADLINE;
        let mut key = 0;
        // The first ones are answered before it is known that their lines are lost.
        loop {
            key += 1;
            let status = send(&server, "PUT", &format!("/v2/keys/{key}"), "value=1", "").await?;
            if status == expected && key > 10 {
                break;
            }
            ensure!(Instant::now() < deadline, "{is_required}: {status}");
            tokio::time::sleep(POLL).await;
        }
        ensure!(send(&server, "GET", "/v2/keys/1", "", "").await? == 200, "reads are served");
    }
    Ok(())
}
