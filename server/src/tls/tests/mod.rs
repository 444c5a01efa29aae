//! Handshakes over loopback connections, with certificates made for each test.

#[path = "../../../../tests/harness/authority.rs"]
#[allow(unreachable_pub, reason = "shared with the tests of processes, where it is public")]
mod authority;
mod connect;
mod files;
mod handshake;
mod reload;

use super::TlsAcceptor;
use super::refusal::reason;
use crate::config::{AllowedNames, CertSource, KeyPairFiles, Side, TlsSettings, TlsVersion};
use authority::{Authority, Pair};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const DEADLINE: Duration = Duration::from_secs(20);
const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12, &rustls::version::TLS13];

/// A directory with the files of a member: `server.pem`, `server.key`, and its CA `ca.pem`.
struct Site {
    dir: TempDir,
    ca: Authority,
}

impl Site {
    fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap(), ca: Authority::new("the ca").unwrap() };
        site.write("ca.pem", &site.ca.pem());
        site.serve(&site.ca.issue("member", &["localhost", "127.0.0.1"]).unwrap());
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Replaces the member's own certificate.
    fn serve(&self, pair: &Pair) {
        self.write("server.key", &pair.key);
        self.write("server.pem", &pair.cert);
    }

    fn files(&self) -> KeyPairFiles {
        KeyPairFiles { cert: self.path("server.pem"), key: self.path("server.key") }
    }

    /// Settings that require certificates of callers.
    fn settings(&self, side: Side) -> TlsSettings {
        TlsSettings {
            side,
            cert: CertSource::Files(self.files()),
            dial_cert: None,
            trusted_ca_file: Some(self.path("ca.pem")),
            crl_file: None,
            allowed_names: AllowedNames::Any,
            verify_addresses: false,
            min_version: TlsVersion::V12,
            max_version: TlsVersion::V13,
            cipher_suites: None,
        }
    }

    fn acceptor(&self, settings: &TlsSettings) -> TlsAcceptor {
        TlsAcceptor::new(settings, &self.files()).unwrap()
    }
}

/// A caller that trusts one CA and shows one certificate, or none.
fn caller(trusted: &Authority, own: Option<&Pair>, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().into()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes()).collect::<Result<_, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.resumption = Resumption::disabled();
    config
}

/// What came of a connection: the caller's end if a byte came through, else the reason of the member.
async fn meet(acceptor: &TlsAcceptor, config: ClientConfig) -> Result<TlsStream<TcpStream>, String> {
    let (caller, accepted, remote) = sockets().await;
    let called = async {
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, caller).await?;
        // A caller learns only with the first bytes that its certificate was accepted.
        stream.read_u8().await?;
        Ok::<_, std::io::Error>(stream)
    };
    let served = async {
        let mut stream = acceptor.accept(accepted, Some(remote)).await?;
        stream.write_u8(1).await?;
        stream.flush().await
    };
    let (called, served) = tokio::time::timeout(DEADLINE, async { tokio::join!(called, served) }).await.unwrap();
    match served {
        Ok(()) => Ok(called.unwrap()),
        Err(error) => {
            assert!(called.is_err(), "the caller was let in, but the member says {error}");
            Err(reason(&error).unwrap_or_else(|| "gone".to_owned()))
        }
    }
}

/// Both ends of a connection, and the address of the first.
async fn sockets() -> (TcpStream, TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    loop {
        let (accepted, remote) = listener.accept().await.unwrap();
        // Another process may still call whoever had this port before.
        if remote == caller.local_addr().unwrap() {
            return (caller, accepted, remote);
        }
    }
}

/// The bytes of the certificate that the other end showed.
fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}
