//! Whether the names in a peer's certificate lead to the address that it calls from.
//!
//! The rules are etcd's: a certificate without names and addresses passes; otherwise one of its addresses must be the
//! caller's, or one of its names must resolve to it. A pattern such as `*.example` is compared with the name that the
//! caller's address has in DNS.

use super::der::CertFacts;
use super::verify::NotAccepted;
use std::net::IpAddr;

/// Checks the names of a certificate against the address of the caller. Asks DNS; the handshake's deadline bounds it.
pub(super) async fn check(facts: &CertFacts, remote: IpAddr) -> Result<(), NotAccepted> {
    let remote = remote.to_canonical();
    let (names, addresses) = (&facts.dns_names, &facts.addresses);
    if names.is_empty() && addresses.is_empty() {
        return Ok(());
    }
    if addresses.iter().any(|address| address.to_canonical() == remote) {
        return Ok(());
    }
    if names.is_empty() {
        let valid: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        return Err(NotAccepted(format!("x509: certificate is valid for {}, not {remote}", valid.join(", "))));
    }
    for name in names.iter().filter(|name| !name.starts_with("*.")) {
        if resolves_to(name, remote).await {
            return Ok(());
        }
    }
    if let Some(found) = name_of(remote).await
        && names.iter().any(|name| is_named(&found, name))
    {
        return Ok(());
    }
    Err(NotAccepted(format!("tls: \"{remote}\" does not match any of DNSNames {names:?}")))
}

async fn resolves_to(name: &str, remote: IpAddr) -> bool {
    match tokio::net::lookup_host((name, 0)).await {
        Ok(mut found) => found.any(|address| address.ip().to_canonical() == remote),
        Err(_) => false,
    }
}

async fn name_of(address: IpAddr) -> Option<String> {
    tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&address).ok()).await.ok().flatten()
}

/// True if a name from DNS is the one of a certificate, or under its pattern.
fn is_named(found: &str, name: &str) -> bool {
    let found = found.trim_end_matches('.').to_ascii_lowercase();
    let name = name.to_ascii_lowercase();
    match name.strip_prefix('*') {
        Some(suffix) => suffix.starts_with('.') && found.ends_with(suffix),
        None => found == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_the_names_below_them() {
        for (found, name, expected) in [
            ("a.example.", "a.example", true),
            ("A.example", "a.EXAMPLE", true),
            ("a.example", "*.example", true),
            ("a.b.example", "*.example", true),
            ("example", "*.example", false),
            ("badexample", "*.example", false),
            ("a.example", "*", false),
            ("a.example", "b.example", false),
        ] {
            assert_eq!(is_named(found, name), expected, "{found} {name}");
        }
    }

    #[tokio::test]
    async fn addresses_and_names_must_lead_to_the_caller() {
        let check = async |names: &[&str], addresses: &[&str]| {
            let facts = CertFacts {
                serial: Vec::new(),
                common_name: None,
                dns_names: names.iter().map(ToString::to_string).collect(),
                addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
                not_after: 0,
            };
            check(&facts, "::ffff:127.0.0.1".parse().unwrap()).await.map_err(|reason| reason.0)
        };
        assert_eq!(check(&[], &[]).await, Ok(()));
        assert_eq!(check(&[], &["10.0.0.1", "127.0.0.1"]).await, Ok(()));
        assert_eq!(check(&["localhost"], &["10.0.0.1"]).await, Ok(()));
        assert_eq!(
            check(&[], &["10.0.0.1", "::1"]).await,
            Err("x509: certificate is valid for 10.0.0.1, ::1, not 127.0.0.1".to_owned())
        );
        assert_eq!(
            check(&["nowhere.invalid", "*.invalid"], &["::1"]).await,
            Err("tls: \"127.0.0.1\" does not match any of DNSNames [\"nowhere.invalid\", \"*.invalid\"]".to_owned())
        );
    }
}
