//! Endpoints as people write them.

use crate::error::Error;
use std::borrow::Cow;
use std::path::PathBuf;

/// An endpoint or another URL without the user and password in it, fit for errors, logs and Debug.
///
/// Everything before the last `@` goes, whatever the rest looks like: a text that cannot be read as a URL may have a
/// password in it all the same, and one that was not encoded may have any character. Only the path of a socket stays.
pub fn without_user(text: &str) -> Cow<'_, str> {
    if text.trim_start().starts_with("unix:///") {
        return Cow::Borrowed(text);
    }
    let scheme = text.find("://").map_or(0, |at| at + "://".len());
    match text[scheme..].rfind('@') {
        Some(at) => Cow::Owned(format!("{}{}", &text[..scheme], &text[scheme + at + 1..])),
        None => Cow::Borrowed(text),
    }
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Host without brackets, and port.
    Tcp(String, u16),
    Unix(PathBuf),
}

/// A checked endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) place: Place,
    pub(crate) is_tls: bool,
    /// `host:port` for requests to name; `localhost` for a socket.
    pub(crate) authority: String,
}

impl Address {
    /// Reads an endpoint; one without a scheme is `https` if `tls_by_default`.
    ///
    /// # Errors
    /// [`Error::BadEndpoint`].
    pub(crate) fn parse(text: &str, tls_by_default: bool) -> Result<Self, Error> {
        let bad = |reason: &str| Error::bad_endpoint(text, reason);
        let (is_tls, rest) = match text.trim().split_once("://") {
            None => (tls_by_default, text.trim()),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(("unix", path)) if path.starts_with('/') => {
                let place = Place::Unix(PathBuf::from(path));
                return Ok(Self { place, is_tls: false, authority: "localhost".to_owned() });
            }
            Some(("unix", _)) => return Err(bad("the path of a socket starts with /, as in unix:///run/cleat.sock")),
            Some(_) => return Err(bad("the scheme must be http, https or unix")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err(bad("an endpoint has no user in it"));
        }
        if authority.contains(['/', '?', '#']) {
            return Err(bad("an endpoint has no path"));
        }
        let Some((host, port)) = authority.rsplit_once(':') else {
            return Err(bad("it must have the form host:port"));
        };
        let host = match host.strip_prefix('[').map(|inner| inner.strip_suffix(']')) {
            Some(Some(inner)) => inner,
            Some(None) => return Err(bad("the bracket of the address is not closed")),
            None if host.contains(':') => return Err(bad("an IPv6 address stands in brackets, as in [::1]:2379")),
            None => host,
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(bad("the host is missing or has spaces"));
        }
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| bad("the port must be 1 to 65535"))?;
        if authority.parse::<http::uri::Authority>().is_err() {
            return Err(bad("the host has characters that no host has"));
        }
        Ok(Self { place: Place::Tcp(host.to_owned(), port), is_tls, authority: authority.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let cases = [
            ("127.0.0.1:2379", false, Ok(("127.0.0.1", 2379, false))),
            ("127.0.0.1:2379", true, Ok(("127.0.0.1", 2379, true))),
            ("http://etcd-0.etcd:2379", true, Ok(("etcd-0.etcd", 2379, false))),
            ("https://[::1]:2379/", false, Ok(("::1", 2379, true))),
            ("[::1]:1", false, Ok(("::1", 1, false))),
            (" a:1 ", false, Ok(("a", 1, false))),
            ("", false, Err("it must have the form host:port")),
            ("localhost", false, Err("it must have the form host:port")),
            ("localhost:", false, Err("the port must be 1 to 65535")),
            ("localhost:0", false, Err("the port must be 1 to 65535")),
            ("localhost:70000", false, Err("the port must be 1 to 65535")),
            ("::1:2379", false, Err("an IPv6 address stands in brackets, as in [::1]:2379")),
            ("[::1:2379", false, Err("the bracket of the address is not closed")),
            ("http://:2379", false, Err("the host is missing or has spaces")),
            ("http://a b:2379", false, Err("the host is missing or has spaces")),
            ("http://a\"b:2379", false, Err("the host has characters that no host has")),
            ("http://a:1/v3", false, Err("an endpoint has no path")),
            ("ftp://a:1", false, Err("the scheme must be http, https or unix")),
            ("unix://a", false, Err("the path of a socket starts with /, as in unix:///run/cleat.sock")),
        ];
        for (text, tls_by_default, expected) in cases {
            let expected = match expected {
                Ok((host, port, is_tls)) => Ok((Place::Tcp(host.to_owned(), port), is_tls)),
                Err(reason) => Err(format!("bad endpoint {text:?}: {reason}")),
            };
            let parsed = Address::parse(text, tls_by_default);
            assert_eq!(parsed.map(|a| (a.place, a.is_tls)).map_err(|e| e.to_string()), expected, "{text}");
        }
        let given = "https://root:secret@a:1";
        let error = Address::parse(given, false).unwrap_err().to_string();
        assert_eq!(error, "bad endpoint \"https://a:1\": an endpoint has no user in it");
        let socket = Address::parse("unix:///run/cleat.sock", true).unwrap();
        assert_eq!((socket.place, socket.is_tls), (Place::Unix(PathBuf::from("/run/cleat.sock")), false));
    }

    #[test]
    fn users_and_passwords_are_cut() {
        for (text, expected) in [
            ("http://a:1", "http://a:1"),
            ("http://u:secret@a:1", "http://a:1"),
            ("u:secret@a:1", "a:1"),
            ("http:/u:secret@a:1", "a:1"),
            ("https://u:secret/secret?secret#secret@secret@a:1/x", "https://a:1/x"),
            ("http://u://secret@a", "http://a"),
            ("unix:///run/a@b.sock", "unix:///run/a@b.sock"),
            ("unix://u:secret@a", "unix://a"),
            ("@", ""),
        ] {
            assert_eq!(without_user(text), expected, "{text}");
        }
    }
}
