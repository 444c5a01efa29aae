//! Who is let in, and what is no request of the gateway's.

use super::{Pair, error_of};
use ::http::{Method, Request};
use anyhow::{Context, Result, ensure};
use harness::http::{self, Answer};
use harness::ports::Port;
use harness::{Kind, Options, Server};

const RANGE: &str = r#"{"key":"YQ=="}"#;

async fn send(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes())?).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    http::send(&server.endpoint(), request.body(http::full(RANGE))?).await
}

#[tokio::test]
async fn methods_paths_and_types_are_etcds() -> Result<()> {
    let pair = Pair::start().await?;
    let cases: [(&str, &str, &[(&str, &str)], u16); 15] = [
        ("POST", "/v3/kv/range", &[], 200),
        ("POST", "/v3/kv/range", &[("content-type", "application/json; charset=utf-8")], 200),
        ("POST", "/v3/kv/range", &[("content-type", "text/plain")], 200),
        (
            "POST",
            "/v3/kv/range",
            &[("content-type", "application/x-www-form-urlencoded"), ("accept", "text/html")],
            200,
        ),
        ("GET", "/v3/kv/range", &[], 405),
        ("PUT", "/v3/kv/range", &[], 405),
        ("DELETE", "/v3/watch", &[], 405),
        ("OPTIONS", "/v3/kv/range", &[("origin", "http://a")], 200),
        ("POST", "/v3/kv/nope", &[], 404),
        ("POST", "/v3/kv/range/", &[], 404),
        ("POST", "/v3/etcdserverpb.KV/Range", &[], 404),
        ("POST", "/v3alpha/kv/range", &[], 404),
        ("GET", "/v3/nope", &[], 404),
        ("POST", "/v3/kv/range", &[("grpc-timeout", "zzz")], 400),
        ("POST", "/v3/kv/range", &[("grpc-timeout", "10S"), ("grpc-metadata-hasleader", "true")], 200),
    ];
    for (method, path, headers, status) in cases {
        let etcd = send(&pair.etcd, method, path, headers).await?;
        let cleat = send(&pair.cleat, method, path, headers).await?;
        let what = format!("{method} {path} {headers:?}: {etcd:?} {cleat:?}");
        ensure!((etcd.status, cleat.status) == (status, status), "{what}");
        for name in ["access-control-allow-origin", "access-control-allow-headers", "access-control-allow-methods"] {
            ensure!(etcd.header(name) == cleat.header(name), "{what}");
        }
        match status {
            400 => ensure!(error_of(&etcd)? == error_of(&cleat)?, "{what}"),
            // In plain text until 3.5, and as JSON since.
            404 if path.starts_with("/v3/") => ensure!(error_of(&cleat)? == (5, "Not Found".to_owned()), "{what}"),
            405 => {
                ensure!(error_of(&cleat)?.1 == String::from_utf8_lossy(&etcd.body).trim_end(), "{what}");
                ensure!(cleat.header("allow") == "POST", "{what}");
            }
            _ => {}
        }
    }
    Ok(())
}

#[tokio::test]
async fn hosts_and_origins_are_etcds() -> Result<()> {
    let flags = ["--host-whitelist=etcd.local", "--cors=http://ui:80,http://other:8080", "--enable-v2=true"];
    let pair = Pair::start_with(&flags).await?;
    let cases: [(&str, &[(&str, &str)], u16); 6] = [
        ("POST", &[("host", "etcd.local:2379"), ("origin", "http://ui:80")], 200),
        ("POST", &[("host", "etcd.local"), ("origin", "http://elsewhere")], 200),
        ("POST", &[("host", "etcd.local")], 200),
        ("OPTIONS", &[("host", "etcd.local"), ("origin", "http://other:8080")], 200),
        ("POST", &[("host", "rebound.example"), ("origin", "http://ui:80")], 421),
        ("POST", &[], 421),
    ];
    let v3 = cases.map(|(method, headers, status)| (method, "/v3/kv/range", headers, status));
    let get = |method| if method == "POST" { "GET" } else { method };
    let v2 = cases.map(|(method, headers, status)| (get(method), "/v2/keys", headers, status));
    for (method, path, headers, status) in v3.into_iter().chain(v2) {
        let etcd = send(&pair.etcd, method, path, headers).await?;
        let cleat = send(&pair.cleat, method, path, headers).await?;
        let what = format!("{method} {path} {headers:?}: {etcd:?} {cleat:?}");
        ensure!((etcd.status, cleat.status) == (status, status), "{what}");
        let name = "access-control-allow-origin";
        ensure!(etcd.header(name) == cleat.header(name), "{what}");
    }
    let refused = send(&pair.cleat, "POST", "/v3/watch", &[]).await?;
    ensure!(refused.status == 421, "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn the_gateway_can_be_off_or_on_another_port() -> Result<()> {
    let pair = Pair::start_with(&["--enable-grpc-gateway=false"]).await?;
    for path in ["/v3/kv/range", "/v3beta/kv/range", "/v3/openapi.json"] {
        let [etcd, cleat] = pair.post(path, RANGE).await?;
        ensure!((etcd.status, cleat.status) == (404, 404) && etcd.body == cleat.body, "{etcd:?} {cleat:?}");
    }
    let port = Port::reserve()?;
    let http_address = format!("127.0.0.1:{}", port.number());
    let flags = vec![format!("--listen-client-http-urls=http://{http_address}")];
    let server = Server::start_with(Kind::Cleat, Options { flags, ..Options::default() }).await?;
    ensure!(http::post(&server.endpoint(), "/v3/kv/range", RANGE).await?.status == 404, "HTTP is elsewhere");
    ensure!(http::post(&http_address, "/v3/kv/range", RANGE).await?.status == 200, "HTTP is here");
    Ok(())
}

/// A call of the gateway is a gRPC call for everything that looks at calls.
#[tokio::test]
async fn calls_are_counted_as_grpc() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    for body in [r#"{"key":"YQ=="}"#, "{}", "nonsense"] {
        http::post(&server.endpoint(), "/v3/kv/put", body).await?;
    }
    http::post(&server.endpoint(), "/v3/lease/keepalive", r#"{"ID":"1"}{"ID":"2"}"#).await?;
    let (_, _, text) = http::get(&server.client_url(), "/metrics").await?;
    let put = r#"grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#;
    let keep_alive = r#"grpc_method="LeaseKeepAlive",grpc_service="etcdserverpb.Lease",grpc_type="bidi_stream"}"#;
    for line in [
        // What is no message is no call.
        format!("grpc_server_started_total{{{put} 2"),
        format!(r#"grpc_server_handled_total{{grpc_code="OK",{put} 1"#),
        format!(r#"grpc_server_handled_total{{grpc_code="InvalidArgument",{put} 1"#),
        format!("grpc_server_msg_received_total{{{keep_alive} 2"),
        format!("grpc_server_msg_sent_total{{{keep_alive} 2"),
        format!(r#"grpc_server_handled_total{{grpc_code="OK",{keep_alive} 1"#),
    ] {
        let shown = line.split('{').next().unwrap_or_default();
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with(shown) && !line.ends_with(" 0")).collect();
        ensure!(text.lines().any(|shown| shown == line), "{line}: {lines:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_api_is_described() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let request = Request::get("/v3/openapi.json").body(http::full(""))?;
    let document = http::send(&server.endpoint(), request).await?;
    ensure!(document.status == 200 && document.header("content-type") == "application/json", "{document:?}");
    let document = document.json()?;
    let paths = document["paths"].as_object().context("paths")?;
    for (path, operation) in paths {
        ensure!(operation["post"]["requestBody"].is_object(), "{path}");
        let answer = send(&server, "GET", path, &[]).await?;
        ensure!(answer.status == 405, "{path} is described and not served: {answer:?}");
    }
    ensure!(paths.contains_key("/v3/kv/range") && paths.contains_key("/v3/election/observe"), "{paths:?}");
    Ok(())
}
