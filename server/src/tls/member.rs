//! All of a member's TLS, made at its start.

use super::accept::TlsAcceptor;
use super::connect::PeerConnector;
use super::files::TlsError;
use super::self_signed;
use crate::config::{CertSource, Config, KeyPairFiles, TlsSettings};
use prometheus::IntGaugeVec;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks at when certificates end. Connections that come in look by themselves.
const EXPIRY_INTERVAL: Duration = Duration::from_mins(1);

/// What listeners and connections to peers use.
#[derive(Clone, Debug)]
pub struct Tls {
    /// For clients, HTTP and metrics; None if no such URL is https.
    pub client: Option<TlsAcceptor>,
    /// For peers; None if the member has no certificate for them.
    pub peer: Option<TlsAcceptor>,
    /// Opens connections to peers.
    pub connector: PeerConnector,
}

impl Tls {
    /// Reads the files that the settings name. Certificates that the member makes for itself are below `fixtures`.
    ///
    /// # Errors
    /// [`TlsError`], with the file.
    pub fn open(config: &Config, fixtures: &Path) -> Result<Self, TlsError> {
        let mut tls = Self { client: None, peer: None, connector: PeerConnector::plain() };
        if let Some(settings) = &config.client_tls {
            tls.client = Some(TlsAcceptor::new(settings, &own_cert(settings, fixtures)?)?);
        }
        if let Some(settings) = &config.peer_tls {
            let cert = own_cert(settings, fixtures)?;
            tls.peer = Some(TlsAcceptor::new(settings, &cert)?);
            tls.connector = PeerConnector::new(settings, settings.dial_cert.as_ref().unwrap_or(&cert))?;
        }
        Ok(tls)
    }

    /// Keeps `gauge` at when the certificates end that listeners show, until `stop`. Members stay connected for long, so
    /// that nothing else may look at the files for weeks.
    pub(crate) async fn tell_expiry(self, gauge: IntGaugeVec, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(EXPIRY_INTERVAL);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            for acceptor in [&self.client, &self.peer].into_iter().flatten() {
                gauge.with_label_values(&[acceptor.side()]).set(acceptor.not_after().await);
            }
        }
    }
}

fn own_cert(settings: &TlsSettings, fixtures: &Path) -> Result<KeyPairFiles, TlsError> {
    match &settings.cert {
        CertSource::Files(files) => Ok(files.clone()),
        CertSource::SelfSigned { hosts, validity_years } => {
            self_signed::ensure(&fixtures.join(settings.side.as_str()), hosts, *validity_years)
        }
    }
}
