//! Sockets: binding them from URLs, and the connection that hyper reads and writes.

use super::authority::AuthorityFilter;
use super::gather::{Gather, OpenCalls};
use crate::config::{ListenUrl, Place};
use crate::metrics::Metrics;
use crate::tls::TlsAcceptor;
use bytes::Bytes;
use prometheus::IntCounter;
use rustls::pki_types::CertificateDer;
use socket::Progress;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio_rustls::server::TlsStream;

/// Connections that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// What an HTTP/2 client sends first.
pub(super) const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a TLS client sends first, whatever its version.
const TLS_HANDSHAKE: [u8; 2] = [22, 3];

/// A listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {url}: {reason}")]
pub struct ListenError {
    url: String,
    reason: io::Error,
}

/// The open sockets of one URL.
#[derive(Debug)]
pub struct Bound {
    pub(super) url: String,
    pub(super) listeners: Vec<Listener>,
    /// For URLs with TLS, and only for them.
    pub(super) tls: Option<TlsAcceptor>,
    /// The URL without TLS that is served at the same place.
    pub(super) plain_url: Option<String>,
}

impl Bound {
    /// Binds a URL. Of `localhost`, the second address family is skipped if the machine does not have it. `tls` is that
    /// of the URL's side; a plain URL makes no use of it.
    ///
    /// # Errors
    /// [`ListenError`] with the URL and the reason.
    pub async fn new(url: &ListenUrl, reuse_port: bool, tls: Option<&TlsAcceptor>) -> Result<Self, ListenError> {
        let failed = |reason| ListenError { url: url.to_string(), reason };
        let tls = tls.filter(|_| url.is_tls()).cloned();
        if url.is_tls() && tls.is_none() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "there is no certificate for it")));
        }
        let mut listeners = Vec::new();
        match url.place() {
            Place::Unix(path) => listeners.push(bind_unix(path).await.map_err(failed)?),
            Place::Tcp(addresses) => {
                for (index, address) in addresses.iter().enumerate() {
                    match bind_tcp(*address, reuse_port) {
                        Ok(listener) => listeners.push(Listener::Tcp(listener)),
                        Err(error) if index > 0 && is_missing_family(&error) => {}
                        Err(error) => return Err(failed(error)),
                    }
                }
            }
        }
        Ok(Self { url: url.to_string(), listeners, tls, plain_url: None })
    }

    /// Serves a URL without TLS too, which [is at](ListenUrl::is_at) the same place.
    #[must_use]
    pub fn with_plain(mut self, url: &ListenUrl) -> Self {
        self.plain_url = Some(url.to_string());
        self
    }

    /// The addresses, for ports that the system chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let address = |listener: &Listener| match listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix { .. } => None,
        };
        self.listeners.iter().filter_map(address).collect()
    }
}

fn is_missing_family(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::AddrNotAvailable, io::ErrorKind::Unsupported];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn bind_tcp(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(reuse_port)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Binds a Unix socket, and takes over the file of a process that is gone.
async fn bind_unix(path: &Path) -> io::Result<Listener> {
    let is_stale = || async {
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
        is_socket && UnixStream::connect(path).await.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
    };
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale().await => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        other => other?,
    };
    Ok(Listener::Unix { listener, _file: SocketFile(path.to_owned()) })
}

/// Removes the socket's file with the listener.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "cannot remove socket file");
        }
    }
}

/// One listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

impl Listener {
    pub(super) async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, remote)| Socket::Tcp(stream, remote)),
            Self::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| Socket::Unix(stream)),
        }
    }
}

/// One accepted socket, or the TLS connection on one.
#[derive(Debug)]
pub(super) enum Socket {
    /// With the address that the system accepted it from: asked for later, it is not there if the caller has left, and
    /// what is checked against it would be skipped.
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
    Tls(Box<TlsStream<Self>>),
}

impl Socket {
    pub(super) fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        match self {
            Self::Tcp(stream, remote) => (stream.local_addr().ok(), Some(*remote)),
            Self::Unix(_) => (None, None),
            Self::Tls(stream) => stream.get_ref().0.addresses(),
        }
    }

    /// Returns when the caller has sent something, or has left.
    pub(super) async fn speaks(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream, _) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
            Self::Tls(_) => Ok(()),
        }
    }

    /// Whether the first byte is that of a TLS handshake; with no byte at all it is not.
    pub(super) async fn begins_tls(&self) -> io::Result<bool> {
        let mut first = [0];
        match self {
            Self::Tcp(stream, _) => Ok(stream.peek(&mut first).await? == 1 && first[0] == TLS_HANDSHAKE[0]),
            // Nothing that can be looked at without taking it: a path is for one of the two.
            Self::Unix(_) | Self::Tls(_) => Ok(false),
        }
    }

    /// Makes a TLS connection of it.
    pub(super) async fn secured(self, tls: &TlsAcceptor, remote: Option<SocketAddr>) -> io::Result<Self> {
        tls.accept(self, remote).await.map(|stream| Self::Tls(Box::new(stream)))
    }

    /// The name in the caller's certificate, which the handshake has verified.
    pub(super) fn common_name(&self) -> Option<String> {
        match self {
            Self::Tcp(..) | Self::Unix(_) => None,
            Self::Tls(stream) => crate::tls::common_name(stream.get_ref().1.peer_certificates()?.first()?),
        }
    }

    /// The caller's certificate, which the handshake has verified.
    pub(super) fn certificate(&self) -> Option<CertificateDer<'static>> {
        match self {
            Self::Tcp(..) | Self::Unix(_) => None,
            Self::Tls(stream) => Some(stream.get_ref().1.peer_certificates()?.first()?.clone().into_owned()),
        }
    }

    /// Without this, answers wait for the client's delayed acknowledgement.
    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream, _) => stream.set_nodelay(true),
            Self::Unix(_) => Ok(()),
            Self::Tls(stream) => stream.get_ref().0.set_nodelay(),
        }
    }
}

/// Counts the bytes of gRPC connections.
#[derive(Clone, Debug)]
pub struct Traffic {
    pub(super) received: IntCounter,
    pub(super) sent: IntCounter,
}

impl Traffic {
    /// What clients send and receive.
    pub fn of_clients(metrics: &Metrics) -> Self {
        let network = &metrics.network;
        Self { received: network.client_received_bytes.clone(), sent: network.client_sent_bytes.clone() }
    }
}

/// An accepted connection: first the bytes that were read to tell HTTP/1 from HTTP/2, then the socket.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    head: Bytes,
    traffic: Option<Traffic>,
    /// Only as long as it is needed: for most connections, until the first request.
    filter: Option<Box<AuthorityFilter>>,
    gather: Gather,
    /// None if something else ends connections whose client does not read.
    progress: Option<Progress>,
}

impl Connection {
    /// Reads the first bytes; true means HTTP/2. Ends with an error if the client closes before it sends anything.
    pub(super) async fn open(mut socket: Socket) -> io::Result<(Self, bool)> {
        let mut head = [0; HTTP2_PREFACE.len()];
        let mut len = 0;
        while len < head.len() && head[..len] == HTTP2_PREFACE[..len] {
            let more = socket.read(&mut head[len..]).await?;
            if more == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            len += more;
        }
        let is_http2 = head[..len] == HTTP2_PREFACE[..];
        Ok((
            Self {
                socket,
                head: Bytes::copy_from_slice(&head[..len]),
                traffic: None,
                filter: None,
                gather: Gather::default(),
                progress: None,
            },
            is_http2,
        ))
    }

    /// True if the caller speaks TLS. Without TLS here, nothing will come of it.
    pub(super) fn begins_tls(&self) -> bool {
        self.head.starts_with(&TLS_HANDSHAKE)
    }

    /// Counts from here on.
    pub(super) fn counted(mut self, traffic: Traffic) -> Self {
        traffic.received.inc_by(self.head.len() as u64);
        self.traffic = Some(traffic);
        self
    }

    /// Accepts a URL or a path as `:authority`; for HTTP/2.
    pub(super) fn correcting_authority(mut self) -> Self {
        self.filter = Some(Box::default());
        self
    }

    /// Writes the answers of these calls together.
    pub(super) fn gathering(mut self, calls: OpenCalls) -> Self {
        self.gather = Gather::new(calls);
        self
    }

    /// Ends if the client takes nothing for this time.
    pub(super) fn progressing(mut self, limit: Duration) -> Self {
        self.progress = Some(Progress::within(limit));
        self
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(cx, buf);
        if let Some(traffic) = &self.traffic {
            traffic.received.inc_by((buf.filled().len() - before) as u64);
        }
        result
    }

    /// Reads what the filter hands on. Drops the filter when it is over.
    fn poll_filtered(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        while let Some(filter) = &mut self.filter {
            let has_read = filter.read(buf);
            if filter.is_over() {
                self.filter = None;
            }
            if has_read || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_receive(cx, buf))?;
            let Some(filter) = &mut self.filter else { break };
            match &buf.filled()[before..] {
                [] => filter.finish(),
                received => filter.feed(received),
            }
            buf.set_filled(before);
        }
        Poll::Ready(Ok(()))
    }

    fn sent(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Poll::Ready(Ok(bytes)), Some(traffic)) = (&result, &self.traffic) {
            traffic.sent.inc_by(*bytes as u64);
        }
        match &mut self.progress {
            Some(progress) => progress.judge(cx, result),
            None => result,
        }
    }
}

macro_rules! on_stream {
    ($socket:expr, $stream:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($stream, _) => $call,
            Socket::Unix($stream) => $call,
            Socket::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_stream!(&mut *self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on_stream!(&mut *self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_stream!(&mut *self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        on_stream!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(&mut *self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(&mut *self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.gather.reads();
        if !self.head.is_empty() {
            let len = self.head.len().min(buf.remaining());
            buf.put_slice(&self.head.split_to(len));
            return Poll::Ready(Ok(()));
        }
        if self.filter.is_some() { self.poll_filtered(cx, buf) } else { self.poll_receive(cx, buf) }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.gather.puts_off(cx) {
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.sent(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.gather.puts_off(cx) {
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.sent(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
