//! What a member has at a path beside its APIs: its metrics, its version.

use client::Options;
use client::http::{Answer, Call, Http, Server};

/// Longest body that is taken: a member's metrics are some hundred kilobytes.
const BODY_BYTES_MAX: usize = 16 << 20;

/// The URL of an endpoint; None for a socket.
pub(crate) fn url_of(options: &Options, endpoint: &str) -> Option<String> {
    match endpoint.split_once("://") {
        Some(("unix", _)) => None,
        Some(_) => Some(endpoint.to_owned()),
        None if options.tls.is_some() => Some(format!("https://{endpoint}")),
        None => Some(format!("http://{endpoint}")),
    }
}

/// Asks an endpoint by plain HTTP, or with the certificates of the connection.
///
/// # Errors
/// It cannot be asked, or answers with an error.
pub(crate) async fn http_get(options: &Options, endpoint: &str, path: &str) -> Result<Answer, String> {
    let url = url_of(options, endpoint).ok_or_else(|| format!("{endpoint} is a socket, which has no {path}"))?;
    let (server, _) = Server::parse(&url).map_err(|why| format!("bad endpoint: {why}"))?;
    let http = Http {
        proxy: None,
        tls: options.tls.clone().unwrap_or_default(),
        connect_timeout: options.dial_timeout,
        max_body_bytes: BODY_BYTES_MAX,
    };
    let answer = http.send(&server, &Call::get(path), options.request_timeout).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status.is_success() { Ok(answer) } else { Err(format!("{server}{path} answers {}", answer.status)) }
}
