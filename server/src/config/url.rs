//! URLs as etcd's flags take them: `http://host:port` or `unix://path`, without a path behind the port.
//!
//! Used by `settings` for every listen and advertise list. Names are not resolved here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// A URL with the form that etcd accepts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Url {
    /// The text as given; what is advertised and compared.
    pub(super) text: String,
    /// `https` or `unixs`.
    pub(super) is_tls: bool,
    /// The name or address, without brackets; for a Unix socket the path.
    pub(super) host: String,
    /// None for a Unix socket.
    pub(super) port: Option<u16>,
}

impl Url {
    /// Checks the form of one URL.
    ///
    /// # Errors
    /// etcd's text for what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("URL scheme must be http, https, unix, or unixs: {text}"));
        };
        let is_tls = match scheme {
            "http" | "unix" => false,
            "https" | "unixs" => true,
            _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {text}")),
        };
        if scheme.starts_with("unix") {
            if rest.is_empty() {
                return Err(format!("unexpected empty host ({text})"));
            }
            return Ok(Self { text: text.to_owned(), is_tls, host: rest.to_owned(), port: None });
        }
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let form = || format!("URL address does not have the form \"host:port\": {text}");
        let (host, port) = authority.rsplit_once(':').ok_or_else(form)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(form)?,
            None if host.contains([':', '@']) => return Err(form()),
            None => host,
        };
        let port = port.parse().map_err(|_| form())?;
        // A single trailing slash is what people paste from a browser; etcd refuses it as a path.
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        Ok(Self { text: text.to_owned(), is_tls, host: host.to_owned(), port: Some(port) })
    }

    /// Checks a comma-separated list. The result is sorted, as etcd sorts its lists.
    ///
    /// # Errors
    /// The first bad URL's text.
    pub(super) fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let mut urls =
            text.split(',').filter(|part| !part.is_empty()).map(Self::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort();
        urls.dedup();
        Ok(urls)
    }
}

/// Where a listener binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// All of these; those after the first are bound only where the machine has that address family.
    Tcp(Vec<SocketAddr>),
    /// A Unix socket at this path.
    Unix(PathBuf),
}

/// A URL that a listener can bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenUrl {
    text: String,
    is_tls: bool,
    host: String,
    place: Place,
}

impl ListenUrl {
    /// The URL as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is served with TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Where to bind.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The names and addresses that a caller may use: those of the URL, unless it means all interfaces.
    pub(super) fn hosts(&self) -> Vec<String> {
        match &self.place {
            Place::Unix(_) => Vec::new(),
            Place::Tcp(addresses) => {
                let addresses = addresses.iter().map(SocketAddr::ip).filter(|address| !address.is_unspecified());
                let mut hosts: Vec<String> = addresses.map(|address| address.to_string()).collect();
                if self.host.parse::<IpAddr>().is_err() {
                    hosts.push(self.host.clone());
                }
                hosts
            }
        }
    }

    /// Turns a URL into a place to bind. Names other than `localhost` are refused, as in etcd: which interface
    /// a name means can change while the process runs.
    ///
    /// # Errors
    /// etcd's text.
    pub(super) fn new(url: Url) -> Result<Self, String> {
        let place = match url.port {
            None => Place::Unix(PathBuf::from(&url.host)),
            Some(port) if url.host == "localhost" => Place::Tcp(vec![
                SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
            ]),
            Some(port) => {
                let address: IpAddr =
                    url.host.parse().map_err(|_| format!("expected IP in URL for binding ({})", url.text))?;
                Place::Tcp(vec![SocketAddr::from((address, port))])
            }
        };
        Ok(Self { text: url.text, is_tls: url.is_tls, host: url.host, place })
    }
}

impl fmt::Display for ListenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_as_in_etcd() {
        type Parsed = (&'static str, Option<u16>);
        let cases: [(&str, Result<Parsed, &str>); 12] = [
            ("http://127.0.0.1:2379", Ok(("127.0.0.1", Some(2379)))),
            ("https://[::1]:1", Ok(("::1", Some(1)))),
            ("http://etcd-0.etcd:2379", Ok(("etcd-0.etcd", Some(2379)))),
            ("unix:///run/cleat.sock", Ok(("/run/cleat.sock", None))),
            ("ftp://127.0.0.1:1", Err("URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1")),
            ("127.0.0.1:1", Err("URL scheme must be http, https, unix, or unixs: 127.0.0.1:1")),
            ("http://127.0.0.1", Err("URL address does not have the form \"host:port\": http://127.0.0.1")),
            ("http://::1:2379", Err("URL address does not have the form \"host:port\": http://::1:2379")),
            ("http://a:99999", Err("URL address does not have the form \"host:port\": http://a:99999")),
            ("http://u@h:1", Err("URL address does not have the form \"host:port\": http://u@h:1")),
            ("http://127.0.0.1:1/x", Err("URL must not contain a path: http://127.0.0.1:1/x")),
            ("unix://", Err("unexpected empty host (unix://)")),
        ];
        for (text, expected) in cases {
            let found = Url::parse(text).map(|url| (url.host, url.port));
            assert_eq!(found, expected.map(|(h, p)| (h.to_owned(), p)).map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn localhost_binds_both_families_and_names_are_refused() {
        let url = ListenUrl::new(Url::parse("http://localhost:2379").unwrap()).unwrap();
        assert_eq!(*url.place(), Place::Tcp(vec!["127.0.0.1:2379".parse().unwrap(), "[::1]:2379".parse().unwrap()]));
        let refused = ListenUrl::new(Url::parse("http://foo:1").unwrap()).unwrap_err();
        assert_eq!(refused, "expected IP in URL for binding (http://foo:1)");
    }

    #[test]
    fn lists_are_sorted_and_distinct() {
        let urls = Url::parse_list("http://b:2,http://a:1,http://b:2").unwrap();
        assert_eq!(urls.iter().map(|u| u.text.as_str()).collect::<Vec<_>>(), ["http://a:1", "http://b:2"]);
    }
}
