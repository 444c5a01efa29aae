//! Tokens for queries, in the manner of a cloud's metadata service: whoever can be made to send a request somewhere can
//! seldom be made to send a PUT, read its answer, and send a header.
//!
//! A token says how long it is good and for which address, and is signed, so nothing is kept for it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderName;
use ring::hmac;
use ring::rand::SystemRandom;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The header of a query with its token.
pub(crate) const TOKEN: HeaderName = HeaderName::from_static("x-metad-token");
/// The header of the request for a token, in seconds.
pub(crate) const TTL: HeaderName = HeaderName::from_static("x-metad-token-ttl-seconds");

/// How long tokens may be good.
pub(crate) const TTL_SECONDS: std::ops::RangeInclusive<u64> = 1..=21_600;

/// Bytes of the time in a token.
const TIME_LEN: usize = 8;
/// Shortest secret in a file.
const MIN_SECRET_LEN: usize = 16;

/// Makes tokens and knows its own.
pub(crate) struct Sessions {
    key: hmac::Key,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl Sessions {
    /// With the secret of a file, which instances can share, or one that ends with the process.
    ///
    /// # Errors
    /// The file cannot be read or is too short; the system has no random numbers.
    pub(crate) fn new(key_file: Option<&Path>) -> Result<Self, String> {
        let key = match key_file {
            None => hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
                .map_err(|_| "the system has no random numbers".to_owned())?,
            Some(path) => {
                let secret = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
                let secret = secret.trim_ascii();
                if secret.len() < MIN_SECRET_LEN {
                    return Err(format!("{}: a secret has at least {MIN_SECRET_LEN} bytes", path.display()));
                }
                hmac::Key::new(hmac::HMAC_SHA256, secret)
            }
        };
        Ok(Self { key })
    }

    /// A token that is good for a while, from this address.
    pub(crate) fn grant(&self, address: IpAddr, ttl_seconds: u64) -> String {
        let end = (now() + Duration::from_secs(ttl_seconds)).as_millis() as u64;
        let signature = hmac::sign(&self.key, &signed(end, address));
        let token = [end.to_be_bytes().as_slice(), signature.as_ref()].concat();
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Seconds for which a token is still good, if it is one for this address.
    pub(crate) fn check(&self, token: &[u8], address: IpAddr) -> Option<u64> {
        let token = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (time, signature) = token.split_at_checked(TIME_LEN)?;
        let end = u64::from_be_bytes(time.try_into().ok()?);
        hmac::verify(&self.key, &signed(end, address), signature).ok()?;
        let left = Duration::from_millis(end).checked_sub(now())?;
        Some(left.as_secs())
    }
}

fn signed(end: u64, address: IpAddr) -> Vec<u8> {
    format!("{end} {address}").into_bytes()
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_address_and_time() {
        let (sessions, other) = (Sessions::new(None).unwrap(), Sessions::new(None).unwrap());
        let (one, two) = ("1.1.1.1".parse().unwrap(), "::1".parse().unwrap());
        let token = sessions.grant(one, 60);
        assert!(sessions.check(token.as_bytes(), one).is_some_and(|left| left <= 60));
        assert_eq!(sessions.check(token.as_bytes(), two), None);
        assert_eq!(other.check(token.as_bytes(), one), None);
        assert_eq!(sessions.check(sessions.grant(one, 0).as_bytes(), one), None);
        let other = if token.ends_with("AA") { "BB" } else { "AA" };
        let changed = format!("{}{other}", &token[..token.len() - 2]);
        for bad in ["", "x", &token[1..], &changed, &"A".repeat(1000)] {
            assert_eq!(sessions.check(bad.as_bytes(), one), None, "{bad}");
        }
    }

    #[test]
    fn instances_share_a_secret_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let (one, two) = (Sessions::new(Some(&path)).unwrap(), Sessions::new(Some(&path)).unwrap());
        let address = "1.1.1.1".parse().unwrap();
        assert!(two.check(one.grant(address, 60).as_bytes(), address).is_some());
        std::fs::write(&path, "short").unwrap();
        assert!(Sessions::new(Some(&path)).unwrap_err().ends_with("at least 16 bytes"));
        assert!(!format!("{one:?}").contains("0123"));
    }
}
