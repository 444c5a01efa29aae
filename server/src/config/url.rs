//! Lists of URLs as etcd's flags take them, and what of them can be listened on.
//!
//! Used by `settings` for every listen and advertise list. Names are not resolved here.

use discovery::MemberUrl;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// Checks a comma-separated list. The result is sorted, as etcd sorts its lists.
///
/// # Errors
/// The first bad URL's text.
pub(super) fn parse_list(text: &str) -> Result<Vec<MemberUrl>, String> {
    let urls = text.split(',').filter(|part| !part.is_empty()).map(MemberUrl::parse_form);
    let mut urls = urls.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    urls.sort();
    urls.dedup();
    Ok(urls)
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

    /// Whether one socket serves both: not where the system chooses the port, and not at a path.
    pub fn is_at(&self, other: &Self) -> bool {
        match &self.place {
            Place::Tcp(addresses) => self.place == other.place && addresses.iter().all(|address| address.port() != 0),
            Place::Unix(_) => false,
        }
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
    pub(super) fn new(url: &MemberUrl) -> Result<Self, String> {
        let place = match url.port() {
            None => Place::Unix(PathBuf::from(url.host())),
            Some(port) if url.host() == "localhost" => Place::Tcp(vec![
                SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
            ]),
            Some(port) => {
                let address: IpAddr =
                    url.host().parse().map_err(|_| format!("expected IP in URL for binding ({url})"))?;
                Place::Tcp(vec![SocketAddr::from((address, port))])
            }
        };
        Ok(Self { text: url.to_string(), is_tls: url.is_tls(), host: url.host().to_owned(), place })
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
    fn localhost_binds_both_families_and_names_are_refused() {
        let url = ListenUrl::new(&MemberUrl::parse_form("http://localhost:2379").unwrap()).unwrap();
        assert_eq!(*url.place(), Place::Tcp(vec!["127.0.0.1:2379".parse().unwrap(), "[::1]:2379".parse().unwrap()]));
        let refused = ListenUrl::new(&MemberUrl::parse_form("http://foo:1").unwrap()).unwrap_err();
        assert_eq!(refused, "expected IP in URL for binding (http://foo:1)");
    }

    #[test]
    fn lists_are_sorted_and_distinct() {
        let urls = parse_list("http://b:2,http://a:1,http://b:2").unwrap();
        assert_eq!(urls.iter().map(MemberUrl::as_str).collect::<Vec<_>>(), ["http://a:1", "http://b:2"]);
    }
}
