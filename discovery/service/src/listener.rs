//! The socket: HTTP/1.1, with TLS or without, and with bounds on what a connection may cost.

use anyhow::{Context as _, Result};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 12_000;

/// How long a TLS handshake, or the head of a request, may take. It is also how long a quiet connection is kept.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Pause after the system refused to accept, as it does when there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long requests under way may take when the service stops.
const GRACE: Duration = Duration::from_secs(5);

/// A bound socket.
pub(crate) struct Listener {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    /// Reads the certificate and binds.
    pub(crate) async fn bind(addr: SocketAddr, tls: Option<&(std::path::PathBuf, std::path::PathBuf)>) -> Result<Self> {
        let tls = tls.map(|(cert, key)| acceptor(cert, key)).transpose()?;
        let socket = TcpListener::bind(addr).await.with_context(|| format!("cannot serve on {addr}"))?;
        Ok(Self { socket, tls })
    }

    /// Serves until told to stop, and then until the requests under way have their answers.
    pub(crate) async fn serve(self, router: Router, stop: CancellationToken) {
        let (permits, connections) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), TaskTracker::new());
        let accepting = async {
            loop {
                let permit = Arc::clone(&permits).acquire_owned().await.expect("invariant: nobody closes it");
                match self.socket.accept().await {
                    Ok((stream, _)) => {
                        let (router, tls, stop) = (router.clone(), self.tls.clone(), stop.clone());
                        connections.spawn(async move {
                            connection(stream, tls, router, stop).await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(accepting).await;
        connections.close();
        if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
    }
}

fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor> {
    let certificates = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read the certificate {}", cert.display()))?;
    let private =
        PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot read the key {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, private)
        .with_context(|| format!("{} and {} do not go together", cert.display(), key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, router: Router, stop: CancellationToken) {
    // Answers are small and complete; an error here would only make them later.
    drop(stream.set_nodelay(true));
    let Some(tls) = tls else { return requests(stream, router, stop).await };
    match tokio::time::timeout(HEAD_DEADLINE, tls.accept(stream)).await {
        Ok(Ok(stream)) => requests(stream, router, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn requests(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD_BYTES)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
