//! A look at the certificate that a server shows, whether it is trusted or not.

use crate::options::TlsOptions;
use crate::tls;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Connects to `host:port`, and returns the server's certificate in DER. Nothing is sent over the connection, so it
/// does not matter whether the certificate is good: that it has ended is what somebody wants to know.
///
/// # Errors
/// There is no connection, or no TLS behind it, in time.
pub async fn shown_certificate(
    host: &str,
    port: u16,
    options: &TlsOptions,
    limit: Duration,
) -> Result<Vec<u8>, String> {
    let name = options.server_name.clone().unwrap_or_else(|| host.to_owned());
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    let seen = tls::Shown::default();
    let (watched, options) = (seen.clone(), options.clone());
    let load = move || tls::load_looking(&options, watched);
    let config = tokio::task::spawn_blocking(load).await.map_err(|error| error.to_string())?;
    let config = config.map_err(|error| error.to_string())?;
    let met = async {
        let stream = TcpStream::connect((host, port)).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let failure = match tokio::time::timeout(limit, met).await {
        Ok(Ok(_)) => "the server has shown no certificate".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {limit:?}"),
    };
    // A server that wants to see one of ours ends the handshake after it has shown its own.
    seen.take().ok_or(failure)
}
