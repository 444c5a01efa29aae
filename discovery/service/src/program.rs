//! The program `cleat-discovery`: its parts together, from the start to the end.

use crate::args::{Args, Settings, Storage};
use crate::http::Service;
use crate::hub::Hub;
use crate::listener::Listener;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::{embedded, http, hub};
use anyhow::Result;
use clap::Parser as _;
use client::{Client, Options};
use server::config::{LogConfig, LogOutput};
use server::logging;
use server::server::Server;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Exit code for flags that do not go together; what clap uses for those that do not exist.
const BAD_FLAGS: u8 = 2;

/// Runs the program until it ends. `words` is its command line, the name by which it was called first.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let settings = match Settings::try_from(Args::parse_from(words)) {
        Ok(settings) => settings,
        Err(error) => {
            terminal::complain(&format!("error: {error}\n\nFor more information, try '--help'."));
            return ExitCode::from(BAD_FLAGS);
        }
    };
    let log = LogConfig { level: settings.log_level, format: None, outputs: vec![LogOutput::Stderr] };
    if let Err(error) = logging::init(&log) {
        terminal::complain(&format!("error: {error}"));
        return ExitCode::FAILURE;
    }
    let ended = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let ended = runtime.block_on(run(settings));
            // An embedded member that is broken must not wait for the part that hangs.
            runtime.shutdown_background();
            ended
        });
    let code = match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "cannot go on");
            ExitCode::FAILURE
        }
    };
    logging::flush();
    code
}

/// Serves until a signal comes or the embedded member breaks.
async fn run(settings: Settings) -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // What can be wrong with the flags is seen before anything is started.
    let listener = Listener::bind(settings.addr, settings.tls.as_ref()).await?;
    let (mut member, endpoints, tls) = match settings.storage {
        Storage::Cluster(endpoints, tls) => (None, endpoints, tls),
        Storage::Embedded(data_dir) => {
            let (member, endpoint) = embedded::start(&data_dir).await?;
            (Some(member), vec![endpoint], None)
        }
    };
    let registry = Registry::new(Client::new(&Options { endpoints, tls, ..Options::default() })?);
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let (hub, metrics) = (Arc::new(Hub::new()), Metrics::new()?);
    tasks.spawn(hub::follow(Arc::clone(&hub), registry.clone(), stop.clone()));
    let collector = collect(registry.clone(), metrics.clone(), (settings.max_age, settings.gc_interval), stop.clone());
    tasks.spawn(collector);
    let service =
        Service { host: settings.host.clone(), registry, hub, metrics, health: Mutex::new(None), stop: stop.clone() };
    tasks.spawn(listener.serve(http::router(Arc::new(service)), stop.clone()));
    tracing::info!(addr = %settings.addr, host = settings.host, "ready to serve discovery requests");
    let broken = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        fault = fault(&mut member) => Some(fault),
    };
    if let Some(fault) = broken {
        // A broken member must not write anything more.
        anyhow::bail!("the embedded member failed: {fault}");
    }
    tracing::info!("stopping; a second signal ends at once");
    stop.cancel();
    tasks.close();
    let ended = async {
        tasks.wait().await;
        if let Some(member) = member {
            member.shutdown().await;
        }
    };
    tokio::select! {
        () = ended => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Waits for the embedded member to break; for ever if there is none.
async fn fault(member: &mut Option<Server>) -> String {
    match member {
        Some(member) => member.end().await.to_string(),
        None => std::future::pending().await,
    }
}

/// Removes old tokens, at once and then again and again.
async fn collect(
    registry: Registry,
    metrics: Metrics,
    (max_age, interval): (Duration, Duration),
    stop: CancellationToken,
) {
    let work = async {
        loop {
            match registry.collect(max_age).await {
                Ok(0) => {}
                Ok(removed) => {
                    metrics.removed_tokens.inc_by(removed);
                    tracing::info!(tokens = removed, "removed old tokens");
                }
                Err(error) => tracing::warn!(%error, "cannot remove old tokens, trying again later"),
            }
            tokio::time::sleep(interval).await;
        }
    };
    stop.run_until_cancelled(work).await;
}
