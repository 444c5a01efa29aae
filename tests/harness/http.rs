//! Plain HTTP requests to a server under test.

use anyhow::{Context, Result};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const DEADLINE: Duration = Duration::from_secs(20);

/// Asks `http://host:port` for a path. Returns the status, the head and the body of the answer.
///
/// # Errors
/// The server cannot be reached, does not answer in time, or not in HTTP.
pub async fn get(url: &str, path: &str) -> Result<(u16, String, String)> {
    let address = url.strip_prefix("http://").context("a URL without TLS")?;
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        // The old version, so that the body comes in one piece and the end of the connection is its end.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(DEADLINE, exchange).await.context("no answer in time")??;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer in HTTP: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.with_context(|| format!("no status: {head}"))?, head.to_owned(), body.to_owned()))
}
