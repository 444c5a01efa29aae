//! The sockets: HTTP/1.1, with TLS or without, and with bounds on what connections may cost, all of them and those of one
//! source.

mod progress;
mod tls;

pub(crate) use tls::{Acceptor, Files as TlsFiles};

use crate::address;
use crate::app::Peer;
use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use progress::Progressing;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// How long a TLS handshake, or the head of a request, may take. It is also how long a quiet connection is kept.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// How long a client may take nothing of what is written to it.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of a request's head, and of what is read ahead.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Pause after the system refused to accept, as it does when there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Descriptors that are kept for other things than connections.
const OTHER_DESCRIPTORS: u64 = 64;

/// What connections may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once; more wait to be accepted.
    pub(crate) connections: usize,
    /// Connections of one source at once; more are closed.
    pub(crate) of_source: usize,
}

impl Limits {
    /// Not more than the process may have descriptors for.
    pub(crate) fn possible(self) -> Self {
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = usize::try_from(most.saturating_sub(OTHER_DESCRIPTORS).max(1)).unwrap_or(usize::MAX);
        Self { connections: self.connections.min(most), ..self }
    }
}

/// A bound socket.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    tls: Option<Acceptor>,
    limits: Limits,
    /// Answers may ask for fewer hops, so each connection is shared with its requests.
    shares_streams: bool,
}

impl Listener {
    /// Binds.
    ///
    /// # Errors
    /// The system's, with the address.
    pub(crate) async fn bind(
        addr: SocketAddr,
        tls: Option<Acceptor>,
        limits: Limits,
        shares_streams: bool,
    ) -> Result<Self, String> {
        let socket = match TcpListener::bind(addr).await {
            // There are machines without IPv6.
            Err(_) if addr.ip().is_unspecified() && addr.is_ipv6() => {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, addr.port())).await
            }
            bound => bound,
        };
        let socket = socket.map_err(|error| format!("cannot serve on {addr}: {error}"))?;
        Ok(Self { socket, tls, limits, shares_streams })
    }

    /// Serves until told to stop, and then until the requests under way have their answers, or the time is over.
    pub(crate) async fn serve(self, router: Router, stop: CancellationToken, drain: Duration) {
        let (permits, connections) = (Arc::new(Semaphore::new(self.limits.connections)), TaskTracker::new());
        let sources = Arc::new(Sources { most: self.limits.of_source, counts: Mutex::default() });
        let accepting = async {
            loop {
                // Nobody closes it.
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
                match self.socket.accept().await {
                    Ok((stream, addr)) => {
                        let Some(counted) = sources.count(address::canonical(addr.ip())) else { continue };
                        let connection = Connection {
                            addr,
                            router: router.clone(),
                            stop: stop.clone(),
                            shares_stream: self.shares_streams,
                        };
                        let tls = self.tls.clone();
                        connections.spawn(async move {
                            connection.serve(stream, tls).await;
                            drop((permit, counted));
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept connections");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(accepting).await;
        drop(self.socket);
        connections.close();
        if tokio::time::timeout(drain, connections.wait()).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
    }
}

/// Connections by source.
#[derive(Debug)]
struct Sources {
    most: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

impl Sources {
    /// Counts a connection until what is returned is dropped. None if there are too many.
    fn count(self: &Arc<Self>, source: IpAddr) -> Option<Counted> {
        let mut counts = self.counts.lock();
        let count = counts.entry(source).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Counted { sources: Arc::clone(self), source })
    }
}

struct Counted {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.sources.counts.lock();
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

struct Connection {
    addr: SocketAddr,
    router: Router,
    stop: CancellationToken,
    shares_stream: bool,
}

impl Connection {
    async fn serve(self, stream: TcpStream, tls: Option<Acceptor>) {
        // Answers are small and complete; an error here would only make them later.
        drop(stream.set_nodelay(true));
        let Some(tls) = tls else {
            if self.shares_stream {
                let stream = Arc::new(stream);
                let hops = Some(Arc::clone(&stream));
                return self.requests(Progressing::new(progress::Shared(stream), WRITE_DEADLINE), false, hops).await;
            }
            return self.requests(Progressing::new(stream, WRITE_DEADLINE), false, None).await;
        };
        let stream = Progressing::new(stream, WRITE_DEADLINE);
        match tokio::time::timeout(HEAD_DEADLINE, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let is_certified = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
                self.requests(stream, is_certified, None).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn requests(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        is_certified: bool,
        hops: Option<Arc<TcpStream>>,
    ) {
        let peer = Peer { addr: self.addr, is_certified, hops };
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            self.router.clone().oneshot(request.map(Body::new))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(MAX_HEAD_BYTES)
            .title_case_headers(true)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        }
    }
}

/// Lets what is sent on a connection from now on pass only so many routers.
pub(crate) fn limit_hops(stream: &TcpStream, hops: u32) -> io::Result<()> {
    if stream.local_addr()?.is_ipv6() {
        let hops = u8::try_from(hops).unwrap_or(u8::MAX);
        rustix::net::sockopt::set_ipv6_unicast_hops(stream, Some(hops))?;
        if address::canonical(stream.peer_addr()?.ip()).is_ipv4() {
            rustix::net::sockopt::set_ip_ttl(stream, hops.into())?;
        }
        return Ok(());
    }
    stream.set_ttl(hops)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_source_has_only_so_many_connections() {
        let limits = Limits { connections: 10, of_source: 2 };
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None, limits, true).await.unwrap();
        let addr = listener.socket.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "hello"));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(listener.serve(router, stop.clone(), Duration::from_secs(1)));
        let ask = async || {
            let mut client = TcpStream::connect(addr).await.unwrap();
            let written = client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut answer = [0; 12];
            let read = client.read_exact(&mut answer).await;
            (client, written.is_ok() && read.is_ok() && &answer == b"HTTP/1.1 200")
        };
        let (first, second) = (ask().await, ask().await);
        assert!(first.1 && second.1);
        assert!(!ask().await.1);
        drop(first);
        // The end of a connection is noticed a moment later.
        let mut is_served = false;
        for _ in 0..500 {
            is_served = ask().await.1;
            if is_served {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(is_served);
        stop.cancel();
        drop(second);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn hops_are_limited() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        limit_hops(&client, 1).unwrap();
        assert_eq!(client.ttl().unwrap(), 1);
    }
}
