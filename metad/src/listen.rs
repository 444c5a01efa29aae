//! The sockets: HTTP/1.1, with TLS or without, and with bounds on what connections may cost, all of them and those of one
//! source.

mod head;
mod plain;
mod shared;
mod tls;

pub(crate) use tls::{Acceptor, Files as TlsFiles};

use crate::address::{self, Source};
use crate::app::Peer;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use shared::Shared;
use socket::Progressing;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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
    /// Those of the query API and of the manage API, if there is one: not more together than the process may have
    /// descriptors for. How many it may have is raised as far as it is allowed to.
    pub(crate) fn possible(self, has_manage: bool) -> (Self, Self) {
        let listeners = 1 + u64::from(has_manage);
        let wanted = u64::try_from(self.connections).unwrap_or(u64::MAX).saturating_mul(listeners);
        let descriptors = socket::descriptors(wanted.saturating_add(OTHER_DESCRIPTORS));
        let (query, manage) = shares(self.connections, descriptors, has_manage);
        if query < self.connections {
            tracing::warn!(
                wanted = self.connections,
                query,
                manage,
                descriptors,
                "there may be fewer connections than max_connections, because the process may have so few descriptors"
            );
        }
        let of = |connections| Self { connections, ..self };
        (of(query), of(manage))
    }
}

/// Connections of the query API and of the manage API. If there cannot be as many as are wanted the manage API, which few
/// use, has an eighth.
fn shares(wanted: usize, descriptors: u64, has_manage: bool) -> (usize, usize) {
    let all = descriptors.saturating_sub(OTHER_DESCRIPTORS).max(2);
    let all = usize::try_from(all).unwrap_or(usize::MAX);
    if !has_manage {
        return (wanted.min(all), 0);
    }
    if wanted.saturating_mul(2) <= all {
        return (wanted, wanted);
    }
    let manage = wanted.min((all / 8).max(1));
    (wanted.min(all - manage), manage)
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
    /// `source` tells what the connections of an address are counted by.
    pub(crate) async fn serve<S, H, F>(self, source: S, answer: H, stop: CancellationToken, drain: Duration)
    where
        S: Fn(IpAddr) -> Source,
        H: Fn(Request<Body>, Peer) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let (permits, connections) = (Arc::new(Semaphore::new(self.limits.connections)), TaskTracker::new());
        let sources = Arc::new(Sources { most: self.limits.of_source, counts: Mutex::default() });
        let accepting = async {
            loop {
                // Nobody closes it.
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
                match self.socket.accept().await {
                    Ok((stream, addr)) => {
                        let Some(counted) = sources.count(source(addr.ip())) else { continue };
                        let connection = Connection {
                            addr,
                            answer: answer.clone(),
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
    counts: Mutex<HashMap<Source, usize>>,
}

impl Sources {
    /// Counts a connection until what is returned is dropped. None if there are too many.
    fn count(self: &Arc<Self>, source: Source) -> Option<Counted> {
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
    source: Source,
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

struct Connection<H> {
    addr: SocketAddr,
    answer: H,
    stop: CancellationToken,
    shares_stream: bool,
}

impl<H, F> Connection<H>
where
    H: Fn(Request<Body>, Peer) -> F,
    F: Future<Output = Response<Body>>,
{
    async fn serve(self, stream: TcpStream, tls: Option<Acceptor>) {
        // Answers are small and complete; an error here would only make them later.
        drop(stream.set_nodelay(true));
        match tls {
            None => {
                let peer = Peer { addr: self.addr, is_certified: false, hops: None };
                let rest = plain::serve(stream, |request| (self.answer)(request, peer.clone()), &self.stop).await;
                if let Some(rest) = rest {
                    // Boxed, so that a connection that is plain to its end is not as large as hyper's.
                    Box::pin(self.rest(rest)).await;
                }
            }
            Some(tls) => Box::pin(self.secured(stream, tls)).await,
        }
    }

    async fn rest(self, rest: plain::Rest) {
        let stream = Arc::new(rest.stream);
        let hops = self.shares_stream.then(|| Arc::clone(&stream));
        let read = io::Cursor::new(rest.unread).chain(Shared(Arc::clone(&stream)));
        let stream = tokio::io::join(read, Shared(stream));
        self.requests(Progressing::new(stream, WRITE_DEADLINE), false, hops).await;
    }

    async fn secured(self, stream: TcpStream, tls: Acceptor) {
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
        let service = service_fn(move |request: Request<Incoming>| {
            let answering = (self.answer)(request.map(Body::new), peer.clone());
            async move { Ok::<_, Infallible>(answering.await) }
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
mod tests;
