//! Why a handshake failed, in the words that operators of etcd know, and how often that is logged.

use super::verify::NotAccepted;
use parking_lot::Mutex;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Lines in one interval; what is beyond is counted and told with the first line of the next.
const LINES: u32 = 20;
const INTERVAL: Duration = Duration::from_secs(10);

/// The reason of a failed handshake. None if the caller just went away, as port probes do.
pub(super) fn reason(error: &io::Error) -> Option<String> {
    let Some(inner) = error.get_ref() else {
        let is_gone = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        return (!is_gone.contains(&error.kind())).then(|| error.to_string());
    };
    match inner.downcast_ref::<Error>() {
        Some(tls) => Some(text(tls)),
        None if error.kind() == io::ErrorKind::UnexpectedEof => None,
        None => Some(error.to_string()),
    }
}

fn text(error: &Error) -> String {
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        Error::NoCertificatesPresented => "tls: client didn't provide a certificate".to_owned(),
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            "tls: no cipher suite supported by both client and server".to_owned()
        }
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "tls: client offered only unsupported versions".to_owned(),
        Error::NoApplicationProtocol => "tls: client requested unsupported application protocols".to_owned(),
        Error::AlertReceived(alert) => format!("remote error: tls: {}", alert_text(*alert)),
        Error::InvalidCertificate(reason) => match not_accepted(reason) {
            Some(reason) => reason.to_string(),
            None => format!("tls: failed to verify certificate: {}", certificate_text(reason)),
        },
        other => format!("tls: {other}"),
    }
}

/// The reason why a certificate is not accepted although it is verified.
fn not_accepted(reason: &CertificateError) -> Option<&NotAccepted> {
    match reason {
        CertificateError::Other(other) => other.0.downcast_ref(),
        _ => None,
    }
}

/// What is wrong with a certificate.
pub(super) fn certificate_text(reason: &CertificateError) -> String {
    match reason {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => "x509: certificate has expired or is not yet valid".to_owned(),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "x509: certificate specifies an incompatible key usage".to_owned()
        }
        CertificateError::Other(other) => format!("x509: {}", other.0),
        other => format!("x509: {other}"),
    }
}

fn alert_text(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::BadCertificate => "bad certificate".to_owned(),
        AlertDescription::UnknownCA => "unknown certificate authority".to_owned(),
        AlertDescription::CertificateExpired => "expired certificate".to_owned(),
        AlertDescription::CertificateUnknown => "unknown certificate".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Logs refused callers, but not without end: anybody can be refused as often as they like.
#[derive(Debug)]
pub(super) struct RefusalLog {
    budget: Mutex<Budget>,
}

#[derive(Debug)]
struct Budget {
    begun: Instant,
    lines: u32,
    left_out: u64,
}

impl RefusalLog {
    pub(super) fn new() -> Self {
        Self { budget: Mutex::new(Budget { begun: Instant::now(), lines: 0, left_out: 0 }) }
    }

    pub(super) fn write(&self, side: &'static str, remote: Option<SocketAddr>, reason: &str) {
        let Some(left_out) = self.spend(Instant::now()) else { return };
        let remote_addr = remote.map_or_else(|| "@".to_owned(), |remote| remote.to_string());
        let left_out = (left_out > 0).then_some(left_out);
        tracing::warn!(side, remote_addr, error = reason, left_out, "rejected connection");
    }

    /// How many lines were left out before this one; None if this one is left out.
    fn spend(&self, now: Instant) -> Option<u64> {
        let mut budget = self.budget.lock();
        if now.duration_since(budget.begun) >= INTERVAL {
            (budget.begun, budget.lines) = (now, 0);
        }
        if budget.lines == LINES {
            budget.left_out += 1;
            return None;
        }
        budget.lines += 1;
        Some(std::mem::take(&mut budget.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_and_not_written() {
        let log = RefusalLog::new();
        let begun = Instant::now();
        for _ in 0..LINES {
            assert_eq!(log.spend(begun), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(log.spend(begun), None);
        }
        assert_eq!(log.spend(begun + INTERVAL * 2), Some(7));
        assert_eq!(log.spend(begun + INTERVAL * 2), Some(0));
    }
}
