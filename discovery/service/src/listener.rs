//! The socket: HTTP/1.1, with TLS or without, and with bounds on what a connection may cost.

use crate::pace::Pace;
use anyhow::{Context as _, Result};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket::Progressing;
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

/// Connections at once, if the process may have so many descriptors; more wait to be accepted.
const MAX_CONNECTIONS: usize = 12_000;

/// How long a TLS handshake, or the head of a request, may take. It is also how long a quiet connection is kept.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// How long a client may take nothing of what is written to it. Answers are small: the next bytes of one are waited
/// for only by clients that do not read.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

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
    /// Most connections at once.
    connections: usize,
}

impl Listener {
    /// Reads the certificate and binds.
    pub(crate) async fn bind(addr: SocketAddr, tls: Option<&(std::path::PathBuf, std::path::PathBuf)>) -> Result<Self> {
        let tls = tls.map(|(cert, key)| acceptor(cert, key)).transpose()?;
        let socket = TcpListener::bind(addr).await.with_context(|| format!("cannot serve on {addr}"))?;
        // A process without descriptors lets nobody in, and breaks the member that may be embedded in it.
        let connections = server::listen::max_connections().min(MAX_CONNECTIONS);
        Ok(Self { socket, tls, connections })
    }

    /// Serves until told to stop, and then until the requests under way have their answers.
    pub(crate) async fn serve(self, router: Router, stop: CancellationToken) {
        let (permits, connections) = (Arc::new(Semaphore::new(self.connections)), TaskTracker::new());
        let (full, refused) = (Pace::default(), Pace::default());
        let accepting = async {
            loop {
                if permits.available_permits() == 0 && full.is_due() {
                    tracing::warn!(connections = self.connections, "no more connections are accepted for now");
                }
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
                        if refused.is_due() {
                            tracing::warn!(%error, "cannot accept connections");
                        }
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
    let stream = Progressing::new(stream, WRITE_DEADLINE);
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// More than the buffers of two sockets take.
    const LARGE: usize = 64 << 20;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_let_go() {
        let mut listener = Listener::bind(([127, 0, 0, 1], 0).into(), None).await.unwrap();
        listener.connections = 1;
        let addr = listener.socket.local_addr().unwrap();
        let router =
            Router::new().route("/large", get(async || vec![0_u8; LARGE])).route("/small", get(async || "small"));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(listener.serve(router, stop.clone()));
        let ask = async |path: &str| {
            let mut client = TcpStream::connect(addr).await.unwrap();
            client.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
            client
        };
        let mut deaf = ask("/large").await;
        let mut first = [0; 4];
        deaf.read_exact(&mut first).await.unwrap();
        let mut next = ask("/small").await;
        let answered = tokio::time::timeout(4 * WRITE_DEADLINE, next.read_exact(&mut first)).await;
        answered.expect("the connection of the first is free again").unwrap();
        assert_eq!(&first, b"HTTP");
        // Its answer ends somewhere, whole it cannot be.
        let rest = deaf.read_to_end(&mut Vec::new()).await;
        assert!(rest.as_ref().is_ok_and(|len| *len < LARGE) || rest.is_err(), "{rest:?}");
        stop.cancel();
        drop(next);
        serving.await.unwrap();
    }
}
