//! The chart's example application: what an application has to do for confd and metad, and nothing else.
//!
//! It reads its file at first, at every SIGHUP, and at every `POST /-/reload`, which the reload command of its template
//! resource makes.

use crate::reload;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use client::http::{Call, Server};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

const LIMIT: Duration = Duration::from_secs(10);
/// After a failure to accept, as without free descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The file that confd keeps up to date
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Where metad answers
    #[arg(long, value_name = "URL")]
    metad: Option<String>,
    /// Where `POST /-/reload` is taken
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

/// Shows the file at first and whenever it is told to, until SIGTERM or SIGINT.
///
/// # Errors
/// Signals cannot be handled, the address is not free, or metad's URL is none.
pub(crate) async fn run(args: &Args) -> Result<()> {
    let (mut hangup, mut terminate) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let told = Arc::new(Notify::new());
    if let Some(address) = args.listen {
        let socket = TcpListener::bind(address).await.with_context(|| format!("cannot serve on {address}"))?;
        tokio::spawn(serve(socket, Arc::clone(&told)));
    }
    loop {
        show(&args.file);
        if let Some(url) = &args.metad {
            say!("this is: {}", self_of(url).await?.trim());
        }
        tokio::select! {
            _ = hangup.recv() => say!("reload"),
            () = told.notified() => say!("reload"),
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// Answers one connection after the other, each for a bounded time.
async fn serve(socket: TcpListener, told: Arc<Notify>) {
    loop {
        match socket.accept().await {
            // Who is too slow, or breaks off, has told nothing.
            Ok((stream, _)) => drop(tokio::time::timeout(LIMIT, answer(stream, &told)).await),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// The answers to one connection. Several calls before the file is read again are one.
async fn answer(stream: TcpStream, told: &Notify) -> hyper::Result<()> {
    let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::POST, "/-/reload") => {
                told.notify_one();
                (StatusCode::OK, "reloading\n")
            }
            (_, "/-/reload") => (StatusCode::METHOD_NOT_ALLOWED, "POST to /-/reload\n"),
            _ => (StatusCode::NOT_FOUND, "there is only /-/reload\n"),
        };
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = status;
        Ok::<_, Infallible>(response)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(LIMIT).keep_alive(false);
    http.serve_connection(TokioIo::new(stream), service).await
}

fn show(file: &Path) {
    match std::fs::read_to_string(file) {
        Ok(text) => say!("{}:\n{}", file.display(), text.trim_end()),
        Err(error) => say!("{}: {error}", file.display()),
    }
}

/// What metad says who this is, or why it does not.
async fn self_of(url: &str) -> Result<String> {
    let (server, _) = Server::parse(url).map_err(|reason| anyhow::anyhow!("--metad {url:?}: {reason}"))?;
    let call = Call::new(Method::GET, "/self".to_owned(), None);
    Ok(match reload::http().send(&server, &call, LIMIT).await {
        Ok(answer) if answer.status == StatusCode::OK => String::from_utf8(answer.body.to_vec()).context("no text")?,
        Ok(answer) => format!("unknown ({})", answer.status),
        Err(error) => format!("unknown ({error})"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_post_is_a_reload_and_nothing_else_is() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (server, _) = Server::parse(&format!("http://{}", socket.local_addr().unwrap())).unwrap();
        let told = Arc::new(Notify::new());
        let serving = tokio::spawn(serve(socket, Arc::clone(&told)));
        let http = reload::http();
        for (method, path, status) in [
            (Method::GET, "/-/reload", StatusCode::METHOD_NOT_ALLOWED),
            (Method::POST, "/", StatusCode::NOT_FOUND),
            (Method::POST, "/-/reload", StatusCode::OK),
        ] {
            let reloads = status == StatusCode::OK;
            let answer = http.send(&server, &Call::new(method, path.to_owned(), None), LIMIT).await.unwrap();
            assert_eq!(answer.status, status);
            // A permit is there at once, or not at all.
            assert_eq!(tokio::time::timeout(Duration::ZERO, told.notified()).await.is_ok(), reloads, "{path}");
        }
        serving.abort();
    }
}
