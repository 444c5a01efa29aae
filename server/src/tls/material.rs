//! From settings and the bytes of files to what `rustls` works with.
//!
//! [`server_config`] is for connections that come in, [`client_config`] for those to peers. Sessions are not resumed:
//! that would skip the look at a certificate that has been revoked or has expired in the meantime.

use super::der::{CertFacts, RevocationList};
use super::files::{Contents, TlsError};
use super::refusal::certificate_text;
use super::verify::{Rules, Unverified};
use crate::config::{KeyPairFiles, TlsSettings, TlsVersion};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use trust::Roots;

const SECONDS_OF_DAY: i64 = 86_400;

/// The files that incoming connections depend on.
pub(super) fn server_files(settings: &TlsSettings, cert: &KeyPairFiles) -> Vec<PathBuf> {
    let optional = [&settings.trusted_ca_file, &settings.crl_file].into_iter().flatten();
    [&cert.cert, &cert.key].into_iter().chain(optional).cloned().collect()
}

/// What connections that come in use.
pub(super) fn server_config(
    settings: &TlsSettings,
    cert: &KeyPairFiles,
    contents: &Contents,
) -> Result<ServerConfig, TlsError> {
    let provider = provider(settings);
    let failed = |reason: &dyn std::fmt::Display| setup(settings, reason);
    let certified = Arc::new(certified_key(settings, cert, contents, &provider)?);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(settings))
        .map_err(|error| failed(&error))?;
    let builder = match &settings.trusted_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = roots(path, contents)?;
            let chain = WebPkiClientVerifier::builder_with_provider(roots.store(), provider)
                .build()
                .map_err(|error| TlsError::file(path, error.to_string()))?;
            builder.with_client_cert_verifier(roots.clients(chain, rules(settings, contents)?))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What connections to peers use. `verifies` is false where members make their certificates for themselves.
pub(super) fn client_config(
    settings: &TlsSettings,
    cert: &KeyPairFiles,
    verifies: bool,
    contents: &Contents,
) -> Result<ClientConfig, TlsError> {
    let provider = provider(settings);
    let failed = |reason: &dyn std::fmt::Display| setup(settings, reason);
    let certified = Arc::new(certified_key(settings, cert, contents, &provider)?);
    let roots = match &settings.trusted_ca_file {
        _ if !verifies => None,
        Some(path) => Some(roots(path, contents)?),
        None => Some(system_roots()),
    };
    let verifier: Arc<dyn ServerCertVerifier> = match roots {
        // For generated certificates there is nothing to verify them by.
        None => Arc::new(Unverified { accepts: true, provider: Arc::clone(&provider) }),
        // A member without peers gets along with that.
        Some(roots) if roots.is_empty() => {
            tracing::warn!("no peer is trusted: the system has no CA, and --peer-trusted-ca-file is not set");
            Arc::new(Unverified { accepts: false, provider: Arc::clone(&provider) })
        }
        Some(roots) => {
            let chain = WebPkiServerVerifier::builder_with_provider(roots.store(), Arc::clone(&provider)).build();
            roots.servers(chain.map_err(|error| failed(&error))?, rules(settings, contents)?)
        }
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(settings))
        .map_err(|error| failed(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn setup(settings: &TlsSettings, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::Setup { side: settings.side.as_str(), reason: reason.to_string() }
}

fn provider(settings: &TlsSettings) -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    if let Some(chosen) = &settings.cipher_suites {
        provider.cipher_suites.retain(|suite| match suite {
            SupportedCipherSuite::Tls12(_) => chosen.contains(&suite.suite()),
            SupportedCipherSuite::Tls13(_) => true,
        });
    }
    Arc::new(provider)
}

fn versions(settings: &TlsSettings) -> Vec<&'static SupportedProtocolVersion> {
    let known = [(TlsVersion::V12, &rustls::version::TLS12), (TlsVersion::V13, &rustls::version::TLS13)];
    let wanted = settings.min_version..=settings.max_version;
    known.into_iter().filter(|(version, _)| wanted.contains(version)).map(|(_, protocol)| protocol).collect()
}

/// The member's own certificate. Says in the log which one it is and how long it lasts.
fn certified_key(
    settings: &TlsSettings,
    files: &KeyPairFiles,
    contents: &Contents,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let chain = contents.certificates(&files.cert)?;
    let key = contents.key(&files.key)?;
    let facts = chain.first().and_then(|certificate| CertFacts::of(certificate));
    let facts = facts.ok_or_else(|| TlsError::file(&files.cert, "its first certificate cannot be read"))?;
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::file(&files.key, format!("it is not the key of certificate {}", files.cert.display()))
        }
        rustls::Error::InvalidCertificate(reason) => TlsError::file(&files.cert, certificate_text(&reason)),
        other => TlsError::file(&files.key, other.to_string()),
    })?;
    let days = (facts.not_after - unix_now()).div_euclid(SECONDS_OF_DAY);
    let (side, file, serial) = (settings.side.as_str(), files.cert.display(), facts.serial_text());
    if days < 0 {
        tracing::warn!(side, %file, serial, "the certificate of this member has expired");
    } else {
        tracing::info!(side, %file, serial, days_left = days, "using certificate");
    }
    Ok(certified)
}

fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64
}

fn roots(path: &Path, contents: &Contents) -> Result<Roots, TlsError> {
    let mut roots = Roots::empty();
    for certificate in contents.certificates(path)? {
        roots.add(certificate).map_err(|error| match error {
            rustls::Error::InvalidCertificate(reason) => TlsError::file(path, certificate_text(&reason)),
            other => TlsError::file(path, other.to_string()),
        })?;
    }
    Ok(roots)
}

/// As in etcd, the CAs of the system where none are named.
fn system_roots() -> Roots {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::warn!(%error, "cannot read a CA of the system");
    }
    // Systems carry certificates that are good for nothing; the others count.
    roots.add_parsable_certificates(found.certs);
    roots.into()
}

fn rules(settings: &TlsSettings, contents: &Contents) -> Result<Rules, TlsError> {
    let mut revoked = std::collections::HashSet::new();
    if let Some(path) = &settings.crl_file {
        for list in contents.revocation_lists(path)? {
            let list =
                RevocationList::of(&list).ok_or_else(|| TlsError::file(path, "its revocation list cannot be read"))?;
            if list.next_update.is_some_and(|promised| promised < unix_now()) {
                tracing::warn!(file = %path.display(), "the revocation list is out of date: later revocations are not known");
            }
            revoked.extend(list.serials);
        }
    }
    Ok(Rules { revoked, names: settings.allowed_names.clone() })
}
