//! Connections to other members, with TLS or without.
//!
//! A [`PeerConnector`] shows this member's certificate, and accepts members whose certificate the peers' CA signed for
//! the host that was called. Where members make their certificates for themselves, any is accepted.

use super::files::TlsError;
use super::material::{client_config, server_files};
use super::refusal::reason;
use super::reload::Reloading;
use crate::config::{CertSource, KeyPairFiles, TlsSettings};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

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
        let Some(configs) = configs else { return Ok(PeerStream::Plain(stream)) };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?} is not a host name")))?;
        let config = configs.current().await;
        let connecting = TlsConnector::from(config).connect(name, stream);
        match within(HANDSHAKE_DEADLINE, "TLS handshake", connecting).await {
            Ok(stream) => Ok(PeerStream::Tls(Box::new(stream))),
            Err(error) => Err(match reason(&error) {
                Some(reason) => io::Error::new(error.kind(), reason),
                None => error,
            }),
        }
    }
}

async fn within<T>(deadline: Duration, what: &str, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(deadline, work).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what} took longer than {deadline:?}"))),
    }
}

/// A connection to another member.
#[derive(Debug)]
pub enum PeerStream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

macro_rules! on_stream {
    ($peer:expr, $stream:ident => $call:expr) => {
        match $peer {
            PeerStream::Plain($stream) => $call,
            PeerStream::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_stream!(&mut *self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for PeerStream {
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
