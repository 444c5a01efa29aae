//! Endpoints that DNS tells (`--discovery-srv`).

use crate::go;
use discovery::{Options, srv_records};

/// What etcd's clients are found by, with TLS and without.
const SERVICES: [(&str, &str); 2] = [("https", "etcd-client-ssl"), ("http", "etcd-client")];

/// The endpoints of a domain, those with TLS first. Without `insecure`, the others are left out, and said so.
///
/// # Errors
/// DNS has neither.
pub(crate) async fn endpoints(domain: &str, service_name: Option<&str>, insecure: bool) -> Result<Vec<String>, String> {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for (scheme, service) in SERVICES {
        let service = service_name.map_or_else(|| service.to_owned(), |name| format!("{service}-{name}"));
        match srv_records(&format!("_{service}._tcp.{domain}"), &Options::default()).await {
            Ok(records) => found.extend(records.into_iter().map(|(host, port)| {
                // A name of DNS ends with a dot.
                let host = host.strip_suffix('.').unwrap_or(&host).to_owned();
                format!("{scheme}://{host}:{port}")
            })),
            Err(error) => errors.push(error),
        }
    }
    if found.is_empty() {
        return Err(format!("dns lookup errors: {}", errors.join(" and ")));
    }
    found.retain(|endpoint| {
        let is_left_out = !insecure && endpoint.starts_with("http://");
        if is_left_out {
            eprintln!("ignoring discovered insecure endpoint {}", go::quote(endpoint.as_bytes()));
        }
        !is_left_out
    });
    Ok(found)
}
