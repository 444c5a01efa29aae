//! Endpoints that DNS tells (`--discovery-srv`).

use discovery::{Options, srv_names, srv_records};
use go::strconv;

/// The endpoints of a domain, those with TLS first. Without `insecure`, the others are left out, and said so.
///
/// # Errors
/// DNS has neither.
pub(crate) async fn endpoints(domain: &str, service_name: Option<&str>, insecure: bool) -> Result<Vec<String>, String> {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    let names = srv_names("etcd-client", service_name.unwrap_or_default(), domain);
    for (scheme, name) in ["https", "http"].into_iter().zip(names) {
        match srv_records(&name, &Options::default()).await {
            Ok(records) => found.extend(records.into_iter().map(|(host, port)| format!("{scheme}://{host}:{port}"))),
            Err(error) => errors.push(error),
        }
    }
    if found.is_empty() {
        return Err(format!("dns lookup errors: {}", errors.join(" and ")));
    }
    found.retain(|endpoint| {
        let is_left_out = !insecure && endpoint.starts_with("http://");
        if is_left_out {
            tell!("ignoring discovered insecure endpoint {}", strconv::quote(endpoint.as_bytes()));
        }
        !is_left_out
    });
    Ok(found)
}
