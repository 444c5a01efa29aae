//! A metadata proxy that speaks just enough of metad's protocol: one client, one tree, a version that counts changes.

use super::{LIMIT, Store};
use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 64;

/// What it shows.
#[derive(Clone)]
struct Shown {
    tree: Value,
    version: u64,
    /// Answers waits at once, as the original does below an object that `/self` names.
    never_waits: bool,
    /// Instead of any answer.
    status: Option<u16>,
    /// Instead of any answer to a wait.
    status_of_waits: Option<u16>,
}

/// The proxy; it ends when this is dropped.
pub(super) struct Metad {
    node: String,
    shown: watch::Sender<Shown>,
    requests: Arc<AtomicU64>,
    _server: JoinSet<()>,
}

impl Metad {
    pub(super) async fn start(tree: Value) -> Result<Self> {
        Self::start_with(tree, None).await
    }

    /// One that is asked over TLS if there is a configuration for it.
    pub(super) async fn start_with(tree: Value, tls: Option<Arc<ServerConfig>>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let scheme = if tls.is_some() { "https://" } else { "" };
        let node = format!("{scheme}{}", listener.local_addr()?);
        let (shown, seen) =
            watch::channel(Shown { tree, version: 7, never_waits: false, status: None, status_of_waits: None });
        let requests = Arc::new(AtomicU64::new(0));
        let mut server = JoinSet::new();
        server.spawn(serve(listener, tls.map(TlsAcceptor::from), seen, requests.clone()));
        Ok(Self { node, shown, requests, _server: server })
    }

    pub(super) fn store(&self) -> Store {
        Store { backend: "metad", node: self.node.clone() }
    }

    pub(super) fn change(&self, tree: Value) {
        self.shown.send_modify(|shown| {
            shown.tree = tree;
            shown.version += 1;
        });
    }

    /// Another process with the same data counts from the beginning.
    pub(super) fn restart(&self, tree: Value) {
        self.shown.send_modify(|shown| {
            shown.tree = tree;
            shown.version = 1;
        });
    }

    pub(super) fn answer_with(&self, status: Option<u16>) {
        self.shown.send_modify(|shown| shown.status = status);
    }

    pub(super) fn answer_waits_with(&self, status: Option<u16>) {
        self.shown.send_modify(|shown| shown.status_of_waits = status);
    }

    pub(super) fn never_wait(&self) {
        self.shown.send_modify(|shown| shown.never_waits = true);
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn serve(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    shown: watch::Receiver<Shown>,
    requests: Arc<AtomicU64>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        let (shown, requests, acceptor) = (shown.clone(), requests.clone(), acceptor.clone());
        connections.spawn(async move {
            match acceptor {
                None => converse(stream, shown, requests).await,
                Some(acceptor) => {
                    // Who does not get through it is told there why.
                    if let Ok(Ok(stream)) = timeout(LIMIT, acceptor.accept(stream)).await {
                        converse(stream, shown, requests).await;
                    }
                }
            }
        });
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    shown: watch::Receiver<Shown>,
    requests: Arc<AtomicU64>,
) {
    let service = service_fn(move |request| {
        requests.fetch_add(1, Ordering::Relaxed);
        let shown = shown.clone();
        async move { Ok::<_, Infallible>(answer(shown, &request).await) }
    });
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(mut shown: watch::Receiver<Shown>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default();
    let previous = query.split('&').find_map(|pair| pair.strip_prefix("prev_version=")?.parse::<u64>().ok());
    let is_wait = query.contains("wait=true");
    let is_refused = |shown: &Shown| shown.status.is_some() || is_wait && shown.status_of_waits.is_some();
    if is_wait && !shown.borrow().never_waits {
        let previous = previous.filter(|version| *version > 0).unwrap_or_else(|| shown.borrow().version);
        // The double may end meanwhile.
        drop(shown.wait_for(|shown| shown.version != previous || is_refused(shown)).await);
    }
    let mut shown = shown.borrow().clone();
    shown.status = shown.status.or(shown.status_of_waits.filter(|_| is_wait));
    let mut found = Some(&shown.tree);
    for name in request.uri().path().split('/').filter(|name| !name.is_empty()) {
        found = found.and_then(|node| node.get(name));
    }
    let is_json = request.headers().get("accept").is_some_and(|accept| accept == "application/json");
    let (status, body) = match (shown.status, found, is_json) {
        (Some(status), _, _) => (status, "{}".to_owned()),
        (None, Some(found), true) => (200, found.to_string()),
        (None, Some(_), false) => (406, "this double has JSON only".to_owned()),
        (None, None, _) => (404, r#"{"code":404,"message":"Not found","type":"ERROR"}"#.to_owned()),
    };
    let version = if status == 404 { 0 } else { shown.version };
    let response = Response::builder().status(status).header("X-Metad-Version", version);
    response.body(Full::from(body)).unwrap_or_default()
}
