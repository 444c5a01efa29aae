//! Word to another program of the pod that its files have changed, over HTTP: for reload commands in an image without
//! `curl`; and questions whether it is well, for probes. The containers of a pod share an address and nothing else, so unlike a signal it needs no view of other processes.

use anyhow::{Context as _, Result, bail};
use client::TlsOptions;
use client::http::{Answer, Call, Http, HttpError, Server};
use http::Method;
use std::time::Duration;
use tokio::time::Instant;

/// Between attempts to reach a program that starts.
const PAUSE: Duration = Duration::from_millis(200);
/// A program that reads its files for longer does so after its answer.
const LIMIT: Duration = Duration::from_secs(30);
/// A larger answer is none of a program that was told something.
const MAX_BYTES: usize = 1 << 20;
/// Below the time that the chart's probes have.
const PROBE_LIMIT: Duration = Duration::from_secs(8);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the program wants to be told, as `http://127.0.0.1:8080/-/reload`
    #[arg(value_name = "URL")]
    url: String,
    /// How long to wait for a program that starts: until then nobody takes connections there
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3600))]
    wait: u64,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProbeArgs {
    /// What is asked, as `http://127.0.0.1:9611/ready`
    #[arg(value_name = "URL")]
    url: String,
}

/// Asks a URL that only the pod itself reaches, for probes.
///
/// # Errors
/// Nobody answers, or the answer is no success.
pub(crate) async fn probe(args: &ProbeArgs) -> Result<()> {
    let (server, path) = Server::parse(&args.url).map_err(|reason| anyhow::anyhow!("cannot use the URL: {reason}"))?;
    let answer = http().send(&server, &Call::get(&path), PROBE_LIMIT).await?;
    ensure(&server, &answer)
}

/// For questions to programs of the same pod, and of the same cluster.
pub(crate) fn http() -> Http {
    Http { proxy: None, tls: TlsOptions::default(), connect_timeout: LIMIT, max_body_bytes: MAX_BYTES }
}

/// Refuses an answer that is no success, with what it says.
fn ensure(server: &Server, answer: &Answer) -> Result<()> {
    if !answer.status.is_success() {
        bail!("{server} answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body).trim());
    }
    Ok(())
}

/// Posts to the URL.
///
/// # Errors
/// Nobody answers there, or the answer says that the program did not read its files.
pub(crate) async fn tell(args: &Args) -> Result<()> {
    let (server, path) = Server::parse(&args.url).map_err(|reason| anyhow::anyhow!("cannot use the URL: {reason}"))?;
    let (http, call) = (http(), Call::new(Method::POST, path, None));
    let end = Instant::now() + Duration::from_secs(args.wait);
    let answer = loop {
        match http.send(&server, &call, LIMIT).await {
            Ok(answer) => break answer,
            // The program was told nothing.
            Err(HttpError::Connect { .. }) if Instant::now() < end => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error).with_context(|| format!("cannot tell {server} to reload")),
        }
    };
    ensure(&server, &answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn args(url: &str, wait: u64) -> Args {
        Args { url: url.to_owned(), wait }
    }

    #[tokio::test]
    async fn who_does_not_answer_is_named() {
        for (url, word) in
            [("http://127.0.0.1:1/-/reload", "http://127.0.0.1:1"), ("127.0.0.1:1", "cannot use the URL")]
        {
            let error = format!("{:#}", tell(&args(url, 0)).await.unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }

    #[tokio::test]
    async fn a_program_that_starts_is_waited_for_and_what_it_says_is_told() {
        // Nobody else gets its port, and nobody is let in yet.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let starting = tokio::spawn(async move {
            tokio::time::sleep(PAUSE * 2).await;
            let socket = socket.listen(16).unwrap();
            for (method, answer) in [
                ("POST", "200 OK"),
                ("POST", "503 Service Unavailable"),
                ("GET", "200 OK"),
                ("GET", "503 Service Unavailable"),
            ] {
                let (mut stream, _) = socket.accept().await.unwrap();
                let mut head = [0; 1024];
                let length = stream.read(&mut head).await.unwrap();
                assert!(head[..length].starts_with(format!("{method} /-/reload ").as_bytes()));
                let text = format!("HTTP/1.1 {answer}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy");
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
        let url = format!("http://{address}/-/reload");
        tell(&args(&url, 60)).await.unwrap();
        let error = tell(&args(&url, 60)).await.unwrap_err().to_string();
        assert!(error.contains("503") && error.contains("busy"), "{error}");
        probe(&ProbeArgs { url: url.clone() }).await.unwrap();
        let error = probe(&ProbeArgs { url }).await.unwrap_err().to_string();
        assert!(error.contains("503") && error.contains("busy"), "{error}");
        starting.await.unwrap();
    }
}
