//! Makes the connections: TCP or a Unix socket, TLS over it, both within the dial timeout.
//!
//! tonic keeps one connection for each endpoint and calls the connector when it needs a new one.

use crate::endpoint::{Address, Place};
use crate::options::TlsOptions;
use crate::tls;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::Uri;
use tower::Service;

/// A byte stream of any of the kinds.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Dials one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    pub(crate) address: Address,
    /// None for an endpoint without TLS.
    pub(crate) tls: Option<TlsOptions>,
    pub(crate) dial_timeout: Duration,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let limit = connector.dial_timeout;
            let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"));
            let stream = tokio::time::timeout(limit, connector.dial()).await.map_err(|_| late())??;
            Ok(TokioIo::new(stream))
        })
    }
}

impl Connector {
    async fn dial(self) -> io::Result<Box<dyn Stream>> {
        let (host, stream) = match &self.address.place {
            Place::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Place::Tcp(host, port) => (host, TcpStream::connect((host.as_str(), *port)).await?),
        };
        stream.set_nodelay(true)?;
        let Some(options) = self.tls else { return Ok(Box::new(stream)) };
        let name = options.server_name.as_ref().unwrap_or(host).clone();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let config =
            tokio::task::spawn_blocking(move || tls::load(&options, &[b"h2"])).await?.map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Ok(Box::new(stream))
    }
}
