//! The chart's example application: what an application has to do for confd and metad, and nothing else.

use anyhow::{Context as _, Result};
use client::TlsOptions;
use client::http::{Call, Http, Server};
use http::{Method, StatusCode};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

const LIMIT: Duration = Duration::from_secs(10);
/// A larger file, or answer, is none of an example.
const MAX_BYTES: usize = 1 << 20;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The file that confd keeps up to date
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Where metad answers
    #[arg(long, value_name = "URL")]
    metad: Option<String>,
}

/// Shows the file at first and at every SIGHUP, until SIGTERM or SIGINT.
///
/// # Errors
/// Signals cannot be handled, or metad's URL is none.
pub(crate) async fn run(args: &Args) -> Result<()> {
    let (mut hangup, mut terminate) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        show(&args.file);
        if let Some(url) = &args.metad {
            say!("this is: {}", self_of(url).await?.trim());
        }
        tokio::select! {
            _ = hangup.recv() => say!("reload"),
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
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
    let http = Http { proxy: None, tls: TlsOptions::default(), connect_timeout: LIMIT, max_body_bytes: MAX_BYTES };
    let call = Call::new(Method::GET, "/self".to_owned(), None);
    Ok(match http.send(&server, &call, LIMIT).await {
        Ok(answer) if answer.status == StatusCode::OK => String::from_utf8(answer.body.to_vec()).context("no text")?,
        Ok(answer) => format!("unknown ({})", answer.status),
        Err(error) => format!("unknown ({error})"),
    })
}
