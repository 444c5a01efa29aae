//! What strangers try: every one is refused, learns nothing, and the others are answered meanwhile.

use super::Metad;
use anyhow::{Result, ensure};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use harness::authority::Authority;
use harness::http::{self, Answer};
use hyper::Request;
use rustix::process::Signal;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

const SECRET: &str = "s3cr3t-value";

async fn filled(flags: &[&str]) -> Result<Metad> {
    let metad = Metad::start(flags).await?;
    metad.write("PUT", "/v1/data", &format!(r#"{{"a":{{"x":"{SECRET}"}},"b":{{"y":"open"}}}}"#)).await?;
    let mapping = r#"{"1.1.1.1":{"a":"/a"},"127.0.0.1":{"b":"/b"},"::1":{"a":"/a"}}"#;
    metad.write("PUT", "/v1/mapping", mapping).await?;
    Ok(metad)
}

async fn with(metad: &Metad, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let request = headers.iter().fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
    http::send(&metad.query, request.body(http::full(""))?).await
}

fn leaks(answer: &Answer) -> bool {
    String::from_utf8_lossy(&answer.body).contains(SECRET)
}

#[tokio::test]
async fn a_client_is_who_it_is_and_not_who_it_says() -> Result<()> {
    // Without --xff the header says nothing.
    let metad = filled(&[]).await?;
    let answer = with(&metad, "/self", &[("x-forwarded-for", "1.1.1.1")]).await?;
    assert_eq!((answer.status, answer.body.as_ref()), (200, b"/b/y\topen\n".as_slice()));
    // Neither does it from somebody who is no trusted proxy.
    let metad = filled(&["--xff", "--trusted_proxies=10.0.0.0/8"]).await?;
    let answer = with(&metad, "/self", &[("x-forwarded-for", "1.1.1.1")]).await?;
    assert_eq!((answer.status, answer.body.as_ref()), (200, b"/b/y\topen\n".as_slice()));
    let metad = filled(&["--xff"]).await?;
    assert!(leaks(&with(&metad, "/self", &[("x-forwarded-for", "1.1.1.1")]).await?));
    for spoofed in [
        "/",
        "//",
        "1.1.1.1/../../",
        "9.9.9.9/../1.1.1.1",
        "x/../1.1.1.1",
        "*",
        "1.1.1.1, 9.9.9.9",
        "1.1.1.1,9.9.9.9,127.0.0.1",
        "9.9.9.9, [::1]",
        "::1%lo",
        "1.1.1.1:1",
        "0x01.1.1.1",
        "1.1.257",
        "default",
        "1.1.1.1\t/",
        "1.1.1.1;2",
        "unknown",
    ] {
        for path in ["/self", "/", "/a", "/self/a/x"] {
            let answer = with(&metad, path, &[("x-forwarded-for", spoofed)]).await?;
            ensure!(answer.status == 404 && !leaks(&answer), "{spoofed:?} {path}: {answer:?}");
        }
    }
    // Other forms of an address are the address.
    assert!(leaks(&with(&metad, "/self", &[("x-forwarded-for", "::ffff:1.1.1.1")]).await?));
    assert!(leaks(&with(&metad, "/self", &[("x-forwarded-for", "0:0:0::1")]).await?));
    Ok(())
}

#[tokio::test]
async fn paths_and_names_lead_nowhere_else() -> Result<()> {
    let metad = filled(&[]).await?;
    for path in ["/self/b/../../a/x", "/self/b/..%2f..%2fa/x", "/b/%2e%2e/a", "/self/..;/a", "/%00/a", "/b//../a/x"] {
        let answer = with(&metad, path, &[]).await?;
        ensure!(matches!(answer.status, 301 | 404) && !leaks(&answer), "{path}: {answer:?}");
    }
    for host in ["evil.example.com", "evil.example.com:80", "127.0.0.1.evil.com", "a.b"] {
        assert_eq!(with(&metad, "/self", &[("host", host)]).await?.status, 421, "{host}");
        let request = Request::get("/v1/data").header("host", host).body(http::full(""))?;
        let answer = http::send(&metad.manage, request).await?;
        ensure!(answer.status == 421 && !leaks(&answer), "{answer:?}");
    }
    assert_eq!(with(&metad, "/self", &[("host", "localhost")]).await?.status, 200);
    let metad = filled(&["--hosts=meta.example.com"]).await?;
    assert_eq!(with(&metad, "/self", &[("host", "meta.example.com:80")]).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn queries_need_what_they_are_told_to_have() -> Result<()> {
    let metad = filled(&["--required_header=Metadata=true", "--session_tokens=required"]).await?;
    assert_eq!(with(&metad, "/self", &[]).await?.status, 403);
    assert_eq!(with(&metad, "/self", &[("metadata", "no")]).await?.status, 403);
    let header = ("metadata", "true");
    assert_eq!(with(&metad, "/self", &[header, ("x-forwarded-for", "1.1.1.1")]).await?.status, 403);
    assert_eq!(with(&metad, "/self", &[header]).await?.status, 401);
    let token = async |ttl: Option<&str>| {
        let mut request = Request::put("/token").header(header.0, header.1);
        if let Some(ttl) = ttl {
            request = request.header("x-metad-token-ttl-seconds", ttl);
        }
        http::send(&metad.query, request.body(http::full(""))?).await
    };
    for ttl in [None, Some("0"), Some("21601"), Some("x")] {
        assert_eq!(token(ttl).await?.status, 400, "{ttl:?}");
    }
    let granted = token(Some("60")).await?;
    assert_eq!((granted.status, granted.header("x-metad-token-ttl-seconds")), (200, "60"));
    let token = String::from_utf8(granted.body.to_vec())?;
    assert_eq!(with(&metad, "/self", &[header, ("x-metad-token", &token)]).await?.status, 200);
    assert_eq!(with(&metad, "/self", &[header, ("x-metad-token", &token[1..])]).await?.status, 401);
    // Without the flag there is no such path.
    let metad = filled(&[]).await?;
    let request = Request::put("/token").header("x-metad-token-ttl-seconds", "60").body(http::full(""))?;
    assert_eq!(http::send(&metad.query, request).await?.status, 404);
    Ok(())
}

#[tokio::test]
async fn what_is_forbidden_looks_absent() -> Result<()> {
    let metad = filled(&["--compat=false", "--access=deny"]).await?;
    assert_eq!(with(&metad, "/self", &[]).await?.status, 404);
    let rules = r#"{"127.0.0.1":[{"path":"/b","mode":1},{"path":"/a/z","mode":1},{"path":"/b/hidden","mode":0}]}"#;
    metad.write("PUT", "/v1/rule", rules).await?;
    metad.write("PUT", "/v1/data/b/hidden", "\"x\"").await?;
    assert_eq!(with(&metad, "/self", &[]).await?.body.as_ref(), b"/b/y\topen\n");
    let absent = with(&metad, "/nothing", &[]).await?;
    for path in ["/a", "/a/x", "/b/hidden", "/nothing/below", "/self/other"] {
        let answer = with(&metad, path, &[]).await?;
        let parts = |answer: &Answer| {
            let names = answer.headers.keys().map(ToString::to_string).collect::<Vec<_>>();
            (answer.status, answer.body.clone(), answer.header("x-metad-version").to_owned(), names)
        };
        assert_eq!(parts(&answer), parts(&absent), "{path}");
    }
    for (method, path, body, status) in [
        ("PATCH", "/v1/data", "{}", 405),
        ("PUT", "/v1/mapping", "[]", 422),
        ("PUT", "/v1/rule", r#"{"h":[{"mode":7}]}"#, 422),
        ("PUT", "/v1/data/x", "nope", 400),
        ("PUT", "/v1/data/x?ttl=soon", "\"a\"", 422),
    ] {
        let answer = metad.manage(method, path, body).await?;
        assert_eq!((answer.status, answer.header("content-type")), (status, "application/json"), "{method} {path}");
    }
    Ok(())
}

#[tokio::test]
async fn the_manage_api_wants_a_token() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("tokens");
    std::fs::write(&file, "first-token\n")?;
    let metad = Metad::start(&["--manage_token_file", &file.display().to_string()]).await?;
    let with_token = async |token: &str, method: &str| {
        let request = Request::builder().method(method).uri("/v1/data/a").header("authorization", token);
        http::send(&metad.manage, request.body(http::full("\"x\""))?).await
    };
    for method in ["GET", "PUT", "POST", "DELETE"] {
        let answer = metad.manage(method, "/v1/data/a", "\"x\"").await?;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"), "{method}");
        for token in ["Bearer", "Bearer x", "first-token", "Basic Zmlyc3QtdG9rZW4=", "Bearer first-toke"] {
            assert_eq!(with_token(token, method).await?.status, 401, "{token}");
        }
    }
    assert_eq!(with_token("Bearer first-token", "PUT").await?.status, 200);
    assert_eq!(metad.manage("GET", "/ready", "").await?.status, 200);
    // A hangup reads the tokens again; a file that is wrong changes nothing.
    let becomes = async |token: &str, status: u16| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while with_token(token, "GET").await?.status != status {
            ensure!(Instant::now() < deadline, "{token} is not {status}: {}", metad.log());
        }
        anyhow::Ok(())
    };
    std::fs::write(&file, "second-token\n")?;
    metad.signal(Signal::HUP)?;
    becomes("bearer second-token", 200).await?;
    becomes("Bearer first-token", 401).await?;
    std::fs::write(&file, "")?;
    metad.signal(Signal::HUP)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !metad.log().contains("what was read before stays in use") {
        ensure!(Instant::now() < deadline, "{}", metad.log());
    }
    becomes("Bearer second-token", 200).await?;
    assert_eq!(metad.log().matches("read tokens and certificates again").count(), 1, "{}", metad.log());
    ensure!(!metad.log().contains("second-token"), "a token is in the log");
    Ok(())
}

/// A browser that a page of another site has told to write.
#[tokio::test]
async fn pages_of_other_sites_do_not_write() -> Result<()> {
    let metad = filled(&[]).await?;
    let own = format!("http://{}", metad.manage);
    for (name, value, status) in [
        ("origin", "http://evil.example.com", 403),
        ("origin", "null", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-origin", 200),
        ("origin", &own, 200),
    ] {
        for (method, path, body) in
            [("PUT", "/v1/data/c", "\"x\""), ("POST", "/v1/rule", "{}"), ("DELETE", "/v1/data/c", "")]
        {
            let request = Request::builder().method(method).uri(path).header(name, value).header("host", &metad.manage);
            let answer = http::send(&metad.manage, request.body(http::full(body))?).await?;
            assert_eq!(answer.status, status, "{method} {name} {value}");
        }
        let request = Request::get("/v1/data/b/y").header(name, value).body(http::full(""))?;
        assert_eq!(http::send(&metad.manage, request).await?.status, 200);
    }
    Ok(())
}

#[tokio::test]
async fn the_manage_api_wants_a_certificate() -> Result<()> {
    let (authority, stranger) = (Authority::new("ours")?, Authority::new("theirs")?);
    let dir = tempfile::tempdir()?;
    let put = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).map(|()| path.display().to_string())
    };
    let server = authority.issue("metad", &["127.0.0.1"])?;
    let flags = [
        "--manage_cert_file".to_owned(),
        put("cert", &server.cert)?,
        "--manage_key_file".to_owned(),
        put("key", &server.key)?,
        "--manage_client_ca".to_owned(),
        put("ca", &authority.pem())?,
    ];
    let metad = Metad::start(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let ask = async |pair: Option<harness::authority::Pair>| {
        let mut command = tokio::process::Command::new("curl");
        command.args(["-sS", "--max-time", "20", "--cacert", &flags[5]]);
        if let Some(pair) = pair {
            command.args(["--cert", &put("client", &pair.cert)?, "--key", &put("client-key", &pair.key)?]);
        }
        command.arg(format!("https://{}/v1/data", metad.manage)).arg("-o").arg(dir.path().join("out"));
        command.args(["-w", "%{http_code}"]);
        harness::tool::run(command, b"", Duration::from_secs(30)).await
    };
    assert_eq!(ask(Some(authority.issue("operator", &[])?)).await?.stdout, "200");
    assert_eq!(ask(Some(stranger.issue("operator", &[])?)).await?.stdout, "000");
    assert_eq!(ask(None).await?.stdout, "000");
    // Without TLS nobody is spoken to.
    ensure!(http::send(&metad.manage, Request::get("/v1/data").body(http::full(""))?).await.is_err());
    Ok(())
}

#[tokio::test]
async fn too_much_is_refused_and_the_others_are_answered() -> Result<()> {
    let metad = filled(&["--max_body=1000", "--max_connections_per_source=100", "--rate_limit=5"]).await?;
    let large = metad.manage("PUT", "/v1/data/l", &format!("\"{}\"", "x".repeat(2000))).await?;
    assert_eq!(large.status, 413);
    assert_eq!(metad.manage("PUT", "/v1/data/l", &"[".repeat(900)).await?.status, 400);
    let (mut answered, mut refused) = (0, 0);
    for _ in 0..200 {
        match with(&metad, "/self", &[]).await?.status {
            200 => answered += 1,
            429 => refused += 1,
            other => anyhow::bail!("{other}"),
        }
    }
    ensure!(answered >= 5 && refused > 0, "{answered} {refused}");
    // Connections that never send a whole request, more of them than one source may have.
    let mut slow = Vec::new();
    for _ in 0..150 {
        let mut stream = TcpStream::connect(&metad.query).await?;
        // Those beyond the bound are closed already.
        drop(stream.write_all(b"GET /self HTTP/1.1\r\nHost: a\r\nX: ").await);
        slow.push(stream);
    }
    // The manage API has its own.
    assert_eq!(metad.manage("GET", "/health", "").await?.json()?, json!({"status": "up"}));
    let end = async |mut stream: TcpStream| {
        let mut rest = Vec::new();
        // A connection that was closed with something unread in it is reset.
        drop(stream.read_to_end(&mut rest).await);
    };
    let begin = Instant::now();
    let mut ends: FuturesUnordered<_> = slow.into_iter().map(end).collect();
    let at_once = timeout_at(begin + Duration::from_secs(10), ends.by_ref().take(150).count()).await;
    ensure!(at_once.is_err() && (1..=100).contains(&ends.len()), "{} are kept", ends.len());
    let all = timeout_at(begin + Duration::from_secs(90), ends.count()).await;
    ensure!(all.is_ok(), "a slow connection is kept");
    while with(&metad, "/self", &[]).await?.status != 200 {
        ensure!(begin.elapsed() < Duration::from_secs(90), "nobody is answered");
    }
    ensure!(!metad.log().contains(SECRET), "a value is in the log");
    Ok(())
}
