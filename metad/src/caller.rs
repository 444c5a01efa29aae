//! Who asks: the address of the connection, or what a trusted proxy says, and whether the request may be answered at all.

use crate::address::{self, Net};
use http::{HeaderMap, HeaderValue, header};
use std::net::IpAddr;

/// Addresses in `X-Forwarded-For` that are looked at; more are a mistake or an attack.
const MAX_HOPS: usize = 32;

/// Endings of names that nobody outside can have, so no page of theirs can call this server by them.
const LOCAL_ENDINGS: [&str; 7] =
    [".localhost", ".local", ".localdomain", ".internal", ".svc", ".cluster.local", ".home.arpa"];

/// What is known about who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The client at this address.
    Client(IpAddr),
    /// A proxy sent something that is not one address.
    Nobody,
}

/// Who asks. What a proxy says is read from right to left: each trusted hop vouches for the one before it. A name that
/// is no address is never taken for one, nor joined to a path.
pub(crate) fn caller(peer: IpAddr, headers: &HeaderMap, proxies: Option<&[Net]>) -> Caller {
    let peer = address::canonical(peer);
    let is_trusted = |address: IpAddr| proxies.is_some_and(|nets| nets.iter().any(|net| net.contains(address)));
    if !is_trusted(peer) {
        return Caller::Client(peer);
    }
    let mut client = peer;
    let lines: Vec<_> = headers.get_all("x-forwarded-for").iter().filter(|line| !line.is_empty()).collect();
    let hops = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    for (count, hop) in hops.enumerate() {
        let read = std::str::from_utf8(hop).ok().map(str::trim).and_then(address::parse);
        match read {
            Some(hop) if count < MAX_HOPS => client = hop,
            _ => return Caller::Nobody,
        }
        if !is_trusted(client) {
            break;
        }
    }
    Caller::Client(client)
}

/// True if a request came through a proxy.
pub(crate) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key("x-forwarded-for") || headers.contains_key("forwarded")
}

/// True if the name that a client calls this server by can be meant for it. A browser that was tricked into taking a
/// page's name for this server's address says the page's name.
pub(crate) fn is_host_allowed(headers: &HeaderMap, uri_host: Option<&str>, allowed: Option<&[String]>) -> bool {
    let Some(allowed) = allowed else { return true };
    let from_header = headers.get(header::HOST).map(|host| host.to_str().unwrap_or("\u{fffd}"));
    // HTTP/1.0 has none, and no browser speaks that.
    let Some(host) = uri_host.or(from_header) else { return true };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(address, _)| address),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.is_empty()
        || name.parse::<IpAddr>().is_ok()
        || !name.contains('.')
        || LOCAL_ENDINGS.iter().any(|ending| name.ends_with(ending))
        || allowed.iter().any(|host| host.eq_ignore_ascii_case(&name))
}

/// True if a browser sent a request for a page that is not this server's. Such a page cannot read the answer, but what was
/// written would be written.
pub(crate) fn is_cross_site(headers: &HeaderMap, uri_host: Option<&str>) -> bool {
    let is_own_fetch = |site: &HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
    let host = uri_host.map(str::as_bytes).or(headers.get(header::HOST).map(HeaderValue::as_bytes)).unwrap_or_default();
    let is_own_origin = |origin: &HeaderValue| {
        let origin = origin.as_bytes();
        let origin = origin.strip_prefix(b"http://").or(origin.strip_prefix(b"https://"));
        origin.is_some_and(|origin| origin.eq_ignore_ascii_case(host))
    };
    !headers.get_all("sec-fetch-site").iter().all(is_own_fetch)
        || !headers.get_all(header::ORIGIN).iter().all(is_own_origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| ("x-forwarded-for".parse().unwrap(), line.parse().unwrap())).collect()
    }

    fn nets(nets: &[&str]) -> Vec<Net> {
        nets.iter().map(|net| Net::parse(net).unwrap()).collect()
    }

    fn of(peer: &str, lines: &[&str]) -> String {
        let proxies = nets(&["127.0.0.0/8", "::1", "10.0.0.0/8"]);
        match caller(peer.parse().unwrap(), &forwarded(lines), Some(&proxies)) {
            Caller::Client(address) => address.to_string(),
            Caller::Nobody => "nobody".to_owned(),
        }
    }

    #[test]
    fn what_a_proxy_says_is_one_address_or_nobody() {
        for (peer, lines, expected) in [
            ("127.0.0.1", vec![], "127.0.0.1"),
            ("::ffff:127.0.0.1", vec!["192.168.1.1"], "192.168.1.1"),
            ("::1", vec!["192.168.1.1"], "192.168.1.1"),
            ("127.0.0.1", vec!["::ffff:192.168.1.1"], "192.168.1.1"),
            ("127.0.0.1", vec!["2001:DB8::0:1"], "2001:db8::1"),
            // The leftmost can be made up; what the nearest proxy saw counts.
            ("127.0.0.1", vec!["1.1.1.1, 2.2.2.2"], "2.2.2.2"),
            ("127.0.0.1", vec!["1.1.1.1, 2.2.2.2, 10.0.0.7"], "2.2.2.2"),
            ("127.0.0.1", vec!["1.1.1.1", "2.2.2.2,10.1.1.1"], "2.2.2.2"),
            ("127.0.0.1", vec!["10.0.0.9, 10.0.0.8"], "10.0.0.9"),
            ("127.0.0.1", vec!["", "3.3.3.3"], "3.3.3.3"),
            // Who is no proxy is believed nothing.
            ("8.8.8.8", vec!["1.1.1.1"], "8.8.8.8"),
            ("127.0.0.1", vec!["/"], "nobody"),
            ("127.0.0.1", vec!["1.1.1.1/../2.2.2.2"], "nobody"),
            ("127.0.0.1", vec!["x/../1.1.1.1"], "nobody"),
            ("127.0.0.1", vec!["1.1.1.1, "], "nobody"),
            ("127.0.0.1", vec!["1.1.1.1:80"], "nobody"),
            ("127.0.0.1", vec!["[::1]"], "nobody"),
            ("127.0.0.1", vec!["fe80::1%eth0"], "nobody"),
            ("127.0.0.1", vec!["0x7f.1"], "nobody"),
            ("127.0.0.1", vec!["01.1.1.1"], "nobody"),
            ("127.0.0.1", vec!["default"], "nobody"),
            ("127.0.0.1", vec!["10.0.0.0/8"], "nobody"),
        ] {
            assert_eq!(of(peer, &lines), expected, "{peer} {lines:?}");
        }
        let many = vec!["10.0.0.1"; 100].join(",");
        assert_eq!(of("127.0.0.1", &[&many]), "nobody");
        let none = caller("127.0.0.1".parse().unwrap(), &forwarded(&["1.1.1.1"]), None);
        assert_eq!(none, Caller::Client("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn names_that_strangers_can_have_are_refused() {
        let allowed = ["meta.example.com".to_owned()];
        let of = |host: &str| {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
            is_host_allowed(&headers, None, Some(&allowed))
        };
        for host in [
            "127.0.0.1:9611",
            "[::1]:80",
            "[fe80::1]",
            "localhost",
            "metad:80",
            "a.b.svc.cluster.local",
            "META.example.com:1",
            "m.internal.",
        ] {
            assert!(of(host), "{host}");
        }
        for host in ["evil.com", "evil.com:9611", "127.0.0.1.evil.com", "localhost.evil.com.", "example.com", "0x7f.1"]
        {
            assert!(!of(host), "{host}");
        }
        assert!(is_host_allowed(&HeaderMap::new(), None, Some(&allowed)));
        assert!(!is_host_allowed(&HeaderMap::new(), Some("evil.com"), Some(&[])));
        assert!(is_host_allowed(&HeaderMap::new(), Some("evil.com"), None));
    }

    #[test]
    fn pages_of_others_are_told_by_what_browsers_say() {
        let of = |lines: &[(&'static str, &str)]| {
            let headers = lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            is_cross_site(&headers, None)
        };
        let host = ("host", "localhost:9611");
        assert!(!of(&[]) && !of(&[host]) && !of(&[host, ("sec-fetch-site", "none")]));
        assert!(!of(&[host, ("origin", "http://LOCALHOST:9611"), ("sec-fetch-site", "same-origin")]));
        for foreign in ["http://localhost:3000", "https://evil.com", "null", "", "http://localhost:9611.evil.com"] {
            assert!(of(&[host, ("origin", foreign)]), "{foreign}");
        }
        assert!(of(&[host, ("sec-fetch-site", "cross-site")]) && of(&[host, ("sec-fetch-site", "same-site")]));
    }
}
