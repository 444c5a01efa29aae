//! Which certificates of the other end are accepted: those of `rustls`'s chain that a [`Check`] has nothing against, and, as in Go,
//! one that is in the file of trusted CAs itself.
//!
//! `openssl req -x509` makes a certificate that may sign others (`CA:TRUE`) unless it is told otherwise, so that a
//! certificate which is its own CA is what many small installations have: `--cert-file=it --trusted-ca-file=it`. `rustls`
//! refuses one in the place of an end's certificate. Whoever has the key of a trusted CA could make any certificate,
//! so that accepting the CA's own gives nothing away.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;

/// What is checked of a certificate behind its chain.
pub trait Check: Debug + Send + Sync {
    /// Looks at a verified certificate, and at those that came with it.
    ///
    /// # Errors
    /// It is not accepted all the same.
    fn check(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Error>;
}

/// Nothing is checked behind the chain.
impl Check for () {
    fn check(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>]) -> Result<(), Error> {
        Ok(())
    }
}

/// Trusted CAs, and their certificates as they are.
#[derive(Clone, Debug)]
pub struct Roots {
    store: RootCertStore,
    certificates: HashSet<Vec<u8>>,
}

impl Roots {
    /// Nobody is trusted yet.
    pub fn empty() -> Self {
        Self { store: RootCertStore::empty(), certificates: HashSet::new() }
    }

    /// Trusts a CA.
    ///
    /// # Errors
    /// If its certificate cannot be read.
    pub fn add(&mut self, certificate: CertificateDer<'_>) -> Result<(), Error> {
        let bytes = certificate.to_vec();
        self.store.add(certificate)?;
        self.certificates.insert(bytes);
        Ok(())
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.store.is_empty()
    }

    /// What `rustls` verifies chains with.
    pub fn store(&self) -> Arc<RootCertStore> {
        Arc::new(self.store.clone())
    }

    /// A verifier of servers that accepts what `chain` does, and CAs themselves, if the check has nothing against it.
    pub fn servers(
        self,
        chain: Arc<dyn ServerCertVerifier>,
        check: impl Check + 'static,
    ) -> Arc<dyn ServerCertVerifier> {
        Arc::new(Servers { chain, certificates: self.certificates, check })
    }

    /// A verifier of clients that accepts what `chain` does, and CAs themselves, if the check has nothing against it.
    pub fn clients(
        self,
        chain: Arc<dyn ClientCertVerifier>,
        check: impl Check + 'static,
    ) -> Arc<dyn ClientCertVerifier> {
        Arc::new(Clients { chain, certificates: self.certificates, check })
    }
}

impl From<RootCertStore> for Roots {
    /// CAs that are none of the ends themselves, such as those of the system.
    fn from(store: RootCertStore) -> Self {
        Self { store, certificates: HashSet::new() }
    }
}

/// Whether nothing is wrong with a certificate but that it is one of a CA. That is found after its dates are right, and
/// before its names are looked at.
fn is_ca(refused: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(reason))) = refused else { return false };
    matches!(reason.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

#[derive(Debug)]
struct Servers<C> {
    chain: Arc<dyn ServerCertVerifier>,
    certificates: HashSet<Vec<u8>>,
    check: C,
}

impl<C: Check> ServerCertVerifier for Servers<C> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = match self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(refused) if is_ca(&refused) && self.certificates.contains(end_entity.as_ref()) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                ServerCertVerified::assertion()
            }
            verified => verified?,
        };
        self.check.check(end_entity, intermediates)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct Clients<C> {
    chain: Arc<dyn ClientCertVerifier>,
    certificates: HashSet<Vec<u8>>,
    check: C,
}

impl<C: Check> ClientCertVerifier for Clients<C> {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = match self.chain.verify_client_cert(end_entity, intermediates, now) {
            Err(refused) if is_ca(&refused) && self.certificates.contains(end_entity.as_ref()) => {
                ClientCertVerified::assertion()
            }
            verified => verified?,
        };
        self.check.check(end_entity, intermediates)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use rustls::client::WebPkiServerVerifier;
    use rustls::crypto::ring;
    use rustls::server::WebPkiClientVerifier;
    use std::time::Duration;

    const HOURS_OF_YEAR: u64 = 8766;
    /// In 2030, when the certificates of these tests are good, and in 2050.
    const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_hours(60 * HOURS_OF_YEAR));
    const LATE: UnixTime = UnixTime::since_unix_epoch(Duration::from_hours(80 * HOURS_OF_YEAR));

    /// A certificate that is its own CA, for `localhost`.
    fn own_ca() -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2040, 1, 1));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
    }

    fn trusting(certificate: &CertificateDer<'_>) -> Roots {
        let mut roots = Roots::empty();
        roots.add(certificate.clone()).unwrap();
        roots
    }

    fn server(roots: Roots, shown: &CertificateDer<'_>, name: &'static str, now: UnixTime) -> Result<(), Error> {
        let provider = Arc::new(ring::default_provider());
        let chain = WebPkiServerVerifier::builder_with_provider(roots.store(), provider).build().unwrap();
        let name = ServerName::try_from(name).unwrap();
        roots.servers(chain, ()).verify_server_cert(shown, &[], &name, &[], now).map(drop)
    }

    fn client(roots: Roots, shown: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        let provider = Arc::new(ring::default_provider());
        let chain = WebPkiClientVerifier::builder_with_provider(roots.store(), provider).build().unwrap();
        roots.clients(chain, ()).verify_client_cert(shown, &[], now).map(drop)
    }

    #[test]
    fn a_trusted_ca_may_be_the_end_itself() {
        let own = own_ca();
        server(trusting(&own), &own, "localhost", NOW).unwrap();
        client(trusting(&own), &own, NOW).unwrap();
    }

    #[test]
    fn names_and_dates_count_all_the_same() {
        let own = own_ca();
        let refused = server(trusting(&own), &own, "elsewhere", NOW).unwrap_err();
        assert!(
            matches!(refused, Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })),
            "{refused}"
        );
        for refused in [
            server(trusting(&own), &own, "localhost", LATE).unwrap_err(),
            client(trusting(&own), &own, LATE).unwrap_err(),
        ] {
            assert!(matches!(refused, Error::InvalidCertificate(CertificateError::ExpiredContext { .. })), "{refused}");
        }
    }

    #[test]
    fn what_is_checked_behind_the_chain_counts_for_cas_too() {
        #[derive(Debug)]
        struct Never;
        impl Check for Never {
            fn check(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>]) -> Result<(), Error> {
                Err(CertificateError::Revoked.into())
            }
        }
        let (own, provider) = (own_ca(), Arc::new(ring::default_provider()));
        let roots = trusting(&own);
        let servers =
            WebPkiServerVerifier::builder_with_provider(roots.store(), Arc::clone(&provider)).build().unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(roots.store(), provider).build().unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        for refused in [
            roots.clone().servers(servers, Never).verify_server_cert(&own, &[], &name, &[], NOW).unwrap_err(),
            roots.clients(clients, Never).verify_client_cert(&own, &[], NOW).unwrap_err(),
        ] {
            assert!(matches!(refused, Error::InvalidCertificate(CertificateError::Revoked)), "{refused}");
        }
    }

    #[test]
    fn another_ca_is_refused() {
        let (own, other) = (own_ca(), own_ca());
        server(trusting(&own), &other, "localhost", NOW).unwrap_err();
        client(trusting(&own), &other, NOW).unwrap_err();
        // As one of the system's: known to sign, not to serve.
        let mut store = RootCertStore::empty();
        store.add(own.clone()).unwrap();
        server(Roots::from(store), &own, "localhost", NOW).unwrap_err();
    }
}
