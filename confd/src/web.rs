//! `/health`, `/ready`, `/ready/detailed` and `/metrics` over plain HTTP/1.1, with bounds on what a client can cost.

use crate::status::Status;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Connections at once; more wait to be accepted. Probes and scrapes are few.
const MAX_CONNECTIONS: usize = 32;
/// How long the head of a request may take, and a connection be quiet.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may last at all: one that does not read its answer ends then.
const CONNECTION_DEADLINE: Duration = Duration::from_mins(5);
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 8 << 10;
/// Pause after the system refused to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";

/// Binds the address.
///
/// # Errors
/// With the address and the reason.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    let failed = |error| format!("-metrics-addr {address}: {error}");
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    // With port 0 nobody could know it otherwise.
    tracing::info!("health and metrics are at http://{}", listener.local_addr().map_err(failed)?);
    Ok(listener)
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, status: Arc<Status>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(tokio::time::timeout(CONNECTION_DEADLINE, connection(stream, status.clone())));
            }
            Err(error) => {
                tracing::warn!("cannot accept connections: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, status: Arc<Status>) {
    let service = service_fn(move |request| {
        let status = status.clone();
        async move { Ok::<_, Infallible>(answer(&status, &request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!("a connection broke: {error}");
    }
}

async fn answer(status: &Status, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD are answered\n");
    }
    match request.uri().path() {
        "/health" => response(StatusCode::OK, TEXT, "ok\n"),
        "/ready" => {
            let reasons = status.not_ready();
            if reasons.is_empty() {
                response(StatusCode::OK, TEXT, "ok\n")
            } else {
                response(StatusCode::SERVICE_UNAVAILABLE, TEXT, reasons.join("\n") + "\n")
            }
        }
        "/ready/detailed" => {
            let details = status.details().await;
            let is_ready = details["ready"] == true;
            let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            response(code, JSON, details.to_string() + "\n")
        }
        "/metrics" => response(StatusCode::OK, METRICS, status.metrics().await),
        _ => response(StatusCode::NOT_FOUND, TEXT, "there are /health, /ready, /ready/detailed and /metrics\n"),
    }
}

fn response(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let response = Response::builder().status(code).header(CONTENT_TYPE, kind);
    response.body(Full::new(body.into())).unwrap_or_default()
}
