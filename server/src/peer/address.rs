//! Peer URLs, and connecting to them.
//!
//! A name is resolved at every attempt to connect: a member whose address changed is found again under its name.

use discovery::MemberUrl;
use std::fmt;

/// A peer URL, taken apart: `http://host:port` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerUrl {
    pub(crate) is_tls: bool,
    /// A name or an address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl PeerUrl {
    /// Takes a URL apart; none if it is not one at which a member can be called.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let url = MemberUrl::parse(text).ok()?;
        let (host, port) = url.place()?;
        Some(Self { is_tls: url.is_tls(), host: host.to_owned(), port })
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PeerUrl;

    #[test]
    fn peer_urls_are_taken_apart() {
        for good in ["http://127.0.0.1:2380", "https://[::1]:2380", "http://cleat-0.cleat:2380"] {
            assert_eq!(PeerUrl::parse(good).unwrap().to_string(), good);
        }
        // The form is checked by its parser; nobody is called through a socket's file or without a host.
        for bad in ["127.0.0.1:2380", "http://:2380", "unix:///a:1"] {
            assert_eq!(PeerUrl::parse(bad), None, "{bad}");
        }
    }
}
