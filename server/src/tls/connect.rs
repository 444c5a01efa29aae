//! Connections to other members, with TLS or without.
//!
//! A [`PeerConnector`] shows this member's certificate, and accepts members whose certificate the peers' CA signed for
//! the host that was called. Where members make their certificates for themselves, any is accepted.

use super::files::TlsError;
use super::material::{client_config, server_files};
use super::refusal::{explained, reason};
use super::reload::Reloading;
use crate::config::{CertSource, KeyPairFiles, TlsSettings};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How a TLS server answers plain text: the first byte of an alert. An HTTP/2 server begins with a short frame, 0.
const TLS_ALERT: u8 = 21;

/// Enough of an answer to tell what it is.
const PEEK_BYTES: usize = 64;

/// For finding the address and reaching it.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Opens connections to other members. Clones share everything.
#[derive(Clone, Debug)]
pub struct PeerConnector {
    /// None refuses TLS.
    tls: Option<Arc<Reloading<ClientConfig>>>,
}

impl PeerConnector {
    /// One that knows no TLS.
    pub fn plain() -> Self {
        Self { tls: None }
    }

    /// Reads the files. `cert` is what other members see.
    ///
    /// # Errors
    /// [`TlsError`], with the file.
    pub(super) fn new(settings: &TlsSettings, cert: &KeyPairFiles) -> Result<Self, TlsError> {
        let (owned, files) = (settings.clone(), cert.clone());
        let verifies = matches!(settings.cert, CertSource::Files(_));
        let configs = Reloading::new(server_files(settings, cert), "calling peers", move |contents| {
            client_config(&owned, &files, verifies, contents)
        })?;
        Ok(Self { tls: Some(configs) })
    }

    /// Opens a connection, each step within a deadline.
    ///
    /// # Errors
    /// Why the peer cannot be reached or is not accepted.
    pub async fn connect(&self, host: &str, port: u16, is_tls: bool) -> io::Result<PeerStream> {
        let configs = match (&self.tls, is_tls) {
            (_, false) => None,
            (Some(configs), true) => Some(configs),
            (None, true) => {
                let text = "the peer uses TLS, but this member has no certificate for it (--peer-cert-file)";
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
        };
        let stream = within(CONNECT_DEADLINE, "connecting", TcpStream::connect((host, port))).await?;
        stream.set_nodelay(true)?;
        let Some(configs) = configs else { return Ok(PeerStream::new(Carrier::Plain(stream))) };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?} is not a host name")))?;
        let config = configs.current().await;
        let connecting = TlsConnector::from(config).connect(name, stream);
        match within(HANDSHAKE_DEADLINE, "TLS handshake", connecting).await {
            Ok(stream) => Ok(PeerStream::new(Carrier::Tls(Box::new(stream)))),
            Err(error) => Err(explained(error)),
        }
    }
}

async fn within<T>(deadline: Duration, what: &str, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(deadline, work).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what} took longer than {deadline:?}"))),
    }
}

/// Called once, when the other end has answered anything, or failed to.
type WhenBegun = Box<dyn FnOnce(Result<(), &io::Error>) + Send>;

/// A connection to another member.
///
/// That it is open does not say that the other end accepts it: with TLS 1.3 the caller's certificate is looked at when
/// the caller is through with its handshake, and plain text to a port with TLS fails later still. So what comes first
/// is looked at here, and a failure says why.
pub struct PeerStream {
    carrier: Carrier,
    has_begun: bool,
    when_begun: Option<WhenBegun>,
}

#[derive(Debug)]
enum Carrier {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerStream").field("carrier", &self.carrier).finish_non_exhaustive()
    }
}

macro_rules! on_stream {
    ($peer:expr, $stream:ident => $call:expr) => {
        match &mut $peer.carrier {
            Carrier::Plain($stream) => $call,
            Carrier::Tls($stream) => $call,
        }
    };
}

impl PeerStream {
    fn new(carrier: Carrier) -> Self {
        Self { carrier, has_begun: false, when_begun: None }
    }

    /// Tells whether the other end accepts this connection, as soon as that shows.
    #[must_use]
    pub fn telling(mut self, when_begun: impl FnOnce(Result<(), &io::Error>) + Send + 'static) -> Self {
        self.when_begun = Some(Box::new(when_begun));
        self
    }

    /// Takes what the other end said first, or that it said nothing.
    fn begin(&mut self, read: io::Result<()>, first: &[u8]) -> io::Result<()> {
        self.has_begun = true;
        let is_tls = matches!(self.carrier, Carrier::Tls(_));
        let begun = match read {
            Ok(()) if !is_tls && first.first() == Some(&TLS_ALERT) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the member there answers with TLS; its peer URL must begin with https:, or it must listen on http",
            )),
            Ok(()) if !first.is_empty() => Ok(()),
            Err(error) if reason(&error).is_some() => Err(explained(error)),
            // Gone, by an end or a reset.
            Ok(()) | Err(_) if is_tls => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed without an answer; the member there may not accept the certificate or the \
                 address of this one: its log has the reason",
            )),
            Ok(()) | Err(_) => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed without an answer"))
            }
        };
        if let Some(tell) = self.when_begun.take() {
            tell(begun.as_ref().copied());
        }
        begun
    }

    /// The reason why nothing can be written: what the other end said before it closed tells more than the failure.
    fn cannot_write(&mut self, cx: &mut Context<'_>, error: io::Error) -> io::Error {
        if self.has_begun {
            return error;
        }
        let mut bytes = [0; PEEK_BYTES];
        let mut buf = ReadBuf::new(&mut bytes);
        let read = match on_stream!(self, stream => Pin::new(stream).poll_read(cx, &mut buf)) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => Err(error),
            Poll::Ready(read) => read,
            Poll::Pending => Err(error),
        };
        let Err(error) = self.begin(read, buf.filled()) else {
            return io::ErrorKind::BrokenPipe.into();
        };
        error
    }

    fn written<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.cannot_write(cx, error))),
            other => other,
        }
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let is_full = buf.remaining() == 0;
        let read = ready!(on_stream!(self, stream => Pin::new(stream).poll_read(cx, buf)));
        if self.has_begun || is_full {
            return Poll::Ready(read);
        }
        Poll::Ready(self.begin(read, &buf.filled()[before..]))
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = on_stream!(self, stream => Pin::new(stream).poll_write(cx, buf));
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = on_stream!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs));
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.carrier {
            Carrier::Plain(stream) => stream.is_write_vectored(),
            Carrier::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = on_stream!(self, stream => Pin::new(stream).poll_flush(cx));
        self.written(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
