//! The client's end of TLS, from files.

use anyhow::{Context, Result};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const DEADLINE: Duration = Duration::from_secs(20);

/// The beginning of an HTTP/2 connection: preface, and settings that are the default.
const HTTP2_BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Whom a client trusts, and who it is. The files are read for each connection.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Certificates of authorities.
    pub trusted: PathBuf,
    /// The client's certificate without its ending: `.pem`, and `.key` for its key. `None` shows none.
    pub own: Option<PathBuf>,
}

impl ClientTls {
    fn config(&self) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&self.trusted)? {
            roots.add(certificate?)?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain = CertificateDer::pem_file_iter(own.with_extension("pem"))?.collect::<Result<_, _>>()?;
                let key = PrivateKeyDer::from_pem_file(own.with_extension("key"))?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// Connects to `host:port`. That it works does not say that the server accepts the certificate.
    pub async fn dial(&self, address: &str) -> Result<TlsStream<TcpStream>> {
        let (host, _) = address.rsplit_once(':').context("an address has a port")?;
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(TlsConnector::from(Arc::new(self.config()?)).connect(name, stream).await?)
    }

    /// Connects, waits until the server lets this client in, and returns the certificate that the server showed.
    pub async fn meet(&self, address: &str) -> Result<Vec<u8>> {
        let met = async {
            let mut stream = self.dial(address).await?;
            stream.write_all(HTTP2_BEGIN).await?;
            stream.read_u8().await?;
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            Ok(shown.context("servers show a certificate")?.to_vec())
        };
        tokio::time::timeout(DEADLINE, met).await.context("no answer in time")?
    }
}
