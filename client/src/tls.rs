//! The client's side of TLS: PEM files to a rustls configuration.

use crate::error::Error;
use crate::options::TlsOptions;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use trust::Roots;

/// Reads the files, for connections that speak one of these protocols.
///
/// # Errors
/// [`Error::TlsFile`] and [`Error::Tls`].
pub(crate) fn load(options: &TlsOptions, protocols: &[&[u8]]) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let unusable = |error: rustls::Error| Error::Tls(error.to_string());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = if options.insecure_skip_verify {
        let verifier = AcceptAny { provider, shown: Shown::default() };
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
    } else {
        let roots = roots(options)?;
        let chain = WebPkiServerVerifier::builder_with_provider(roots.store(), provider)
            .build()
            .map_err(|error| Error::Tls(error.to_string()))?;
        builder.dangerous().with_custom_certificate_verifier(roots.servers(chain, ()))
    };
    let mut config = with_client(builder, options)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// Like [`load`], for a look at the server's certificate, whatever it is.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_looking(options: &TlsOptions, shown: Shown) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAny { provider, shown }));
    let mut config = with_client(builder, options)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Adds the client's own certificate, if there is one.
fn with_client(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    options: &TlsOptions,
) -> Result<ClientConfig, Error> {
    match (&options.cert_file, &options.key_file) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| file_error(key, &error))?;
            builder.with_client_auth_cert(certificates(cert)?, private).map_err(|error| Error::TlsFile {
                path: cert.clone(),
                reason: format!("cannot be used with {}: {error}", key.display()),
            })
        }
        _ => Err(Error::Tls("a client certificate and its key are given together".to_owned())),
    }
}

/// The authorities to trust.
fn roots(options: &TlsOptions) -> Result<Roots, Error> {
    let mut roots = Roots::empty();
    if let Some(path) = &options.ca_file {
        for certificate in certificates(path)? {
            let refused = |error: rustls::Error| Error::TlsFile { path: path.clone(), reason: error.to_string() };
            roots.add(certificate).map_err(refused)?;
        }
        return Ok(roots);
    }
    // Some of the system's may be too old for rustls; the others count.
    let system = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(system.certs).0 == 0 {
        let reason = system.errors.first().map_or_else(String::new, |error| format!(": {error}"));
        return Err(Error::Tls(format!(
            "the system has no certificate authorities; name a CA file, install ca-certificates or set SSL_CERT_FILE{reason}"
        )));
    }
    Ok(roots.into())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = |error: pem::Error| file_error(path, &error);
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<Vec<_>, _>>().map_err(read)?;
    if certificates.is_empty() {
        return Err(Error::TlsFile { path: path.to_owned(), reason: "there is no certificate in it".to_owned() });
    }
    Ok(certificates)
}

fn file_error(path: &Path, error: &pem::Error) -> Error {
    let reason = match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "there is no key in it".to_owned(),
        error => error.to_string(),
    };
    Error::TlsFile { path: path.to_owned(), reason }
}

/// The certificate that a server has shown, in DER.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown(Arc<Mutex<Option<Vec<u8>>>>);

impl Shown {
    /// Takes it out.
    pub(crate) fn take(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// For `insecure_skip_verify`: the certificate may be anyone's, but who shows it must still have its key.
#[derive(Debug)]
struct AcceptAny {
    provider: Arc<CryptoProvider>,
    shown: Shown,
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.shown.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
