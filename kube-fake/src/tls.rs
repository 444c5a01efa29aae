//! Certificates of one server and of its clients, signed by an authority of their own.

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What an API server serves https with. Clones are the same.
#[derive(Clone)]
pub struct Certificates {
    /// The authority's certificate in PEM.
    pub ca: String,
    /// A client's certificate in PEM.
    pub client_cert: String,
    /// Its key in PEM.
    pub client_key: String,
    pub(crate) wants_client: bool,
    pub(crate) config: Arc<ServerConfig>,
}

/// Without the key.
impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("wants_client", &self.wants_client).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Makes some for a server on loopback. If it `wants_client`, clients have to show theirs.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn make(wants_client: bool) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let issue = |name: &str, usage: ExtendedKeyUsagePurpose| -> Result<_> {
            let mut params = CertificateParams::new([Ipv4Addr::LOCALHOST.to_string(), "localhost".to_owned()])?;
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate()?;
            Ok((params.signed_by(&key, &authority)?, key))
        };
        let (server, server_key) = issue("server", ExtendedKeyUsagePurpose::ServerAuth)?;
        let (client, client_key) = issue("client", ExtendedKeyUsagePurpose::ClientAuth)?;
        let provider = Arc::new(ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let builder = if wants_client {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone())?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.context("the verifier of clients")?)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
        let config = Arc::new(builder.with_single_cert(vec![server.der().clone()], key)?);
        let (client_cert, client_key) = (client.pem(), client_key.serialize_pem());
        Ok(Self { ca: authority.pem(), client_cert, client_key, wants_client, config })
    }
}
