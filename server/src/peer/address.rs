//! Peer URLs, and connecting to them.
//!
//! A name is resolved at every attempt to connect: a member whose address changed is found again under its name.

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
    /// Takes a URL apart; none if it is not one that etcd accepts as a peer URL.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (is_tls, authority) = match text.split_once("://")? {
            ("http", rest) => (false, rest),
            ("https", rest) => (true, rest),
            _ => return None,
        };
        let (host, port) = authority.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']')?,
            None if host.contains([':', '@', '/', '?', '#']) => return None,
            None => host,
        };
        if host.is_empty() {
            return None;
        }
        Some(Self { is_tls, host: host.to_owned(), port: port.parse().ok()? })
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
        for bad in [
            "127.0.0.1:2380",
            "http://127.0.0.1",
            "http://:2380",
            "http://a:b:2380",
            "http://a:2380/x",
            "http://u@a:1",
            "http://a:99999",
            "unix:///a:1",
            "ftp://a:1",
            "http://[::1:2380",
        ] {
            assert_eq!(PeerUrl::parse(bad), None, "{bad}");
        }
    }
}
