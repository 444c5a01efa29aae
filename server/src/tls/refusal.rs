//! Why a handshake failed, in the words that operators of etcd know, and how often that is logged.

use super::verify::NotAccepted;
use parking_lot::Mutex;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Lines in one interval; what is beyond is counted and told with the first line of the next.
const LINES: usize = 20;
/// A caller that tries again and again gets one line for each reason in this time.
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

/// An error of a connection to another member, with the reason and what to do about it.
pub(super) fn explained(error: io::Error) -> io::Error {
    let Some(reason) = reason(&error) else { return error };
    let remedy = error.get_ref().and_then(|inner| inner.downcast_ref()).and_then(remedy);
    let text = match remedy {
        Some(remedy) => format!("{reason}; {remedy}"),
        None => reason,
    };
    io::Error::new(error.kind(), text)
}

/// What helps a member that cannot talk to another one. None where the reason says it all.
fn remedy(error: &Error) -> Option<&'static str> {
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            Some("the member there serves plain HTTP: its peer URL must begin with http:, or it must listen on https")
        }
        Error::AlertReceived(alert) => refusal_remedy(*alert),
        Error::InvalidCertificate(reason) => match reason {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => {
                Some("renew the certificate of the member there, and compare the clocks")
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                Some("the --peer-trusted-ca-file of this member must have the CA of the member there")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Some("the certificate of the member there must have the host of its peer URL")
            }
            CertificateError::Other(_) => {
                Some("the flags of this member on allowed names and on revoked certificates say which it accepts")
            }
            _ => None,
        },
        _ => None,
    }
}

/// The same for a member that was refused. Only the other end knows exactly why.
fn refusal_remedy(alert: AlertDescription) -> Option<&'static str> {
    match alert {
        AlertDescription::CertificateRequired => {
            Some("the member there requires a certificate (--peer-cert-file, --peer-client-cert-file)")
        }
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            Some("the --peer-trusted-ca-file of the member there must have the CA of this member's certificate")
        }
        AlertDescription::CertificateExpired => Some("renew the certificate of this member, and compare the clocks"),
        AlertDescription::UnsupportedCertificate => {
            Some("the certificate of this member must be good for TLS clients (extended key usage)")
        }
        AlertDescription::CertificateUnknown
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::AccessDenied => Some(
            "the member there does not allow the names in this member's certificate, or has it on its revocation list: \
             its log has the reason",
        ),
        _ => None,
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
        AlertDescription::CertificateRevoked => "revoked certificate".to_owned(),
        AlertDescription::CertificateRequired => "certificate required".to_owned(),
        AlertDescription::UnsupportedCertificate => "unsupported certificate".to_owned(),
        AlertDescription::AccessDenied => "access denied".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Logs refused callers, but not without end: anybody can be refused as often as they like, and a member with a wrong
/// certificate tries all the time.
#[derive(Debug)]
pub(crate) struct RefusalLog {
    interval: Mutex<Interval>,
}

#[derive(Debug)]
struct Interval {
    begun: Instant,
    /// What has a line. At most [`LINES`].
    told: HashSet<(Option<IpAddr>, String)>,
    left_out: u64,
}

impl RefusalLog {
    pub(crate) fn new() -> Self {
        Self { interval: Mutex::new(Interval { begun: Instant::now(), told: HashSet::new(), left_out: 0 }) }
    }

    pub(crate) fn write(&self, side: &'static str, remote: Option<SocketAddr>, reason: &str) {
        let Some(left_out) = self.spend(Instant::now(), remote, reason) else { return };
        let remote_addr = remote.map_or_else(|| "@".to_owned(), |remote| remote.to_string());
        let left_out = (left_out > 0).then_some(left_out);
        tracing::warn!(side, remote_addr, error = reason, left_out, "rejected connection");
    }

    /// How many lines were left out before this one; None if this one is left out.
    fn spend(&self, now: Instant, remote: Option<SocketAddr>, reason: &str) -> Option<u64> {
        let mut interval = self.interval.lock();
        if now.duration_since(interval.begun) >= INTERVAL {
            interval.begun = now;
            interval.told.clear();
        }
        let line = (remote.map(|remote| remote.ip()), reason.to_owned());
        if interval.told.len() == LINES || !interval.told.insert(line) {
            interval.left_out += 1;
            return None;
        }
        Some(std::mem::take(&mut interval.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 1000 + u16::from(last)))
    }

    #[test]
    fn a_flood_of_refusals_is_counted_and_not_written() {
        let log = RefusalLog::new();
        let begun = Instant::now();
        for last in 0..LINES as u8 {
            assert_eq!(log.spend(begun, Some(caller(last)), "no certificate"), Some(0));
        }
        for last in 0..7 {
            assert_eq!(log.spend(begun, Some(caller(100 + last)), "no certificate"), None);
        }
        assert_eq!(log.spend(begun + INTERVAL * 2, Some(caller(1)), "no certificate"), Some(7));
        assert_eq!(log.spend(begun + INTERVAL * 2, Some(caller(2)), "no certificate"), Some(0));
    }

    #[test]
    fn one_caller_does_not_hide_the_others() {
        let log = RefusalLog::new();
        let begun = Instant::now();
        assert_eq!(log.spend(begun, Some(caller(1)), "no certificate"), Some(0));
        for _ in 0..1000 {
            // From another port each time.
            assert_eq!(log.spend(begun, Some(SocketAddr::new(caller(1).ip(), 7)), "no certificate"), None);
        }
        assert_eq!(log.spend(begun, Some(caller(1)), "expired"), Some(1000));
        assert_eq!(log.spend(begun, Some(caller(2)), "no certificate"), Some(0));
        assert_eq!(log.spend(begun, None, "no certificate"), Some(0));
        assert_eq!(log.spend(begun + INTERVAL, Some(caller(1)), "no certificate"), Some(0));
    }
}
