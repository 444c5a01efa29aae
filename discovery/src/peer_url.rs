//! Peer URLs: `http://host:port` or `unix://path`, nothing behind the port.
//!
//! The text stays as it was given, because ids are hashed from it; host and port are there to be compared.

use std::fmt;

/// A peer URL of the form that etcd accepts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerUrl {
    text: String,
    /// `http`, `https`, `unix` or `unixs`.
    pub(crate) scheme: &'static str,
    /// None for a Unix socket.
    pub(crate) place: Option<(String, u16)>,
}

/// What is wrong with the form of a URL, in etcd's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No scheme, or one of something else.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    /// No host, or no port, or no number in its place.
    #[error("URL address does not have the form \"host:port\": {0}")]
    HostPort(String),
    /// A path, a query or a fragment; a slash at the end is a path.
    #[error("URL must not contain a path: {0}")]
    Path(String),
}

impl PeerUrl {
    /// Checks the form of one URL. Host names are not resolved.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let unknown = || UrlError::Scheme(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(unknown)?;
        let scheme = ["http", "https", "unix", "unixs"].into_iter().find(|s| *s == scheme).ok_or_else(unknown)?;
        let url = |place| Self { text: text.to_owned(), scheme, place };
        let host_port = || UrlError::HostPort(text.to_owned());
        if scheme.starts_with("unix") {
            return if rest.is_empty() { Err(host_port()) } else { Ok(url(None)) };
        }
        let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = authority.rsplit_once(':').ok_or_else(host_port)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(host_port)?,
            None if host.contains([':', '@']) => return Err(host_port()),
            None => host,
        };
        let port: u16 = port.parse().map_err(|_| host_port())?;
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(host_port());
        }
        if !path.is_empty() {
            return Err(UrlError::Path(text.to_owned()));
        }
        Ok(url(Some((host.to_owned(), port))))
    }

    /// The URL as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_as_in_etcd() {
        let (scheme, form, path) = (
            "URL scheme must be http, https, unix, or unixs: ",
            "URL address does not have the form \"host:port\": ",
            "URL must not contain a path: ",
        );
        let good: [(&str, Option<(&str, u16)>); 5] = [
            ("http://127.0.0.1:2380", Some(("127.0.0.1", 2380))),
            (" https://[::1]:1 ", Some(("::1", 1))),
            ("http://etcd-0.etcd:2380", Some(("etcd-0.etcd", 2380))),
            ("unix:///run/cleat.sock", None),
            ("unixs://m1:0", None),
        ];
        for (text, place) in good {
            let url = PeerUrl::parse(text).unwrap();
            assert_eq!(url.as_str(), text.trim());
            assert_eq!(url.place, place.map(|(host, port)| (host.to_owned(), port)), "{text}");
        }
        let bad = [
            ("", scheme),
            ("a:1", scheme),
            ("ftp://a:1", scheme),
            ("http://a", form),
            ("http://:1", form),
            ("http://a b:1", form),
            ("http://::1:2380", form),
            ("http://[::1:2380", form),
            ("http://a:99999", form),
            ("http://u@a:1", form),
            ("unix://", form),
            ("http://a:1/", path),
            ("http://a:1?x", path),
        ];
        for (text, expected) in bad {
            assert_eq!(PeerUrl::parse(text).unwrap_err().to_string(), format!("{expected}{text}"));
        }
    }
}
