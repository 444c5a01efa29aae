//! Accepts connections, serves each on a task of its own, and ends them all.

use super::front::{ConnectionFront, Front};
use super::gather::OpenCalls;
use super::socket::{Bound, Connection, Listener, Socket, Traffic};
use crate::config::{Config, GrpcKeepalive, Side};
use crate::tls::{RefusalLog, TlsAcceptor};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A connection that has not shown what it speaks by then is closed.
const FIRST_BYTES_DEADLINE: Duration = Duration::from_secs(10);
/// The head of the first HTTP/1 request must be complete by then.
const HTTP1_HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// An HTTP/1 connection on which no further request has arrived by then is closed. Clients with connection pools
/// expect a minute or more.
const HTTP1_IDLE_DEADLINE: Duration = Duration::from_mins(2);
/// An HTTP/1 client that makes no room for what there is to write for this long is given up. The kernel tells of room when
/// about a third of its buffer is free: a megabyte at most, so a client on a slow line gets it done.
const HTTP1_STALL_DEADLINE: Duration = Duration::from_mins(1);
const HTTP1_MAX_HEAD_BYTES: usize = 64 * 1024;
/// Tokens and client metadata fit easily.
const HTTP2_MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;
/// Measured: smaller windows slow down large values, larger ones only hold memory.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 1 << 20;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Streams that a client may have reset before we looked at them. Clients with hundreds of calls under one short
/// deadline do that; more is the rapid reset attack.
const HTTP2_MAX_PENDING_RESETS: usize = 256;
/// Descriptors kept back from clients for logs, the store and peers, as in etcd.
const RESERVED_DESCRIPTORS: u64 = 150;
/// A limit for machines that have none.
const MAX_CONNECTIONS: u64 = 1 << 20;
const MIN_CONNECTIONS: u64 = 16;
/// After an accept error that concerns the whole process, such as no free descriptor.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Time for the tasks of dropped connections to notice.
const ABORT_DEADLINE: Duration = Duration::from_secs(1);
/// The same trouble is logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What listeners need to know of the configuration.
#[derive(Clone, Debug)]
pub struct ListenSettings {
    /// Most concurrent streams of one connection.
    pub max_concurrent_streams: u32,
    /// Pings on quiet connections; None means never.
    pub grpc_keepalive: Option<GrpcKeepalive>,
    /// Most connections of all listeners together.
    pub max_connections: usize,
}

impl ListenSettings {
    /// Takes the limits from the configuration and from the process's descriptor limit.
    pub fn new(config: &Config) -> Self {
        Self {
            max_concurrent_streams: config.max_concurrent_streams,
            grpc_keepalive: config.grpc_keepalive,
            max_connections: max_connections(),
        }
    }
}

/// How many connections the process's descriptors allow once it has asked for all that it may have, without those that are kept back for everything else.
pub fn max_connections() -> usize {
    let descriptors = socket::descriptors(MAX_CONNECTIONS + RESERVED_DESCRIPTORS);
    descriptors.saturating_sub(RESERVED_DESCRIPTORS).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS) as usize
}

/// All listeners of a member and the connections they accepted.
#[derive(Debug)]
pub struct Listeners {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    http1: http1::Builder,
    http2: http2::Builder<Tracked>,
    /// None for the listeners of other members.
    traffic: Option<Traffic>,
    /// Of callers with TLS where there is none.
    refusals: RefusalLog,
    slots: Arc<Semaphore>,
    tracker: TaskTracker,
    /// Accept no more, and end each connection after its running calls.
    stop: CancellationToken,
    /// End connections at once.
    abort: CancellationToken,
}

impl Shared {
    /// Logs a caller that speaks TLS where there is none. It still gets what HTTP/1 answers to a bad request.
    fn refuse_tls(&self, remote: Option<SocketAddr>) {
        let side = if self.traffic.is_some() { Side::Client } else { Side::Peer };
        let reason = "the caller speaks TLS, but the URL of this listener is without it";
        self.refusals.write(side.as_str(), remote, reason);
    }
}

/// Spawns the tasks of HTTP/2 streams where shutdown can wait for them.
#[derive(Clone, Debug)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

impl Listeners {
    /// Prepares listeners; nothing is open yet.
    pub fn new(settings: &ListenSettings, traffic: Option<Traffic>) -> Self {
        let tracker = TaskTracker::new();
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(HTTP1_IDLE_DEADLINE).max_buf_size(HTTP1_MAX_HEAD_BYTES);
        let mut http2 = http2::Builder::new(Tracked(tracker.clone()));
        http2
            .timer(TokioTimer::new())
            .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(settings.max_concurrent_streams)
            .max_header_list_size(HTTP2_MAX_HEADER_LIST_BYTES)
            .max_pending_accept_reset_streams(HTTP2_MAX_PENDING_RESETS);
        if let Some(keepalive) = settings.grpc_keepalive {
            http2.keep_alive_interval(keepalive.interval).keep_alive_timeout(keepalive.timeout);
        }
        let slots = Arc::new(Semaphore::new(settings.max_connections));
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let refusals = RefusalLog::new();
        Self { shared: Arc::new(Shared { http1, http2, traffic, refusals, slots, tracker, stop, abort }) }
    }

    /// Serves what was bound.
    pub fn serve(&self, bound: Bound, front: &Front) {
        let addresses = bound.addresses();
        let url: Arc<str> = bound.url.into();
        // etcd's words; scripts wait for them, and read the port from the address when the system chose it.
        let traffic = front.traffic();
        if self.shared.traffic.is_none() {
            tracing::info!(url = &*url, ?addresses, is_tls = bound.tls.is_some(), "serving peer traffic");
        } else if bound.tls.is_some() {
            tracing::info!(url = &*url, ?addresses, traffic, "serving client traffic securely");
        } else {
            tracing::info!(
                url = &*url,
                ?addresses,
                traffic,
                "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
        if let Some(url) = &bound.plain_url {
            tracing::info!(
                url,
                ?addresses,
                traffic,
                "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
        for listener in bound.listeners {
            let shared = Arc::clone(&self.shared);
            let is_plain_too = bound.plain_url.is_some();
            let door = Door { front: front.clone(), tls: bound.tls.clone(), is_plain_too };
            let accepting = accept(shared, listener, door, Arc::clone(&url));
            self.shared.tracker.spawn(accepting);
        }
    }

    /// Stops accepting, tells clients to go away, waits up to `grace` for running calls and then drops them.
    ///
    /// Streams that never end by themselves (watch, keepalive) should be ended before.
    pub async fn shutdown(&self, grace: Duration) {
        self.shared.stop.cancel();
        self.shared.tracker.close();
        if tokio::time::timeout(grace, self.shared.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = self.shared.tracker.len(), "closing connections whose calls did not end in time");
        }
        self.shared.abort.cancel();
        // Dropped connections end their tasks by themselves; what the tasks hold should be free when this returns.
        if tokio::time::timeout(ABORT_DEADLINE, self.shared.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = self.shared.tracker.len(), "tasks of connections are still running");
        }
    }
}

/// What is behind one listener.
#[derive(Clone, Debug)]
struct Door {
    front: Front,
    tls: Option<TlsAcceptor>,
    /// Whoever does not speak TLS is served without it.
    is_plain_too: bool,
}

impl Door {
    /// The TLS that is made with this caller.
    async fn tls_of(&self, socket: &Socket) -> io::Result<Option<&TlsAcceptor>> {
        let Some(tls) = &self.tls else { return Ok(None) };
        // A caller that says nothing must not take part in the number of handshakes.
        let speaks = async {
            socket.speaks().await?;
            if self.is_plain_too { socket.begins_tls().await } else { Ok(true) }
        };
        let is_tls = tokio::time::timeout(FIRST_BYTES_DEADLINE, speaks).await??;
        Ok(Some(tls).filter(|_| is_tls))
    }
}

async fn accept(shared: Arc<Shared>, listener: Listener, door: Door, url: Arc<str>) {
    let mut last_logged: Option<Instant> = None;
    let mut is_due = move || {
        let due = last_logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL);
        if due {
            last_logged = Some(Instant::now());
        }
        due
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let socket = match accepted {
            Ok(socket) => socket,
            // The client left while it was waiting.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {
                continue;
            }
            Err(error) => {
                if is_due() {
                    tracing::warn!(url = &*url, %error, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        match Arc::clone(&shared.slots).try_acquire_owned() {
            Ok(slot) => {
                let connection = serve(Arc::clone(&shared), socket, door.clone(), slot);
                shared.tracker.spawn(connection);
            }
            // Closing tells the client at once; in the queue it would wait without knowing why.
            Err(_) => {
                if is_due() {
                    tracing::warn!(url = &*url, "refusing connections: as many are open as descriptors allow");
                }
            }
        }
    }
}

/// Returns if the first request does not arrive in time.
async fn is_late(requests: &Notify) {
    if tokio::time::timeout(HTTP1_HEAD_DEADLINE, requests.notified()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// Serves one connection until it ends. Holds its slot.
async fn serve(shared: Arc<Shared>, mut socket: Socket, door: Door, slot: OwnedSemaphorePermit) {
    let (local, remote) = socket.addresses();
    let opened = async {
        socket.set_nodelay()?;
        let tls = door.tls_of(&socket).await?;
        if let Some(tls) = tls {
            // Boxed, so that a connection without TLS is not as large as a handshake.
            socket = Box::pin(socket.secured(tls, remote)).await?;
        }
        let shown = (tls.is_some(), socket.common_name(), socket.certificate());
        let (connection, is_http2) = tokio::time::timeout(FIRST_BYTES_DEADLINE, Connection::open(socket)).await??;
        io::Result::Ok((connection, is_http2, shown))
    };
    let (connection, is_http2, (is_tls, common_name, certificate)) = tokio::select! {
        opened = opened => match opened {
            Ok(opened) => opened,
            Err(error) => return tracing::debug!(?remote, %error, "connection ended before it began"),
        },
        () = shared.stop.cancelled() => return,
    };
    if door.tls.is_none() && connection.begins_tls() {
        shared.refuse_tls(remote);
    }
    let calls = OpenCalls::default();
    let mut front = ConnectionFront::new(door.front, calls.clone(), local, remote);
    if is_tls {
        front = front.secured().named(common_name).certified(certificate);
    }
    let served = if is_http2 {
        let connection = match &shared.traffic {
            Some(traffic) => connection.counted(traffic.clone()),
            None => connection,
        };
        let connection = connection.correcting_authority().gathering(calls);
        let io = TokioIo::new(connection);
        let mut connection = pin!(shared.http2.serve_connection(io, front));
        tokio::select! {
            served = connection.as_mut() => served,
            () = shared.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    served = connection => served,
                    () = shared.abort.cancelled() => Ok(()),
                }
            }
        }
    } else {
        let requests = Arc::new(Notify::new());
        let front = front.telling(Arc::clone(&requests));
        let io = TokioIo::new(connection.progressing(HTTP1_STALL_DEADLINE));
        let mut connection = pin!(shared.http1.serve_connection(io, front));
        tokio::select! {
            served = connection.as_mut() => served,
            () = is_late(&requests) => Ok(()),
            () = shared.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    served = connection => served,
                    () = shared.abort.cancelled() => Ok(()),
                }
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(?remote, %error, "connection ended with an error");
    }
    drop(slot);
}
