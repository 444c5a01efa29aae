//! TLS between clients, peers and this member.
//!
//! `config` says what is wanted, [`Tls`] reads the files at the start, `listen` passes incoming connections through a
//! [`TlsAcceptor`], and connections to peers come from a [`PeerConnector`]. All files are read again when they change
//! ([`reload`]): certificate, key, CAs and revocation lists, for connections made from then on.
//!
//! A refused caller costs a slot for at most the handshake's deadline, and is told apart in the log by address and
//! reason ([`refusal`]). Of who a verified caller is, the common name leaves this module: it may be the name of a user.

mod accept;
mod address;
mod connect;
mod der;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz_target;
mod material;
mod member;
mod refusal;
mod reload;
mod self_signed;
mod verify;

#[cfg(test)]
mod tests;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;

/// The common name in a certificate; none for an empty one, which is nobody's.
pub(crate) fn common_name(certificate: &[u8]) -> Option<String> {
    der::CertFacts::of(certificate)?.common_name.filter(|name| !name.is_empty())
}

/// When a certificate ends, in seconds since 1970; None for what is no certificate.
pub fn certificate_expiry(certificate: &[u8]) -> Option<i64> {
    der::CertFacts::of(certificate).map(|facts| facts.not_after)
}

/// True if a certificate is good for a host, by its alternative names.
pub(crate) fn is_for_host(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let parsed = ParsedCertificate::try_from(certificate);
    let name = ServerName::try_from(host);
    parsed.ok().zip(name.ok()).is_some_and(|(parsed, name)| verify_server_name(&parsed, &name).is_ok())
}

pub use accept::TlsAcceptor;
pub use connect::{PeerConnector, PeerStream};
pub use files::TlsError;
pub use member::Tls;
pub(crate) use refusal::RefusalLog;
