//! URLs of members, for clients and for other members: `http://host:port` or `unix://path`, nothing behind the port.
//!
//! The text stays as it was given, because ids are hashed from it; its parts are there to be compared, listened on and
//! called. Names are not resolved here.

use std::fmt;

/// A URL of the form that etcd accepts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberUrl {
    text: String,
    /// `http`, `https`, `unix` or `unixs`.
    pub(crate) scheme: &'static str,
    host: String,
    port: Option<u16>,
}

/// What is wrong with the form of a URL, in etcd's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No scheme, or one of something else.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    /// No port, or no number in its place, or something that is no host.
    #[error("URL address does not have the form \"host:port\": {0}")]
    HostPort(String),
    /// Nothing in the place of the host, or of a socket's path.
    #[error("unexpected empty host ({0})")]
    EmptyHost(String),
    /// A path, a query or a fragment; a slash at the end is a path.
    #[error("URL must not contain a path: {0}")]
    Path(String),
}

impl MemberUrl {
    /// Checks a URL that somebody is to call.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let url = Self::parse_form(text)?;
        if url.host.is_empty() { Err(UrlError::EmptyHost(url.text)) } else { Ok(url) }
    }

    /// Checks the form alone: the host may be empty. etcd says of a URL to listen on what it misses there.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse_form(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let unknown = || UrlError::Scheme(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(unknown)?;
        let scheme = ["http", "https", "unix", "unixs"].into_iter().find(|s| *s == scheme).ok_or_else(unknown)?;
        let url = |host: &str, port| Self { text: text.to_owned(), scheme, host: host.to_owned(), port };
        if scheme.starts_with("unix") {
            return if rest.is_empty() { Err(UrlError::EmptyHost(text.to_owned())) } else { Ok(url(rest, None)) };
        }
        let host_port = || UrlError::HostPort(text.to_owned());
        let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = authority.rsplit_once(':').ok_or_else(host_port)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(host_port)?,
            None if host.contains([':', '@']) => return Err(host_port()),
            None => host,
        };
        // Rust would take a sign.
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| is_number).ok_or_else(host_port)?;
        if host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(host_port());
        }
        if path.is_empty() { Ok(url(host, Some(port))) } else { Err(UrlError::Path(text.to_owned())) }
    }

    /// The URL as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True for `https` and `unixs`.
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme, "https" | "unixs")
    }

    /// The name or address, without brackets; for a Unix socket its path.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// None for a Unix socket.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Host and port; none for a Unix socket.
    pub fn place(&self) -> Option<(&str, u16)> {
        self.port.map(|port| (self.host.as_str(), port))
    }
}

impl fmt::Display for MemberUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_as_in_etcd() {
        let good: [(&str, bool, &str, Option<u16>); 6] = [
            ("http://127.0.0.1:2380", false, "127.0.0.1", Some(2380)),
            (" https://[::1]:1 ", true, "::1", Some(1)),
            ("http://etcd-0.etcd:2380", false, "etcd-0.etcd", Some(2380)),
            ("http://:2379", false, "", Some(2379)),
            ("unix:///run/cleat.sock", false, "/run/cleat.sock", None),
            ("unixs://m1:0", true, "m1:0", None),
        ];
        for (text, is_tls, host, port) in good {
            let url = MemberUrl::parse_form(text).unwrap();
            assert_eq!((url.as_str(), url.to_string().as_str()), (text.trim(), text.trim()));
            assert_eq!((url.is_tls(), url.host(), url.port()), (is_tls, host, port), "{text}");
            assert_eq!(url.place(), port.map(|port| (host, port)), "{text}");
            // Nobody can call a URL without a host.
            let called = MemberUrl::parse(text).map_err(|error| error.to_string());
            let expected = if host.is_empty() { Err(format!("unexpected empty host ({text})")) } else { Ok(url) };
            assert_eq!(called, expected);
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_etcds_words() {
        let (scheme, form, path) = (
            "URL scheme must be http, https, unix, or unixs: ",
            "URL address does not have the form \"host:port\": ",
            "URL must not contain a path: ",
        );
        let bad = [
            ("", scheme),
            ("a:1", scheme),
            ("127.0.0.1:1", scheme),
            ("ftp://127.0.0.1:1", scheme),
            ("http://a", form),
            ("http://a:", form),
            ("http://a:b:2380", form),
            ("http://a b:1", form),
            ("http://::1:2380", form),
            ("http://[::1:2380", form),
            ("http://a:99999", form),
            ("http://a:+1", form),
            ("http://u@a:1", form),
            ("http://a:1/", path),
            ("http://a:1/x", path),
            ("http://a:1?x", path),
        ];
        for (text, expected) in bad {
            for parsed in [MemberUrl::parse(text), MemberUrl::parse_form(text)] {
                assert_eq!(parsed.unwrap_err().to_string(), format!("{expected}{text}"));
            }
        }
        assert_eq!(MemberUrl::parse_form("unix://").unwrap_err().to_string(), "unexpected empty host (unix://)");
    }
}
