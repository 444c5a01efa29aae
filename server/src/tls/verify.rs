//! Which certificates of the other end are accepted, beyond what `rustls` verifies by itself.
//!
//! `rustls` and `trust` verify the chain to a trusted CA, the dates and the purpose. Behind that, [`Rules`] look at revocation
//! lists and allowed names. `material` puts both together, for callers of ours and for peers that we call.

use super::der::CertFacts;
use crate::config::AllowedNames;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use std::collections::HashSet;
use std::sync::Arc;
use trust::Check;

/// A certificate was verified, but is not accepted. The text begins with etcd's.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotAccepted(pub(super) String);

impl NotAccepted {
    /// A certificate with a name that is not among those allowed.
    fn name(found: &str) -> Self {
        Self(format!("client certificate authentication failed: {found} not allowed"))
    }
}

impl From<NotAccepted> for Error {
    fn from(reason: NotAccepted) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
    }
}

/// What is checked after the chain.
#[derive(Debug)]
pub(super) struct Rules {
    /// Serial numbers alone, as in etcd: names of issuers are written differently by different tools, so comparing
    /// them could let a revoked certificate pass. That two CAs give the same number refuses one too many.
    pub(super) revoked: HashSet<Vec<u8>>,
    pub(super) names: AllowedNames,
}

impl Check for Rules {
    fn check(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !self.revoked.is_empty() {
            for certificate in std::iter::once(end_entity).chain(intermediates) {
                let facts = facts(certificate)?;
                if self.revoked.contains(&facts.serial) {
                    return Err(
                        NotAccepted(format!("transport: certificate serial {} revoked", facts.serial_text())).into()
                    );
                }
            }
        }
        self.check_names(end_entity)
    }
}

impl Rules {
    fn check_names(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        match &self.names {
            AllowedNames::Any => Ok(()),
            AllowedNames::CommonNames(names) => {
                let found = facts(certificate)?.common_name;
                if found.as_ref().is_some_and(|name| names.contains(name)) {
                    return Ok(());
                }
                Err(NotAccepted::name(&format!("common name {:?}", found.unwrap_or_default())).into())
            }
            AllowedNames::Hostnames(hosts) => {
                let parsed = ParsedCertificate::try_from(certificate)?;
                let CertFacts { dns_names, addresses, .. } = facts(certificate)?;
                let is_allowed = hosts.iter().any(|host| {
                    // A pattern is no name of a server, but may be allowed as it is.
                    dns_names.iter().any(|name| name.eq_ignore_ascii_case(host))
                        || ServerName::try_from(host.as_str())
                            .is_ok_and(|name| rustls::client::verify_server_name(&parsed, &name).is_ok())
                });
                if is_allowed {
                    return Ok(());
                }
                let found = dns_names.into_iter().chain(addresses.iter().map(ToString::to_string));
                Err(NotAccepted::name(&format!("host names {:?}", found.collect::<Vec<_>>())).into())
            }
        }
    }
}

fn facts(certificate: &CertificateDer<'_>) -> Result<CertFacts, Error> {
    CertFacts::of(certificate).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// Members that we call, where there is nothing to verify them by: all are accepted, or none.
#[derive(Debug)]
pub(super) struct Unverified {
    pub(super) accepts: bool,
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.accepts { Ok(ServerCertVerified::assertion()) } else { Err(CertificateError::UnknownIssuer.into()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
